import { MIB, memoryLimit } from "../config/memory.ts";
import { countBound } from "../outcome/bounds.ts";
import { LinkedList, type Place } from "./linked-list.ts";

/** A holder of bytes that its peer has not read. */
export interface ByteHolder {
  /** Bytes that it buffers now. */
  buffered(): number;
  /** The bytes that are counted for it, and its place among those with bytes. Only {@link Buffers} writes them. */
  bufferCounted: number;
  bufferPlace: Place<ByteHolder> | null;
  /** Ends it; `close` is the value in the record. */
  shed(): void;
}

const MIN_LIMIT = 32 * MIB;
const MAX_LIMIT = 1024 * MIB;
/** The part of the memory limit that bytes for slow peers may take. The rest is for connections and for V8's heap. */
const SHARE = 4;

/** A part of the memory that this process may have. */
export function defaultBufferLimit(): number {
  return Math.min(MAX_LIMIT, Math.max(MIN_LIMIT, Math.floor(memoryLimit() / SHARE)));
}

/**
 * The bytes that this process buffers because peers do not read. A connection is listed from its first unsent byte
 * until it has none left. Above the limit, the connections that have waited longest are ended first.
 */
export class Buffers {
  readonly limit: number;
  readonly #held = new LinkedList<ByteHolder>();
  #bytes = 0;
  #shedding = false;

  constructor(limit: number) {
    this.limit = limit;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Updates the buffered bytes of a connection. */
  note(holder: ByteHolder): void {
    this.#count(holder, holder.buffered());
    if (this.#bytes <= this.limit || this.#shedding) return;
    // Not in this call: the caller is in the middle of a read or a write, and may be the connection to end.
    this.#shedding = true;
    setImmediate(() => this.#shed());
  }

  forget(holder: ByteHolder): void {
    this.#count(holder, 0);
  }

  #count(holder: ByteHolder, bytes: number): void {
    this.#bytes += bytes - holder.bufferCounted;
    holder.bufferCounted = bytes;
    if (bytes > 0) holder.bufferPlace ??= this.#held.add(holder);
    else if (holder.bufferPlace !== null) {
      this.#held.remove(holder.bufferPlace);
      holder.bufferPlace = null;
    }
  }

  /** Updates all of them: small writes drain without an event. */
  sweep(): void {
    for (const holder of this.#held) this.note(holder);
  }

  #shed(): void {
    // No connection ends for bytes that are gone.
    this.sweep();
    this.#shedding = false;
    for (const holder of this.#held) {
      if (this.#bytes <= this.limit) return;
      this.forget(holder);
      countBound("buffered-bytes");
      holder.shed();
    }
  }
}
