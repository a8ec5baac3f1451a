/** The blocks of a PEM file (RFC 7468) with this label, as DER. A file in DER is one block. @throws Error */
export function pemBlocks(bytes: Buffer, label: string): Buffer[] {
  // The first octet of a SEQUENCE. No text begins with it, besides the digit 0.
  if (bytes[0] === 0x30 && bytes[1] !== undefined && bytes[1] >= 0x80) return [bytes];
  const blocks: Buffer[] = [];
  const begin = `-----BEGIN ${label}-----`;
  const end = `-----END ${label}-----`;
  const text = bytes.toString("latin1");
  for (let from = text.indexOf(begin); from >= 0; from = text.indexOf(begin, from)) {
    const start = from + begin.length;
    from = text.indexOf(end, start);
    const body = from < 0 ? "" : text.slice(start, from).replace(/\s+/g, "");
    if (!/^[A-Za-z0-9+/]+={0,2}$/.test(body)) throw new Error(`a malformed or incomplete "${begin}" block`);
    blocks.push(Buffer.from(body, "base64"));
  }
  return blocks;
}

/** The certificates of a file, one at least. @throws Error */
export function readCertificates<T>(bytes: Buffer, read: (der: Buffer) => T): T[] {
  const blocks = pemBlocks(bytes, "CERTIFICATE");
  if (blocks.length === 0) throw new Error('has no certificate: no "-----BEGIN CERTIFICATE-----"');
  try {
    return blocks.map(read);
  } catch {
    throw new Error("has a malformed certificate");
  }
}

/** One PEM block. */
export function pemOf(der: Buffer, label: string): string {
  return `-----BEGIN ${label}-----\n${der.toString("base64").replace(/.{64}(?=.)/g, "$&\n")}\n-----END ${label}-----\n`;
}
