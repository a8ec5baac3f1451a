import { connect, type Socket } from "node:net";
import type { Route } from "./wire.ts";
import {
  ALLOWED_NAME,
  DENIED_NAME,
  FRAME_HEAD_BYTES,
  type Frame,
  HTTP_BODY_BYTES,
  HTTP_PORT,
  RAW_PORT,
} from "./wire.ts";

/** The clients of the generator. They count bytes and check status lines; the tests check contents. */

export type Done = (error: Error | null) => void;

const HEAD_END = "\r\n\r\n";
/** Shared by all sockets: users copy the bytes that they need before the callback returns. */
const readBuffer = Buffer.allocUnsafeSlow(65_536);

/** Connects; `onBytes` gets the number of bytes in the shared buffer, `onGone` is called once at the end. */
function dialProxy(port: number, onBytes: (length: number) => void, onGone: (error: Error | null) => void): Socket {
  const callback = (length: number) => {
    onBytes(length);
    return true;
  };
  const socket = connect({ host: "127.0.0.1", port, noDelay: true, onread: { buffer: readBuffer, callback } });
  let failure: Error | null = null;
  socket.on("error", (error) => {
    failure = error;
  });
  socket.on("close", () => onGone(failure));
  return socket;
}

/** The bytes of a frame going up. Those of one size and answer are shared. */
export function frameBytes({ up, down }: Frame): Buffer {
  const bytes = Buffer.alloc(Math.max(up, FRAME_HEAD_BYTES));
  bytes.writeUInt32BE(bytes.length, 0);
  bytes.writeUInt32BE(down, 4);
  return bytes;
}

/** One tunnel: opened, used for exchanges one after another, closed. */
export class ClientTunnel {
  readonly #socket: Socket;
  /** Result of the answer to CONNECT; null after it was handled. */
  #head: string | null = null;
  /** Bytes that the current exchange still waits for. */
  #left = 0;
  #done: Done | null;

  constructor(route: Route, host: string, opened: Done) {
    this.#done = opened;
    this.#socket = dialProxy(
      route.port,
      (length) => this.#bytes(length),
      (error) => this.#finish(error ?? new Error("the tunnel ended early")),
    );
    if (route.connect) {
      this.#head = "";
      this.#socket.write(`CONNECT ${host}:${RAW_PORT} HTTP/1.1\r\nHost: ${host}:${RAW_PORT}\r\n\r\n`, "latin1");
    } else this.#socket.once("connect", () => this.#finish(null));
  }

  exchange(bytes: Buffer, down: number, done: Done): void {
    this.#left = down;
    this.#done = done;
    this.#socket.write(bytes);
  }

  close(): void {
    this.#done = null;
    this.#socket.destroy();
  }

  #bytes(length: number): void {
    if (this.#head === null) {
      this.#left -= length;
      if (this.#left < 0) this.#finish(new Error("more bytes than asked for"));
      else if (this.#left === 0) this.#finish(null);
      return;
    }
    this.#head += readBuffer.toString("latin1", 0, length);
    if (!this.#head.includes(HEAD_END)) return;
    const line = this.#head.slice(0, this.#head.indexOf("\r\n"));
    this.#head = null;
    this.#finish(/^HTTP\/1\.[01] 200 /.test(line) ? null : new Error(line));
  }

  #finish(error: Error | null): void {
    const done = this.#done;
    this.#done = null;
    done?.(error);
  }
}

/** A CONNECT to a denied name: done with the head of the refusal; some proxies leave the connection open after it. */
export function askRefused(route: Route, done: Done): () => void {
  const refusal = new RegExp(`^HTTP/1\\.[01] ${route.refusal} `);
  let text = "";
  let over = false;
  const finish = (error: Error | null) => {
    if (over) return;
    over = true;
    socket.destroy();
    done(error);
  };
  const socket = dialProxy(
    route.port,
    (length) => {
      text += readBuffer.toString("latin1", 0, length);
      if (text.includes(HEAD_END)) finish(refusal.test(text) ? null : new Error(text.split("\r\n")[0]));
    },
    (error) => finish(error ?? new Error("closed without an answer")),
  );
  socket.write(`CONNECT ${DENIED_NAME}:443 HTTP/1.1\r\nHost: ${DENIED_NAME}:443\r\n\r\n`, "latin1");
  return () => socket.destroy();
}

function postBytes(keepAlive: boolean): Buffer {
  const host = `${ALLOWED_NAME}:${HTTP_PORT}`;
  const fields = [`Host: ${host}`, "Content-Type: application/json", `Content-Length: ${HTTP_BODY_BYTES}`];
  if (!keepAlive) fields.push("Connection: close");
  return Buffer.from(
    `POST http://${host}/hook HTTP/1.1\r\n${fields.join("\r\n")}${HEAD_END}${"x".repeat(HTTP_BODY_BYTES)}`,
  );
}

const POSTS = { kept: postBytes(true), closed: postBytes(false) };

/** Posts in absolute form, on one connection as long as the proxy keeps it. */
export class HttpClient {
  readonly #route: Route;
  readonly #keepAlive: boolean;
  #socket: Socket | null = null;
  #text = "";
  /** Whether this connection has carried a request before. */
  #used = false;
  #done: Done | null = null;

  constructor(route: Route, keepAlive: boolean) {
    this.#route = route;
    this.#keepAlive = keepAlive;
  }

  post(done: Done): void {
    this.#done = done;
    this.#text = "";
    this.#used = this.#socket !== null;
    this.#socket ??= this.#dial();
    this.#socket.write(this.#keepAlive ? POSTS.kept : POSTS.closed);
  }

  close(): void {
    this.#done = null;
    this.#drop();
  }

  #dial(): Socket {
    const socket = dialProxy(
      this.#route.port,
      (length) => this.#bytes(length),
      (error) => {
        if (this.#socket !== socket) return;
        this.#socket = null;
        const done = this.#done;
        // A proxy may close silently after an answer; senders retry then.
        if (done !== null && this.#used && this.#text === "") this.post(done);
        else this.#finish(error ?? new Error("closed without a whole answer"));
      },
    );
    return socket;
  }

  #drop(): void {
    const socket = this.#socket;
    this.#socket = null;
    socket?.destroy();
  }

  #bytes(length: number): void {
    this.#text += readBuffer.toString("latin1", 0, length);
    const end = this.#text.indexOf(HEAD_END);
    if (end < 0) return;
    const head = this.#text.slice(0, end).toLowerCase();
    const wanted = /\ncontent-length: *(\d+)/.exec(head);
    if (wanted !== null && this.#text.length < end + HEAD_END.length + Number(wanted[1])) return;
    if (!this.#keepAlive || /\n(proxy-)?connection: *close/.test(head) || head.startsWith("http/1.0")) this.#drop();
    this.#finish(head.slice(8, 13) === " 200 " && wanted !== null ? null : new Error(head.split("\r\n")[0]));
  }

  #finish(error: Error | null): void {
    const done = this.#done;
    this.#done = null;
    if (error !== null) this.#drop();
    done?.(error);
  }
}
