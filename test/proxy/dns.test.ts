import assert from "node:assert/strict";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { type TestContext, test } from "node:test";
import { type DnsReply, startDns } from "../harness/dns.ts";
import { OPEN_LOOPBACK, startProxy } from "../harness/proxy.ts";
import { exchange, listen, RawClient } from "../harness/raw.ts";

async function setUp(t: TestContext, zone: (name: string, type: string, nth: number) => DnsReply, args: string[] = []) {
  const dns = await startDns(zone);
  const far = await listen((socket) =>
    socket.on("data", () => socket.end("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi")),
  );
  const proxy = await startProxy({
    policy: {},
    args: ["--resolver", dns.address, ...OPEN_LOOPBACK, "--dns-seconds", "1", ...args],
  });
  t.after(async () => {
    await proxy.stop();
    await far.close();
    await dns.close();
  });
  const get = (host: string) =>
    exchange(proxy.port, `GET http://${host}:${far.port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`);
  const asked = (name: string) =>
    dns.queries
      .filter((q) => q.name === name)
      .map((q) => q.type)
      .sort()
      .join();
  return { dns, far, proxy, get, asked };
}

test("rebinding: what was vetted is what is dialled, and the next answer is vetted again", async (t) => {
  const { get, asked, proxy } = await setUp(t, (_, type, nth) =>
    type === "A" ? { addresses: [nth === 1 ? "127.0.0.1" : "10.0.0.5"], ttl: 0 } : { addresses: [] },
  );
  assert.match(await get("rebind.test"), /^HTTP\/1\.1 200/);
  assert.equal(asked("rebind.test"), "A,AAAA");
  // The shortest time that an answer is kept is 5 s.
  await new Promise((resolve) => setTimeout(resolve, 5200));
  assert.match(await get("rebind.test"), /^HTTP\/1\.1 403 egress-denied: rebind\.test resolves to a private address/);
  await proxy.stop();
  assert.deepEqual(
    proxy.records().map((r) => r.address),
    ["127.0.0.1", undefined],
  );
});

test("one query a name is in flight, answers are kept for their TTL, refusals for a moment", async (t) => {
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

test("NXDOMAIN, SERVFAIL, no address and silence are told apart", async (t) => {
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

test("a truncated answer is asked for again by TCP", async (t) => {
  const { get, dns } = await setUp(t, () => ({ truncated: ["127.0.0.1"] }));
  assert.match(await get("big.test"), /^HTTP\/1\.1 200/);
  assert.ok(dns.queries.some((q) => q.transport === "tcp"));
});

test("of public and private answers only what may be dialled is dialled", async (t) => {
  const { get, proxy } = await setUp(t, () => ({
    addresses: ["10.0.0.5", "127.0.0.1", "169.254.169.254", "::ffff:10.0.0.5"],
  }));
  assert.match(await get("mixed.test"), /^HTTP\/1\.1 200/);
  const record = await proxy.waitRecord((r) => r.target.startsWith("mixed.test"));
  assert.equal(record.address, "127.0.0.1");
  assert.equal((record.addresses as string[]).length, 4);
});

test("a denied name is never asked for", async (t) => {
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

test("a dead resolver in front is passed over", async (t) => {
  const dead = createSocket("udp4").bind(0, "127.0.0.1");
  await once(dead, "listening");
  const { port } = dead.address();
  t.after(() => dead.close());
  const dns = await startDns(() => ({ addresses: ["127.0.0.1"] }));
  const far = await listen((socket) => socket.end("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
  const args = ["--resolver", `127.0.0.1:${port}`, "--resolver", dns.address, "--dns-seconds", "4", ...OPEN_LOOPBACK];
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

test("a client that goes away while its name is resolved leaves no dial behind", async (t) => {
  const { proxy } = await setUp(t, () => "silent");
  const client = await RawClient.open(proxy.port);
  client.socket.write("CONNECT slow.test:443 HTTP/1.1\r\n\r\n");
  await new Promise((resolve) => setTimeout(resolve, 200));
  client.socket.resetAndDestroy();
  const record = await proxy.waitRecord((r) => r.target === "slow.test:443");
  assert.deepEqual([record.close, record.address, record.connectMs], ["client-gone", undefined, undefined]);
});
