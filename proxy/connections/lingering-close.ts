import type { Socket } from "node:net";
import { reset } from "../sockets/reset.ts";
import type { ProxyContext } from "./handler.ts";

/**
 * Bytes of a refused request that are read and discarded: bodies of webhooks fit. Beyond it the rest is not read, so that
 * the client has {@link LINGER_MS} to read the answer. A close would destroy the answer by RST.
 */
const LINGER_BYTES = 4 * 1024 * 1024;
/** Time from FIN until the connection is closed, if the client does not close it. */
const LINGER_MS = 1000;
/** Time limit for a client that reads none of the last bytes of an answer; then it is reset. */
const FLUSH_MS = 30_000;

/** The connection that is closed. */
interface Closing {
  readonly socket: Socket;
  readonly server: Pick<ProxyContext, "now">;
  noteBuffered(): void;
  visitBy(at: number): void;
}

/**
 * The end of a client connection after its last answer: FIN, then the rest of the input is discarded (RFC 9112 §9.6).
 * Ends by itself when the client closes, or when the time limit is reached.
 */
export class LingeringClose {
  readonly #client: Closing;
  #since: number;
  #bytesLeft = LINGER_BYTES;
  #timer: NodeJS.Timeout | undefined;
  /** Unsent bytes of the answer at the last sweep. */
  #unsent = 0;

  constructor(client: Closing) {
    this.#client = client;
    this.#since = client.server.now;
  }

  /** Sends the answer (latin1) and FIN, after a delay. */
  start(bytes: string, delayMs: number): void {
    if (delayMs > 0) this.#timer = setTimeout(() => this.#send(bytes), delayMs);
    else this.#send(bytes);
    this.#client.socket.resume();
  }

  /** Start, or last progress of the answer, by the server's clock (ms). */
  get since(): number {
    return this.#since;
  }

  #send(bytes: string): void {
    const { socket, server } = this.#client;
    this.#since = server.now;
    this.#bytesLeft = LINGER_BYTES;
    socket.resume();
    socket.end(bytes, "latin1", () => {
      if (!socket.destroyed) this.#timer = setTimeout(() => socket.destroy(), LINGER_MS);
    });
    if (socket.writableLength === 0) return;
    this.#client.noteBuffered();
    this.#client.visitBy(this.#since);
  }

  /** Counts input that is discarded, and pauses reading at the limit. */
  discard(bytes: number): void {
    this.#bytesLeft -= bytes;
    if (this.#bytesLeft < 0) this.#client.socket.pause();
  }

  /** Resets a client that takes nothing of the answer for {@link FLUSH_MS}. Returns when it must be called again. */
  sweep(now: number): number {
    const { socket } = this.#client;
    const unsent = socket.writableLength;
    if (unsent !== this.#unsent) {
      this.#unsent = unsent;
      this.#since = now;
    } else if (unsent > 0 && now - this.#since >= FLUSH_MS) reset(socket);
    return unsent > 0 ? now : Number.POSITIVE_INFINITY;
  }

  /** The socket is closed. */
  cancel(): void {
    clearTimeout(this.#timer);
  }
}
