/** A strict reader of DER (ITU-T X.690), as far as certificates and CRLs need it. */

/** The tags that this program reads. */
export const TAG = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  oid: 0x06,
  utf8String: 0x0c,
  printableString: 0x13,
  ia5String: 0x16,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
  set: 0x31,
} as const;

/** One element: its tag, its content, and all its octets. */
export interface Element {
  readonly tag: number;
  readonly content: Buffer;
  readonly whole: Buffer;
}

/** Offsets of an element: of its content and of its end. @throws Error */
function bounds(bytes: Buffer, at: number): { start: number; end: number } {
  const tag = bytes[at];
  let length = bytes[at + 1];
  // Tags of several octets (0x1f) occur in no certificate.
  if (tag === undefined || length === undefined || (tag & 0x1f) === 0x1f) throw new Error("malformed DER");
  let start = at + 2;
  if (length >= 0x80) {
    const octets = length & 0x7f;
    // 0x80 is the indefinite length of BER. Four octets are enough for each file.
    if (octets === 0 || octets > 4 || start + octets > bytes.length) throw new Error("malformed DER");
    length = bytes.readUIntBE(start, octets);
    start += octets;
  }
  const end = start + length;
  if (end > bytes.length) throw new Error("malformed DER");
  return { start, end };
}

/** Reads the element at an offset. @throws Error */
function elementAt(bytes: Buffer, at: number): Element {
  const { start, end } = bounds(bytes, at);
  return { tag: bytes[at]!, content: bytes.subarray(start, end), whole: bytes.subarray(at, end) };
}

/**
 * The first INTEGER of each SEQUENCE in a list, in the form of {@link serialOf}. Makes no objects for the elements, since a
 * list can have 100,000 of them. @throws Error
 */
export function firstIntegers({ content }: Element): Set<string> {
  const found = new Set<string>();
  for (let at = 0; at < content.length; ) {
    const entry = bounds(content, at);
    const serial = bounds(content, entry.start);
    if (content[at] !== TAG.sequence || content[entry.start] !== TAG.integer || serial.end > entry.end) {
      throw new Error("malformed DER");
    }
    found.add(hexOf(content, serial.start, serial.end));
    at = entry.end;
  }
  return found;
}

/** Octets in hexadecimal digits, without leading zero octets. */
function hexOf(bytes: Buffer, start: number, end: number): string {
  let from = start;
  while (from < end - 1 && bytes[from] === 0) from++;
  return bytes.toString("hex", from, end);
}

/** The only element of some bytes. @throws Error */
export function element(bytes: Buffer, tag: number): Element {
  const found = elementAt(bytes, 0);
  if (found.tag !== tag || found.whole.length !== bytes.length) throw new Error("malformed DER");
  return found;
}

/** The elements in the content of a constructed one. @throws Error */
export function elements(content: Buffer): Element[] {
  const found: Element[] = [];
  for (let at = 0; at < content.length; at += found.at(-1)!.whole.length) found.push(elementAt(content, at));
  return found;
}

/** The content of a list's element with a tag. @throws Error if there is none at this place */
export function expect(one: Element | undefined, ...tags: number[]): Element {
  if (one === undefined || !tags.includes(one.tag)) throw new Error("malformed DER");
  return one;
}

/** An object identifier in dotted form. */
export function oidOf({ content }: Element): string {
  const arcs: number[] = [];
  let value = 0;
  for (const octet of content) {
    value = value * 128 + (octet & 0x7f);
    if (octet >= 0x80) continue;
    if (arcs.length === 0)
      arcs.push(Math.min(2, Math.floor(value / 40)), value - 40 * Math.min(2, Math.floor(value / 40)));
    else arcs.push(value);
    value = 0;
  }
  return arcs.join(".");
}

/** A serial number in hexadecimal digits, without leading zero octets. */
export function serialOf({ content }: Element): string {
  return hexOf(content, 0, content.length);
}

/** A Time of RFC 5280 §4.1.2.5 in milliseconds since the epoch. @throws Error */
export function timeOf({ tag, content }: Element): number {
  const text = content.toString("latin1");
  const match = /^(\d{2}|\d{4})(\d{2})(\d{2})(\d{2})(\d{2})(\d{2})Z$/.exec(text);
  const years = tag === TAG.utcTime ? 2 : 4;
  if (match === null || match[1]!.length !== years) throw new Error("malformed time");
  const [year, month, day, hour, minute, second] = match.slice(1).map(Number) as [
    number,
    number,
    number,
    number,
    number,
    number,
  ];
  const century = years === 4 ? 0 : year < 50 ? 2000 : 1900;
  return Date.UTC(century + year, month - 1, day, hour, minute, second);
}
