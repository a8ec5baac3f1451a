import type { Socket } from "node:net";

/** A direction that has moved so much gets a buffer of its own: its bytes are then written without being copied. */
export const BULK_AFTER_BYTES = 131_072;
const BUFFER_BYTES = 262_144;
/** Directions that may have one at the same time (16 MiB); the others go on with copies. */
const MAX_BUFFERS = 64;
let inUse = 0;

/** The part of a socket's handle that gives it a read buffer: not public, so it is looked for before it is used. */
type Open = Socket & { _handle?: { useUserBuffer?: (buffer: Buffer) => void } | null };

/**
 * One direction of a tunnel with a read buffer of its own. The buffer is not read into while a write still points at
 * it: the source rests until the destination has taken everything.
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

  /** Null: not on this Node, or too many have one. `source` must read by `onread`, and not be inside of it. */
  static start(source: Socket, destination: Socket): Bulk | null {
    const handle = (source as Open)._handle;
    if (inUse >= MAX_BUFFERS || typeof handle?.useUserBuffer !== "function") return null;
    inUse++;
    const buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);
    handle.useUserBuffer(buffer);
    return new Bulk(source, destination, buffer);
  }

  /** `length` bytes stand in the buffer. False: the source has to rest. */
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

  /** The tunnel is over, called once. The memory lives as long as something points at it. */
  release(): void {
    inUse--;
  }
}
