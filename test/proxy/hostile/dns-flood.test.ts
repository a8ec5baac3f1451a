import assert from "node:assert/strict";
import { connect } from "node:net";
import { type TestContext, test } from "node:test";
import type { DnsAnswer } from "../../../proxy/dns/answer.ts";
import { Names } from "../../../proxy/dns/names.ts";
import { parseAddress } from "../../../proxy/policy/cidr.ts";
import { Baseline } from "../../harness/baseline.ts";
import { basic, passwordFolder } from "../../harness/clients.ts";
import { type DnsReply, startDns } from "../../harness/dns.ts";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../../harness/proxy.ts";
import { exchange, listen } from "../../harness/raw.ts";

type Zone = Parameters<typeof startDns>[0];
const GOOD: DnsReply = { addresses: ["127.0.0.1"], ttl: 0 };
/** Zones that answer immediately; all others are silent. */
const OTHERS = Array.from({ length: 12 }, (_, i) => `hooks.receiver${i}.test`);
const PER_SECOND = 300;

async function setUp(t: TestContext, zone: Zone, options: { args?: string[]; env?: Record<string, string> } = {}) {
  const dns = await startDns(zone);
  const far = await listen((socket) => socket.resume().on("end", () => socket.end()));
  const proxy = await startProxy({
    policy: {},
    args: ["--resolver", dns.address, ...OPEN_LOOPBACK, ...(options.args ?? [])],
    env: options.env ?? {},
  });
  t.after(async () => {
    await proxy.stop();
    await far.close();
    await dns.close();
  });
  return { dns, far, proxy };
}

/** Sends a CONNECT from an address of loopback; returns the status of its answer. `pair`: user name and password. */
function tunnel(
  proxy: ProxyHandle,
  host: string,
  port: number,
  localAddress = "127.0.0.1",
  pair = ":",
): Promise<number> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: proxy.host, port: proxy.port, localAddress });
    socket.write(`CONNECT ${host}:${port} HTTP/1.1\r\n${basic(pair)}\r\n`);
    socket.once("data", (chunk) => {
      resolve(Number(chunk.toString("latin1", 9, 12)));
      socket.destroy();
    });
    socket.on("error", reject);
    socket.on("close", () => reject(new Error("closed without an answer")));
  });
}

async function boundCount(proxy: ProxyHandle, bound: string): Promise<number> {
  const { text } = await proxy.admin("/metrics");
  return Number(new RegExp(`^outrider_proxy_bound_total\\{bound="${bound}"\\} (\\d+)`, "m").exec(text)?.[1]);
}

/**
 * Requests `name(i)` this many times a second for this many seconds; resolves with the statuses when all are answered.
 */
async function flood(seconds: number, ask: (i: number) => Promise<number>): Promise<number[]> {
  const all: Promise<number>[] = [];
  const began = Date.now();
  while (Date.now() - began < seconds * 1000) {
    const due = Math.min(((Date.now() - began) / 1000) * PER_SECOND, seconds * PER_SECOND);
    while (all.length < due) all.push(ask(all.length));
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  return Promise.all(all);
}

/** The other names, one after the other during the flood. */
async function askOthers(ask: (host: string) => Promise<number>): Promise<number[]> {
  const statuses: number[] = [];
  // The slots are full by then.
  await new Promise((resolve) => setTimeout(resolve, 1200));
  for (const host of OTHERS) {
    statuses.push(await ask(host));
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return statuses;
}

const SILENT_BUT_OTHERS: Zone = (name) => (OTHERS.includes(name) ? GOOD : "silent");

for (const other of ["127.0.0.1", "127.0.0.9"]) {
  const who = other === "127.0.0.1" ? "the same" : "another";
  test(`a silent zone does not starve other names of ${who} client`, async (t) => {
    const { proxy, far } = await setUp(t, SILENT_BUT_OTHERS);
    const baseline = await Baseline.of(proxy);
    const flooded = flood(3, (i) => tunnel(proxy, `n${i}.dead.test`, 443));
    const others = await askOthers((host) => tunnel(proxy, host, far.port, other));
    assert.deepEqual(others, Array(12).fill(200));
    const statuses = await flooded;
    assert.ok(statuses.every((status) => status === 503 || status === 504));
    assert.ok(statuses.includes(503) && statuses.includes(504));
    assert.ok((await boundCount(proxy, "dns-queue")) > 100);
    await baseline.restored(statuses.length + others.length);
  });
}

test("one silent zone per name does not starve other clients", async (t) => {
  const { proxy, far } = await setUp(t, SILENT_BUT_OTHERS);
  const baseline = await Baseline.of(proxy);
  const flooded = flood(3, (i) => tunnel(proxy, `hooks.dead${i}.test`, 443));
  const others = await askOthers((host) => tunnel(proxy, host, far.port, "127.0.0.9"));
  assert.deepEqual(others, Array(12).fill(200));
  await baseline.restored((await flooded).length + others.length);
});

test("one silent zone per name does not starve other users of one address", async (t) => {
  const args = ["--password-dir", passwordFolder({ billing: "b-pass", shop: "s-pass" })];
  const { proxy, far } = await setUp(t, SILENT_BUT_OTHERS, { args });
  const from = "127.0.0.1";
  const flooded = flood(3, (i) => tunnel(proxy, `hooks.dead${i}.test`, 443, from, "billing:b-pass"));
  const others = await askOthers((host) => tunnel(proxy, host, far.port, from, "shop:s-pass"));
  assert.deepEqual(others, Array(12).fill(200));
  await flooded;
});

test("one silent zone per name does not starve answering zones", async (t) => {
  const { proxy, far, dns } = await setUp(t, SILENT_BUT_OTHERS);
  for (const host of OTHERS) assert.equal(await tunnel(proxy, host, far.port), 200);
  // An answer is cached for 5 s at least: the flood begins early enough for another lookup of these names.
  const flooded = flood(8, (i) => tunnel(proxy, `hooks.dead${i}.test`, 443));
  await new Promise((resolve) => setTimeout(resolve, 4500));
  const others = await askOthers((host) => tunnel(proxy, host, far.port));
  assert.deepEqual(others, Array(12).fill(200));
  assert.ok(OTHERS.every((host) => dns.queries.filter(({ name, type }) => name === host && type === "A").length === 2));
  await flooded;
});

test("a name without a query is overloaded and not cached", async (t) => {
  let dead = true;
  const { proxy, far, dns } = await setUp(t, () => (dead ? "silent" : GOOD));
  const names = Array.from({ length: 400 }, (_, i) => `n${i}.dead.test`);
  const statuses = await Promise.all(names.map((name) => tunnel(proxy, name, far.port)));
  const asked = new Set(dns.queries.map((query) => query.name));
  const refused = names.filter((_, i) => statuses[i] === 503);
  assert.ok(refused.length > 200, `${refused.length} refused`);
  assert.deepEqual(
    refused.filter((name) => asked.has(name)),
    [],
  );
  dead = false;
  assert.equal(await tunnel(proxy, refused[0]!, far.port), 200);
  const record = await proxy.waitRecord((r) => r.target === `${refused[0]}:${far.port}`);
  assert.equal(record.code, "overloaded");
  assert.match(record.reason as string, /^too many names are being resolved; n\d+\.dead\.test was not looked up$/);
});

test("resolves an echo URL while clients use all their slots", async (t) => {
  const echo = await listen((socket) =>
    socket.on("data", () => socket.end("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n198.51.100.1")),
  );
  let alive = false;
  const dns = await startDns((name) => (alive && name === "echo.test" ? GOOD : "silent"));
  const policy = {
    staticIPs: [{ address: "198.51.100.1" }],
    verification: { echoURLs: [`http://echo.test:${echo.port}/`], intervalSeconds: 10, onUnverified: "Allow" },
  };
  const proxy = await startProxy({ policy, args: ["--resolver", dns.address, ...OPEN_LOOPBACK] });
  t.after(async () => {
    await proxy.stop();
    await echo.close();
    await dns.close();
  });
  const flooded = flood(9, (i) => tunnel(proxy, `hooks.dead${i}.test`, 443, `127.0.0.${(i % 8) + 2}`));
  await new Promise((resolve) => setTimeout(resolve, 1500));
  // The failure of its first lookup is cached for 5 s. The proxy tries its echo URL every 2 s.
  alive = true;
  await proxy.untilStatus((status) => status.verification[0]?.verified === true, 15_000);
  await flooded;
});

test("answers with 4,000 addresses do not grow the memory", async (t) => {
  // The name is not allowed, so none of its addresses is dialled.
  const many = Array.from({ length: 4000 }, (_, i) => `10.9.${i >> 8}.${i & 255}`);
  const { proxy } = await setUp(t, (_, type) => (type === "A" ? { truncated: many } : { addresses: [] }), {
    env: { NODE_OPTIONS: "--max-old-space-size=64" },
    args: ["--reason-detail", "full"],
  });
  const baseline = await Baseline.of(proxy);
  const before = proxy.rss();
  const count = 300;
  for (let i = 0; i < count; i += 4) {
    const four = [0, 1, 2, 3].map((j) => tunnel(proxy, `n${i + j}.big.test`, 443));
    assert.deepEqual(await Promise.all(four), Array(4).fill(403));
  }
  const grown = proxy.rss() - before;
  assert.ok(grown < 60, `the proxy grew by ${grown} MiB`);
  assert.equal(await boundCount(proxy, "dns-addresses"), count);
  const record = await proxy.waitRecord((r) => r.target === "n0.big.test:443");
  assert.deepEqual(record.addresses, many.slice(0, 16));
  assert.equal(record.addressesCut, 4000 - 16);
  assert.match(record.reason as string, / \(10\.9\.0\.0, .*10\.9\.0\.15, and 3984 more\)$/);
  await baseline.restored(count);
});

test("the record counts the addresses beyond the limit", async (t) => {
  const many = Array.from({ length: 40 }, (_, i) => `127.0.1.${i + 1}`);
  const { proxy } = await setUp(t, (_, type) => ({ addresses: type === "A" ? many : [] }));
  const far = await listen((socket) => socket.on("data", () => socket.end("hi")), "127.0.1.1");
  t.after(() => far.close());
  assert.match(await exchange(proxy.port, `CONNECT many.test:${far.port} HTTP/1.1\r\n\r\nhi`), /^HTTP\/1\.1 200/);
  const record = await proxy.waitRecord((r) => r.target === `many.test:${far.port}`);
  assert.deepEqual([record.address, record.addressesCut], ["127.0.1.1", 24]);
});

test("no name of a client gives it the slots of another one", async (t) => {
  const dns = await startDns((name) => (name.endsWith(".receiver.test") ? GOOD : "silent"));
  const names = new Names({ servers: [dns.address], timeoutSeconds: 4, hosts: new Map() });
  t.after(async () => {
    names.close();
    await dns.close();
  });
  const ask = (client: string, host: string) =>
    new Promise<DnsAnswer>((resolve) => names.lookup(host, resolve, { client }));
  await ask("client bob", "a.receiver.test");
  for (let i = 0; i < 300; i++) void ask("client bob", `a.zone${i}.test`);
  for (const client of ["client amy", "client bob new"]) {
    assert.deepEqual(await ask(client, `${client.length}.receiver.test`), { addresses: [parseAddress("127.0.0.1")] });
  }
});
