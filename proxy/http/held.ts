const MIN_CAPACITY = 256;

/**
 * Bytes that wait for their receiver, in one buffer that grows by doubling. A byte costs the same time and memory,
 * however small the pieces are in which it arrives.
 */
export class Held {
  #bytes: Buffer | null = null;
  #length = 0;

  get length(): number {
    return this.#length;
  }

  /**
   * The first piece is kept without a copy; later ones are copied behind it. The caller must not change a piece
   * afterwards.
   */
  append(piece: Buffer): void {
    if (piece.length === 0) return;
    const length = this.#length + piece.length;
    if (this.#bytes === null) this.#bytes = piece;
    else {
      // The first piece has no room behind it, so appending never writes into memory that the caller can see.
      if (length > this.#bytes.length) {
        const grown = Buffer.allocUnsafeSlow(Math.max(MIN_CAPACITY, length, 2 * this.#bytes.length));
        this.#bytes.copy(grown, 0, 0, this.#length);
        this.#bytes = grown;
      }
      piece.copy(this.#bytes, this.#length);
    }
    this.#length = length;
  }

  /** All bytes, without a copy; afterwards this holds none. */
  take(): Buffer {
    const bytes = this.#bytes?.subarray(0, this.#length) ?? Buffer.alloc(0);
    this.#bytes = null;
    this.#length = 0;
    return bytes;
  }
}
