import { countBound } from "../outcome/bounds.ts";
import { MAX_FIELDS } from "./head.ts";
import { Held } from "./held.ts";

/** A body with invalid framing. */
class BodyError extends Error {
  readonly code = "BAD_BODY";
}

/** Removes the framing of a body. Calls `data` with payload that is not empty; returns the bytes after the body. */
export interface BodyReader {
  /** Null: the body is not complete. Otherwise the bytes after it. @throws BodyError */
  feed(chunk: Buffer, data: (payload: Buffer) => void): Buffer | null;
  readonly done: boolean;
  /** Number of framing lines read so far: work that the number of bytes does not show. */
  readonly lines: number;
  /** Its framing was malformed and readable all the same: its connection must not be reused. */
  readonly repaired: boolean;
}

/** A body of known length (0: none). */
export class LengthBody implements BodyReader {
  readonly lines = 0;
  readonly repaired = false;
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
  readonly lines = 0;
  readonly repaired = false;
  readonly done = false;

  feed(chunk: Buffer, data: (payload: Buffer) => void): null {
    if (chunk.length > 0) data(chunk);
    return null;
  }
}

/** Limit in octets of one chunk-size line: the size, and extensions that are ignored. */
const MAX_SIZE_LINE = 256;
/** Limit in octets of all trailers. */
const MAX_TRAILER_BYTES = 16_384;
/** A payload of at least this many octets is passed on without copying; smaller pieces of one read are merged. */
const DIRECT_BYTES = 2048;
/** Text allowed after a chunk size: nothing, or an extension (RFC 9112 §7.1.1). */
const EXTENSION = /^[ \t]*;[\t\x20-\x7e\x80-\xff]*$/;
const TRAILER_LINE = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*$/;
/** A trailer line with white space before its colon, and the further lines of a folded trailer. */
const REPAIRED_TRAILER_LINE = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+[ \t]+:[\t\x20-\x7e\x80-\xff]*$/;
const FOLDED_LINE = /^[ \t][\t\x20-\x7e\x80-\xff]*$/;
const BLANK = /^[ \t]+$/;
/** Hex digits of a chunk size: at most 2^48 octets. */
const MAX_SIZE_DIGITS = 12;
/** The same in answers, with leading zeros: some servers write all digits of a machine word. */
const MAX_ANSWER_SIZE_DIGITS = 16;

/** The value of a hex digit; negative for every other octet. */
function hexValue(octet: number): number {
  if (octet <= 57) return octet - 48;
  const lower = octet | 32;
  return lower >= 97 && lower <= 102 ? lower - 87 : -1;
}

const tooLong = (what: string): BodyError => {
  countBound("body-lines");
  return new BodyError(what);
};

/** Payload of one read: large pieces are passed on as they are, small ones together. */
class Gathering {
  readonly #data: (payload: Buffer) => void;
  readonly #chunk: Buffer;
  /** One small piece that may stay alone: an interval of the chunk. */
  #from = 0;
  #to = 0;
  #together: Buffer | null = null;
  #filled = 0;

  constructor(chunk: Buffer, data: (payload: Buffer) => void) {
    this.#chunk = chunk;
    this.#data = data;
  }

  add(from: number, to: number): void {
    if (to - from >= DIRECT_BYTES) {
      this.flush();
      this.#data(this.#chunk.subarray(from, to));
    } else if (this.#together !== null) this.#copy(from, to);
    else if (this.#to === 0) {
      this.#from = from;
      this.#to = to;
    } else {
      this.#together = Buffer.allocUnsafe(this.#chunk.length - this.#from);
      this.#copy(this.#from, this.#to);
      this.#copy(from, to);
    }
  }

  #copy(from: number, to: number): void {
    if (to - from > 16) this.#chunk.copy(this.#together!, this.#filled, from, to);
    else for (let i = from; i < to; i++) this.#together![this.#filled + i - from] = this.#chunk[i]!;
    this.#filled += to - from;
  }

  flush(): void {
    if (this.#together !== null) this.#data(this.#together.subarray(0, this.#filled));
    else if (this.#to > 0) this.#data(this.#chunk.subarray(this.#from, this.#to));
    this.#to = 0;
    this.#together = null;
    this.#filled = 0;
  }
}

/**
 * The chunked coding, strict: CRLF only, no sign, no 0x. Extensions and trailers are read and dropped. An answer may have
 * white space behind a chunk size, and its trailers may be folded or have white space before the colon (RFC 9112 §5).
 */
export class ChunkedBody implements BodyReader {
  lines = 0;
  repaired = false;
  readonly #answer: boolean;
  #state: "size" | "data" | "crlf" | "trailer" | "done" = "size";
  #left = 0;
  /** The part of a line that earlier reads brought. */
  readonly #line = new Held();
  #trailerBytes = 0;
  #trailers = 0;

  constructor(of: "request" | "answer") {
    this.#answer = of === "answer";
  }

  get done(): boolean {
    return this.#state === "done";
  }

  /** Payloads of small chunks that one read brings become one payload. */
  feed(chunk: Buffer, data: (payload: Buffer) => void): Buffer | null {
    const gathering = new Gathering(chunk, data);
    let at = 0;
    while (at < chunk.length) {
      if (this.#state === "data") {
        const end = Math.min(chunk.length, at + this.#left);
        gathering.add(at, end);
        this.#left -= end - at;
        at = end;
        if (this.#left === 0) this.#state = "crlf";
        continue;
      }
      const next = this.#readShortLine(chunk, at);
      at = next > at ? next : this.#readLine(chunk, at);
      if (this.#state === "done") break;
    }
    gathering.flush();
    return this.#state === "done" ? chunk.subarray(at) : null;
  }

  /** Reads what nearly all lines are: CRLF behind a chunk, or a size of some digits. `at`: it is another line. */
  #readShortLine(chunk: Buffer, at: number): number {
    if (this.#line.length > 0 || this.#state === "trailer") return at;
    let to = at;
    let size = 0;
    if (this.#state === "size") {
      for (let value = hexValue(chunk[to]!); value >= 0 && to - at < MAX_SIZE_DIGITS; value = hexValue(chunk[++to]!)) {
        size = size * 16 + value;
      }
      if (to === at) return at;
    }
    if (chunk[to] !== 13 || chunk[to + 1] !== 10) return at;
    this.lines++;
    this.#left = size;
    this.#state = this.#state === "crlf" ? "size" : size === 0 ? "trailer" : "data";
    return to + 2;
  }

  /** Reads a line, or what there is of it; the index behind it. */
  #readLine(chunk: Buffer, at: number): number {
    const lf = chunk.indexOf(10, at);
    const end = lf === -1 ? chunk.length : lf + 1;
    const length = this.#line.length + end - at;
    if (this.#state === "crlf" && length > 2) throw new BodyError("a chunk is longer than its size says");
    const limit = this.#state === "size" ? MAX_SIZE_LINE : MAX_TRAILER_BYTES;
    if (length > limit) throw tooLong(`a chunk's ${this.#state} line is too long`);
    if (lf === -1) {
      this.#line.append(chunk.subarray(at));
      return end;
    }
    this.lines++;
    let bytes = chunk;
    let from = at;
    if (this.#line.length > 0) {
      this.#line.append(chunk.subarray(at, end));
      bytes = this.#line.take();
      from = 0;
    }
    const to = from + length - 2;
    if (length < 2 || bytes[to] !== 13) throw new BodyError("a chunk line ends in LF without CR");
    this.#take(bytes, from, to);
    return end;
  }

  /** One line without its CRLF. */
  #take(bytes: Buffer, from: number, to: number): void {
    if (this.#state === "crlf") this.#state = "size";
    else if (this.#state === "size") {
      this.#left = this.#readSize(bytes, from, to);
      this.#state = this.#left === 0 ? "trailer" : "data";
    } else if (to === from) this.#state = "done";
    else {
      this.#trailerBytes += to - from + 2;
      if (this.#trailerBytes > MAX_TRAILER_BYTES) throw tooLong("the trailers are too long");
      if (++this.#trailers > MAX_FIELDS) throw tooLong(`there are more than ${MAX_FIELDS} trailers`);
      const line = bytes.toString("latin1", from, to);
      if (TRAILER_LINE.test(line)) return;
      if (!this.#repairsTrailer(line)) throw new BodyError("a trailer is not a field");
      this.repaired = true;
    }
  }

  #repairsTrailer(line: string): boolean {
    if (!this.#answer) return false;
    return REPAIRED_TRAILER_LINE.test(line) || (this.#trailers > 1 && FOLDED_LINE.test(line));
  }

  #readSize(bytes: Buffer, from: number, to: number): number {
    let size = 0;
    let at = from;
    for (; at < to; at++) {
      const value = hexValue(bytes[at]!);
      if (value < 0) break;
      size = size * 16 + value;
    }
    const digits = at - from;
    const most = this.#answer ? MAX_ANSWER_SIZE_DIGITS : MAX_SIZE_DIGITS;
    const misplaced = at < to && !this.#takesBehindSize(bytes.toString("latin1", at, to));
    if (digits === 0 || digits > most || size >= 16 ** MAX_SIZE_DIGITS || misplaced) {
      throw new BodyError("a chunk size is not a hexadecimal number");
    }
    return size;
  }

  /** Whether this text may follow a chunk size. */
  #takesBehindSize(text: string): boolean {
    if (EXTENSION.test(text)) return true;
    if (!this.#answer || !BLANK.test(text)) return false;
    this.repaired = true;
    return true;
  }
}

/** One chunk of the chunked coding around a payload. */
export function chunkHeader(payload: Buffer): string {
  return `${payload.length.toString(16)}\r\n`;
}
