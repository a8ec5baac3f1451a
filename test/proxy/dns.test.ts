import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { Names } from "../../proxy/dns/names.ts";
import { type DnsReply, startDns } from "../harness/dns.ts";
import { startDnsProxy, type Zone } from "../harness/dns-proxy.ts";
import { netnsMissing } from "../harness/netns.ts";
import { OPEN_LOOPBACK, OUTRIDER, startProxy } from "../harness/proxy.ts";
import { exchange, listen, RawClient } from "../harness/raw.ts";

const LOOPBACK: DnsReply = { addresses: ["127.0.0.1"] };

async function setUp(t: TestContext, zone: Zone, args: string[] = ["--dns-seconds", "1"]) {
  const parts = await startDnsProxy(t, zone, [...OPEN_LOOPBACK, ...args]);
  const asked = (name: string) =>
    parts.dns.queries
      .filter((q) => q.name === name)
      .map((q) => q.type)
      .sort()
      .join();
  return { ...parts, asked };
}

/** The proxy's resolver with a clock that the test controls. */
async function setUpClock(t: TestContext, zone: Zone) {
  const dns = await startDns(zone);
  let clock = 0;
  const names = new Names({ servers: [dns.address], timeoutSeconds: 2, hosts: new Map(), now: () => clock });
  t.after(async () => {
    names.close();
    await dns.close();
  });
  /** Looks up the name at this second; returns the number of queries so far. */
  return async (host: string, seconds: number): Promise<number> => {
    clock = seconds * 1000;
    await new Promise((resolve) => names.lookup(host, resolve));
    return dns.queries.filter((query) => query.name === host && query.type === "A").length;
  };
}

test("rebinding: dials vetted addresses and vets the next answer", async (t) => {
  const { get, asked, proxy } = await setUp(t, (_, type, nth) =>
    type === "A" ? { addresses: [nth === 1 ? "127.0.0.1" : "10.0.0.5"], ttl: 0 } : { addresses: [] },
  );
  assert.match(await get("rebind.test"), /^HTTP\/1\.1 200/);
  assert.equal(asked("rebind.test"), "A,AAAA");
  // The minimum cache time of an answer is 5 s.
  await new Promise((resolve) => setTimeout(resolve, 5200));
  assert.match(await get("rebind.test"), /^HTTP\/1\.1 403 egress-denied: rebind\.test resolves to a private address/);
  await proxy.stop();
  assert.deepEqual(
    proxy.records().map((r) => r.address),
    ["127.0.0.1", undefined],
  );
});

test("sends one query per name and caches answers and failures", async (t) => {
  const { get, asked } = await setUp(t, (name) =>
    name === "none.test" ? { rcode: "NXDOMAIN" } : { addresses: ["127.0.0.1"], ttl: 60 },
  );
  const answers = await Promise.all(Array.from({ length: 50 }, () => get("many.test")));
  assert.ok(answers.every((text) => text.startsWith("HTTP/1.1 200")));
  await get("MANY.test.");
  assert.equal(asked("many.test"), "A,AAAA");
  assert.match(await get("none.test"), /^HTTP\/1\.1 502 egress-dns: none\.test does not exist\r\n/);
  await get("none.test");
  assert.equal(asked("none.test"), "A,AAAA");
});

test("caches an answer for its TTL within 5 to 300 s", async (t) => {
  const ttls: Record<string, number> = { "none.test": 0, "minute.test": 60, "day.test": 86_400 };
  const askedAt = await setUpClock(t, (name) => ({ addresses: ["127.0.0.1"], ttl: ttls[name]! }));
  for (const [name, seconds] of Object.entries({ "none.test": 5, "minute.test": 60, "day.test": 300 })) {
    assert.equal(await askedAt(name, 0), 1);
    assert.equal(await askedAt(name, seconds - 0.1), 1, `${name} was forgotten`);
    assert.equal(await askedAt(name, seconds + 0.1), 2, `${name} was kept`);
  }
});

test("caches by the shortest TTL, and failures for 5 s", async (t) => {
  const askedAt = await setUpClock(t, (name) => {
    if (name === "gone.test") return { rcode: "NXDOMAIN" };
    if (name === "broken.test") return { rcode: "SERVFAIL" };
    if (name === "long.test") return { addresses: ["127.0.0.1"], ttl: 20, alias: { name: "inner.test", ttl: 200 } };
    return { addresses: ["127.0.0.1"], ttl: 200, alias: { name: "inner.test", ttl: 20 } };
  });
  for (const [name, seconds] of Object.entries({ "long.test": 20, "short.test": 20, "gone.test": 5 })) {
    assert.equal(await askedAt(name, 0), 1);
    assert.equal(await askedAt(name, seconds - 0.1), 1, `${name} was forgotten`);
    assert.equal(await askedAt(name, seconds + 0.1), 2, `${name} was kept`);
  }
  // A failing server gets a second query immediately.
  const first = await askedAt("broken.test", 0);
  assert.equal(await askedAt("broken.test", 4.9), first);
  assert.equal(await askedAt("broken.test", 5.1), 2 * first);
});

test("clients that wait for one name share one query", async (t) => {
  const answer = Promise.withResolvers<DnsReply>();
  const { get, dns, proxy } = await setUp(t, () => answer.promise, ["--dns-seconds", "20"]);
  const answers = Array.from({ length: 20 }, () => get("held.test"));
  const active = async (): Promise<number> => {
    const status = await fetch(`http://127.0.0.1:${proxy.adminPort}/status`);
    return ((await status.json()) as { active: number }).active;
  };
  for (let i = 0; (await active()) < 20 || dns.queries.length < 2; i++)
    assert.ok(i < 1000, "the clients do not arrive");
  assert.deepEqual(dns.queries.map((query) => query.type).sort(), ["A", "AAAA"]);
  answer.resolve({ addresses: ["127.0.0.1"] });
  for (const text of await Promise.all(answers)) assert.match(text, /^HTTP\/1\.1 200/);
  assert.equal(dns.queries.length, 2);
});

test("a public name that is an alias of an internal one is vetted by its address", async (t) => {
  const { get, proxy } = await setUp(t, () => ({
    addresses: ["10.0.0.5"],
    alias: { name: "db.cluster.local", ttl: 60 },
  }));
  assert.match(await get("alias.test"), /^HTTP\/1\.1 403 egress-denied: alias\.test resolves to a private address/);
  const record = await proxy.waitRecord((r) => r.target.startsWith("alias.test"));
  assert.deepEqual([record.addresses, record.address], [["10.0.0.5"], undefined]);
});

test("a failure of one family does not delay the other", async (t) => {
  const { get } = await setUp(t, (_, type) => (type === "A" ? { addresses: ["127.0.0.1"] } : { rcode: "SERVFAIL" }));
  assert.match(await get("half.test"), /^HTTP\/1\.1 200/);
});

test("distinguishes NXDOMAIN, SERVFAIL, no address and silence", async (t) => {
  const { get, proxy } = await setUp(t, (name) => {
    if (name === "fail.test") return { rcode: "SERVFAIL" };
    if (name === "silent.test") return "silent";
    return name === "empty.test" ? { addresses: [] } : { rcode: "NXDOMAIN" };
  });
  assert.match(await get("nx.test"), /^HTTP\/1\.1 502 egress-dns: nx\.test does not exist\r\n/);
  assert.match(await get("empty.test"), /^HTTP\/1\.1 502 egress-dns: empty\.test has no address\r\n/);
  assert.match(
    await get("fail.test"),
    /^HTTP\/1\.1 502 egress-dns: cannot resolve fail\.test: the resolver failed \(SERVFAIL\)\r\n/,
  );
  assert.match(await get("silent.test"), /^HTTP\/1\.1 504 egress-dns: no answer for silent\.test within 1 s\r\n/);
  await proxy.stop();
  assert.deepEqual(
    proxy.records().map((r) => r.code),
    ["dns-nxdomain", "dns-nxdomain", "dns-failed", "dns-timeout"],
  );
});

test("repeats a query by TCP after a truncated answer", async (t) => {
  const { get, dns } = await setUp(t, () => ({ truncated: ["127.0.0.1"] }));
  assert.match(await get("big.test"), /^HTTP\/1\.1 200/);
  assert.ok(dns.queries.some((q) => q.transport === "tcp"));
});

test("dials only the allowed addresses of an answer", async (t) => {
  const { get, proxy } = await setUp(t, () => ({
    addresses: ["10.0.0.5", "127.0.0.1", "169.254.169.254", "::ffff:10.0.0.5"],
  }));
  assert.match(await get("mixed.test"), /^HTTP\/1\.1 200/);
  const record = await proxy.waitRecord((r) => r.target.startsWith("mixed.test"));
  assert.equal(record.address, "127.0.0.1");
  assert.equal((record.addresses as string[]).length, 4);
});

test("never resolves a denied name", async (t) => {
  const { get, dns } = await setUp(t, () => ({ addresses: ["127.0.0.1"] }));
  assert.match(
    await get("169.254.169.254"),
    /^HTTP\/1\.1 403 egress-denied: 169\.254\.169\.254 is a cloud metadata address/,
  );
  const proxy = await startProxy({ policy: { deny: [{ hosts: ["*.test"] }] }, args: ["--resolver", dns.address] });
  assert.match(
    await exchange(proxy.port, "CONNECT x.test:443 HTTP/1.1\r\n\r\n"),
    /^HTTP\/1\.1 403 egress-denied: x\.test is denied by rule deny\[0\]/,
  );
  await proxy.stop();
  assert.equal(dns.queries.length, 0);
});

test("skips resolvers that are silent or missing", async (t) => {
  // Its port is closed again: a query there gets "port unreachable".
  const gone = createSocket("udp4").bind(0, "127.0.0.1");
  await once(gone, "listening");
  const closed = `127.0.0.1:${gone.address().port}`;
  gone.close();
  await once(gone, "close");
  const dead = createSocket("udp4").bind(0, "127.0.0.1");
  await once(dead, "listening");
  const { port } = dead.address();
  t.after(() => dead.close());
  const dns = await startDns(() => ({ addresses: ["127.0.0.1"] }));
  const far = await listen((socket) => socket.end("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
  const resolvers = ["--resolver", closed, "--resolver", `127.0.0.1:${port}`, "--resolver", dns.address];
  const args = [...resolvers, "--dns-seconds", "4", ...OPEN_LOOPBACK];
  const proxy = await startProxy({ policy: {}, args });
  t.after(async () => {
    await proxy.stop();
    await far.close();
    await dns.close();
  });
  assert.match(
    await exchange(proxy.port, `GET http://two.test:${far.port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`),
    /^HTTP\/1\.1 200/,
  );
});

test("a resolver without a route is one line and exit status 2", {
  skip: netnsMissing() ?? false,
}, (t) => {
  // A network namespace without interfaces has no route.
  const name = `ort-alone-${process.pid}`;
  execFileSync("ip", ["netns", "add", name]);
  t.after(() => execFileSync("ip", ["netns", "del", name]));
  const policy = join(import.meta.dirname, "../../examples/acl.yaml");
  for (const resolver of ["192.0.2.53:53", "[2001:db8::53]:53"]) {
    const given = ["--policy", policy, "--resolver", resolver];
    for (const command of [
      ["proxy", ...given],
      ["explain", ...given, "--resolve", "hooks.example.com:443"],
    ]) {
      const result = spawnSync("ip", ["netns", "exec", name, OUTRIDER, ...command], { encoding: "utf8" });
      assert.equal(result.status, 2);
      assert.ok(result.stderr.includes(`outrider: --resolver ${resolver}: this machine has no route to it (`));
      assert.equal(
        result.stderr
          .trim()
          .split("\n")
          .filter((line) => !line.startsWith("{")).length,
        1,
      );
    }
  }
});

test("a client that leaves during a lookup causes no dial", async (t) => {
  const answer = Promise.withResolvers<DnsReply>();
  const { proxy, far, dns, get } = await setUp(t, (name) => (name === "slow.test" ? answer.promise : LOOPBACK), [
    "--dns-seconds",
    "30",
  ]);
  let accepted = 0;
  const target = await listen((socket) => {
    accepted++;
    socket.destroy();
  });
  t.after(target.close);
  for (const wire of [
    `CONNECT slow.test:${target.port} HTTP/1.1\r\n\r\n`,
    `GET http://slow.test:${target.port}/ HTTP/1.1\r\nHost: x\r\n\r\n`,
  ]) {
    const client = await RawClient.open(proxy.port);
    client.socket.write(wire);
    await proxy.untilStatus(({ active }) => active === 1);
    client.socket.resetAndDestroy();
    await proxy.untilStatus(({ active, connections }) => active === 0 && connections === 0);
  }
  assert.deepEqual(dns.queries.map(({ name }) => name).join(), "slow.test,slow.test");
  answer.resolve(LOOPBACK);
  // The next request uses the answer, so the proxy has it.
  const waiting = await exchange(proxy.port, `CONNECT slow.test:${far.port} HTTP/1.1\r\n\r\nhello`);
  assert.match(waiting, /^HTTP\/1\.1 200 /);
  assert.match(await get("other.test"), /^HTTP\/1\.1 200 /);
  assert.equal(accepted, 0);
  await proxy.stop();
  const records = proxy.records().filter((record) => record.target === `slow.test:${target.port}`);
  assert.deepEqual(
    records.map(({ kind, close, address, connectMs }) => [kind, close, address, connectMs]),
    [
      ["connect", "client-gone", undefined, undefined],
      ["http", "client-gone", undefined, undefined],
    ],
  );
});
