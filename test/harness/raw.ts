import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

/** Ports that servers of this process had. Tests find records by the port: none is used twice. */
const usedPorts = new Set<number>();

/** Listens on a port that no server of this process that uses this function had before; returns the port. */
export async function listenOnNewPort(server: Server, host = "127.0.0.1"): Promise<number> {
  for (;;) {
    server.listen(0, host);
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    if (!usedPorts.has(port)) {
      usedPorts.add(port);
      return port;
    }
    server.close();
    await once(server, "close");
  }
}

/** A TCP server on loopback that `close` stops, with its connections. */
export async function listen(onSocket: (socket: Socket) => void, host?: string) {
  const sockets = new Set<Socket>();
  const server: Server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.once("close", () => sockets.delete(socket));
    onSocket(socket);
  });
  const port = await listenOnNewPort(server, host);
  const close = async () => {
    const closed = new Promise((resolve) => server.close(resolve));
    for (const socket of sockets) socket.destroy();
    await closed;
  };
  return { port, sockets, close };
}

/** Limit of a wait for a text. A busy machine takes more than 10 s to answer 80 requests at once. */
const TEXT_MS = 30_000;

/** A raw client connection that collects its input. */
export class RawClient {
  readonly socket: Socket;
  #received = Buffer.alloc(0);
  ended = false;
  error: NodeJS.ErrnoException | null = null;
  readonly #watchers = new Set<() => void>();

  private constructor(socket: Socket) {
    this.socket = socket;
    const changed = () => {
      for (const watcher of this.#watchers) watcher();
    };
    socket.on("data", (chunk) => {
      this.#received = Buffer.concat([this.#received, chunk]);
      changed();
    });
    socket.on("end", () => {
      this.ended = true;
      changed();
    });
    socket.on("error", (error) => {
      this.error = error;
    });
    socket.on("close", changed);
  }

  /** `from`: the local address; default: the kernel chooses. */
  static async open(port: number, host = "127.0.0.1", from?: string): Promise<RawClient> {
    const socket = connect({ port, host, allowHalfOpen: true, noDelay: true, ...(from && { localAddress: from }) });
    await once(socket, "connect");
    return new RawClient(socket);
  }

  /** On a connection that is established, such as a TLS socket. */
  static over(socket: Socket): RawClient {
    return new RawClient(socket);
  }

  get text(): string {
    return this.#received.toString("latin1");
  }

  get bytes(): Buffer {
    return this.#received;
  }

  /** Waits until `probe` is true; also checks at the end of the connection. */
  until(probe: () => boolean, what: string, ms = 10_000): Promise<void> {
    return new Promise((resolve, reject) => {
      const look = () => {
        if (!probe()) return;
        clearTimeout(timer);
        this.#watchers.delete(look);
        resolve();
      };
      const timer = setTimeout(() => {
        this.#watchers.delete(look);
        reject(new Error(`no ${what} within ${ms} ms; received ${JSON.stringify(this.text.slice(0, 500))}`));
      }, ms);
      this.#watchers.add(look);
      look();
    });
  }

  untilText(part: string): Promise<void> {
    return this.until(() => this.text.includes(part), `"${part}"`, TEXT_MS);
  }

  /** Waits for FIN or the connection's end. */
  untilEnd(ms?: number): Promise<void> {
    return this.until(() => this.ended || this.socket.destroyed, "end of the connection", ms);
  }

  /** Sends a CONNECT and waits for its 200. */
  async connect(target: string, early = ""): Promise<void> {
    this.socket.write(`CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\n${early}`, "latin1");
    await this.untilText("HTTP/1.1 200 Connection established\r\n\r\n");
    this.#received = this.#received.subarray("HTTP/1.1 200 Connection established\r\n\r\n".length);
  }
}

/** Sends bytes on a new connection and returns all input until the other side ends. */
export async function exchange(port: number, bytes: string | Buffer, ms?: number): Promise<string> {
  const client = await RawClient.open(port);
  client.socket.write(bytes as string, "latin1");
  await client.untilEnd(ms);
  client.socket.destroy();
  return client.text;
}
