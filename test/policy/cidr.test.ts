import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  type Address,
  type Cidr,
  CidrSet,
  cidr,
  contains,
  formatAddress,
  isInside,
  limitsKey,
  parseAddress,
  parseCidr,
  single,
  v4,
  widen,
} from "../../proxy/policy/cidr.ts";
import { runs } from "../harness/runs.ts";

const at = (text: string): Address => parseAddress(text)!;

test("reads an address as four words and writes it in one form", () => {
  const rows: [text: string, family: 4 | 6, words: number[], shown?: string][] = [
    ["0.0.0.0", 4, [0, 0, 0, 0]],
    ["1.2.3.4", 4, [0, 0, 0, 0x01020304]],
    ["255.255.255.255", 4, [0, 0, 0, 0xffffffff]],
    ["::", 6, [0, 0, 0, 0]],
    ["1:2:3:4:5:6:7:8", 6, [0x10002, 0x30004, 0x50006, 0x70008]],
    ["FFFF:ffff::ffff:1", 6, [0xffffffff, 0, 0, 0xffff0001], "ffff:ffff::ffff:1"],
    ["2001:db8::255.254.253.252", 6, [0x20010db8, 0, 0, 0xfffefdfc], "2001:db8::fffe:fdfc"],
    ["::ffff:1.2.3.4", 4, [0, 0, 0, 0x01020304], "1.2.3.4"],
    ["1::ffff:1.2.3.4", 6, [0x10000, 0, 0xffff, 0x01020304], "1::ffff:102:304"],
    ["0:1::ffff:1.2.3.4", 6, [1, 0, 0xffff, 0x01020304], "0:1::ffff:102:304"],
    ["0:0:1::ffff:1.2.3.4", 6, [0, 0x10000, 0xffff, 0x01020304], "::1:0:0:ffff:102:304"],
  ];
  for (const [text, family, words, shown = text] of rows) {
    const address = at(text);
    assert.deepEqual(address, { family, words }, text);
    assert.equal(formatAddress(address), shown);
  }
  for (const text of [
    "",
    "1.2.3",
    "256.1.1.1",
    "1.2.3.04",
    "1.2.3.4 ",
    " 1.2.3.4",
    "::g",
    "1::2::3",
    "::1%a",
    "[::1]",
  ]) {
    assert.equal(parseAddress(text), null, text);
  }
  assert.deepEqual(v4(-1), { family: 4, words: [0, 0, 0, 0xffffffff] });
  assert.deepEqual(at("::ffff:0.0.0.1"), v4(1));
});

test("a network without host bits is read, every other one is an error", () => {
  const good = ["0.0.0.0/0", "10.0.0.0/8", "1.2.3.4/32", "::/0", "2001:db8::/32", "1::8000/113", "::1/128"];
  for (const text of good) assert.equal((parseCidr(text) as Cidr).text, text);
  const rows: [text: string, error: RegExp][] = [
    ["10.0.0.1/8", /^"10\.0\.0\.1\/8" has host bits set; the network is 10\.0\.0\.0\/8$/],
    ["2001:db8::1/64", /has host bits set; the network is 2001:db8::\/64$/],
    ["1::/15", /the network is ::\/15$/],
    ["10.0.0.0", /has no prefix length; write 10\.0\.0\.0\/32 for/],
    ["::1", /has no prefix length; write ::1\/128 for/],
    ["10.0.0.0/33", /the prefix length must be 0 to 32$/],
    ["::/129", /the prefix length must be 0 to 128$/],
    ["::ffff:1.2.3.0/120", /write 1\.2\.3\.0\/24$/],
    ...["/08", "/", "/+8", "/8x", "/x8", "/-1", "/1.0", "/1000"].map((end): [string, RegExp] => [
      `10.0.0.0${end}`,
      /the prefix length must be 0 to 32$/,
    ]),
    ...["x/8", "/8", "10/8", "10.0.0.0/8/8"].map((text): [string, RegExp] => [text, /is not a CIDR such as/]),
  ];
  for (const [text, error] of rows) assert.match((parseCidr(text) as { error: string }).error, error, text);
  assert.throws(() => cidr("10.0.0.1/8"), /has host bits set/);
  assert.equal(cidr("::ffff:0:0/96").prefix, 96);
});

test("contains compares family and prefix", () => {
  const rows: [network: string, inside: string[], outside: string[]][] = [
    ["0.0.0.0/0", ["0.0.0.0", "255.255.255.255"], ["::"]],
    ["10.128.0.0/9", ["10.128.0.0", "10.255.255.255"], ["10.127.255.255", "11.0.0.0", "::a80:0"]],
    ["1.2.3.4/32", ["1.2.3.4"], ["1.2.3.5", "1.2.3.3"]],
    ["::/0", ["::", "ffff::"], ["0.0.0.0"]],
    ["2001:db8::/33", ["2001:db8:7fff:ffff::"], ["2001:db8:8000::", "2001:db9::"]],
    ["1:2:3:4:5::/80", ["1:2:3:4:5:ffff::"], ["1:2:3:4:6::", "1:2:3:5:5::"]],
    ["::1/128", ["::1"], ["::", "::2", "0.0.0.1"]],
  ];
  for (const [network, inside, outside] of rows) {
    for (const text of inside) assert.ok(contains(cidr(network), at(text)), `${network} ${text}`);
    for (const text of outside) assert.ok(!contains(cidr(network), at(text)), `${network} ${text}`);
  }
});

test("isInside, single and widen agree with contains", () => {
  assert.ok(isInside(cidr("10.0.0.0/8"), cidr("10.0.0.0/8")) && isInside(cidr("10.0.0.0/8"), cidr("10.1.0.0/16")));
  assert.ok(!isInside(cidr("10.0.0.0/16"), cidr("10.0.0.0/8")) && !isInside(cidr("10.0.0.0/8"), cidr("11.0.0.0/16")));
  assert.deepEqual(single(at("1.2.3.4")), cidr("1.2.3.4/32"));
  assert.deepEqual(single(at("1::2")), cidr("1::2/128"));
  assert.deepEqual(widen(cidr("10.1.2.0/24"), 8), cidr("10.0.0.0/8"));
  assert.deepEqual(widen(cidr("1.2.3.4/32"), 31), cidr("1.2.3.4/31"));
  assert.deepEqual(widen(cidr("2001:db8:ffff::/48"), 33), cidr("2001:db8:8000::/33"));
  for (const prefix of [24, 25]) assert.equal(widen(cidr("10.1.2.0/24"), prefix).text, "10.1.2.0/24");
});

test("networks inside a larger one do not hide it", () => {
  const rows = [
    ["0.0.0.0/32", "128.0.0.0/1", "128.0.0.0/32", "200.0.0.0/32", "201.0.0.0/32"],
    ["::/128", "8000::/1", "8000::/128", "c000::/128", "c001::/128"],
  ];
  for (const row of rows) {
    const set = new CidrSet(row.map(cidr));
    for (const text of ["150.0.0.0", "9000::"])
      assert.equal(set.has(at(text)), text.includes(":") === row[0]!.includes(":"));
  }
});

test("a set contains what one of its networks contains", () => {
  /** Few values, so that networks are equal, touch and nest. */
  const word = fc.constantFrom(0, 1, 2, 3, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff);
  const wide = fc.tuple(word, fc.constantFrom(0, 1), fc.constant(0), word);
  const address: fc.Arbitrary<Address> = fc.oneof(
    word.map(v4),
    wide.map((words): Address => ({ family: 6, words })),
  );
  const network = fc
    .tuple(address, fc.constantFrom(0, 1, 30, 31, 32), fc.constantFrom(0, 96))
    .map(([one, prefix, more]) => widen(single(one), one.family === 4 ? prefix : prefix + more));
  fc.assert(
    fc.property(fc.array(network, { maxLength: 8 }), fc.array(address, { maxLength: 12 }), (networks, addresses) => {
      const set = new CidrSet(networks);
      assert.equal(set.size, networks.length);
      const ends = networks.map(({ family, words }): Address => ({ family, words }));
      for (const one of [...addresses, ...ends]) {
        const want = networks.some((each) => contains(each, one));
        assert.equal(set.has(one), want, `${formatAddress(one)} in ${networks.map(({ text }) => text).join(" ")}`);
      }
    }),
    { numRuns: runs(20_000) },
  );
});

test("limits count an IPv4 address, or the network of an IPv6 address", () => {
  const rows: [source: string, network: string][] = [
    ["192.0.2.1", "192.0.2.1"],
    ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"],
    ["2001:db8:1:2::", "2001:db8:1:2::/64"],
    ["2001:db8:1:3::", "2001:db8:1:3::/64"],
    ["fe80::1%eth0", "fe80::1%eth0"],
    ["client ::1", "client ::1"],
    ["::1", "::/64"],
    ["::ffff:192.0.2.1", "::ffff:192.0.2.1"],
  ];
  for (const [source, network] of rows) assert.equal(limitsKey(source), network);
});
