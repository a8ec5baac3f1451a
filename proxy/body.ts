/** A body whose framing breaks the rules. */
export class BodyError extends Error {
  readonly code = "BAD_BODY";
}

/** Takes the octets of a body out of its framing. Calls `data` with payload only; returns what is behind the body. */
export interface BodyReader {
  /** Null: the body goes on. Otherwise the bytes behind it. @throws BodyError */
  feed(chunk: Buffer, data: (payload: Buffer) => void): Buffer | null;
  readonly done: boolean;
}

/** A body of known length (0: none). */
export class LengthBody implements BodyReader {
  #left: number;

  constructor(length: number) {
    this.#left = length;
  }

  get done(): boolean {
    return this.#left === 0;
  }

  feed(chunk: Buffer, data: (payload: Buffer) => void): Buffer | null {
    const payload = chunk.length <= this.#left ? chunk : chunk.subarray(0, this.#left);
    this.#left -= payload.length;
    if (payload.length > 0) data(payload);
    return this.#left > 0 ? null : chunk.subarray(payload.length);
  }
}

/** A body that ends with its connection. */
export class UntilClose implements BodyReader {
  readonly done = false;

  feed(chunk: Buffer, data: (payload: Buffer) => void): null {
    data(chunk);
    return null;
  }
}

/** Octets of one chunk-size line: the size and extensions that nobody needs. */
const MAX_SIZE_LINE = 256;
const MAX_TRAILER_BYTES = 16_384;
/** Hex digits alone, at most 2^48 octets, then nothing or an extension (RFC 9112 §7.1). */
const SIZE_LINE = /^([0-9A-Fa-f]{1,12})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?$/;
const TRAILER_LINE = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*$/;

/** The chunked coding, strict: CRLF only, no sign, no 0x. Extensions and trailers are read and dropped. */
export class ChunkedBody implements BodyReader {
  #state: "size" | "data" | "crlf" | "trailer" | "done" = "size";
  #left = 0;
  #line = "";
  #trailer = 0;

  get done(): boolean {
    return this.#state === "done";
  }

  feed(chunk: Buffer, data: (payload: Buffer) => void): Buffer | null {
    let at = 0;
    while (at < chunk.length) {
      if (this.#state === "data") {
        const end = Math.min(chunk.length, at + this.#left);
        data(chunk.subarray(at, end));
        this.#left -= end - at;
        at = end;
        if (this.#left === 0) this.#state = "crlf";
        continue;
      }
      const lf = chunk.indexOf(10, at);
      this.#line += chunk.toString("latin1", at, lf === -1 ? chunk.length : lf + 1);
      const limit = this.#state === "size" ? MAX_SIZE_LINE : this.#state === "crlf" ? 2 : MAX_TRAILER_BYTES;
      if (this.#line.length > limit) throw new BodyError(`a chunk's ${this.#state} line is too long`);
      if (lf === -1) return null;
      at = lf + 1;
      if (!this.#line.endsWith("\r\n")) throw new BodyError("a chunk line ends in LF without CR");
      const line = this.#line.slice(0, -2);
      this.#line = "";
      this.#take(line);
      if (this.#state === "done") return chunk.subarray(at);
    }
    return null;
  }

  #take(line: string): void {
    if (this.#state === "crlf") {
      if (line !== "") throw new BodyError("a chunk is longer than its size says");
      this.#state = "size";
    } else if (this.#state === "size") {
      const match = SIZE_LINE.exec(line);
      if (match === null) throw new BodyError("a chunk size is not a hexadecimal number");
      this.#left = Number.parseInt(match[1]!, 16);
      this.#state = this.#left === 0 ? "trailer" : "data";
    } else {
      this.#trailer += line.length + 2;
      if (line === "") this.#state = "done";
      else if (!TRAILER_LINE.test(line)) throw new BodyError("a trailer is not a field");
      else if (this.#trailer > MAX_TRAILER_BYTES) throw new BodyError("the trailers are too long");
    }
  }
}

/** One chunk of the chunked coding around a payload. */
export function chunkHeader(payload: Buffer): string {
  return `${payload.length.toString(16)}\r\n`;
}
