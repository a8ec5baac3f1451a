import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { after, before, type TestContext, test } from "node:test";
import { freePort } from "../cluster/processes.ts";
import { opensslMissing } from "../harness/certificate.ts";
import { startDeliveries } from "../harness/deliveries.ts";
import { NGINX_STREAM, programMissing } from "../harness/packages.ts";
import { type Issued, Pki, tlsArgs, tlsClient, tlsFolder } from "../harness/pki.ts";
import { OPEN_LOOPBACK, type ProxyHandle, type ProxyRecord, startProxy, tempFolder } from "../harness/proxy.ts";
import { listen, RawClient } from "../harness/raw.ts";

/** The set-ups of several proxies behind a balancer in `examples/`, with the real balancers. */

const read = (path: string) => readFileSync(new URL(`../../examples/${path}`, import.meta.url), "utf8");
const HAPROXY = read("haproxy/haproxy.cfg");
const NGINX = read("nginx/nginx.conf");

const haproxyMissing = programMissing("haproxy") ?? false;
const moduleMissing = !existsSync(NGINX_STREAM.file) && `needs ${NGINX_STREAM.file} (Debian: ${NGINX_STREAM.name})`;
const nginxMissing = programMissing("nginx") ?? moduleMissing;
const bothMissing = haproxyMissing && nginxMissing;

/** Ports of the proxies: for clients, and of the admin port. */
let ports: [one: number, oneAdmin: number, two: number, twoAdmin: number];
const fleet: ProxyHandle[] = [];
let far: Awaited<ReturnType<typeof listen>>;

/** The options that both examples name for a proxy, without its ports and policy. */
function optionsOf(example: string): string[] {
  const lines = [...example.matchAll(/^# +outrider proxy --policy acl\.yaml --listen \S+ --admin \S+ (.+)$/gm)];
  assert.equal(lines.length, 2);
  assert.equal(lines[0]![1], lines[1]![1]);
  return lines[0]![1]!.split(" ");
}

const start = (i: 0 | 1) =>
  startProxy({
    listen: `127.0.0.1:${ports[2 * i]}`,
    admin: `127.0.0.1:${ports[2 * i + 1]}`,
    args: [...OPEN_LOOPBACK, ...optionsOf(HAPROXY)],
    env: { OUTRIDER_DRAIN_DELAY_SECONDS: "3", OUTRIDER_DRAIN_SECONDS: "10" },
  });

before(async () => {
  if (bothMissing) return;
  assert.deepEqual(optionsOf(NGINX), optionsOf(HAPROXY));
  far = await listen((socket) => {
    socket.on("data", () => socket.end("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
  });
  ports = (await Promise.all(Array.from({ length: 4 }, freePort))) as typeof ports;
  fleet.push(...(await Promise.all([start(0), start(1)])));
});

after(async () => {
  await Promise.all(fleet.map((proxy) => proxy.stop()));
  await far?.close();
});

/** An example for the ports of this test, on IPv4 and IPv6 loopback. */
function configured(example: string, front: number): string {
  let text = example
    .replace("bind :4750", `bind 127.0.0.1:${front}\n  bind [::1]:${front}`)
    .replace("listen 4750;", `listen 127.0.0.1:${front};\n    listen [::1]:${front};`);
  for (const [i, name] of ["4751", "9751", "4752", "9752"].entries()) {
    text = text.replaceAll(new RegExp(`(?<=^ +server .*)${name}`, "gm"), `${ports[i]}`);
  }
  return text;
}

interface Balancer {
  port: number;
  child: ChildProcess;
  log: () => string;
}

/** Starts a balancer with an example, changed by `edit`, and waits until it accepts. */
async function startBalancer(t: TestContext, name: "haproxy" | "nginx", edit = (text: string) => text) {
  const port = await freePort();
  const folder = tempFolder();
  const file = join(folder, name);
  const example = name === "haproxy" ? HAPROXY : NGINX;
  const text = edit(example);
  writeFileSync(file, configured(text, port));
  const nginx = ["-p", folder, "-e", "stderr", "-c", file, "-g", `daemon off; pid ${folder}/nginx.pid;`];
  const child = spawn(name, name === "haproxy" ? ["-db", "-f", file] : nginx, { stdio: ["ignore", "inherit", "pipe"] });
  t.after(async () => {
    if (child.exitCode !== null) return;
    child.kill(name === "haproxy" ? "SIGUSR1" : "SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), 10_000);
    await once(child, "close");
    clearTimeout(timer);
  });
  let log = "";
  child.stderr.on("data", (chunk) => {
    log += chunk;
  });
  for (;;) {
    assert.equal(child.exitCode, null, log);
    const client = await RawClient.open(port).catch(() => null);
    client?.socket.destroy();
    if (client !== null) return { port, child, log: () => log } satisfies Balancer;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const records = () => fleet.flatMap((proxy) => proxy.records());

/** Waits until a record of one of the proxies has this source. */
async function recordOf(source: string) {
  const wanted = (record: ProxyRecord) => record.source === source;
  return Promise.any(fleet.map((proxy) => proxy.waitRecord(wanted)));
}

/** Sends requests from several addresses, and checks that the records have them. */
async function checkSources(port: number): Promise<void> {
  const before = records().length;
  const addresses = ["127.7.0.1", "127.7.0.2", "::1"];
  for (const address of addresses) {
    for (const head of [
      `GET http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: x`,
      `CONNECT 127.0.0.1:${far.port} HTTP/1.1`,
    ]) {
      const client = await RawClient.open(port, address === "::1" ? "::1" : "127.0.0.1", address);
      const { localPort } = client.socket;
      client.socket.write(`${head}\r\n\r\n`);
      await client.untilText("HTTP/1.1 200 ");
      if (head.startsWith("CONNECT")) client.socket.write("bytes");
      await client.untilText("\r\n\r\nok");
      client.socket.destroy();
      const record = await recordOf(address === "::1" ? `[::1]:${localPort}` : `${address}:${localPort}`);
      assert.deepEqual([record.verdict, record.code], ["allow", undefined]);
    }
  }
  assert.equal(records().length, before + 2 * addresses.length);
}

const CHECKSUM = "send-proxy-v2 proxy-v2-options crc32c,authority,unique-id";
const HAPROXY_CASES: [name: string, edit: (text: string) => string][] = [
  ["send-proxy-v2, as in the example", (text) => text],
  ["send-proxy", (text) => text.replace(/ send-proxy-v2$/m, " send-proxy")],
  [
    "send-proxy-v2 with a checksum",
    (text) =>
      text
        .replace(/ send-proxy-v2$/m, ` ${CHECKSUM}`)
        .replace("\nbackend outrider", "  unique-id-format %{+X}o%ci:%cp\n\nbackend outrider"),
  ],
];

for (const [name, edit] of HAPROXY_CASES) {
  test(`HAProxy: ${name}: records have the clients' addresses`, {
    skip: haproxyMissing,
    timeout: 120_000,
  }, async (t) => {
    const { port } = await startBalancer(t, "haproxy", edit);
    await checkSources(port);
  });
}

test("HAProxy: clients of a Unix socket have its address", { skip: haproxyMissing, timeout: 120_000 }, async (t) => {
  // Version 1 calls them UNKNOWN, version 2 has a family for them.
  for (const version of ["send-proxy", "send-proxy-v2"]) {
    const path = join(tempFolder(), "clients");
    await startBalancer(t, "haproxy", (text) =>
      text.replace("  bind :4750", `  bind ${path}\n  bind :4750`).replace(/ send-proxy-v2$/m, ` ${version}`),
    );
    const before = new Set(records());
    const client = connect(path);
    client.write(`GET http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`);
    let answer = "";
    for await (const chunk of client) answer += chunk;
    assert.match(answer, /^HTTP\/1\.1 200 /);
    const isNew = (record: ProxyRecord) => !before.has(record);
    await Promise.any(fleet.map((proxy) => proxy.waitRecord(isNew)));
    const [record, ...more] = records().filter(isNew);
    assert.deepEqual([record!.verdict, more.length], ["allow", 0]);
    // The address of HAProxy. Its port is not known.
    assert.match(String(record!.source), /^127\.0\.0\.1:[1-9]\d*$/);
  }
});

/** Starts a proxy with a TLS port and CRLs, and the example of HAProxy in front of it. */
async function startTlsFleet(t: TestContext, pki: Pki, version: string) {
  const server = pki.issue(`server-${version}`, "/CN=proxy", { names: ["IP:127.0.0.1"] });
  const folder = tlsFolder(pki, server, true);
  const args = [...OPEN_LOOPBACK, ...optionsOf(HAPROXY), ...tlsArgs(folder, "cn", true)];
  const proxy = await startProxy({ policy: {}, args });
  t.after(() => proxy.stop());
  const { port } = await startBalancer(t, "haproxy", (text) =>
    text
      .replace(/ send-proxy-v2$/m, ` ${version}`)
      .replace("127.0.0.1:4751 check port 9751", `127.0.0.1:${proxy.tlsPort} check port ${proxy.adminPort}`)
      .replace(/^ +server two .*$/m, ""),
  );
  return { proxy, port, crl: join(folder, "ca.crl") };
}

for (const version of ["send-proxy-v2", "send-proxy"]) {
  test(`HAProxy: ${version} in front of the TLS port: address, certificate and revocation`, {
    skip: haproxyMissing || (opensslMissing() ?? false),
    timeout: 120_000,
  }, async (t) => {
    const pki = new Pki();
    const { proxy, port, crl } = await startTlsFleet(t, pki, version);
    const echo = await listen((socket) => socket.pipe(socket));
    t.after(() => echo.close());
    const tunnel = async (issued: Issued, localAddress: string) => {
      const client = await tlsClient(port, pki.file, issued, { localAddress });
      await client.connect(`127.0.0.1:${echo.port}`, "early");
      await client.untilText("early");
      return { client, source: `${localAddress}:${client.socket.localPort}` };
    };
    const [billing, shop] = [pki.issue("billing", "/CN=billing"), pki.issue("shop", "/CN=shop")];
    const [doomed, kept] = [await tunnel(billing, "127.7.0.1"), await tunnel(shop, "127.7.0.2")];
    pki.revoke(billing);
    pki.crl(crl, { from: 0 });
    const over = () => doomed.client.ended || doomed.client.socket.destroyed;
    await doomed.client.until(over, "end of the tunnel", 5000);
    const { source, client, close } = await proxy.waitRecord(() => true);
    assert.deepEqual([source, client, close], [doomed.source, "billing", "revoked"]);
    kept.client.socket.write("still here");
    await kept.client.untilText("still here");
    kept.client.socket.destroy();
    const record = await proxy.waitRecord((one) => one.source === kept.source);
    assert.deepEqual([record.client, record.verdict, record.code], ["shop", "allow", undefined]);
    assert.equal(proxy.records().length, 2);
  });
}

test("nginx: records have the clients' addresses", { skip: nginxMissing, timeout: 120_000 }, async (t) => {
  const { port } = await startBalancer(t, "nginx");
  await checkSources(port);
});

test("HAProxy: health checks with a header leave no record", { skip: haproxyMissing, timeout: 120_000 }, async (t) => {
  for (const version of ["send-proxy", "send-proxy-v2"]) {
    // TCP checks of the port for clients: HAProxy sends UNKNOWN or LOCAL, and closes.
    const { port, log } = await startBalancer(t, "haproxy", (text) =>
      text
        .replace(/^ +option httpchk .*\n.*$/m, "")
        .replace(/inter 1s fall 1 rise 1 send-proxy-v2/, `inter 100ms fall 1 rise 1 ${version} check-send-proxy`)
        .replaceAll(/check port \d+/g, "check"),
    );
    const before = records().length;
    const counted = async () => {
      const { text } = await fleet[0]!.admin("/metrics");
      return Number(/^outrider_proxy_requests_total.* (\d+)$/m.exec(text)?.[1] ?? 0);
    };
    const first = await counted();
    await new Promise((resolve) => setTimeout(resolve, 1500));
    assert.equal(records().length, before);
    assert.equal(await counted(), first);
    // The checks have passed all the time.
    assert.doesNotMatch(log(), /DOWN/);
    await checkSources(port);
  }
});

test("behind a balancer, direct clients need the header where it does", { skip: bothMissing }, async () => {
  const request = `GET http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: x\r\n\r\n`;
  const same = await RawClient.open(ports[0], "127.0.0.1", "127.0.0.1");
  same.socket.write(request);
  await same.untilText("HTTP/1.1 400 egress-bad-request: the connection does not begin with a PROXY protocol header; ");
  const other = await RawClient.open(ports[0], "127.0.0.1", "127.8.0.1");
  other.socket.write(request);
  await other.untilText("\r\n\r\nok");
  for (const { socket } of [same, other]) socket.destroy();
});

/** Restarts one proxy after the other under load. Returns the numbers of `Deliveries`. */
async function restartAll(port: number) {
  const deliveries = await startDeliveries(port);
  for (const i of [0, 1] as const) {
    assert.equal(await fleet[i]!.stop(), 0);
    fleet[i] = await start(i);
    // Until the balancer has detected it: one check a second.
    await new Promise((resolve) => setTimeout(resolve, 2500));
  }
  const result = await deliveries.stop();
  assert.ok(result.sent > 100, `${result.sent} deliveries`);
  return result;
}

test("HAProxy: a rolling restart loses no delivery", { skip: haproxyMissing, timeout: 180_000 }, async (t) => {
  const { port, log } = await startBalancer(t, "haproxy");
  await new Promise((resolve) => setTimeout(resolve, 2500));
  const { sent, delivered, retries } = await restartAll(port);
  assert.deepEqual({ delivered, retries }, { delivered: sent, retries: 0 });
  assert.match(log(), /Server outrider\/one is DOWN[\s\S]*Server outrider\/two is DOWN/);
});

test("nginx: a rolling restart loses no delivery of a sender that retries", {
  skip: nginxMissing,
  timeout: 180_000,
}, async (t) => {
  const { port } = await startBalancer(t, "nginx");
  const { sent, delivered } = await restartAll(port);
  assert.equal(delivered, sent);
});
