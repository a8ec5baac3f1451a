import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { closeSync, openSync, readdirSync } from "node:fs";
import { type TestContext, test } from "node:test";
import type { DnsAnswer } from "../../../proxy/dns/answer.ts";
import { Names } from "../../../proxy/dns/names.ts";
import { boundCounts } from "../../../proxy/outcome/bounds.ts";
import { formatAddress } from "../../../proxy/policy/cidr.ts";
import { startDns } from "../../harness/dns.ts";

type Zone = Parameters<typeof startDns>[0];
const RIGHT = "127.0.0.1";
const WRONG = "127.6.6.6";

/** Lookups with one server, on real sockets. */
async function setUp(t: TestContext, zone: Zone, timeoutSeconds = 2) {
  const dns = await startDns(zone);
  const names = new Names({ servers: [dns.address], timeoutSeconds, hosts: new Map() });
  t.after(async () => {
    names.close();
    await dns.close();
  });
  const lookup = (host: string) =>
    new Promise<DnsAnswer>((resolve) => names.lookup(host, resolve, { client: "192.0.2.1" }));
  /** The addresses as text, or the code. */
  const look = async (host: string): Promise<string[] | string> => {
    const answer = await lookup(host);
    return "code" in answer ? answer.code : answer.addresses.map(formatAddress);
  };
  return { dns, names, lookup, look };
}

/** The answer with other bytes. */
function changed(answer: Buffer, change: (copy: Buffer) => void): Buffer {
  const copy = Buffer.from(answer);
  change(copy);
  return copy;
}

/** The answer with an address that is always denied, modified. */
function wrong(answer: Buffer, change: (copy: Buffer) => void): Buffer {
  return changed(answer, (copy) => {
    copy.set([127, 6, 6, 6], copy.length - 4);
    change(copy);
  });
}

const FOREIGN: Record<string, (copy: Buffer) => void> = {
  "another id": (copy) => copy.writeUInt16BE(copy.readUInt16BE(0) ^ 0x5555, 0),
  "a cleared QR bit": (copy) => copy.writeUInt16BE(copy.readUInt16BE(2) & 0x7fff, 2),
  "another opcode": (copy) => copy.writeUInt16BE(copy.readUInt16BE(2) | 0x2800, 2),
  "another name": (copy) => copy.write("x", 13, "latin1"),
  "another type of question": (copy) => copy.writeUInt16BE(16, copy.length - 16 - 4),
  "no question": (copy) => copy.writeUInt16BE(0, 4),
  "two questions": (copy) => copy.writeUInt16BE(2, 4),
};
for (const [what, change] of Object.entries(FOREIGN)) {
  test(`ignores a packet with ${what}`, async (t) => {
    const { look } = await setUp(t, (_, type) => {
      if (type !== "A") return { addresses: [] };
      return { addresses: [RIGHT], forge: (answer) => [wrong(answer, change), answer] };
    });
    assert.deepEqual(await look("victim.test"), [RIGHT]);
  });
}

test("ignores a copy of the query", async (t) => {
  const { look } = await setUp(t, () => ({ addresses: [], forge: (_, query) => [query] }), 1);
  assert.equal(await look("mirror.test"), "dns-timeout");
});

test("malformed answers of one name do not fail lookups of other names", async (t) => {
  const { look } = await setUp(t, async (name, type) => {
    if (name.startsWith("bad") && type === "A")
      return { addresses: [RIGHT], forge: (answer) => [answer.subarray(0, answer.length - 2)] };
    await new Promise((resolve) => setTimeout(resolve, 400));
    return { addresses: type === "A" ? [RIGHT] : [] };
  });
  const good = Array.from({ length: 10 }, (_, i) => look(`good${i}.test`));
  const bad = Array.from({ length: 10 }, (_, i) => look(`bad${i}.test`));
  assert.deepEqual(await Promise.all(good), Array(10).fill([RIGHT]));
  assert.deepEqual(await Promise.all(bad), Array(10).fill("dns-failed"));
});

test("keeps 16 addresses per family and counts the others", async (t) => {
  const four = Array.from({ length: 4000 }, (_, i) => `127.1.${i >> 8}.${i & 255}`);
  const six = Array.from({ length: 40 }, (_, i) => `2001:db8::${(i + 1).toString(16)}`);
  const { lookup } = await setUp(t, (_, type) => ({ truncated: type === "A" ? four : six }));
  const before = boundCounts()["dns-addresses"];
  const answer = await lookup("many.test");
  assert.ok("addresses" in answer);
  const shown = answer.addresses.map(formatAddress);
  assert.deepEqual(
    shown.filter((text) => text.includes(".")),
    four.slice(0, 16),
  );
  assert.equal(shown.filter((text) => text.includes(":")).length, 16);
  assert.equal(answer.more, 4000 - 16 + 40 - 16);
  assert.equal(boundCounts()["dns-addresses"], before + 1);
});

test("an answer by TCP that stalls after its length is a timeout", async (t) => {
  const { look } = await setUp(t, () => "stalled", 1);
  assert.equal(await look("stalled.test"), "dns-timeout");
});

test("an answer that is truncated by TCP as well is a failure", async (t) => {
  const { look, dns } = await setUp(t, () => "truncated");
  assert.equal(await look("loop.test"), "dns-failed");
  assert.ok(dns.queries.length <= 8, `${dns.queries.length} queries`);
});

test("reads a name with a pointer to itself in one step", async (t) => {
  const { look } = await setUp(t, (_, type) => {
    if (type !== "A") return { addresses: [] };
    // The owner name of the record is a pointer to itself.
    const loop = (copy: Buffer) => copy.writeUInt16BE(0xc000 | (copy.length - 16), copy.length - 16);
    return { addresses: [RIGHT], forge: (answer) => [changed(answer, loop)] };
  });
  assert.deepEqual(await look("pointer.test"), [RIGHT]);
});

test("a record with data of the wrong length is a failure, not an address", async (t) => {
  const { look } = await setUp(t, (_, type) => {
    if (type !== "A") return { addresses: [] };
    const long = (answer: Buffer) => {
      const copy = Buffer.concat([answer, Buffer.of(1)]);
      copy.writeUInt16BE(5, answer.length - 6);
      return copy;
    };
    return { addresses: [WRONG], forge: (answer) => [long(answer)] };
  });
  assert.equal(await look("long.test"), "dns-failed");
});

test("a lookup without descriptors is overloaded and not cached", async (t) => {
  const { look } = await setUp(t, (_, type) => ({ addresses: type === "A" ? [RIGHT] : [] }));
  assert.deepEqual(await look("before.test"), [RIGHT]);
  const limit = (count: string) => execFileSync("prlimit", ["--pid", String(process.pid), `--nofile=${count}:`]);
  const old = execFileSync("sh", ["-c", "ulimit -S -n"], { encoding: "utf8" }).trim();
  limit(String(readdirSync("/proc/self/fd").length + 20));
  const held: number[] = [];
  try {
    for (;;) held.push(openSync("/dev/null", "r"));
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).code, "EMFILE");
  }
  const answer = await look("scarce.test");
  for (const fd of held) closeSync(fd);
  limit(old);
  assert.equal(answer, "overloaded");
  assert.deepEqual(await look("scarce.test"), [RIGHT]);
});

test("lookups can be closed at any moment", async (t) => {
  const dns = await startDns((name, type) => {
    if (name.startsWith("big")) return { truncated: [RIGHT] };
    return { addresses: type === "A" ? [RIGHT] : [] };
  });
  t.after(() => dns.close());
  for (let i = 0; i < 200; i++) {
    const names = new Names({ servers: [dns.address], timeoutSeconds: 1, hosts: new Map() });
    const answer = new Promise<DnsAnswer>((resolve) => names.lookup(i % 2 === 0 ? "big.test" : "plain.test", resolve));
    // First ticks, then turns of the event loop.
    for (let tick = 0; tick < Math.min(i, 20); tick++) await null;
    for (let turn = 20; turn < i / 4; turn++) await new Promise((resolve) => setImmediate(resolve));
    if (i % 5 === 0) await new Promise((resolve) => process.nextTick(resolve));
    names.close();
    const ended = await answer;
    assert.ok("addresses" in ended || ended.code === "dns-failed");
  }
});

test("sockets of lookups are closed with their answers", async (t) => {
  const { look } = await setUp(
    t,
    (name, type) => {
      if (name.startsWith("silent")) return "silent";
      if (name.startsWith("stalled")) return "stalled";
      return name.startsWith("big") ? { truncated: [RIGHT] } : { addresses: type === "A" ? [RIGHT] : [] };
    },
    1,
  );
  await look("first.test");
  const before = readdirSync("/proc/self/fd").length;
  const kinds = ["silent", "stalled", "big", "plain"];
  await Promise.all(Array.from({ length: 200 }, (_, i) => look(`${kinds[i % 4]}${i}.test${i}`)));
  for (let i = 0; readdirSync("/proc/self/fd").length > before && i < 100; i++) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.ok(readdirSync("/proc/self/fd").length <= before, "sockets are left open");
});

test("a lost packet is sent again long before the time limit", async (t) => {
  const { look } = await setUp(
    t,
    (_, type, nth) => {
      if (nth === 1) return "silent";
      return { addresses: type === "A" ? [RIGHT] : [] };
    },
    20,
  );
  const began = performance.now();
  assert.deepEqual(await look("lost.test"), [RIGHT]);
  assert.ok(performance.now() - began < 10_000, "the second packet came late");
});

test("a failing and a slow server together give an answer", async (t) => {
  const failing = await startDns(() => ({ rcode: "SERVFAIL" }));
  const slow = await startDns(async (_, type) => {
    await new Promise((resolve) => setTimeout(resolve, 700));
    return { addresses: type === "A" ? [RIGHT] : [] };
  });
  const names = new Names({ servers: [failing.address, slow.address], timeoutSeconds: 4, hosts: new Map() });
  t.after(async () => {
    names.close();
    await Promise.all([failing.close(), slow.close()]);
  });
  const answer = await new Promise<DnsAnswer>((resolve) => names.lookup("mixed.test", resolve));
  assert.ok("addresses" in answer, JSON.stringify(answer));
  assert.deepEqual(answer.addresses.map(formatAddress), [RIGHT]);
});

test("an answer for one family is used when the other one never comes", async (t) => {
  const { look } = await setUp(t, (_, type) => (type === "A" ? { addresses: [RIGHT] } : "silent"), 1);
  assert.deepEqual(await look("half.test"), [RIGHT]);
});

test("limits the cache by addresses and evicts the oldest names", async (t) => {
  const four = Array.from({ length: 16 }, (_, i) => `127.0.0.${i + 1}`);
  const six = Array.from({ length: 16 }, (_, i) => `2001:db8::${i + 1}`);
  const { look, dns } = await setUp(t, (_, type) => ({ addresses: type === "A" ? four : six, ttl: 300 }));
  // 32 addresses each: more than 50,000 together.
  const count = 1700;
  for (let i = 0; i < count; i++) await look(`n${i}.test`);
  const before = dns.queries.length;
  await look(`n${count - 1}.test`);
  assert.equal(dns.queries.length, before);
  await look("n0.test");
  assert.equal(dns.queries.length, before + 2);
});
