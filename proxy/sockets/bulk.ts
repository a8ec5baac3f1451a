import type { Socket } from "node:net";

/**
 * A direction that has moved this many bytes gets a buffer of its own, and its bytes are then written without a copy.
 */
export const BULK_AFTER_BYTES = 131_072;
const BUFFER_BYTES = 262_144;
/** Limit of the directions with such a buffer at the same time (16 MiB); the others continue with copies. */
const MAX_BUFFERS = 64;
let inUse = 0;

/** The part of a socket's handle that sets its read buffer. It is not public, so it is checked before use. */
type Open = Socket & { _handle?: { useUserBuffer?: (buffer: Buffer) => void } | null };

/**
 * One direction of a tunnel with a read buffer of its own. No read overwrites the buffer while a write still uses it:
 * the source pauses until the destination has taken everything.
 */
export class Bulk {
  readonly #source: Socket;
  readonly #destination: Socket;
  readonly #buffer: Buffer;
  #resting = false;

  private constructor(source: Socket, destination: Socket, buffer: Buffer) {
    this.#source = source;
    this.#destination = destination;
    this.#buffer = buffer;
  }

  /**
   * Null: this Node does not support it, or too many directions have one. `source` must read by `onread`, and not be in
   * a read callback.
   */
  static start(source: Socket, destination: Socket): Bulk | null {
    const handle = (source as Open)._handle;
    if (inUse >= MAX_BUFFERS || typeof handle?.useUserBuffer !== "function") return null;
    inUse++;
    const buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);
    handle.useUserBuffer(buffer);
    return new Bulk(source, destination, buffer);
  }

  /** Handles `length` bytes in the buffer. False: the source must pause. */
  read(length: number): boolean {
    if (!this.#destination.writable) return true;
    this.#destination.write(this.#buffer.subarray(0, length), this.#written);
    this.#resting = this.#destination.writableLength > 0;
    return !this.#resting;
  }

  readonly #written = (): void => {
    if (!this.#resting || this.#destination.writableLength > 0) return;
    this.#resting = false;
    if (!this.#source.destroyed) this.#source.resume();
  };

  /** Ends the tunnel; called once. The memory is freed when nothing references it. */
  release(): void {
    inUse--;
  }
}
