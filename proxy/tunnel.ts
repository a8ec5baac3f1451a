import type { Socket, TcpNetConnectOpts } from "node:net";
import { BULK_AFTER_BYTES, Bulk } from "./bulk.ts";
import type { Client, Handler } from "./client.ts";
import type { Record } from "./record.ts";

/** An upstream socket that knows its tunnel, so that all sockets share the same handlers. */
type UpstreamSocket = Socket & { tunnel?: Tunnel };

/** Tunnels that are silent for so long are kept alive on the way; short ones are spared four system calls. */
const KEEP_ALIVE_MS = 15_000;
const READ_BUFFER_BYTES = 65_536;
/** One for all tunnels: every chunk is copied out before the callback returns (reference: libuv reads into it next). */
const readBuffer = Buffer.allocUnsafeSlow(READ_BUFFER_BYTES);

/** How an upstream socket of a tunnel reads. The socket gets its tunnel before any data can come. */
export const TUNNEL_ONREAD: NonNullable<TcpNetConnectOpts["onread"]> = {
  buffer: readBuffer,
  callback(this: unknown, length: number): boolean {
    const tunnel = (this as UpstreamSocket).tunnel;
    return tunnel === undefined ? false : tunnel.upstreamData(length);
  },
} as NonNullable<TcpNetConnectOpts["onread"]>;

function onUpstreamEnd(this: UpstreamSocket): void {
  this.tunnel!.upstreamEnd();
}
function onUpstreamDrain(this: UpstreamSocket): void {
  this.tunnel!.client.socket.resume();
}
function onUpstreamError(this: UpstreamSocket, error: NodeJS.ErrnoException): void {
  this.tunnel!.broken("upstream", error);
}
function onUpstreamClose(this: UpstreamSocket): void {
  this.tunnel!.upstreamClosed();
}

/**
 * Relays bytes between a client and its upstream: half-close is passed on as FIN, an abnormal end as RST, back-pressure
 * by pausing the faster side. One record at the end.
 */
export class Tunnel implements Handler {
  readonly client: Client;
  readonly #upstream: UpstreamSocket;
  readonly #record: Record;
  readonly #idleMs: number;
  #active: number;
  #clientEnded = false;
  #upstreamEnded = false;
  #finished = false;
  #kept = false;
  #up: Bulk | null = null;
  #down: Bulk | null = null;
  #upAsked = false;
  #downAsked = false;

  constructor(client: Client, upstream: Socket, record: Record, idleMs: number, now: number) {
    this.client = client;
    this.#upstream = upstream;
    this.#record = record;
    this.#idleMs = idleMs;
    this.#active = now;
    this.#upstream.tunnel = this;
    upstream.on("end", onUpstreamEnd);
    upstream.on("drain", onUpstreamDrain);
    upstream.on("error", onUpstreamError);
    upstream.on("close", onUpstreamClose);
    // The callback may have answered "stop" to bytes that came before this line.
    upstream.resume();
  }

  onData(chunk: Buffer): void {
    this.#active = this.client.server.now;
    this.#record.bytesUp += chunk.length;
    if (this.#upstream.writable && !this.#upstream.write(chunk)) this.client.socket.pause();
    if (this.#record.bytesUp >= BULK_AFTER_BYTES && !this.#upAsked && this.client.sharedReads) {
      this.#upAsked = true;
      setImmediate(this.#startUp);
    }
  }

  /** `length` bytes stand in the client's own buffer. */
  readonly onBulk = (length: number): boolean => {
    this.#active = this.client.server.now;
    this.#record.bytesUp += length;
    return this.#up!.read(length);
  };

  readonly #startUp = (): void => {
    const { socket } = this.client;
    if (this.#finished || socket.destroyed) return;
    this.#up = Bulk.start(socket, this.#upstream);
    if (this.#up !== null) this.client.bulk = this.onBulk;
  };

  readonly #startDown = (): void => {
    if (this.#finished || this.#upstream.destroyed) return;
    this.#down = Bulk.start(this.#upstream, this.client.socket);
  };

  onEnd(): void {
    this.#clientEnded = true;
    this.#record.close ??= "client-end";
    if (this.#upstreamEnded && this.#upstream.writableLength === 0) this.#upstream.destroy();
    else this.#upstream.end();
  }

  onDrain(): void {
    this.#upstream.resume();
  }

  onClosed(error: NodeJS.ErrnoException | null): void {
    const upstream = this.#upstream;
    if (error !== null) this.broken("client", error);
    else if (this.#clientEnded && this.#upstreamEnded && upstream.writableLength > 0) {
      // Nobody waits for an answer, but what the client said is still on its way.
      upstream.setTimeout(this.#idleMs, () => upstream.destroy());
    } else if (!upstream.destroyed) upstream.destroy();
    this.#finish();
  }

  /** `length` bytes stand in the shared buffer. False: stop reading until the client has drained. */
  upstreamData(length: number): boolean {
    this.#active = this.client.server.now;
    this.#record.bytesDown += length;
    if (this.#down !== null) return this.#down.read(length);
    if (this.#record.bytesDown >= BULK_AFTER_BYTES && !this.#downAsked) {
      this.#downAsked = true;
      setImmediate(this.#startDown);
    }
    if (!this.client.socket.writable) return true;
    return this.client.socket.write(Buffer.from(readBuffer.subarray(0, length)));
  }

  upstreamEnd(): void {
    this.#upstreamEnded = true;
    this.#record.close ??= "upstream-end";
    // Both sides have ended and everything is written: closing says the same as a FIN, in one system call less.
    const { socket } = this.client;
    if (this.#clientEnded && socket.writableLength === 0) socket.destroy();
    else socket.end();
  }

  upstreamClosed(): void {
    if (!this.#upstreamEnded && !this.#finished) this.client.socket.destroy();
  }

  /** One side ended abnormally: the other side is told in the same way. */
  broken(side: "client" | "upstream", error: NodeJS.ErrnoException): void {
    if (this.#record.close === undefined || !(this.#clientEnded && this.#upstreamEnded)) {
      this.#record.close = error.code === "ETIMEDOUT" ? `${side}-timeout` : `${side}-reset`;
    }
    const other = side === "client" ? this.#upstream : this.client.socket;
    if (!other.destroyed) other.resetAndDestroy();
  }

  sweep(now: number): void {
    const silent = now - this.#active;
    if (silent >= this.#idleMs) this.abort("idle");
    else if (silent >= KEEP_ALIVE_MS && !this.#kept) {
      this.#kept = true;
      this.#upstream.setKeepAlive(true, KEEP_ALIVE_MS);
    }
  }

  abort(close: string): void {
    this.#record.close = close;
    this.#upstream.resetAndDestroy();
    this.client.socket.resetAndDestroy();
  }

  #finish(): void {
    if (this.#finished) return;
    this.#finished = true;
    this.#up?.release();
    this.#down?.release();
    this.client.finish(this.#record);
  }
}
