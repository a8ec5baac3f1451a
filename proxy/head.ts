/** One request head, strict (RFC 9112). Field names and values are as sent, values trimmed of outer white space. */
export interface Head {
  method: string;
  /** The request target as sent: visible ASCII only. */
  target: string;
  minor: 0 | 1;
  headers: [name: string, value: string][];
  /** Octets of the body; absent without Content-Length. */
  contentLength?: number;
  chunked: boolean;
  /** Whether the client wants to go on after this request (RFC 9112 §9.3). */
  keepAlive: boolean;
  /** Lower-cased names that Connection and Proxy-Connection nominate (RFC 9110 §7.6.1). */
  connection: string[];
  /** The value of Proxy-Authorization; the first of several decides nothing: several are refused. */
  authorization?: string;
}

/** What a head that breaks the rules is answered with. */
export interface HeadRefusal {
  status: 400 | 431;
  reason: string;
}

/** Octets of a head, request line and fields together. */
export const MAX_HEAD_BYTES = 16_384;

const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const FIELD_VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;
const VISIBLE = /^[\x21-\x7e]+$/;

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
export function framing(headers: readonly [string, string][]): { contentLength?: number; chunked: boolean } {
  let contentLength: number | undefined;
  let chunked = false;
  for (const [name, value] of headers) {
    const lower = name.toLowerCase();
    if (lower === "content-length") {
      if (contentLength !== undefined) throw new Malformed("two Content-Length fields");
      if (!/^\d{1,15}$/.test(value)) throw new Malformed("Content-Length is not a number");
      contentLength = Number(value);
    } else if (lower === "transfer-encoding") {
      if (chunked) throw new Malformed("two Transfer-Encoding fields");
      if (value.toLowerCase() !== "chunked") throw new Malformed("Transfer-Encoding other than chunked");
      chunked = true;
    }
  }
  if (chunked && contentLength !== undefined) throw new Malformed("both Content-Length and Transfer-Encoding");
  return contentLength === undefined ? { chunked } : { contentLength, chunked };
}

/** The tokens of all Connection and Proxy-Connection fields, lower-cased. */
export function connectionTokens(headers: readonly [string, string][]): string[] {
  const tokens: string[] = [];
  for (const [name, value] of headers) {
    if (name.length !== 10 && name.length !== 16) continue;
    const lower = name.toLowerCase();
    if (lower !== "connection" && lower !== "proxy-connection") continue;
    for (const token of value.split(",")) tokens.push(token.trim().toLowerCase());
  }
  return tokens;
}

function readRequestLine(line: string): { method: string; target: string; minor: 0 | 1 } {
  const parts = line.split(" ");
  if (parts.length !== 3) throw new Malformed("the request line is not METHOD TARGET HTTP/1.1");
  const [method, target, version] = parts as [string, string, string];
  if (!TOKEN.test(method)) throw new Malformed("the method is not a token");
  if (!VISIBLE.test(target)) throw new Malformed("the target has a character outside of visible ASCII");
  if (version !== "HTTP/1.1" && version !== "HTTP/1.0") throw new Malformed("the version is not HTTP/1.1");
  return { method, target, minor: version === "HTTP/1.1" ? 1 : 0 };
}

function readField(line: string): [string, string] {
  const colon = line.indexOf(":");
  if (line.startsWith(" ") || line.startsWith("\t")) throw new Malformed("a field is folded over lines");
  const name = line.slice(0, colon);
  if (colon <= 0 || !TOKEN.test(name)) throw new Malformed("a field name is not a token");
  const value = line.slice(colon + 1);
  if (!FIELD_VALUE.test(value)) throw new Malformed("a field value has a control character");
  return [name, value.replace(/^[ \t]+|[ \t]+$/g, "")];
}

function finish(start: { method: string; target: string; minor: 0 | 1 }, headers: [string, string][]): Head {
  let hosts = 0;
  let authorization: string | undefined;
  for (const [name, value] of headers) {
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
  const keepAlive = start.minor === 1 ? !connection.includes("close") : connection.includes("keep-alive");
  const head: Head = { ...start, headers, ...framed, keepAlive, connection };
  if (authorization !== undefined) head.authorization = authorization;
  return head;
}

/** Lines of a head as they complete: CRLF only, limited in size, the same for every split of the bytes. */
export class LineReader {
  #pending: Buffer | null = null;
  #seen = 0;
  readonly #limit: number;
  readonly #what: string;

  constructor(limit: number, what: string) {
    this.#limit = limit;
    this.#what = what;
  }

  /** Calls `line` for each complete line (latin1) until it returns true; returns the bytes behind that line. */
  feed(chunk: Buffer, line: (text: string) => boolean): Buffer | null {
    let data = this.#pending === null ? chunk : Buffer.concat([this.#pending, chunk]);
    let from = this.#pending?.length ?? 0;
    for (;;) {
      const lf = data.indexOf(10, from);
      const end = lf === -1 ? data.length : lf + 1;
      if (this.#seen + end > this.#limit)
        throw new Malformed(`the ${this.#what} is longer than ${this.#limit} bytes`, 431);
      if (lf === -1) {
        this.#pending = data.length === 0 ? null : data;
        return null;
      }
      if (lf === 0 || data[lf - 1] !== 13) throw new Malformed("a line ends in LF without CR");
      const text = data.toString("latin1", 0, lf - 1);
      this.#seen += lf + 1;
      data = data.subarray(lf + 1);
      from = 0;
      if (line(text)) return data;
    }
  }
}

/** Reads one request head from bytes as they come. Answers once, then it is used up. */
export class HeadParser {
  readonly #lines = new LineReader(MAX_HEAD_BYTES, "request head");
  #start: { method: string; target: string; minor: 0 | 1 } | null = null;
  #skipped = false;
  readonly #headers: [string, string][] = [];

  /** Null: more bytes are needed. `rest` is what came behind the head. */
  feed(chunk: Buffer): null | { head: Head; rest: Buffer } | { refusal: HeadRefusal } {
    try {
      const rest = this.#lines.feed(chunk, (line) => {
        if (this.#start === null) {
          // One empty line in front is forgiven: some clients end a body with it (RFC 9112 §2.2).
          if (line === "" && !this.#skipped) this.#skipped = true;
          else this.#start = readRequestLine(line);
          return false;
        }
        if (line === "") return true;
        this.#headers.push(readField(line));
        return false;
      });
      return rest === null ? null : { head: finish(this.#start!, this.#headers), rest };
    } catch (error) {
      if (error instanceof Malformed) return { refusal: { status: error.status, reason: error.message } };
      throw error;
    }
  }
}

/** One response head of an upstream. `reason` may be empty. */
export interface ResponseHead {
  status: number;
  reason: string;
  minor: 0 | 1;
  headers: [name: string, value: string][];
  contentLength?: number;
  chunked: boolean;
  keepAlive: boolean;
  connection: string[];
}

/** Octets of a response head: upstreams send more cookies than clients. */
export const MAX_RESPONSE_HEAD_BYTES = 65_536;

/** Reads one response head, as strict as requests are: an answer that is refused here is a 502. */
export class ResponseHeadParser {
  readonly #lines = new LineReader(MAX_RESPONSE_HEAD_BYTES, "response head");
  #start: { status: number; reason: string; minor: 0 | 1 } | null = null;
  readonly #headers: [string, string][] = [];

  /** Null: more bytes are needed. An error is the sentence that says what is wrong. */
  feed(chunk: Buffer): null | { head: ResponseHead; rest: Buffer } | { error: string } {
    try {
      const rest = this.#lines.feed(chunk, (line) => {
        if (this.#start === null) {
          const match = /^HTTP\/1\.([01]) ([1-9]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*))?$/.exec(line);
          if (match === null) throw new Malformed("the status line is not HTTP/1.1");
          this.#start = { minor: match[1] === "1" ? 1 : 0, status: Number(match[2]), reason: match[3] ?? "" };
          return false;
        }
        if (line === "") return true;
        this.#headers.push(readField(line));
        return false;
      });
      if (rest === null) return null;
      const start = this.#start!;
      const connection = connectionTokens(this.#headers);
      const keepAlive = start.minor === 1 ? !connection.includes("close") : connection.includes("keep-alive");
      return { head: { ...start, headers: this.#headers, ...framing(this.#headers), keepAlive, connection }, rest };
    } catch (error) {
      if (error instanceof Malformed) return { error: error.message };
      throw error;
    }
  }
}
