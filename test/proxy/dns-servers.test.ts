import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import type { DnsAnswer } from "../../proxy/dns/answer.ts";
import { Names } from "../../proxy/dns/names.ts";
import { formatAddress } from "../../proxy/policy/cidr.ts";
import { type DnsReply, startDns } from "../harness/dns.ts";

/** Which resolver gets a query, and when its answer counts. */

const good = (_: string, type: string): DnsReply => ({ addresses: type === "A" ? ["127.0.0.1"] : [] });
const ERRORS = ["FORMERR", "SERVFAIL", "NOTIMP", "REFUSED"] as const;

/** The resolver of the proxy with one server for each zone, in this order. */
async function setUp(t: TestContext, zones: Parameters<typeof startDns>[0][], timeoutSeconds = 4) {
  const servers = await Promise.all(zones.map((zone) => startDns(zone)));
  const names = new Names({ servers: servers.map(({ address }) => address), timeoutSeconds, hosts: new Map() });
  t.after(async () => {
    names.close();
    await Promise.all(servers.map((server) => server.close()));
  });
  const look = async (host: string): Promise<string> => {
    const answer = await new Promise<DnsAnswer>((resolve) => names.lookup(host, resolve));
    return "code" in answer ? answer.reason : answer.addresses.map(formatAddress).join();
  };
  return { servers, look };
}

for (const rcode of ERRORS) {
  test(`gets the answer of the next server after ${rcode}`, async (t) => {
    const { look, servers } = await setUp(t, [() => ({ rcode }), good]);
    assert.equal(await look("hooks.test"), "127.0.0.1");
    assert.ok(servers[0]!.queries.length > 0);
  });

  test(`${rcode} of every server is the answer`, async (t) => {
    const { look, servers } = await setUp(t, [() => ({ rcode }), () => ({ rcode }), () => ({ rcode })]);
    assert.equal(await look("hooks.test"), `cannot resolve hooks.test: the resolver failed (${rcode})`);
    for (const { queries } of servers)
      assert.deepEqual([...new Set(queries.map(({ type }) => type))].sort(), ["A", "AAAA"]);
  });
}

test("NXDOMAIN ends the search", async (t) => {
  const { look, servers } = await setUp(t, [() => ({ rcode: "NXDOMAIN" }), good]);
  assert.equal(await look("hooks.test"), "hooks.test does not exist");
  assert.equal(servers[1]!.queries.length, 0);
});

for (const [what, reply] of [["is silent", "silent"], ...ERRORS.map((rcode) => [`answers ${rcode}`, { rcode }])] as [
  string,
  DnsReply,
][]) {
  test(`a first server that ${what} gets queries of two names only`, async (t) => {
    const { look, servers } = await setUp(t, [() => reply, good]);
    for (let i = 0; i < 10; i++) assert.equal(await look(`hooks${i}.test`), "127.0.0.1");
    const asked = new Set(servers[0]!.queries.map(({ name }) => name));
    assert.deepEqual([...asked], ["hooks0.test", "hooks1.test"]);
  });
}

test("one name that fails everywhere does not change the order of the servers", async (t) => {
  const zone = (name: string, type: string): DnsReply =>
    name.startsWith("bad") ? { rcode: "SERVFAIL" } : good(name, type);
  const { look, servers } = await setUp(t, [zone, zone]);
  for (let i = 0; i < 10; i++) {
    assert.match(await look(`bad${i}.test`), /SERVFAIL/);
    assert.equal(await look(`hooks${i}.test`), "127.0.0.1");
  }
  assert.ok(servers[1]!.queries.every(({ name }) => name.startsWith("bad")));
});

test("a lookup sends each server at most three queries per family", async (t) => {
  const { look, servers } = await setUp(t, [() => "silent", () => "silent"], 1);
  assert.equal(await look("hooks.test"), "no answer for hooks.test within 1 s");
  for (const { queries } of servers) {
    for (const family of ["A", "AAAA"]) {
      const count = queries.filter(({ type }) => type === family).length;
      assert.ok(count >= 1 && count <= 3, `${count} queries`);
    }
  }
});
