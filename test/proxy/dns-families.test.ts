import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import type { DnsAnswer } from "../../proxy/dns/answer.ts";
import { Names } from "../../proxy/dns/names.ts";
import { reachedFamilies } from "../../proxy/egress/source-address.ts";
import { formatAddress } from "../../proxy/policy/cidr.ts";
import { type DnsReply, startDns } from "../harness/dns.ts";
import { startDnsProxy, type Zone } from "../harness/dns-proxy.ts";
import { OPEN_LOOPBACK } from "../harness/proxy.ts";

/** One address family answers, and the other one is late or silent (RFC 8305 §3). */

/** A time limit that no lookup of these tests may wait for. */
const LONG_SECONDS = 50;

/** Answers IPv4 at once and IPv6 when `late` says so. */
const halves =
  (four: string[], late: Promise<DnsReply> | DnsReply): Zone =>
  (_, type) =>
    type === "A" ? { addresses: four } : late;

const setUpProxy = (t: TestContext, zone: Zone, args: string[] = OPEN_LOOPBACK) =>
  startDnsProxy(t, zone, ["--dns-seconds", String(LONG_SECONDS), ...args]);

async function setUpNames(t: TestContext, zone: Zone, timeoutSeconds = LONG_SECONDS) {
  const dns = await startDns(zone);
  let clock = 0;
  const names = new Names({ servers: [dns.address], timeoutSeconds, hosts: new Map(), now: () => clock });
  t.after(async () => {
    names.close();
    await dns.close();
  });
  /** The addresses, or the code. `enough`: one family is. */
  const look = async (host: string, enough: boolean): Promise<string> => {
    const answer = await new Promise<DnsAnswer>((resolve) => names.lookup(host, resolve, { enough: () => enough }));
    return "code" in answer ? answer.code : answer.addresses.map(formatAddress).join();
  };
  const setClock = (seconds: number) => {
    clock = seconds * 1000;
  };
  return { dns, names, look, setClock };
}

test("a silent record type does not delay requests", async (t) => {
  const { get, dns, proxy } = await setUpProxy(t, halves(["127.0.0.1"], "silent"));
  for (let i = 0; i < 3; i++) assert.match(await get("hooks.test"), /^HTTP\/1\.1 200/);
  // The others used the answer of the first one.
  assert.equal(dns.queries.filter(({ type }) => type === "A").length, 1);
  await proxy.stop();
  for (const { dnsMs } of proxy.records()) assert.ok((dnsMs as number) < (LONG_SECONDS * 1000) / 10, `${dnsMs} ms`);
});

test("an answer within the delay is used together with the first one", async (t) => {
  const { look } = await setUpNames(t, async (_, type) => {
    if (type === "AAAA") await new Promise((resolve) => setTimeout(resolve, 5));
    return { addresses: ["127.0.0.1", "2001:db8::1"] };
  });
  assert.equal(await look("hooks.test", true), "2001:db8::1,127.0.0.1");
});

test("a late family joins the cache without another query", async (t) => {
  const late = Promise.withResolvers<DnsReply>();
  const { look, dns } = await setUpNames(t, halves(["127.0.0.1"], late.promise));
  assert.equal(await look("hooks.test", true), "127.0.0.1");
  const complete = look("hooks.test", false);
  late.resolve({ addresses: ["2001:db8::1"] });
  assert.equal(await complete, "2001:db8::1,127.0.0.1");
  assert.equal(await look("hooks.test", true), "2001:db8::1,127.0.0.1");
  assert.equal(dns.queries.filter(({ type }) => type === "A").length, 1);
});

test("half an answer is cached for 5 s at most, from its arrival", async (t) => {
  const { look, dns, setClock } = await setUpNames(t, halves(["127.0.0.1"], "silent"), 1);
  const queries = () => dns.queries.filter(({ type }) => type === "A").length;
  assert.equal(await look("hooks.test", true), "127.0.0.1");
  setClock(3);
  // Waits for the end of the lookup, whose time limit is real.
  assert.equal(await look("hooks.test", false), "127.0.0.1");
  assert.equal(queries(), 1);
  setClock(4.9);
  assert.equal(await look("hooks.test", false), "127.0.0.1");
  assert.equal(queries(), 1);
  setClock(5.1);
  assert.equal(await look("hooks.test", true), "127.0.0.1");
  assert.equal(queries(), 2);
});

test("the addresses of a late family are vetted", async (t) => {
  const late = Promise.withResolvers<DnsReply>();
  const { get, proxy } = await setUpProxy(t, halves(["127.0.0.1"], late.promise));
  assert.match(await get("hooks.test"), /^HTTP\/1\.1 200/);
  late.resolve({ addresses: ["fd00::5", "fe80::1"] });
  const complete = () => proxy.records().find(({ addresses }) => (addresses as string[]).length > 1);
  for (let i = 0; i < 100 && complete() === undefined; i++) assert.match(await get("hooks.test"), /^HTTP\/1\.1 200/);
  assert.deepEqual(complete()!.addresses, ["fd00::5", "127.0.0.1", "fe80::1"]);
  await proxy.stop();
  assert.ok(proxy.records().every(({ address }) => address === "127.0.0.1"));
});

test("a request whose first family is denied waits for the other one", async (t) => {
  const late = Promise.withResolvers<DnsReply>();
  // IPv6 first: only IPv4 loopback is open.
  const zone: Zone = (_, type) => (type === "AAAA" ? { addresses: ["fd00::5"] } : late.promise);
  const { get } = await setUpProxy(t, zone);
  const answer = get("hooks.test");
  setTimeout(() => late.resolve({ addresses: ["127.0.0.1"] }), 300);
  assert.match(await answer, /^HTTP\/1\.1 200/);
});

test("a family that is late at the end of the time limit causes no warning of Node", async (t) => {
  const first = Promise.withResolvers<DnsReply>();
  const { look } = await setUpNames(t, (_, type) => (type === "A" ? first.promise : "silent"), 1);
  const warnings: string[] = [];
  const note = (warning: Error) => warnings.push(String(warning));
  process.on("warning", note);
  t.after(() => process.off("warning", note));
  const began = performance.now();
  const answer = look("hooks.test", false);
  setTimeout(() => first.resolve({ addresses: ["127.0.0.1"] }), 850);
  setTimeout(() => {
    // The event loop is blocked until the time limit is over.
    while (performance.now() - began < 1100);
  }, 880);
  assert.equal(await answer, "127.0.0.1");
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(warnings, []);
});

test("names with a late family hold no slots of other names", async (t) => {
  const { names } = await setUpNames(t, halves(["127.0.0.1"], "silent"), 4);
  const look = (host: string) =>
    new Promise<DnsAnswer>((resolve) => names.lookup(host, resolve, { client: "10.0.0.1", enough: () => true }));
  // One client has 64 slots, and waits for them for 2 s.
  const answers = await Promise.all(Array.from({ length: 300 }, (_, i) => look(`hooks.customer${i}.test`)));
  assert.deepEqual(
    answers.filter((answer) => "code" in answer),
    [],
  );
});

test("lookups can be closed while a family is late", async (t) => {
  const { names, look } = await setUpNames(t, halves(["127.0.0.1"], "silent"));
  assert.equal(await look("hooks.test", true), "127.0.0.1");
  const waiting = look("hooks.test", false);
  names.close();
  assert.equal(await waiting, "dns-failed");
});

test("a lookup with a late family ends 5 s after the first one", { timeout: 20_000 }, async (t) => {
  const { look } = await setUpNames(t, halves(["127.0.0.1"], "silent"));
  const began = performance.now();
  assert.equal(await look("hooks.test", false), "127.0.0.1");
  assert.ok(performance.now() - began < (LONG_SECONDS * 1000) / 2);
});

test("one family is enough only on a machine that reaches it", () => {
  const rows: [addresses: string[], families: (4 | 6)[]][] = [
    [
      ["127.0.0.1", "::1"],
      [4, 6],
    ],
    [["10.0.0.5", "127.0.0.1", "::1", "fe80::5"], [4]],
    [["10.0.0.5", "fd00::5", "fe80::5"], [4]],
    [
      ["10.0.0.5", "2001:db8::5"],
      [4, 6],
    ],
    [["127.0.0.1", "169.254.9.9", "2001:db8::5"], [6]],
    [["127.0.0.1", "fd00::5"], []],
  ];
  for (const [addresses, families] of rows)
    assert.deepEqual([...reachedFamilies(addresses)], families, addresses.join());
});
