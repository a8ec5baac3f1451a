import type { Socket } from "node:net";

/** Combines related writes: a system call costs more than copying some kilobytes. */
export class Batch {
  #parts: (string | Buffer)[] = [];
  #bytes = 0;

  /** Strings are latin1. */
  add(part: string | Buffer): void {
    this.#parts.push(part);
    this.#bytes += part.length;
  }

  /** One write of everything that was added. False: wait until the socket has drained. */
  flush(socket: Socket): boolean {
    const parts = this.#parts;
    if (parts.length === 0) return true;
    const [first] = parts as [string | Buffer];
    this.#parts = [];
    const bytes = this.#bytes;
    this.#bytes = 0;
    if (parts.length === 1 && typeof first !== "string") return socket.write(first);
    const whole = Buffer.allocUnsafe(bytes);
    let at = 0;
    for (const part of parts) {
      at += typeof part === "string" ? whole.write(part, at, "latin1") : part.copy(whole, at);
    }
    return socket.write(whole);
  }
}
