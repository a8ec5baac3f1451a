import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { MAX_ADDRESSES, readResponse, TYPE_A, TYPE_AAAA, writeQuery } from "../../proxy/dns/message.ts";
import { DnsServers, readResolvConf } from "../../proxy/dns/servers.ts";
import { formatAddress } from "../../proxy/policy/cidr.ts";

const NAME_POINTER = Buffer.from([0xc0, 0x0c]);

function record(type: number, ttl: number, data: Buffer, owner = NAME_POINTER): Buffer {
  const fixed = Buffer.alloc(10);
  fixed.writeUInt16BE(type, 0);
  fixed.writeUInt16BE(1, 2);
  fixed.writeUInt32BE(ttl, 4);
  fixed.writeUInt16BE(data.length, 8);
  return Buffer.concat([owner, fixed, data]);
}

function answer(query: Buffer, flags: number, records: readonly Buffer[]): Buffer {
  const header = Buffer.from(query.subarray(0, 12));
  header.writeUInt16BE(0x8180 | flags, 2);
  header.writeUInt16BE(records.length, 6);
  return Buffer.concat([header, query.subarray(12), ...records]);
}

const QUERY = writeQuery(0x1234, "hooks.example.com", TYPE_A)!;
const ADDRESS = Buffer.of(192, 0, 2, 7);

test("a query has one question and desires recursion", () => {
  const bytes = writeQuery(0xbeef, "a.example", TYPE_AAAA)!;
  assert.equal(bytes.toString("hex"), "beef01000001000000000000016107" + "6578616d706c6500001c0001");
});

test("writes no query for an invalid name", () => {
  const label = "a".repeat(63);
  assert.ok(writeQuery(1, `${label}.${label}.${label}.${"a".repeat(61)}`, TYPE_A));
  const bad = ["", "a..b", ".", `${label}a.test`, `${label}.${label}.${label}.${"a".repeat(62)}`, "a b.test", "é.test"];
  for (const name of bad) assert.equal(writeQuery(1, name, TYPE_A), null, name);
});

test("reads addresses, their number and the shortest TTL", () => {
  const records = [
    record(5, 50, Buffer.from([0xc0, 0x12])),
    record(16, 1, Buffer.from("text"), Buffer.from("\x03\xff\x00\x7f\x00", "latin1")),
    record(TYPE_AAAA, 1, Buffer.alloc(16)),
    ...Array.from({ length: 20 }, () => record(TYPE_A, 60, ADDRESS)),
  ];
  const read = readResponse(answer(QUERY, 0, records), QUERY);
  assert.ok(read !== null && typeof read === "object" && "addresses" in read);
  assert.deepEqual([read.addresses.length, read.more, read.ttl], [MAX_ADDRESSES, 20 - MAX_ADDRESSES, 50]);
  assert.equal(formatAddress(read.addresses[0]!), "192.0.2.7");
});

test("a TTL with its highest bit set counts as 0", () => {
  for (const [wire, ttl] of [
    [0xffffffff, 0],
    [0x80000000, 0],
    [0x7fffffff, 0x7fffffff],
  ] as const) {
    const read = readResponse(answer(QUERY, 0, [record(TYPE_A, wire, ADDRESS)]), QUERY);
    assert.deepEqual((read as { ttl: number }).ttl, ttl);
  }
});

test("compares the question of a response without case", () => {
  const upper = Buffer.from(answer(QUERY, 0, []));
  upper.write("HOOKS", 13, "latin1");
  assert.ok(readResponse(upper, QUERY) !== null);
  upper.write("h[oks", 13, "latin1");
  assert.equal(readResponse(upper, QUERY), null);
});

test("distinguishes response codes, also without a question", () => {
  const of = (flags: number) => readResponse(answer(QUERY, flags, []), QUERY);
  assert.deepEqual(
    [of(1), of(2), of(3), of(4), of(5), of(9)].map((one) => (one as { error: string }).error),
    ["FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "BADRESP"],
  );
  assert.equal(of(0x0200), "truncated");
  const bare = answer(QUERY, 1, []).subarray(0, 12);
  bare.writeUInt16BE(0, 4);
  assert.deepEqual(readResponse(bare, QUERY), { error: "FORMERR" });
  // NXDOMAIN counts only for the name of the query.
  bare.writeUInt16BE(0x8183, 2);
  assert.equal(readResponse(bare, QUERY), null);
});

test("random and damaged messages never throw or exceed the bound", () => {
  const valid = answer(QUERY, 0, [record(5, 9, NAME_POINTER), ...Array(20).fill(record(TYPE_A, 60, ADDRESS))]);
  const check = (bytes: Buffer) => {
    const read = readResponse(bytes, QUERY);
    if (read === null || read === "truncated" || "error" in read) return;
    assert.ok(read.addresses.length <= MAX_ADDRESSES && read.ttl >= 0);
  };
  const anyBytes = fc.uint8Array({ maxLength: 600 });
  const runs = { numRuns: 3000 };
  fc.assert(
    fc.property(anyBytes, (bytes) => {
      check(Buffer.from(bytes));
      check(Buffer.concat([valid.subarray(0, QUERY.length), Buffer.from(bytes)]));
    }),
    runs,
  );
  const edits = fc.array(fc.tuple(fc.nat(valid.length - 1), fc.nat(255)), { maxLength: 8 });
  fc.assert(
    fc.property(edits, fc.nat(valid.length), (changes, end) => {
      const copy = Buffer.from(valid);
      for (const [at, byte] of changes) copy[at] = byte;
      check(copy.subarray(0, end));
      check(copy);
    }),
    runs,
  );
});

test("reads at most three name servers of resolv.conf", () => {
  const text =
    "# nameserver 192.0.2.9\nsearch a.test\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # one\n" +
    "nameserver bad\nnameserver fe80::1%eth0\nnameserver 192.0.2.3\noptions ndots:5\n";
  assert.deepEqual(readResolvConf(text), ["192.0.2.1", "2001:db8::1", "fe80::1%eth0"]);
  assert.deepEqual(readResolvConf("options ndots:5\n"), []);
});

test("tries a server last for 10 s after four failed queries", () => {
  const servers = new DnsServers(["192.0.2.1:53", "[2001:db8::1]:5353"]);
  const order = (now: number) => servers.inOrder(now).map(({ host, port, family }) => `${host} ${port} ${family}`);
  const [first, second] = ["192.0.2.1 53 4", "2001:db8::1 5353 6"];
  assert.deepEqual(order(0), [first, second]);
  const [one, two] = servers.inOrder(0);
  for (let i = 0; i < 3; i++) servers.failed(one!, 0);
  servers.answered(one!);
  for (let i = 0; i < 3; i++) servers.failed(one!, 0);
  assert.deepEqual(order(0), [first, second]);
  servers.failed(one!, 0);
  assert.deepEqual(order(9999), [second, first]);
  // It has another chance, which one failure ends.
  assert.deepEqual(order(10_000), [first, second]);
  servers.failed(one!, 10_000);
  assert.deepEqual(order(10_001), [second, first]);
  servers.answered(one!);
  assert.deepEqual(order(10_001), [first, second]);
  for (const server of [one, two]) for (let i = 0; i < 4; i++) servers.failed(server!, 0);
  assert.deepEqual(order(1), [first, second]);
});
