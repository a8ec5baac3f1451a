import assert from "node:assert/strict";
import { renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { readHosts } from "../../proxy/dns/hosts.ts";
import { type DnsReply, startDns } from "../harness/dns.ts";
import { OPEN_LOOPBACK, type ProxyHandle, runOutrider, startProxy, tempFolder } from "../harness/proxy.ts";
import { exchange, listen } from "../harness/raw.ts";

/** Names that need no DNS, or that DNS alone does not resolve. */

async function setUp(t: TestContext, options: { args?: string[]; hosts?: string; reply?: DnsReply } = {}) {
  const dns = await startDns(() => options.reply ?? { rcode: "NXDOMAIN" });
  const far = await listen((socket) =>
    socket.on("data", () => socket.end("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi")),
  );
  const folder = tempFolder();
  const hosts = join(folder, "hosts");
  const replace = (text: string) => {
    writeFileSync(`${hosts}.new`, text, "latin1");
    renameSync(`${hosts}.new`, hosts);
  };
  if (options.hosts !== undefined) replace(options.hosts);
  const given = options.hosts === undefined ? [] : ["--hosts", hosts];
  const proxy = await startProxy({
    policy: {},
    args: ["--resolver", dns.address, ...given, ...(options.args ?? OPEN_LOOPBACK)],
  });
  t.after(async () => {
    await proxy.stop();
    await far.close();
    await dns.close();
  });
  const get = async (host: string): Promise<string> =>
    (
      await exchange(proxy.port, `GET http://${host}:${far.port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`)
    ).split("\r\n")[0]!;
  return { dns, proxy, get, replace };
}

/** Polls until the status line is as wanted. */
async function until(get: () => Promise<string>, wanted: RegExp): Promise<void> {
  let line = "";
  for (let i = 0; i < 200; i++) {
    line = await get();
    if (wanted.test(line)) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.match(line, wanted);
}

async function untilLogged(proxy: ProxyHandle, wanted: RegExp): Promise<void> {
  for (let i = 0; i < 200 && !wanted.test(proxy.stderr()); i++) await new Promise((resolve) => setTimeout(resolve, 50));
  assert.match(proxy.stderr(), wanted);
}

const LOCAL = ["localhost", "LocalHost.", "app.localhost", "a.b.localhost"];

test("localhost is a loopback address, without a query", async (t) => {
  const { get, dns } = await setUp(t, { args: [] });
  for (const name of LOCAL) {
    assert.match(await get(name), /^HTTP\/1\.1 403 egress-denied: \S*localhost resolves to a loopback address/);
  }
  assert.equal(dns.queries.length, 0);
});

test("--allow-cidr opens localhost", async (t) => {
  const { get, dns } = await setUp(t, { args: ["--allow-cidr", "127.0.0.0/8"] });
  for (const name of LOCAL) assert.match(await get(name), /^HTTP\/1\.1 200/);
  assert.equal(dns.queries.length, 0);
  assert.match(await get("localhost.test"), /^HTTP\/1\.1 502 egress-dns: localhost\.test does not exist/);
  assert.match(await get("mylocalhost"), /^HTTP\/1\.1 502 egress-dns: mylocalhost does not exist/);
});

test("explains localhost without --resolve", async () => {
  const policy = join(tempFolder(), "policy.json");
  writeFileSync(policy, JSON.stringify({ version: 1, policy: "test/test" }));
  const { stdout } = await runOutrider(["explain", "--policy", policy, "http://app.localhost:80/"]);
  assert.match(stdout, /deny[\s\S]*app\.localhost resolves to a loopback address[\s\S]*address {2}127\.0\.0\.1/);
});

test("the refusal of a short name explains the missing search list", async (t) => {
  const { get } = await setUp(t);
  for (const name of ["db", "db.default.svc"]) {
    assert.equal(
      await get(name),
      `HTTP/1.1 502 egress-dns: ${name} does not exist; no search domain is added: write the full name, ` +
        "or list it in --hosts FILE (/etc/hosts is not read)",
    );
  }
  assert.equal(await get("db.test"), "HTTP/1.1 502 egress-dns: db.test does not exist");
});

test("accepts the hosts files of other programs", async (t) => {
  const text =
    "##\n# H\xf4te\n##\n127.0.0.1\tlocalhost\n255.255.255.255\tbroadcasthost\n::1             localhost\r\n" +
    "fe80::1%lo0\tlocalhost\nff02::1 ip6-allnodes\nfe80::1%lo0 printer\n127.0.0.1 Hooks.Test. # mine\n172.17.0.2\t402615937284\n";
  const { get } = await setUp(t, { hosts: text });
  assert.match(await get("localhost"), /^HTTP\/1\.1 200/);
  assert.match(await get("hooks.test"), /^HTTP\/1\.1 200/);
  assert.match(await get("printer"), /^HTTP\/1\.1 403 egress-denied: printer resolves to a link-local address/);
  assert.match(await get("ip6-allnodes"), /^HTTP\/1\.1 403 /);
  const policy = join(tempFolder(), "policy.json");
  writeFileSync(policy, JSON.stringify({ version: 1, policy: "test/test" }));
  const own = await runOutrider(["explain", "--policy", policy, "--hosts", "/etc/hosts", "http://10.0.0.1/"]);
  assert.equal(own.stderr, "");
});

test("a zone in an IPv4 address of a hosts file is an error", async () => {
  const folder = tempFolder();
  writeFileSync(join(folder, "policy.json"), JSON.stringify({ version: 1, policy: "test/test" }));
  writeFileSync(join(folder, "hosts"), "127.0.0.1%lo a.test\n");
  const args = ["explain", "--policy", join(folder, "policy.json"), "--hosts", join(folder, "hosts"), "a.test:80"];
  const { stderr } = await runOutrider(args);
  assert.match(stderr, /^outrider: --hosts \S+hosts:1: "127\.0\.0\.1%lo" is not an IP address\n$/);
});

test("an address or a part of one in the place of a name is an error", async () => {
  const folder = tempFolder();
  const hosts = join(folder, "hosts");
  for (const name of ["127.0.0.2", "127.1", "::1"]) {
    writeFileSync(hosts, `127.0.0.1 ${name}\n`);
    await assert.rejects(readHosts(hosts), { message: `--hosts ${hosts}:1: "${name}" is not a host name` });
  }
});

test("reads a changed hosts file again, and keeps the last valid one", async (t) => {
  const { get, proxy, replace } = await setUp(t, { hosts: "127.0.0.1 a.test\n" });
  assert.match(await get("a.test"), /^HTTP\/1\.1 200/);
  assert.match(await get("b.test"), /^HTTP\/1\.1 502/);
  replace("127.0.0.1 b.test\n");
  await until(() => get("b.test"), /^HTTP\/1\.1 200/);
  assert.match(await get("a.test"), /^HTTP\/1\.1 502/);
  replace("127.0.0.1 c.test\nnonsense d.test\n");
  await untilLogged(proxy, /hosts:2: \\"nonsense\\" is not an IP address; the last valid hosts file stays in use/);
  assert.match(await get("b.test"), /^HTTP\/1\.1 200/);
  assert.match(await get("c.test"), /^HTTP\/1\.1 502/);
});

test("reads the hosts file again on SIGHUP", async (t) => {
  const { proxy } = await setUp(t, { hosts: "127.0.0.1 a.test\n" });
  for (let count = 1; count <= 3; count++) {
    proxy.signal("SIGHUP");
    for (let i = 0; i < 200 && proxy.stderr().split("hosts file loaded").length - 1 < count; i++) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assert.equal(proxy.stderr().split("hosts file loaded").length - 1, count);
  }
});
