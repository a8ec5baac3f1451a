import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ProxyHeaderParser, type ProxyHeaderResult } from "../../proxy/connections/proxy-header.ts";
import { runs } from "../harness/runs.ts";
import { crc32c, ipv4, ipv6, SIGNATURE, tlv, v1, v2 } from "./proxy-header-encoder.ts";

/** The header of the PROXY protocol: strict, the same for every split of the bytes. */

const REST = "GET http://a.example/ HTTP/1.1\r\n\r\n";

/** The result as text: the source (or `own`), and the bytes behind the header. */
function shown(result: ProxyHeaderResult | null): string {
  if (result === null) return "more";
  if ("error" in result) return `error: ${result.error}`;
  const { source, rest } = result;
  return `${source === null ? "own" : `${source.address} ${source.port}`} | ${rest.toString("latin1")}`;
}

const bytesOf = (bytes: Buffer | string): Buffer => (typeof bytes === "string" ? Buffer.from(bytes, "latin1") : bytes);

/** Feeds all bytes at once, and checks that bytes one by one give the same result. */
function read(wire: Buffer | string): string {
  const bytes = bytesOf(wire);
  const whole = shown(new ProxyHeaderParser().feed(bytes));
  const parser = new ProxyHeaderParser();
  let result: ProxyHeaderResult | null = null;
  let at = 0;
  while (at < bytes.length && result === null) result = parser.feed(bytes.subarray(at, ++at));
  const behind = bytes.subarray(at).toString("latin1");
  const single = shown(result);
  assert.equal(single.startsWith("error") || result === null ? single : single + behind, whole);
  return whole;
}

const V2_4 = v2({
  family: 0x11,
  block: Buffer.concat([ipv4("192.0.2.1"), ipv4("192.0.2.2"), Buffer.from([0, 5, 1, 0xbb])]),
});
const V2_6 = v2({
  family: 0x21,
  block: Buffer.concat([ipv6("2001:db8::1"), ipv6("2001:db8::2"), Buffer.from([0xff, 0xff, 0, 80])]),
});

const VALID: [name: string, wire: Buffer | string, source: string][] = [
  ["v1 TCP4", "PROXY TCP4 192.0.2.1 192.0.2.2 5 443\r\n", "192.0.2.1 5"],
  ["v1 TCP6", "PROXY TCP6 2001:DB8:0:0::1 2001:db8::2 65535 443\r\n", "2001:db8::1 65535"],
  [
    "v1 TCP6 of the longest form",
    `PROXY TCP6 ${"fffe:".repeat(7)}fffe ${"fffe:".repeat(7)}fffe 65535 65535\r\n`,
    `${"fffe:".repeat(7)}fffe 65535`,
  ],
  ["v1 TCP6, IPv4-mapped", "PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 5 443\r\n", "192.0.2.1 5"],
  ["v1 port 0", "PROXY TCP4 192.0.2.1 192.0.2.2 0 0\r\n", "192.0.2.1 0"],
  ["v1 UNKNOWN", "PROXY UNKNOWN\r\n", "own"],
  [
    "v1 UNKNOWN with addresses",
    `PROXY UNKNOWN ${"ffff:".repeat(7)}ffff ${"ffff:".repeat(7)}ffff 65535 65535\r\n`,
    "own",
  ],
  ["v1 UNKNOWN with other text", "PROXY UNKNOWN \0 any\rthing\r\n", "own"],
  ["v2 IPv4", V2_4, "192.0.2.1 5"],
  ["v2 IPv6", V2_6, "2001:db8::1 65535"],
  [
    "v2 IPv6, IPv4-mapped",
    v2({ family: 0x21, block: Buffer.concat([ipv6("::ffff:c000:201"), ipv6("::1"), Buffer.alloc(4)]) }),
    "192.0.2.1 0",
  ],
  ["v2 UNIX", v2({ family: 0x31, block: Buffer.alloc(216, "/") }), "own"],
  ["v2 UNSPEC", v2({ family: 0, block: Buffer.alloc(0) }), "own"],
  ["v2 UNSPEC with bytes", v2({ family: 0, block: Buffer.alloc(20, 7) }), "own"],
  ["v2 LOCAL", v2({ command: 0, family: 0, block: Buffer.alloc(0) }), "own"],
  ["v2 LOCAL with an address", v2({ command: 0, family: 0x11, block: Buffer.alloc(12, 9) }), "own"],
  ["v2 LOCAL with another family and a short block", v2({ command: 0, family: 0x77, block: Buffer.alloc(3) }), "own"],
];

for (const [name, wire, source] of VALID) {
  test(`accepts ${name}`, () => {
    const bytes = bytesOf(wire);
    assert.equal(read(bytes), `${source} | `);
    assert.equal(read(Buffer.concat([bytes, Buffer.from(REST)])), `${source} | ${REST}`);
    for (let end = 0; end < bytes.length; end++) assert.equal(read(bytes.subarray(0, end)), "more", `${end} bytes`);
  });
}

const LINE =
  /^error: the PROXY protocol header is malformed: its line must be PROXY TCP4\|TCP6 SOURCE DESTINATION PORT PORT, or PROXY UNKNOWN$/;
const NONE = /^error: the connection does not begin with a PROXY protocol header; /;

const INVALID: [name: string, wire: Buffer | string, reason: RegExp][] = [
  ["a request", REST, NONE],
  ["a PRI preface", "PRI * HTTP/2.0\r\n", NONE],
  ["a PROPFIND", "PROPFIND http://a/ HTTP/1.1\r\n", NONE],
  ["lower case", "proxy TCP4 192.0.2.1 192.0.2.2 5 443\r\n", NONE],
  ["a TLS handshake", "\x16\x03\x01\x02\0", NONE],
  ["an empty line and a request", `\r\n${REST}`, NONE],
  ["a tab behind PROXY", "PROXY\tUNKNOWN\r\n", NONE],
  ["v1 without CR", "PROXY UNKNOWN\n", /: its line ends in LF without CR$/],
  ["v1 TCP5", "PROXY TCP5 192.0.2.1 192.0.2.2 5 443\r\n", LINE],
  ["v1 UDP4", "PROXY UDP4 192.0.2.1 192.0.2.2 5 443\r\n", LINE],
  ["v1 tcp4", "PROXY tcp4 192.0.2.1 192.0.2.2 5 443\r\n", LINE],
  ["v1 UNKNOWNX", "PROXY UNKNOWNX\r\n", LINE],
  ["v1 without protocol", "PROXY \r\n", LINE],
  ["v1 with four words", "PROXY TCP4 192.0.2.1 192.0.2.2 5\r\n", LINE],
  ["v1 with a further word", "PROXY TCP4 192.0.2.1 192.0.2.2 5 443 1\r\n", LINE],
  ["v1 with two spaces", "PROXY TCP4  192.0.2.1 192.0.2.2 5 443\r\n", LINE],
  ["v1 with a space at the end", "PROXY TCP4 192.0.2.1 192.0.2.2 5 443 \r\n", LINE],
  ["v1 with CR inside", "PROXY TCP4 192.0.2.1 192.0.2.2 5 4\r43\r\n", LINE],
  ["v1 TCP4 with IPv6", "PROXY TCP4 2001:db8::1 192.0.2.2 5 443\r\n", /: "2001:db8::1" is not an IPv4 address$/],
  ["v1 TCP4 to IPv6", "PROXY TCP4 192.0.2.1 ::1 5 443\r\n", /: "::1" is not an IPv4 address$/],
  ["v1 TCP6 with IPv4", "PROXY TCP6 192.0.2.1 ::1 5 443\r\n", /: "192.0.2.1" is not an IPv6 address$/],
  ["v1 with zone", "PROXY TCP6 fe80::1%lo ::1 5 443\r\n", /: "fe80::1%lo" is not an IPv6 address$/],
  ["v1 with brackets", "PROXY TCP6 [::1] ::1 5 443\r\n", /: "\[::1\]" is not an IPv6 address$/],
  ["v1 with leading zeros", "PROXY TCP4 192.000.2.1 192.0.2.2 5 443\r\n", /: "192.000.2.1" is not an IPv4 address$/],
  ["v1 with three parts", "PROXY TCP4 192.0.2 192.0.2.2 5 443\r\n", /: "192.0.2" is not an IPv4 address$/],
  ["v1 with a name", "PROXY TCP4 localhost 192.0.2.2 5 443\r\n", /: "localhost" is not an IPv4 address$/],
  ["v1 port 65536", "PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n", /: "65536" is not a port$/],
  ["v1 port 05", "PROXY TCP4 192.0.2.1 192.0.2.2 05 443\r\n", /: "05" is not a port$/],
  ["v1 destination port -1", "PROXY TCP4 192.0.2.1 192.0.2.2 5 -1\r\n", /: "-1" is not a port$/],
  ["v1 port 1e3", "PROXY TCP4 192.0.2.1 192.0.2.2 1e3 1\r\n", /: "1e3" is not a port$/],
  [
    "v1 with control characters in the address",
    "PROXY TCP4 \x01\xff 192.0.2.2 5 1\r\n",
    /: "%01%FF" is not an IPv4 address$/,
  ],
  ["v1 of 108 bytes", `PROXY UNKNOWN ${"x".repeat(92)}\r\n`, /: its line is longer than 107 bytes$/],
  ["v1 that does not end", `PROXY UNKNOWN ${"x".repeat(3000)}`, /: its line is longer than 107 bytes$/],
  [
    "v2 block of 1025 bytes",
    v2({ family: 0x11, block: Buffer.alloc(1025) }),
    /: it has 1025 bytes behind its start; 1024 are allowed$/,
  ],
  ["v2 IPv4 with 11 bytes", v2({ family: 0x11, block: Buffer.alloc(11) }), /: it has 11 bytes for addresses of 12$/],
  ["v2 IPv6 with 35 bytes", v2({ family: 0x21, block: Buffer.alloc(35) }), /: it has 35 bytes for addresses of 36$/],
  [
    "v2 UNIX with 215 bytes",
    v2({ family: 0x31, block: Buffer.alloc(215) }),
    /: it has 215 bytes for addresses of 216$/,
  ],
  ["v2 TLV without length", v2({ family: 0x11, block: Buffer.alloc(14) }), /: a TLV is cut$/],
  [
    "v2 TLV that is too long",
    v2({ family: 0x11, block: Buffer.concat([Buffer.alloc(12), Buffer.from([4, 0, 2, 1])]) }),
    /: a TLV is cut$/,
  ],
  [
    "v2 checksum of three bytes",
    v2({ family: 0x11, block: Buffer.concat([Buffer.alloc(12), tlv(3, Buffer.alloc(3))]) }),
    /: its checksum has 3 bytes, not 4$/,
  ],
  [
    "v2 checksum of five bytes",
    v2({ family: 0x11, block: Buffer.concat([Buffer.alloc(12), tlv(3, Buffer.alloc(5))]) }),
    /: its checksum has 5 bytes, not 4$/,
  ],
  [
    "v2 wrong checksum",
    v2({ family: 0x11, block: Buffer.concat([Buffer.alloc(12), tlv(3, Buffer.alloc(4, 1))]) }),
    /: its checksum \(CRC32C\) is wrong$/,
  ],
];

for (const [name, wire, reason] of INVALID) test(`refuses ${name}`, () => assert.match(read(wire), reason));

test("accepts v1 of exactly 107 bytes, and a v2 block of exactly 1024", () => {
  const line = `PROXY UNKNOWN ${"x".repeat(91)}\r\n`;
  assert.equal(line.length, 107);
  assert.equal(read(line + REST), `own | ${REST}`);
  const block = Buffer.concat([Buffer.alloc(12), tlv(4, Buffer.alloc(1024 - 12 - 3))]);
  assert.equal(read(Buffer.concat([v2({ family: 0x11, block }), Buffer.from(REST)])), `0.0.0.0 0 | ${REST}`);
});

test("refuses each wrong byte of the v2 signature at once", () => {
  for (let at = 0; at < SIGNATURE.length; at++) {
    const wire = Buffer.from(V2_4);
    wire[at] = wire[at]! ^ 0x20;
    assert.match(read(wire.subarray(0, at + 1)), NONE, `byte ${at}`);
  }
});

test("reads every byte of version and command as the specification says", () => {
  for (let byte = 0; byte < 256; byte++) {
    const wire = Buffer.from(V2_4);
    wire[12] = byte;
    const result = read(wire);
    if (byte === 0x20) assert.equal(result, "own | ");
    else if (byte === 0x21) assert.equal(result, "192.0.2.1 5 | ");
    else if (byte >> 4 === 2) assert.match(result, new RegExp(`: command ${byte & 15} is unknown$`));
    else assert.match(result, new RegExp(`: version ${byte >> 4} is unknown$`));
  }
});

test("reads every byte of family and transport as the specification says", () => {
  for (let byte = 0; byte < 256; byte++) {
    const wire = v2({ family: byte, block: Buffer.alloc(216) });
    const result = read(wire);
    // All TLVs are of type 0 and empty.
    const known: Record<number, string> = { 0: "own | ", 17: "0.0.0.0 0 | ", 33: ":: 0 | ", 49: "own | " };
    if (known[byte] !== undefined) assert.equal(result, known[byte]);
    else if ([0x12, 0x22, 0x32].includes(byte)) assert.match(result, /: it names a datagram protocol$/);
    else
      assert.match(
        result,
        new RegExp(`: address family and transport 0x${byte.toString(16).padStart(2, "0")} are unknown$`),
      );
    // A block of LOCAL is ignored.
    wire[12] = 0x20;
    assert.equal(read(wire), "own | ");
  }
});

test("checks the checksum of RFC 3720", () => {
  // RFC 3720 B.4: 32 bytes of zeros, of ones, and incrementing ones.
  assert.equal(crc32c(Buffer.alloc(32)), 0x8a9136aa);
  assert.equal(crc32c(Buffer.alloc(32, 0xff)), 0x62a8ab43);
  assert.equal(crc32c(Buffer.from(Array.from({ length: 32 }, (_, i) => i))), 0x46dd794e);
});

const octet = fc.integer({ min: 0, max: 255 });
const port = fc.integer({ min: 0, max: 65_535 });
const quad = fc.tuple(octet, octet, octet, octet).map((parts) => parts.join("."));
/** Addresses of IPv6 that are not IPv4-mapped, as eight groups. */
const groups = fc
  .array(fc.integer({ min: 0, max: 65_535 }), { minLength: 8, maxLength: 8 })
  .filter((parts) => parts.slice(0, 5).some((part) => part !== 0))
  .map((parts) => parts.map((part) => part.toString(16)).join(":"));
const tlvs = fc.array(
  fc.tuple(
    fc.integer({ min: 0, max: 255 }).filter((type) => type !== 3),
    fc.uint8Array({ maxLength: 40 }),
  ),
  { maxLength: 8 },
);
const cuts = fc.array(fc.nat(1200), { maxLength: 6 });

/** Feeds bytes in parts. */
function inParts(bytes: Buffer, at: readonly number[]): string {
  const parser = new ProxyHeaderParser();
  const ends = [...at, bytes.length].map((end) => Math.min(end, bytes.length)).sort((a, b) => a - b);
  let from = 0;
  for (const end of ends) {
    const result = parser.feed(bytes.subarray(from, end));
    from = end;
    if (result === null) continue;
    return shown(result) + ("error" in result ? "" : bytes.subarray(from).toString("latin1"));
  }
  return "more";
}

/** IPv6 texts are compared as URLs, since one address has many of them. */
const canonical = (host: string) =>
  new URL(`http://${host.includes(":") ? `[${host}]` : host}/`).hostname.replace(/^\[|\]$/g, "");

test("reads what an independent encoder writes, in every split", () => {
  const source = fc.oneof(
    fc.record({ version: fc.constantFrom(1, 2), six: fc.constant(false), from: quad, to: quad }),
    fc.record({ version: fc.constantFrom(1, 2), six: fc.constant(true), from: groups, to: groups }),
  );
  fc.assert(
    fc.property(
      source,
      port,
      port,
      tlvs,
      fc.boolean(),
      cuts,
      ({ version, six, from, to }, fromPort, toPort, extra, sum, at) => {
        let wire = v1(six ? "TCP6" : "TCP4", from, to, fromPort, toPort);
        if (version === 2) {
          const ports = Buffer.alloc(4);
          ports.writeUInt16BE(fromPort, 0);
          ports.writeUInt16BE(toPort, 2);
          const encode = six ? ipv6 : ipv4;
          const block = Buffer.concat([
            encode(from),
            encode(to),
            ports,
            ...extra.map(([type, value]) => tlv(type, Buffer.from(value))),
          ]);
          wire = v2({ family: six ? 0x21 : 0x11, block, checksum: sum });
        }
        const bytes = Buffer.concat([wire, Buffer.from(REST)]);
        assert.equal(inParts(bytes, at), `${canonical(from)} ${fromPort} | ${REST}`);
        assert.equal(inParts(wire.subarray(0, at.length === 0 ? wire.length - 1 : at[0]! % wire.length), []), "more");
      },
    ),
    { numRuns: runs(2000) },
  );
});

test("notices each changed bit of a header with a checksum", () => {
  const wire = v2({
    family: 0x11,
    block: Buffer.concat([ipv4("192.0.2.1"), ipv4("192.0.2.2"), Buffer.alloc(4), tlv(5, Buffer.from("id"))]),
    checksum: true,
  });
  assert.equal(read(wire), "192.0.2.1 0 | ");
  for (let bit = 0; bit < wire.length * 8; bit++) {
    const changed = Buffer.from(wire);
    changed[bit >> 3] = changed[bit >> 3]! ^ (1 << (bit & 7));
    const result = read(changed);
    // A block of LOCAL and of an unspecified family is ignored, a longer one is incomplete, and another type is no checksum.
    if (bit >> 3 === 12 || bit >> 3 === 13 || bit >> 3 === 14 || bit >> 3 === 15) assert.doesNotMatch(result, /^192/);
    else if (bit >> 3 !== wire.length - 7) assert.match(result, /^error: /, `bit ${bit}`);
  }
});

test("random bytes give the same result in every split, and never throw", () => {
  const start = fc.constantFrom(
    Buffer.from("PROXY "),
    Buffer.from("PROXY TCP4 "),
    Buffer.from(SIGNATURE),
    Buffer.concat([SIGNATURE, Buffer.from([0x21, 0x11, 0])]),
    Buffer.alloc(0),
  );
  fc.assert(
    fc.property(start, fc.uint8Array({ maxLength: 200 }), cuts, (head, tail, at) => {
      const bytes = Buffer.concat([head, tail]);
      assert.equal(inParts(bytes, at), bytes.length === 0 ? "more" : read(bytes));
    }),
    { numRuns: runs(3000) },
  );
});
