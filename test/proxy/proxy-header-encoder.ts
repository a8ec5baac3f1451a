/** An encoder of PROXY protocol headers that shares no code with the proxy (HAProxy, doc/proxy-protocol.txt). */

export const SIGNATURE = Buffer.from([0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a]);

/** CRC32C (RFC 3720, B.4), bit by bit. */
export function crc32c(bytes: Buffer): number {
  let sum = 0xffffffffn;
  for (const byte of bytes) {
    sum ^= BigInt(byte);
    for (let bit = 0; bit < 8; bit++) sum = sum % 2n === 1n ? (sum / 2n) ^ 0x82f63b78n : sum / 2n;
  }
  return Number(sum ^ 0xffffffffn);
}

export const ipv4 = (text: string): Buffer => Buffer.from(text.split(".").map(Number));

/** Groups of hexadecimal digits, with one `::` at most. */
export function ipv6(text: string): Buffer {
  const [left, right] = text.split("::").map((half) => (half === "" ? [] : half.split(":")));
  const zeros = right === undefined ? 0 : 8 - left!.length - right.length;
  const groups = [...left!, ...Array<string>(zeros).fill("0"), ...(right ?? [])];
  return Buffer.from(groups.map((group) => group.padStart(4, "0")).join(""), "hex");
}

export function tlv(type: number, value: Buffer): Buffer {
  return Buffer.concat([Buffer.from([type, value.length >> 8, value.length & 255]), value]);
}

export function v1(protocol: string, from: string, to: string, fromPort: number, toPort: number): Buffer {
  return Buffer.from(`PROXY ${protocol} ${from} ${to} ${fromPort} ${toPort}\r\n`, "latin1");
}

/** A header of version 2. `block`: addresses and TLVs. `checksum`: a TLV with the right one is added. */
export function v2(header: { command?: number; family: number; block: Buffer; checksum?: boolean }): Buffer {
  const block = header.checksum ? Buffer.concat([header.block, tlv(3, Buffer.alloc(4))]) : header.block;
  const start = Buffer.from([0x20 | (header.command ?? 1), header.family, block.length >> 8, block.length & 255]);
  const wire = Buffer.concat([SIGNATURE, start, block]);
  if (header.checksum) wire.writeUInt32BE(crc32c(wire), wire.length - 4);
  return wire;
}
