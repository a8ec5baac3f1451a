import { countBound } from "../outcome/bounds.ts";
import { Held } from "./held.ts";
import { protocolOfByte } from "./other-protocols.ts";
import { parseRequestLine, type RequestLine, readSent, type Sent } from "./request-line.ts";

/** One request head, strict (RFC 9112). Field names and values are as sent, values trimmed of outer white space. */
export interface Head extends RequestLine {
  headers: [name: string, value: string][];
  /** Octets of the body; absent without Content-Length. */
  contentLength?: number | undefined;
  chunked: boolean;
  /** Whether the client keeps the connection open after this request (RFC 9112 §9.3). */
  keepAlive: boolean;
  /** Lower-cased names that Connection and Proxy-Connection nominate (RFC 9110 §7.6.1). */
  connection: ReadonlySet<string>;
  /** The value of Proxy-Authorization. Several are refused. */
  authorization?: string | undefined;
  /** Octets of a head beyond the default limit: they count as buffered bytes. Absent: it is not longer than that. */
  large?: number;
}

/** The status and the reason for a head that breaks the rules. */
interface HeadRefusal {
  status: 400 | 431;
  reason: string;
}

/** Default limit in octets of a request head, request line and fields together (`--head-kib`). */
export const MAX_HEAD_BYTES = 16_384;
/** Octets of an incomplete request line that are kept for the record. */
const MAX_SENT_BYTES = 1024;
/** Limit of the fields of one head, or of one trailer section. Apache, Envoy and hyper allow 100 by default. */
export const MAX_FIELDS = 256;
/** Limit of the names in all Connection and Proxy-Connection fields of one head. Senders write one or two. */
const MAX_CONNECTION_TOKENS = 64;

const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const FIELD_VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;
const LENGTH = /^\d{1,15}$/;

/** Thrown inside of the parsers, never out of them. */
class Malformed extends Error {
  readonly status: 400 | 431;
  constructor(reason: string, status: 400 | 431 = 400) {
    super(reason);
    this.status = status;
  }
}

/**
 * The framing of a message as its fields declare it. Whatever two parsers could read in two ways is refused:
 * Content-Length twice or beside Transfer-Encoding, codings other than exactly `chunked` (RFC 9112 §6.3).
 */
function framing(headers: readonly [string, string][]): { contentLength: number | undefined; chunked: boolean } {
  let contentLength: number | undefined;
  let chunked = false;
  for (const [name, value] of headers) {
    // The length distinguishes most fields.
    if (name.length !== 14 && name.length !== 17) continue;
    const lower = name.toLowerCase();
    if (lower === "content-length") {
      if (contentLength !== undefined) throw new Malformed("two Content-Length fields");
      if (!LENGTH.test(value)) throw new Malformed("Content-Length is not a number");
      contentLength = Number(value);
    } else if (lower === "transfer-encoding") {
      if (chunked) throw new Malformed("two Transfer-Encoding fields");
      if (value.toLowerCase() !== "chunked") throw new Malformed("Transfer-Encoding other than chunked");
      chunked = true;
    }
  }
  if (chunked && contentLength !== undefined) throw new Malformed("both Content-Length and Transfer-Encoding");
  return { contentLength, chunked };
}

const NO_TOKENS: ReadonlySet<string> = new Set();

/** The tokens of all Connection and Proxy-Connection fields, lower-cased. */
function connectionTokens(headers: readonly [string, string][]): ReadonlySet<string> {
  let tokens: Set<string> | null = null;
  let count = 0;
  for (const [name, value] of headers) {
    if (name.length !== 10 && name.length !== 16) continue;
    const lower = name.toLowerCase();
    if (lower !== "connection" && lower !== "proxy-connection") continue;
    tokens ??= new Set();
    for (const token of value.split(",", MAX_CONNECTION_TOKENS + 1)) {
      if (++count > MAX_CONNECTION_TOKENS) {
        throw new Malformed(`Connection has more than ${MAX_CONNECTION_TOKENS} names`, 431);
      }
      tokens.add(token.trim().toLowerCase());
    }
  }
  return tokens ?? NO_TOKENS;
}

const isBlank = (code: number): boolean => code === 32 || code === 9;

/** Removes spaces and tabs at both ends. An expression such as `/[ \t]+$/` takes quadratic time where they are inside. */
function trimmed(text: string): string {
  let start = 0;
  let end = text.length;
  while (start < end && isBlank(text.charCodeAt(start))) start++;
  while (end > start && isBlank(text.charCodeAt(end - 1))) end--;
  return text.slice(start, end);
}

function readField(line: string): [string, string] {
  const colon = line.indexOf(":");
  if (line.startsWith(" ") || line.startsWith("\t")) throw new Malformed("a field is folded over lines");
  if (colon === -1) throw new Malformed("a field has no colon");
  const name = line.slice(0, colon);
  if (!TOKEN.test(name)) throw new Malformed("a field name is not a token");
  const value = line.slice(colon + 1);
  if (!FIELD_VALUE.test(value)) throw new Malformed("a field value has a control character");
  return [name, trimmed(value)];
}

function finish(start: RequestLine, headers: [string, string][]): Head {
  let hosts = 0;
  let authorization: string | undefined;
  for (const [name, value] of headers) {
    if (name.length !== 4 && name.length !== 19) continue;
    const lower = name.toLowerCase();
    if (lower === "host") hosts++;
    else if (lower === "proxy-authorization") {
      if (authorization !== undefined) throw new Malformed("two Proxy-Authorization fields");
      authorization = value;
    }
  }
  if (hosts > 1) throw new Malformed("two Host fields");
  // net/http of Go exempts CONNECT as well: its target says everything.
  if (hosts === 0 && start.minor === 1 && start.method !== "CONNECT") throw new Malformed("no Host field");
  const framed = framing(headers);
  if (framed.chunked && start.minor === 0) throw new Malformed("Transfer-Encoding in HTTP/1.0");
  if (start.method === "CONNECT" && (framed.chunked || framed.contentLength)) {
    throw new Malformed("a CONNECT with a body");
  }
  const connection = connectionTokens(headers);
  const keepAlive = start.minor === 1 ? !connection.has("close") : connection.has("keep-alive");
  const { method, target, minor } = start;
  const { contentLength, chunked } = framed;
  return { method, target, minor, headers, contentLength, chunked, keepAlive, connection, authorization };
}

function addField(headers: [string, string][], line: string): void {
  if (headers.length === MAX_FIELDS) throw new Malformed(`the head has more than ${MAX_FIELDS} fields`, 431);
  headers.push(readField(line));
}

/** Lines of a head as they complete: limited in size, the same for every split of the bytes. */
export class LineReader {
  readonly #pending = new Held();
  #seen = 0;
  readonly #limit: number;
  readonly #what: string;
  readonly #bareLf: boolean;
  /** A line ended in LF without CR. */
  sawBareLf = false;

  /** `bareLf`: LF without CR also ends a line (RFC 9112 §2.2); otherwise it is an error. */
  constructor(limit: number, what: string, bareLf = false) {
    this.#limit = limit;
    this.#what = what;
    this.#bareLf = bareLf;
  }

  /** Octets so far, incomplete lines included. */
  get seen(): number {
    return this.#seen + this.#pending.length;
  }

  /** Octets of the incomplete line. */
  get pending(): number {
    return this.#pending.length;
  }

  /** Calls `line` for each complete line (latin1) until it returns true; returns the bytes behind that line. */
  feed(chunk: Buffer, line: (text: string) => boolean): Buffer | null {
    for (let at = 0; ; ) {
      const lf = chunk.indexOf(10, at);
      const end = lf === -1 ? chunk.length : lf + 1;
      const length = this.#pending.length + end - at;
      if (this.#seen + length > this.#limit) {
        throw new Malformed(`the ${this.#what} is longer than ${this.#limit} bytes`, 431);
      }
      const part = chunk.subarray(at, end);
      if (lf === -1) {
        this.#pending.append(part);
        return null;
      }
      let whole = part;
      if (this.#pending.length > 0) {
        this.#pending.append(part);
        whole = this.#pending.take();
      }
      const bare = length < 2 || whole[length - 2] !== 13;
      if (bare) {
        if (!this.#bareLf) throw new Malformed("a line ends in LF without CR");
        this.sawBareLf = true;
      }
      this.#seen += length;
      at = end;
      if (line(whole.toString("latin1", 0, bare ? length - 1 : length - 2))) return chunk.subarray(at);
    }
  }
}

/** Reads one request head from bytes as they come. Returns one result, and cannot be used again. */
export class HeadParser {
  readonly #lines: LineReader;
  #line: string | null = null;
  /** The start of the request line until it is complete. */
  #cut = "";
  #start: RequestLine | null = null;
  /** Empty lines in front of the request line. */
  #skipped = 0;
  readonly #headers: [string, string][] = [];

  constructor(maxBytes = MAX_HEAD_BYTES) {
    this.#lines = new LineReader(maxBytes, "request head");
  }

  /** Octets that it holds. */
  get size(): number {
    return this.#lines.seen;
  }

  /** Nothing but empty lines has arrived: no head has begun. */
  get blank(): boolean {
    return this.#line === null && this.#lines.pending === 0;
  }

  /** Method and target as far as they have arrived, for the record of a rejected one. */
  get sent(): Sent {
    if (this.#line !== null) return readSent(this.#line, true);
    const [, line = ""] = /^[\r\n]*([^\r\n]*)/.exec(this.#cut)!;
    return readSent(line, false);
  }

  /** Null: more bytes are needed. `rest` is what came behind the head. */
  feed(chunk: Buffer): null | { head: Head; rest: Buffer } | { refusal: HeadRefusal } {
    const other = this.#lines.seen === 0 ? protocolOfByte(chunk[0]) : undefined;
    if (other !== undefined) return { refusal: { status: 400, reason: other } };
    try {
      const rest = this.#lines.feed(chunk, (line) => this.#read(line));
      if (rest !== null) return { head: this.#finish(), rest };
      this.#keepStart(chunk);
      return null;
    } catch (error) {
      if (!(error instanceof Malformed)) throw error;
      this.#keepStart(chunk);
      if (error.status === 431) countBound("request-head");
      return { refusal: { status: error.status, reason: error.message } };
    }
  }

  #finish(): Head {
    const head = finish(this.#start!, this.#headers);
    if (this.size > MAX_HEAD_BYTES) head.large = this.size;
    return head;
  }

  /** Reads one line; true: it is the last one of the head. */
  #read(line: string): boolean {
    if (this.#start !== null) {
      if (line === "") return true;
      addField(this.#headers, line);
      return false;
    }
    // One empty line in front is forgiven: some clients end a body with it (RFC 9112 §2.2). Two may be a PROXY header.
    if (line === "" && this.#skipped < 2) {
      this.#skipped++;
      return false;
    }
    this.#line = line;
    const start = parseRequestLine(line);
    if ("error" in start) throw new Malformed(start.error);
    if (this.#skipped > 1) throw new Malformed("two empty lines are in front of the request line");
    this.#start = start;
    return false;
  }

  #keepStart(chunk: Buffer): void {
    if (this.#line === null) this.#cut += chunk.toString("latin1", 0, MAX_SENT_BYTES - this.#cut.length);
  }
}

/** One response head of an upstream. `reason` may be empty. */
export interface ResponseHead {
  status: number;
  reason: string;
  minor: 0 | 1;
  /** At most one of them is a Content-Length, and none beside Transfer-Encoding. */
  headers: [name: string, value: string][];
  contentLength?: number | undefined;
  chunked: boolean;
  keepAlive: boolean;
  connection: ReadonlySet<string>;
  /** It was malformed in a way that RFC 9112 allows to repair: its connection must not be reused. */
  repaired: boolean;
}

/** Limit in octets of a response head: upstreams send more cookies than clients. */
const MAX_RESPONSE_HEAD_BYTES = 65_536;
const STATUS_LINE = /^HTTP\/1\.(\d) ([1-9]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*))?$/;

/** The line without white space in front of its first colon (RFC 9112 §5.1). */
function withoutBlankName(line: string): string {
  const colon = line.indexOf(":");
  return isBlank(line.charCodeAt(colon - 1)) ? trimmed(line.slice(0, colon)) + line.slice(colon) : line;
}

/**
 * The fields of an answer without superfluous Content-Length: several equal ones become one, and beside Transfer-Encoding
 * none is left (RFC 9112 §6.3, RFC 9110 §8.6). The same array if there is none. Different lengths are refused.
 */
function withOneLength(headers: [string, string][]): [string, string][] {
  let length: string | undefined;
  let count = 0;
  let coded = false;
  for (const [name, value] of headers) {
    if (name.length === 17) coded ||= name.toLowerCase() === "transfer-encoding";
    if (name.length !== 14 || name.toLowerCase() !== "content-length") continue;
    for (const part of value.split(",")) {
      const one = trimmed(part);
      if (length !== undefined && one !== length) throw new Malformed("two Content-Length values that differ");
      length = one;
      count++;
    }
  }
  if (length === undefined || (count === 1 && !coded)) return headers;
  if (!LENGTH.test(length)) throw new Malformed("Content-Length is not a number");
  const others = headers.filter(([name]) => name.toLowerCase() !== "content-length");
  return coded ? others : [...others, ["Content-Length", length]];
}

/**
 * Parses one response head. It is as strict as for requests, except where RFC 9112 allows a recipient to repair it: LF
 * without CR (§2.2), a higher minor version (§2.3), white space before a colon (§5.1), folded lines (§5.2), and
 * superfluous Content-Length (§6.3). The framing is read after that. A response that is refused here becomes a 502.
 */
export class ResponseHeadParser {
  readonly #reader: LineReader;
  #start: { status: number; reason: string; minor: 0 | 1 } | null = null;
  readonly #headers: [string, string][] = [];
  #repaired = false;
  #folded = false;
  /** Number of field lines read so far. */
  lines = 0;

  constructor(maxBytes = MAX_RESPONSE_HEAD_BYTES) {
    this.#reader = new LineReader(maxBytes, "response head", true);
  }

  /** Null: more bytes are needed. An error is a sentence with the problem. */
  feed(chunk: Buffer): null | { head: ResponseHead; rest: Buffer } | { error: string } {
    try {
      const rest = this.#reader.feed(chunk, this.#takeLine);
      return rest === null ? null : { head: this.#finish(this.#start!), rest };
    } catch (error) {
      if (!(error instanceof Malformed)) throw error;
      if (error.status === 431) countBound("response-head");
      return { error: error.message };
    }
  }

  readonly #takeLine = (line: string): boolean => {
    if (this.#start === null) this.#takeStatusLine(line);
    else if (line === "") return true;
    else this.#takeField(line);
    return false;
  };

  #takeStatusLine(line: string): void {
    const match = STATUS_LINE.exec(line);
    if (match === null) throw new Malformed("the status line is not HTTP/1.1");
    this.#start = { minor: match[1] === "0" ? 0 : 1, status: Number(match[2]), reason: match[3] ?? "" };
    this.#repaired = match[1]! > "1";
  }

  #takeField(line: string): void {
    if (++this.lines > MAX_FIELDS) throw new Malformed(`the head has more than ${MAX_FIELDS} fields`, 431);
    if (isBlank(line.charCodeAt(0))) {
      this.#unfold(line);
      return;
    }
    const plain = withoutBlankName(line);
    if (plain !== line) this.#repaired = true;
    this.#headers.push(readField(plain));
  }

  /** Replaces the line end and the white space around it by one space. */
  #unfold(line: string): void {
    const field = this.#headers.at(-1);
    if (field === undefined) throw new Malformed("white space before the first field");
    if (!FIELD_VALUE.test(line)) throw new Malformed("a field value has a control character");
    field[1] += ` ${trimmed(line)}`;
    this.#folded = true;
  }

  #finish(start: { status: number; reason: string; minor: 0 | 1 }): ResponseHead {
    // A field may begin or end with an empty line.
    if (this.#folded) for (const field of this.#headers) field[1] = trimmed(field[1]);
    const headers = withOneLength(this.#headers);
    const repaired = this.#repaired || this.#folded || this.#reader.sawBareLf || headers !== this.#headers;
    const framed = framing(headers);
    // RFC 9112 §6.1: its framing is faulty, even beside a Content-Length.
    if (framed.chunked && start.minor === 0) throw new Malformed("Transfer-Encoding in HTTP/1.0");
    const connection = connectionTokens(headers);
    const keepAlive = start.minor === 1 ? !connection.has("close") : connection.has("keep-alive");
    return { ...start, headers, ...framed, keepAlive, connection, repaired };
  }
}
