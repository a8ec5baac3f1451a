import { type Address, unmapAddress, v4 } from "../policy/cidr.ts";

/** Record type of IPv4 addresses (RFC 1035). */
export const TYPE_A = 1;
/** Record type of IPv6 addresses (RFC 3596). */
export const TYPE_AAAA = 28;
/** The record type of a question. */
export type QuestionType = typeof TYPE_A | typeof TYPE_AAAA;

/**
 * Limit of the addresses of one answer, per family. A host needs a few. An answer over TCP has room for 4,000, and each
 * of them costs memory, a place in the cache, and an attempt to connect.
 */
export const MAX_ADDRESSES = 16;
/** Bytes of a name in a message, and of one label (RFC 1035 §2.3.4). */
const MAX_NAME_BYTES = 255;
const MAX_LABEL_BYTES = 63;
const HEADER_BYTES = 12;
const CLASS_IN = 1;
const TYPE_CNAME = 5;
const TYPE_DNAME = 39;
/** RFC 2181 §8: a TTL with the most significant bit set counts as 0. */
const MAX_WIRE_TTL = 0x7fffffff;

const FLAG_RESPONSE = 0x8000;
const FLAG_TRUNCATED = 0x0200;
const FLAG_RECURSION_DESIRED = 0x0100;
const MASK_OPCODE = 0x7800;
const MASK_RCODE = 0x000f;

/** Response codes that are not success (RFC 1035 §4.1.1). */
const RCODES = ["", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"] as const;
/** Why a response has no addresses. `BADRESP`: another code. */
export type Rcode = Exclude<(typeof RCODES)[number], ""> | "BADRESP";

/** The addresses of an answer. `more`: the number of addresses beyond {@link MAX_ADDRESSES}. `ttl` in seconds. */
export interface Records {
  addresses: Address[];
  more: number;
  ttl: number;
}

/** The content of a response. `truncated`: the complete response needs TCP. */
type Response = Records | { error: Rcode } | "truncated";

/** Writes a query (recursion desired, no EDNS). Null when the text is not a name that fits into a message. */
export function writeQuery(id: number, name: string, type: QuestionType): Buffer | null {
  const labels = name.split(".");
  const bytes = Buffer.alloc(HEADER_BYTES + MAX_NAME_BYTES + 4);
  bytes.writeUInt16BE(id, 0);
  bytes.writeUInt16BE(FLAG_RECURSION_DESIRED, 2);
  bytes.writeUInt16BE(1, 4);
  let at = HEADER_BYTES;
  for (const label of labels) {
    if (label.length === 0 || label.length > MAX_LABEL_BYTES || !/^[\x21-\x7e]+$/.test(label)) return null;
    // One byte for the length of this label, one for the root label at the end.
    if (at - HEADER_BYTES + label.length + 2 > MAX_NAME_BYTES) return null;
    bytes[at] = label.length;
    bytes.write(label, at + 1, "latin1");
    at += 1 + label.length;
  }
  bytes[at] = 0;
  bytes.writeUInt16BE(type, at + 1);
  bytes.writeUInt16BE(CLASS_IN, at + 3);
  return bytes.subarray(0, at + 5);
}

const lower = (byte: number): number => (byte >= 0x41 && byte <= 0x5a ? byte + 32 : byte);

/** Whether the response repeats the question of the query, in any case of letters. */
function sameQuestion(message: Buffer, query: Buffer): boolean {
  if (message.length < query.length) return false;
  for (let i = HEADER_BYTES; i < query.length; i++) if (lower(message[i]!) !== lower(query[i]!)) return false;
  return true;
}

/** The offset after the name at `at`, without following a pointer; -1 when it is malformed. */
function skipName(message: Buffer, at: number): number {
  const limit = at + MAX_NAME_BYTES;
  for (let next = at; next < message.length && next < limit; ) {
    const length = message[next]!;
    if (length === 0) return next + 1;
    if (length >= 0xc0) return next + 2;
    if (length > MAX_LABEL_BYTES) return -1;
    next += 1 + length;
  }
  return -1;
}

function readAddress(message: Buffer, at: number, type: QuestionType): Address {
  if (type === TYPE_A) return v4(message.readUInt32BE(at));
  const word = (i: number) => message.readUInt32BE(at + i * 4);
  return unmapAddress({ family: 6, words: [word(0), word(1), word(2), word(3)] });
}

/**
 * Reads the answer section once, from front to back. It skips owner names: the resolver has followed the aliases, and
 * each address is vetted, whatever name it belongs to.
 */
function readRecords(message: Buffer, start: number, type: QuestionType): Records | { error: Rcode } {
  const found: Records = { addresses: [], more: 0, ttl: MAX_WIRE_TTL };
  const size = type === TYPE_A ? 4 : 16;
  let at = start;
  for (let left = message.readUInt16BE(6); left > 0; left--) {
    at = skipName(message, at);
    if (at === -1 || at + 10 > message.length) return { error: "BADRESP" };
    const kind = message.readUInt16BE(at);
    const inClass = message.readUInt16BE(at + 2) === CLASS_IN;
    const wireTtl = message.readUInt32BE(at + 4);
    const length = message.readUInt16BE(at + 8);
    at += 10;
    if (at + length > message.length) return { error: "BADRESP" };
    if (inClass && (kind === type || kind === TYPE_CNAME || kind === TYPE_DNAME)) {
      found.ttl = Math.min(found.ttl, wireTtl > MAX_WIRE_TTL ? 0 : wireTtl);
    }
    if (inClass && kind === type) {
      if (length !== size) return { error: "BADRESP" };
      if (found.addresses.length < MAX_ADDRESSES) found.addresses.push(readAddress(message, at, type));
      else found.more++;
    }
    at += length;
  }
  return found;
}

/**
 * Reads a message from a resolver. Null when it is no response to this query: QR bit, opcode, id or question differ.
 * Such a message is ignored, since anyone can send one.
 */
export function readResponse(message: Buffer, query: Buffer): Response | null {
  if (message.length < HEADER_BYTES || message.readUInt16BE(0) !== query.readUInt16BE(0)) return null;
  const flags = message.readUInt16BE(2);
  if ((flags & FLAG_RESPONSE) === 0 || (flags & MASK_OPCODE) !== 0) return null;
  const rcode = flags & MASK_RCODE;
  const error = rcode === 0 ? null : (RCODES[rcode] ?? "BADRESP");
  const questions = message.readUInt16BE(4);
  // A server that could not parse or refused the query may omit the question.
  if (questions === 0 && error !== null && error !== "NXDOMAIN") return { error: error as Rcode };
  if (questions !== 1 || !sameQuestion(message, query)) return null;
  if (error !== null) return { error: error as Rcode };
  if ((flags & FLAG_TRUNCATED) !== 0) return "truncated";
  return readRecords(message, query.length, query.readUInt16BE(query.length - 4) as QuestionType);
}
