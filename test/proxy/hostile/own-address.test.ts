import assert from "node:assert/strict";
import { execFile, execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { makeNetns, type Netns, netnsMissing } from "../../harness/netns.ts";
import { OUTRIDER, type ProxyHandle, type ProxyStatus, startProxy } from "../../harness/proxy.ts";

/**
 * Names whose owner points them at the proxy's own machine: by addresses of interfaces that are down, by local routes
 * (AnyIP), by routes in other tables. All of them look public, and each reaches every local service.
 */

const skip = netnsMissing() ?? false;
const run = promisify(execFile);
const DOWN = "11.0.0.77";
const NO_CARRIER = "11.7.0.1";
const ANY_IP = "11.9.0.0/24";
const ANY_IP6 = "2600:9::/64";
const OTHER_TABLE = "11.8.0.0/24";
const LATER = Array.from({ length: 10 }, (_, i) => `11.6.0.${i + 1}`);
const PORT = 8080;

const HOSTS = `
${DOWN} down.example
${NO_CARRIER} no-carrier.example
11.9.0.5 any-ip.example
2600:9::5 any-ip6.example
11.8.0.5 other-table.example
11.9.0.6 opened.example
${LATER.map((address, i) => `${address} later-${i}.example`).join("\n")}
11.0.0.10 far.example`;

let net: Netns;
let service: ReturnType<typeof spawn>;
const ip = (...args: string[]) => execFileSync("ip", ["-n", net.inside, ...args]);
const inside = async (command: string, ...args: string[]) =>
  (await run("ip", ["netns", "exec", net.inside, command, ...args], { timeout: 20_000 })).stdout;

before(async () => {
  if (skip) return;
  net = makeNetns(["11.0.0.10"], []);
  // Like kube-ipvs0, which is a dummy interface; some kernels of test machines do not support it.
  if (spawnSync("ip", ["-n", net.inside, "link", "add", "d0", "type", "dummy"]).status !== 0) {
    ip("link", "add", "d0", "type", "veth", "peer", "name", "d1");
  }
  ip("addr", "add", `${DOWN}/32`, "dev", "d0");
  ip("link", "add", "v0", "type", "veth", "peer", "name", "v1");
  ip("link", "set", "v0", "up");
  ip("addr", "add", `${NO_CARRIER}/32`, "dev", "v0");
  ip("route", "add", "local", ANY_IP, "dev", "lo");
  ip("-6", "route", "add", "local", ANY_IP6, "dev", "lo");
  ip("rule", "add", "to", OTHER_TABLE, "lookup", "100");
  ip("route", "add", "local", OTHER_TABLE, "dev", "lo", "src", "192.0.2.1", "table", "100");
  // A service of the proxy's own machine that listens on all addresses.
  const command = ["netns", "exec", net.inside, OUTRIDER, "echo", "--listen", `:${PORT}`];
  service = spawn("ip", command, { stdio: ["ignore", "pipe", "inherit"] });
  await once(service.stdout!, "data");
});
after(async () => {
  if (skip) return;
  service.kill("SIGTERM");
  await once(service, "close");
  net.close();
});

const start = (policy: object = {}, args: string[] = []) =>
  startProxy({
    policy,
    args,
    hosts: HOSTS,
    netns: net.inside,
    admin: ":0",
    env: { OUTRIDER_RESOLVER: "127.0.0.1:53" },
  });

/** The status line of a CONNECT or of a plain request. */
async function asked(proxy: ProxyHandle, name: string, port: number, tunnel = true): Promise<string> {
  const via = ["--proxy", proxy.url(), ...(tunnel ? ["--proxytunnel"] : [])];
  const url = `http://${name}:${port}/status`;
  const answer = await inside("curl", "-s", "-i", "--max-time", "10", ...via, url).catch(
    (error: { stdout: string }) => error.stdout,
  );
  return answer.split("\r\n")[0]!;
}

async function statusOf(proxy: ProxyHandle): Promise<ProxyStatus> {
  return JSON.parse(await inside("curl", "-s", `http://127.0.0.1:${proxy.adminPort}/status`)) as ProxyStatus;
}

const NAMES = ["down.example", "no-carrier.example", "any-ip.example", "any-ip6.example", "other-table.example"];

test("denies all local addresses of this machine", { skip }, async (t) => {
  const proxy = await start({ allow: [{ hosts: ["opened.example"], cidrs: [ANY_IP] }] });
  for (const name of NAMES) {
    await t.test(name, async () => {
      for (const tunnel of [true, false]) {
        const line = await asked(proxy, name, PORT, tunnel);
        assert.equal(
          line,
          `HTTP/1.1 403 egress-denied: ${name} resolves to an address of the proxy's own machine; policy test/test`,
        );
      }
    });
  }
  await t.test("the admin port cannot be reached through the proxy", async () => {
    for (const name of NAMES) {
      const line = await asked(proxy, name, proxy.adminPort);
      assert.match(line, /^HTTP\/1\.1 403 egress-denied: /, name);
    }
  });
  await t.test("a rule with the range opens it for its hosts", async () => {
    assert.match(await asked(proxy, "opened.example", PORT), /^HTTP\/1\.1 200 /);
  });
  await t.test("writes one denied record for each", async () => {
    const record = await proxy.waitRecord((r) => r.target === `other-table.example:${PORT}`);
    assert.deepEqual([record.verdict, record.code], ["deny", "address"]);
  });
  await t.test("denies a new address immediately", async () => {
    for (const [i, address] of LATER.entries()) {
      ip("addr", "add", `${address}/32`, "dev", "d0");
      assert.match(await asked(proxy, `later-${i}.example`, PORT), /403 .*own machine/, address);
    }
  });
  await proxy.stop();
});

test("a source on a down interface is not assigned", { skip }, async () => {
  const proxy = await start({}, ["--source-address", DOWN]);
  const { ready, sources } = await statusOf(proxy);
  assert.deepEqual([ready, sources], [false, [{ address: DOWN, assigned: false }]]);
  assert.match(await asked(proxy, "far.example", 443), /503 .*source address 11\.0\.0\.77 is not assigned/);
  await proxy.stop();
  const other = await start({}, ["--source-address", "192.0.2.1"]);
  assert.match(await asked(other, "down.example", PORT), /403 .*own machine/);
  await other.stop();
});

test("connects to own addresses that the command line opens", { skip }, async () => {
  const proxy = await start({}, ["--allow-cidr", ANY_IP, "--allow-cidr", `${DOWN}/32`]);
  assert.match(await asked(proxy, "far.example", 9000), /^HTTP\/1\.1 502 .* refused the connection/);
  for (const name of ["any-ip.example", "down.example"]) {
    assert.match(await asked(proxy, name, PORT), /^HTTP\/1\.1 200 /, name);
    assert.match(await asked(proxy, name, proxy.adminPort), /403 .*this proxy itself/, name);
  }
  await proxy.stop();
});
