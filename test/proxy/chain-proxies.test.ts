import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { makeNetns, type Netns, netnsMissing } from "../harness/netns.ts";
import { programMissing } from "../harness/packages.ts";
import { OUTRIDER, type ProxyHandle, type ProxyOptions, startProxy, tempFolder } from "../harness/proxy.ts";
import { install, SMOKESCREEN } from "../senders/install.ts";

/**
 * Real upstream proxies on another host, at a private address. The receivers answer with the address that they see: that of
 * the proxy itself (192.0.2.1) if a connection is direct.
 */

const HOP = "10.77.0.1";
const FAR = "93.184.216.34";
const DIRECT = "192.0.2.1";
const HOSTS = `${FAR} far.example\n${HOP} hop.internal\n${DIRECT} own.internal\n192.0.2.9 static.internal\n`;
const missing = netnsMissing() ?? programMissing("curl");

let net: Netns;
const children: ChildProcess[] = [];

function run(namespace: string, ...command: string[]): ChildProcess {
  const child = spawn("ip", ["netns", "exec", namespace, ...command], { stdio: "ignore" });
  children.push(child);
  return child;
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill("SIGKILL");
  await once(child, "exit");
}

before(async () => {
  if (missing !== null) return;
  net = makeNetns([HOP, FAR], []);
  for (const port of [80, 8443]) run(net.internet, OUTRIDER, "echo", "--listen", `:${port}`);
});
after(async () => {
  for (const child of children) await stop(child);
  net?.close();
});

/** curl behind the proxy; `tunnel`: by CONNECT. */
function fetchBy(proxy: ProxyHandle, url: string, tunnel: boolean): string {
  const via = ["-x", `http://127.0.0.1:${proxy.port}`, ...(tunnel ? ["--proxytunnel"] : [])];
  const args = ["netns", "exec", net.inside, "curl", "-s", "-i", "--max-time", "10", ...via, url];
  try {
    return execFileSync("ip", args, { encoding: "utf8" });
  } catch (error) {
    // curl reports a refused CONNECT by its status, and has printed the answer.
    return (error as { stdout: string }).stdout;
  }
}

async function start(upstreamProxy: object, options: ProxyOptions & { spec?: object } = {}): Promise<ProxyHandle> {
  const { spec, ...more } = options;
  return startProxy({ netns: net.inside, hosts: HOSTS, policy: { upstreamProxy, ...spec }, ...more });
}

/** Requests on both data paths until the receiver answers: the upstream proxy may still be starting. */
async function works(proxy: ProxyHandle): Promise<void> {
  for (const [url, tunnel] of [
    ["http://far.example:80/ip", false],
    ["http://far.example:8443/ip", true],
  ] as const) {
    let text = "";
    for (let i = 0; i < 100 && !/\r\n\r\n[0-9.]+\s*$/.test(text); i++) {
      if (i > 0) await sleep(100);
      text = fetchBy(proxy, url, tunnel);
    }
    const [, seen] = /\r\n\r\n([0-9.]+)\s*$/.exec(text) ?? [];
    assert.ok(seen !== undefined && seen !== DIRECT, `${url}: ${text}`);
  }
  const record = await proxy.waitRecord(({ code }) => code === undefined);
  assert.equal(record.upstreamProxy, "hop.internal:3128");
}

const SQUID = `http_port ${HOP}:3128
acl ports port 80 8443
http_access deny !ports
EXTRA
http_access allow all
cache deny all
cache_mem 8 MB
access_log none
cache_log /dev/null
cache_store_log none
netdb_filename none
dns_nameservers 127.0.0.1
hosts_file FOLDER/hosts
pinger_enable off
pid_filename none
shutdown_lifetime 0 seconds
visible_hostname hop.internal
cache_effective_user proxy
coredump_dir FOLDER
`;

function startSquid(extra: string): ChildProcess {
  const folder = tempFolder();
  chmodSync(folder, 0o755);
  const password = execFileSync("openssl", ["passwd", "-apr1", "s3cret"], { encoding: "utf8" }).trim();
  writeFileSync(join(folder, "users"), `corp:${password}\n`);
  writeFileSync(join(folder, "hosts"), `${FAR} far.example\n`);
  writeFileSync(join(folder, "squid.conf"), SQUID.replace("EXTRA", extra).replaceAll("FOLDER", folder));
  return run(net.internet, "squid", "-N", "-f", join(folder, "squid.conf").replaceAll("FOLDER", folder));
}

const squidMissing = missing ?? programMissing("squid");

for (const resolve of ["Local", "Upstream"] as const) {
  test(`squid, resolve ${resolve}`, { skip: squidMissing ?? false }, async (t) => {
    const squid = startSquid("");
    t.after(() => stop(squid));
    // The connection to the upstream proxy leaves from the source address.
    const args = resolve === "Local" ? ["--source-address", DIRECT] : [];
    const proxy = await start({ url: "http://hop.internal:3128", resolve }, { args });
    t.after(() => proxy.stop());
    await works(proxy);
    // The upstream proxy is opened for this use only: it is no target.
    for (const url of [`http://${HOP}:3128/`, "http://hop.internal:3128/"]) {
      const refused = fetchBy(proxy, url, false);
      if (resolve === "Local" || url.includes(HOP)) assert.match(refused, /^HTTP\/1\.1 403 egress-denied: /);
    }
  });
}

test("squid without CONNECT to port 80", { skip: squidMissing ?? false }, async (t) => {
  const squid = startSquid("acl plain port 80\nacl CONNECT method CONNECT\nhttp_access deny CONNECT plain");
  t.after(() => stop(squid));
  const proxy = await start({ url: "http://hop.internal:3128" });
  t.after(() => proxy.stop());
  const expected =
    /^HTTP\/1\.1 502 egress-upstream: the upstream proxy answered 403; it must allow CONNECT to IP addresses, and to port 80\r\n/;
  let text = "";
  for (let i = 0; i < 100 && !expected.test(text); i++) {
    if (i > 0) await sleep(100);
    text = fetchBy(proxy, "http://far.example/", false);
  }
  assert.match(text, expected);
  assert.match(text, /received-status=403/);
});

test("squid with Basic credentials", { skip: squidMissing ?? false }, async (t) => {
  const helper = "/usr/lib/squid/basic_ncsa_auth";
  if (!existsSync(helper)) return t.skip(`needs ${helper}`);
  const squid = startSquid(
    `auth_param basic program ${helper} FOLDER/users\nacl known proxy_auth REQUIRED\nhttp_access deny !known`,
  );
  t.after(() => stop(squid));
  const file = join(tempFolder(), "credentials");
  writeFileSync(file, "corp:s3cret\n");
  const proxy = await start({ url: "http://hop.internal:3128" }, { args: ["--upstream-password-file", file] });
  t.after(() => proxy.stop());
  await works(proxy);
  writeFileSync(file, "corp:wrong\n");
  const expected =
    /^HTTP\/1\.1 502 egress-upstream: the upstream proxy answered 407 to the credentials of this proxy\r\n/;
  let text = "";
  for (let i = 0; i < 100 && !expected.test(text); i++) {
    if (i > 0) await sleep(100);
    text = fetchBy(proxy, "http://far.example/", false);
  }
  assert.match(text, expected);
});

test("tinyproxy", { skip: missing ?? programMissing("tinyproxy") ?? false }, async (t) => {
  const config = join(tempFolder(), "tinyproxy.conf");
  const lines = [`Port 3128`, `Listen ${HOP}`, `Allow ${DIRECT}`, "ConnectPort 80", "ConnectPort 8443", "Timeout 60"];
  writeFileSync(config, `${lines.join("\n")}\nLogFile "/dev/null"\nBasicAuth corp s3cret\n`);
  const tinyproxy = run(net.internet, "tinyproxy", "-d", "-c", config);
  t.after(() => stop(tinyproxy));
  const file = join(tempFolder(), "credentials");
  writeFileSync(file, "corp:s3cret");
  const proxy = await start({ url: "http://hop.internal:3128" }, { args: ["--upstream-password-file", file] });
  t.after(() => proxy.stop());
  await works(proxy);
});

const packages = install(SMOKESCREEN, console.error);
test("Smokescreen", { skip: missing ?? packages.missing ?? false }, async (t) => {
  const [acl, config] = [join(tempFolder(), "acl.yaml"), join(tempFolder(), "config.yaml")];
  writeFileSync(acl, "version: v1\nservices: []\ndefault:\n  name: default\n  project: x\n  action: open\n");
  writeFileSync(config, `acl_file: ${acl}\nallow_missing_role: true\nip: ${HOP}\nport: 3128\n`);
  const hop = run(net.internet, join(packages.folder!, "smokescreen"), "--config-file", config);
  t.after(() => stop(hop));
  const proxy = await start({ url: "http://hop.internal:3128" });
  t.after(() => proxy.stop());
  await works(proxy);
});

test("the upstream proxy gets no address of this machine, and no static IP", { skip: missing ?? false }, async (t) => {
  const spec = { staticIPs: [{ address: "192.0.2.9" }] };
  for (const name of ["own.internal", "static.internal"]) {
    const proxy = await start({ url: `http://${name}:3128` }, { spec });
    t.after(() => proxy.stop());
    const text = fetchBy(proxy, "http://far.example/", false);
    assert.match(
      text,
      /^HTTP\/1\.1 502 egress-upstream: the upstream proxy resolves to an address in a range that this proxy denies/,
      name,
    );
  }
});
