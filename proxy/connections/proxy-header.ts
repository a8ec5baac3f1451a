import { type Address, formatAddress, parseAddress, unmapAddress, v4 } from "../policy/cidr.ts";

/**
 * The header of the PROXY protocol, versions 1 and 2, with which a load balancer names the source of a connection
 * (HAProxy, doc/proxy-protocol.txt). The destination in it and all TLVs but the checksum are checked and not used.
 */

/** Limit in octets of a header of version 1, CRLF included. */
const MAX_LINE_BYTES = 107;
/**
 * Limit in octets of addresses and TLVs in a header of version 2. With all its options HAProxy writes about 600. The
 * protocol allows 65,535.
 */
const MAX_BLOCK_BYTES = 1024;

const LINE_START = Buffer.from("PROXY ", "latin1");
/** No request begins with it. */
const SIGNATURE = Buffer.from("\r\n\r\n\0\r\nQUIT\n", "latin1");
/** Signature, version and command, family and transport, length of the block. */
const START_BYTES = 16;

/** Octets of both addresses and ports, by the byte of family and transport: stream connections only. */
const ADDRESS_BYTES: Readonly<Record<number, number>> = { 0: 0, 17: 12, 33: 36, 49: 216 };
const INET = 17;
const INET6 = 33;
const DATAGRAM: readonly number[] = [18, 34, 50];
const CRC32C = 3;
const CRC32C_BYTES = 4;

/** Address (canonical) and port of the client of a load balancer. */
export interface ProxySource {
  address: string;
  port: number;
}

/**
 * `source`: null if the header names none (LOCAL, UNKNOWN, UNSPEC, UNIX), and the address of the connection counts. `rest`:
 * the bytes behind the header. `error`: a sentence with the problem.
 */
export type ProxyHeaderResult = { source: ProxySource | null; rest: Buffer } | { error: string };

/** The header at the start of some bytes, with its length; null: more bytes are needed. */
type Found = { source: ProxySource | null; length: number } | { error: string } | null;

const MISSING =
  "the connection does not begin with a PROXY protocol header; switch it on in the load balancer (HAProxy: send-proxy), or remove its address from --proxy-protocol-from";
const malformed = (why: string) => ({ error: `the PROXY protocol header is malformed: ${why}` });
/** Text for a reason phrase. */
const quoted = (text: string) =>
  `"${text.replace(/[^!-~]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`)}"`;

const startsLike = (bytes: Buffer, start: Buffer): boolean => {
  const length = Math.min(bytes.length, start.length);
  return bytes.compare(start, 0, length, 0, length) === 0;
};

/** Whether bytes begin like a header, as far as they have arrived. */
export function beginsHeader(bytes: Buffer): boolean {
  return startsLike(bytes, LINE_START) || startsLike(bytes, SIGNATURE);
}

const LINE = /^PROXY (?:UNKNOWN(?: .*)?|TCP([46]) (\S+) (\S+) (\S+) (\S+))$/s;
const PORT = /^(?:0|[1-9]\d{0,4})$/;

function readLine(bytes: Buffer): Found {
  const lf = bytes.subarray(0, MAX_LINE_BYTES).indexOf(10);
  if (lf === -1)
    return bytes.length < MAX_LINE_BYTES ? null : malformed(`its line is longer than ${MAX_LINE_BYTES} bytes`);
  if (bytes[lf - 1] !== 13) return malformed("its line ends in LF without CR");
  const match = LINE.exec(bytes.toString("latin1", 0, lf - 1));
  if (match === null) {
    return malformed("its line must be PROXY TCP4|TCP6 SOURCE DESTINATION PORT PORT, or PROXY UNKNOWN");
  }
  const [, family, ...words] = match;
  const length = lf + 1;
  if (family === undefined) return { source: null, length };
  const [from, to, fromPort, toPort] = words as [string, string, string, string];
  for (const text of [from, to]) {
    if (parseAddress(text) === null || text.includes(":") !== (family === "6")) {
      return malformed(`${quoted(text)} is not an IPv${family} address`);
    }
  }
  for (const text of [fromPort, toPort]) {
    if (!PORT.test(text) || Number(text) > 65_535) return malformed(`${quoted(text)} is not a port`);
  }
  return { source: { address: formatAddress(parseAddress(from)!), port: Number(fromPort) }, length };
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let sum = byte;
  for (let bit = 0; bit < 8; bit++) sum = sum & 1 ? (sum >>> 1) ^ 0x82f63b78 : sum >>> 1;
  return sum;
});

/** CRC32C (RFC 3720, appendix B.4), with zeros in place of the checksum at `at`. */
function checksum(bytes: Buffer, at: number): number {
  let sum = 0xffffffff;
  for (const [i, byte] of bytes.entries()) {
    const value = i >= at && i < at + CRC32C_BYTES ? 0 : byte;
    sum = CRC_TABLE[(sum ^ value) & 255]! ^ (sum >>> 8);
  }
  return ~sum >>> 0;
}

/** The problem of the TLVs from `at` to the end of a header; null: there is none. */
function problemOfTlvs(header: Buffer, at: number): string | null {
  for (let next = at; next < header.length; ) {
    const value = next + 3;
    const length = value <= header.length ? header.readUInt16BE(next + 1) : 0;
    if (value + length > header.length) return "a TLV is cut";
    if (header[next] === CRC32C) {
      if (length !== CRC32C_BYTES) return `its checksum has ${length} bytes, not ${CRC32C_BYTES}`;
      if (header.readUInt32BE(value) !== checksum(header, value)) return "its checksum (CRC32C) is wrong";
    }
    next = value + length;
  }
  return null;
}

function addressAt(header: Buffer, family: number): Address {
  const word = (i: number) => header.readUInt32BE(START_BYTES + 4 * i);
  return family === INET ? v4(word(0)) : unmapAddress({ family: 6, words: [word(0), word(1), word(2), word(3)] });
}

/** The problem of the bytes before the length of the block, as far as they have arrived; null: there is none. */
function problemOfStart(kind: number | undefined, family: number | undefined): string | null {
  if (kind === undefined) return null;
  if (kind >> 4 !== 2) return `version ${kind >> 4} is unknown`;
  const command = kind & 15;
  if (command > 1) return `command ${command} is unknown`;
  if (command === 0 || family === undefined || ADDRESS_BYTES[family] !== undefined) return null;
  if (DATAGRAM.includes(family)) return "it names a datagram protocol";
  return `address family and transport 0x${family.toString(16).padStart(2, "0")} are unknown`;
}

function readBinary(bytes: Buffer): Found {
  const [kind, family] = [bytes[12], bytes[13]];
  const problem = problemOfStart(kind, family);
  if (problem !== null) return malformed(problem);
  if (bytes.length < START_BYTES) return null;
  const block = bytes.readUInt16BE(14);
  if (block > MAX_BLOCK_BYTES) {
    return malformed(`it has ${block} bytes behind its start; ${MAX_BLOCK_BYTES} are allowed`);
  }
  const isLocal = (kind! & 15) === 0;
  const addresses = isLocal ? 0 : ADDRESS_BYTES[family!]!;
  if (block < addresses) return malformed(`it has ${block} bytes for addresses of ${addresses}`);
  const length = START_BYTES + block;
  if (bytes.length < length) return null;
  // The block of a health check and of an unspecified family has no meaning, and no known place of TLVs.
  if (addresses === 0) return { source: null, length };
  const header = bytes.subarray(0, length);
  const ends = START_BYTES + addresses;
  const wrong = problemOfTlvs(header, ends);
  if (wrong !== null) return malformed(wrong);
  if (family !== INET && family !== INET6) return { source: null, length };
  return { source: { address: formatAddress(addressAt(header, family)), port: header.readUInt16BE(ends - 4) }, length };
}

/** Each check reads only the bytes that it decides on, so the result is the same for every split. */
function find(bytes: Buffer): Found {
  if (startsLike(bytes, LINE_START)) return readLine(bytes);
  if (startsLike(bytes, SIGNATURE)) return readBinary(bytes);
  return { error: MISSING };
}

/** Reads one header from bytes as they come. Returns one result, and cannot be used again. */
export class ProxyHeaderParser {
  #bytes: Buffer = Buffer.alloc(0);

  /** All bytes so far. */
  get bytes(): Buffer {
    return this.#bytes;
  }

  /** Null: more bytes are needed. */
  feed(chunk: Buffer): ProxyHeaderResult | null {
    this.#bytes = this.#bytes.length === 0 ? chunk : Buffer.concat([this.#bytes, chunk]);
    if (this.#bytes.length === 0) return null;
    const found = find(this.#bytes);
    if (found === null || "error" in found) return found;
    return { source: found.source, rest: this.#bytes.subarray(found.length) };
  }
}
