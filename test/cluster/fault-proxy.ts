import { readFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer, request } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import type { ControlPlane } from "./plane.ts";

/** A received request. */
export interface Seen {
  method: string;
  path: string;
  user: string;
}

/** Replacement for forwarding a request: an answer, a RST, or no answer. */
export type Instead = { status: number; headers?: Record<string, string>; body?: string } | "reset" | "silence";

/** Runs between a client and the API server, and simulates faults of networks and servers. */
export interface FaultProxy {
  url: string;
  port: number;
  /** Received requests, in order. */
  seen: Seen[];
  /** Connections that clients opened. */
  connections: number;
  /** Handles a request instead of the API server, if it returns something. */
  refuse: ((method: string, path: string) => Instead | undefined) | undefined;
  /** Called when the API server has answered a request, except a watch. True withholds the answer from the client. */
  answered: ((method: string, path: string) => boolean) | undefined;
  /** While true nothing is forwarded in either direction. Connections stay open, and nothing is lost afterwards. */
  stalled: boolean;
  /** Requests and answers of these paths are stalled, such as the watches of one kind. */
  holds: ((path: string) => boolean) | undefined;
  /** Drops an event of a watch, as if the API server had never sent it. `event`: a line of JSON. */
  swallow: ((path: string, event: string) => boolean) | undefined;
  /** Cuts the next event of a watch in the middle and closes that connection. */
  cutNextEvent: boolean;
  /** Milliseconds before each request is passed on. */
  delayMs: number;
  /** Closes every connection with a RST. */
  reset(): void;
  /** Ends every fault. For `afterEach`: a test that fails halfway leaves none to the next test. */
  endFaults(): void;
  /** Number of requests, optionally of this method and with this text in their path. */
  count(method?: string, part?: string): number;
  /**
   * A kubeconfig of a user with the address of this proxy. Client certificates do not work through it: only tokens do.
   */
  config(user?: string): string;
  close(): Promise<void>;
}

/** Write requests, by method. */
export const isWrite = ({ method }: Seen): boolean => method !== "GET";

const STALL_LOOK_MS = 20;

/** Complete lines of a stream, each with its end. */
async function* lines(stream: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let rest: Buffer = Buffer.alloc(0);
  for await (const chunk of stream) {
    rest = Buffer.concat([rest, chunk]);
    for (let end = rest.indexOf("\n"); end >= 0; end = rest.indexOf("\n")) {
      yield rest.subarray(0, end + 1);
      rest = rest.subarray(end + 1);
    }
  }
  if (rest.length > 0) yield rest;
}

/** Starts a proxy in front of a control plane. */
export async function startFaultProxy(plane: ControlPlane): Promise<FaultProxy> {
  const { key, cert } = plane.authority.issue("fault-proxy", "/CN=fault-proxy", ["IP:127.0.0.1"]);
  const ca = readFileSync(plane.authority.file);
  const open = new Set<Socket>();
  /** The TCP connection below each TLS one: only it can send a RST. */
  const below = new Map<number | undefined, Socket>();
  const proxy: FaultProxy = {
    url: "",
    port: 0,
    seen: [],
    connections: 0,
    refuse: undefined,
    answered: undefined,
    stalled: false,
    holds: undefined,
    swallow: undefined,
    cutNextEvent: false,
    delayMs: 0,
    reset() {
      for (const socket of open) socket.resetAndDestroy();
    },
    endFaults() {
      Object.assign(proxy, {
        refuse: undefined,
        answered: undefined,
        stalled: false,
        holds: undefined,
        swallow: undefined,
      });
      Object.assign(proxy, { cutNextEvent: false, delayMs: 0 });
    },
    count: (method, part = "") =>
      proxy.seen.filter((one) => (method === undefined || one.method === method) && one.path.includes(part)).length,
    config: (user) => plane.userConfig(user, proxy.url),
    close: async () => {
      proxy.endFaults();
      proxy.reset();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  const untilPassing = async (path: string) => {
    while (proxy.stalled || proxy.holds?.(path)) await sleep(STALL_LOOK_MS);
  };

  const passOn = async (incoming: IncomingMessage, answer: ServerResponse) => {
    const [method, path] = [incoming.method!, incoming.url!];
    if (proxy.delayMs > 0) await sleep(proxy.delayMs);
    await untilPassing(path);
    if (incoming.socket.destroyed) return;
    const outgoing = request(`${plane.url}${path}`, { method, headers: incoming.headers, ca, agent: false });
    outgoing.on("error", () => incoming.socket.destroy());
    answer.once("close", () => outgoing.destroy());
    outgoing.on("response", (back) => {
      void passBack(path, back, incoming, answer);
    });
    incoming.pipe(outgoing);
  };

  const passBack = async (path: string, back: IncomingMessage, incoming: IncomingMessage, answer: ServerResponse) => {
    await untilPassing(path);
    if (!path.includes("watch=") && proxy.answered?.(incoming.method!, path)) {
      back.resume();
      return;
    }
    answer.writeHead(back.statusCode!, back.headers);
    answer.flushHeaders();
    try {
      const isWatch = path.includes("watch=");
      for await (const chunk of isWatch ? lines(back) : (back as AsyncIterable<Buffer>)) {
        await untilPassing(path);
        if (isWatch && proxy.swallow?.(path, chunk.toString())) continue;
        if (isWatch && proxy.cutNextEvent) {
          proxy.cutNextEvent = false;
          // Leaving the loop closes the other side: after half a line, further text would be parsed as a line again.
          answer.write(chunk.subarray(0, chunk.length / 2), () => incoming.socket.destroy());
          return;
        }
        answer.write(chunk);
      }
      await untilPassing(path);
      answer.end();
    } catch {
      // The API server closed the connection, so this proxy does as well.
      incoming.socket.destroy();
    }
  };

  const server = createServer({ key: readFileSync(key), cert: readFileSync(cert) }, (incoming, answer) => {
    const [method, path] = [incoming.method!, incoming.url!];
    proxy.seen.push({ method, path, user: incoming.headers.authorization ?? "" });
    const instead = proxy.refuse?.(method, path);
    if (instead === undefined) {
      void passOn(incoming, answer);
      return;
    }
    incoming.resume();
    if (instead === "silence") return;
    if (instead === "reset") below.get(incoming.socket.remotePort)?.resetAndDestroy();
    else answer.writeHead(instead.status, instead.headers).end(instead.body ?? "");
  });
  server.on("connection", (socket: Socket) => {
    const port = socket.remotePort;
    proxy.connections++;
    open.add(socket);
    below.set(port, socket);
    socket.once("close", () => {
      open.delete(socket);
      if (below.get(port) === socket) below.delete(port);
    });
  });
  server.on("secureConnection", (socket: Socket) => socket.on("error", () => undefined));
  server.listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  proxy.port = (server.address() as AddressInfo).port;
  proxy.url = `https://127.0.0.1:${proxy.port}`;
  return proxy;
}
