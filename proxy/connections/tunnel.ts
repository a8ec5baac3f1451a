import type { AccessRecord } from "../outcome/access-record.ts";
import { countBound } from "../outcome/bounds.ts";
import { BULK_AFTER_BYTES, Bulk } from "../sockets/bulk.ts";
import { copyOut } from "../sockets/read-buffer.ts";
import { reset } from "../sockets/reset.ts";
import type { UpstreamOwner, UpstreamSocket } from "../sockets/upstream.ts";
import type { Connection, Handler } from "./handler.ts";

/** Idle time after which TCP keep-alive starts; short tunnels thereby save four system calls. */
const KEEP_ALIVE_MS = 15_000;
/** After both sides have ended, the upstream gets this long to take the bytes that the client sent before its end. */
const LINGER_MS = 5000;

/** The whole success answer: senders and their libraries compare little else (RFC 9110 §9.3.6). */
const ESTABLISHED = Buffer.from("HTTP/1.1 200 Connection established\r\n\r\n");

/** Whether a direction has just reached the number of bytes from which it counts as bulk. */
const passes = (bytes: number, added: number): boolean => bytes >= BULK_AFTER_BYTES && bytes - added < BULK_AFTER_BYTES;

/**
 * Relays bytes between a client and its upstream. A half-close is relayed as FIN and a reset as RST; back-pressure
 * pauses the faster side. Writes one record at the end.
 */
export class Tunnel implements Handler, UpstreamOwner {
  readonly client: Connection;
  readonly #upstream: UpstreamSocket;
  readonly #record: AccessRecord;
  readonly #idleMs: number;
  #active: number;
  #clientEnded = false;
  #upstreamEnded = false;
  #finished = false;
  #kept = false;
  /** When the client disconnected while its last bytes are still being sent (server's clock, ms). */
  #lingerSince: number | null = null;
  #up: Bulk | null = null;
  #down: Bulk | null = null;

  constructor(client: Connection, upstream: UpstreamSocket, record: AccessRecord, idleMs: number) {
    this.client = client;
    this.#upstream = upstream;
    this.#record = record;
    this.#idleMs = idleMs;
    this.#active = client.server.now;
    client.visitBy(this.#active + idleMs);
    upstream.owner = this;
    upstream.resume();
  }

  /** Answers the CONNECT and relays what the client sent before the answer. */
  begin(early: Buffer, ended: boolean): void {
    const { socket } = this.client;
    socket.write(ESTABLISHED);
    if (early.length > 0) this.onData(early);
    if (ended) this.onEnd();
    else if (!this.#upstream.writableNeedDrain) socket.resume();
  }

  onData(chunk: Buffer): void {
    this.#active = this.client.server.now;
    this.#record.bytesUp += chunk.length;
    const upstream = this.#upstream;
    if (upstream.writable) {
      if (!upstream.write(chunk)) this.client.socket.pause();
      if (upstream.writableLength > 0) this.client.noteBuffered();
    }
    if (passes(this.#record.bytesUp, chunk.length) && this.client.sharedReads) setImmediate(() => this.#startUp());
  }

  #startUp(): void {
    const { socket } = this.client;
    if (this.#finished || socket.destroyed) return;
    const bulk = Bulk.start(socket, this.#upstream);
    if (bulk === null) return;
    this.#up = bulk;
    this.client.bulk = (length) => {
      this.#active = this.client.server.now;
      this.#record.bytesUp += length;
      const more = bulk.read(length);
      if (!more) this.client.noteBuffered();
      return more;
    };
  }

  #startDown(): void {
    if (!this.#finished && !this.#upstream.destroyed) this.#down = Bulk.start(this.#upstream, this.client.socket);
  }

  onEnd(): void {
    this.#clientEnded = true;
    this.#record.close ??= "client-end";
    if (this.#upstreamEnded && this.#upstream.writableLength === 0) this.#upstream.destroy();
    else this.#upstream.end();
  }

  onDrain(): void {
    this.client.noteBuffered();
    this.#upstream.resume();
  }

  /** Bytes that either side has not read yet. */
  buffered(): number {
    return this.client.socket.writableLength + this.#upstream.writableLength;
  }

  onClosed(error: NodeJS.ErrnoException | null): boolean {
    const upstream = this.#upstream;
    if (error !== null) this.broken("client", error);
    else if (this.#clientEnded && this.#upstreamEnded && !upstream.destroyed && upstream.writableLength > 0) {
      // The client expects no answer, but its last bytes are still being sent: counted and revocable until then.
      this.#lingerSince = this.client.server.now;
      this.client.visitBy(this.#lingerSince + LINGER_MS);
      return true;
    } else if (!upstream.destroyed) upstream.destroy();
    this.#finish();
    return false;
  }

  /** False: stop reading until the client has drained. */
  upstreamRead(length: number): boolean {
    this.#active = this.client.server.now;
    this.#record.bytesDown += length;
    const { socket } = this.client;
    let more = true;
    if (this.#down !== null) more = this.#down.read(length);
    else {
      // A TLS socket can keep a reference to what it is given, so its bytes are copied.
      const bulk = passes(this.#record.bytesDown, length) && !("encrypted" in socket);
      if (bulk) setImmediate(() => this.#startDown());
      if (socket.writable) more = socket.write(copyOut(length));
    }
    if (socket.writableLength > 0) this.client.noteBuffered();
    return more;
  }

  upstreamUnread(length: number): void {
    this.#record.bytesDown += length;
    const { socket } = this.client;
    if (socket.writable) socket.write(copyOut(length));
  }

  upstreamEnd(): void {
    this.#upstreamEnded = true;
    this.#record.close ??= "upstream-end";
    // Both sides have ended and everything is written: closing has the same effect as a FIN, with one system call less.
    const { socket } = this.client;
    if (this.#clientEnded && socket.writableLength === 0) socket.destroy();
    else socket.end();
  }

  upstreamDrained(): void {
    this.client.noteBuffered();
    this.client.socket.resume();
  }

  upstreamError(error: NodeJS.ErrnoException): void {
    this.broken("upstream", error);
  }

  upstreamClosed(): void {
    if (this.#lingerSince !== null) this.#finish();
    else if (!this.#upstreamEnded && !this.#finished) this.client.socket.destroy();
  }

  /** One side was reset: the other side is reset as well. */
  broken(side: "client" | "upstream", error: NodeJS.ErrnoException): void {
    if (this.#record.close === undefined || !(this.#clientEnded && this.#upstreamEnded)) {
      this.#record.close = error.code === "ETIMEDOUT" ? `${side}-timeout` : `${side}-reset`;
    }
    const other = side === "client" ? this.#upstream : this.client.socket;
    reset(other);
  }

  sweep(now: number): number {
    if (this.#lingerSince !== null) {
      const end = this.#lingerSince + LINGER_MS;
      if (now < end) return end;
      countBound("lingering-upstreams");
      this.abort("upstream-timeout");
      return end;
    }
    const end = this.#active + this.#idleMs;
    if (now >= end) this.abort("idle");
    if (now >= end || this.#kept) return end;
    const quiet = this.#active + KEEP_ALIVE_MS;
    if (now < quiet) return Math.min(quiet, end);
    this.#kept = true;
    this.#upstream.setKeepAlive(true, KEEP_ALIVE_MS);
    return end;
  }

  abort(close: string): void {
    this.#record.close = close;
    reset(this.#upstream);
    reset(this.client.socket);
  }

  #finish(): void {
    if (this.#finished) return;
    this.#finished = true;
    this.#up?.release();
    this.#down?.release();
    this.client.finish(this.#record);
  }
}
