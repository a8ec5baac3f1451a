import assert from "node:assert/strict";
import { type ChildProcess, execFile, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { makeNetns, type Netns, netnsMissing } from "../harness/netns.ts";
import { OUTRIDER, type ProxyHandle, type ProxyStatus, runOutrider, startProxy } from "../harness/proxy.ts";

/** A machine with several addresses, and a receiver on another one that answers with the address of its caller. */

const RECEIVER = "11.0.0.10";
const RECEIVER6 = "2600:1::10";
const ONE = "203.0.113.10";
const TWO = "203.0.113.11";
const SIX = "2001:db8:5::10";
/** An address of the machine in a public range, and no source: only that it is the machine's own denies it. */
const OWN = "11.0.0.20";
const NAMES = Array.from({ length: 24 }, (_, i) => `host-${i}.example`);
const HOSTS = `${RECEIVER} ${NAMES.join(" ")}\n${RECEIVER6} six.example\n`;
const missing = netnsMissing();
const run = promisify(execFile);

let net: Netns;
let echo: ChildProcess;
const address = (verb: "add" | "del", ip: string) =>
  execFileSync("ip", [
    "-n",
    net.inside,
    "addr",
    verb,
    `${ip}/${ip.includes(":") ? 128 : 32}`,
    "dev",
    "eth0",
    ...(ip.includes(":") && verb === "add" ? ["nodad"] : []),
  ]);

before(async () => {
  if (missing !== null) return;
  net = makeNetns([RECEIVER, RECEIVER6], []);
  for (const ip of [ONE, TWO, SIX]) {
    address("add", ip);
    const six = ip.includes(":");
    const route = ["route", "add", `${ip}/${six ? 128 : 32}`, "via", six ? "2001:db8::1" : "192.0.2.1"];
    execFileSync("ip", ["-n", net.internet, ...(six ? ["-6"] : []), ...route]);
  }
  echo = spawn("ip", ["netns", "exec", net.internet, OUTRIDER, "echo", "--listen", ":8080"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(echo.stdout!, "data");
});
after(async () => {
  if (missing !== null) return;
  echo.kill("SIGTERM");
  await once(echo, "close");
  net.close();
});

const inside = async (command: string, ...args: string[]) =>
  (await run("ip", ["netns", "exec", net.inside, command, ...args], { timeout: 20_000 })).stdout;

/** The address that the receiver saw in a request through the proxy; or the status and reason of the refusal. */
async function seen(proxy: ProxyHandle, name: string, tunnel = true): Promise<string> {
  const via = ["--proxy", proxy.url(), ...(tunnel ? ["--proxytunnel"] : [])];
  const format = tunnel ? "%{http_connect}" : "%{http_code}";
  const args = ["-s", "-S", "-i", "--suppress-connect-headers", "-w", `\n${format}`, ...via, `http://${name}:8080/ip`];
  const answer = await inside("curl", ...args).catch(
    (error: { stdout: string; stderr: string }) => error.stdout + error.stderr,
  );
  const code = tunnel ? /\n(\d{3})(?:curl|$)/.exec(answer)?.[1] : answer.slice(-3);
  return code === "200" ? answer.trim().split(/\s+/).at(-2)! : code!;
}

async function untilStatus(proxy: ProxyHandle, wanted: (status: ProxyStatus) => boolean): Promise<ProxyStatus> {
  for (let i = 0; ; i++) {
    const text = await inside("curl", "-s", `http://127.0.0.1:${proxy.adminPort}/status`);
    const status = JSON.parse(text) as ProxyStatus;
    if (wanted(status)) return status;
    assert.ok(i < 100, `the status is never as wanted: ${text}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

const sources = (...list: string[]) => list.flatMap((ip) => ["--source-address", ip]);
const start = (args: string[], policy: object = {}) =>
  startProxy({ policy, args, hosts: HOSTS, netns: net.inside, env: { OUTRIDER_RESOLVER: "127.0.0.1:53" } });

test("each destination host has a fixed source per family", {
  skip: missing ?? false,
}, async () => {
  const proxy = await start(sources(ONE, TWO, SIX));
  await untilStatus(proxy, (status) => status.ready);
  const first = new Map<string, string>();
  for (const name of NAMES) first.set(name, await seen(proxy, name));
  assert.deepEqual(new Set(first.values()), new Set([ONE, TWO]));
  for (const name of NAMES.slice(0, 6))
    assert.equal(await seen(proxy, name, false), first.get(name), "plain http as well");
  assert.equal(await seen(proxy, "six.example"), SIX);
  const record = await proxy.waitRecord((r) => r.target === "host-0.example:8080");
  assert.equal(record.local, first.get("host-0.example"));
  await proxy.stop();

  const again = await start(sources(TWO, ONE, SIX));
  for (const name of NAMES.slice(0, 6)) assert.equal(await seen(again, name), first.get(name), "whatever their order");
  await again.stop();
});

test("a missing source gets no replacement and is used again later", {
  skip: missing ?? false,
}, async () => {
  const proxy = await start(sources(ONE, TWO, SIX));
  await untilStatus(proxy, (status) => status.ready);
  const before = new Map<string, string>();
  for (const name of NAMES.slice(0, 10)) before.set(name, await seen(proxy, name));
  address("del", TWO);
  await untilStatus(proxy, (status) => !status.ready);
  const page = await inside("curl", "-s", "-w", "%{http_code}", `http://127.0.0.1:${proxy.adminPort}/readyz`);
  assert.equal(page, `source address ${TWO} is not assigned to this machine\n503`);
  for (const [name, source] of before) {
    assert.equal(await seen(proxy, name), source === TWO ? "503" : ONE);
    assert.equal(await seen(proxy, name, false), source === TWO ? "503" : ONE);
  }
  const record = await proxy.waitRecord((r) => r.code === "unverified");
  assert.equal(record.reason, `source address ${TWO} is not assigned to this machine`);
  address("add", TWO);
  await untilStatus(proxy, (status) => status.ready);
  for (const [name, source] of before) assert.equal(await seen(proxy, name), source);
  await proxy.stop();
});

test("an unassigned source is 503, also with ip_nonlocal_bind", {
  skip: missing ?? false,
}, async () => {
  const nonlocal = (on: 0 | 1) => inside("sh", "-c", `echo ${on} > /proc/sys/net/ipv4/ip_nonlocal_bind`);
  await nonlocal(1);
  const proxy = await start(sources("203.0.113.99"));
  const status = await untilStatus(proxy, () => true);
  assert.deepEqual([status.ready, status.sources], [false, [{ address: "203.0.113.99", assigned: false }]]);
  assert.equal(await seen(proxy, "host-0.example"), "503");
  await proxy.stop();
  const lenient = await start([...sources("203.0.113.99"), "--readiness", "policy"]);
  assert.equal((await untilStatus(lenient, () => true)).ready, true);
  assert.equal(await seen(lenient, "host-0.example"), "503", "the gate binds whatever readiness says");
  await lenient.stop();
  await nonlocal(0);
});

test("denies families without a source, sources and own addresses", {
  skip: missing ?? false,
}, async (t) => {
  address("add", OWN);
  t.after(() => address("del", OWN));
  const proxy = await start(sources(ONE));
  for (const tunnel of [true, false]) {
    for (const target of ["six.example", ONE, OWN]) assert.equal(await seen(proxy, target, tunnel), "403", target);
  }
  await proxy.stop();
  const reasons = (target: string) =>
    proxy
      .records()
      .filter((r) => r.target === target)
      .map(({ reason }) => reason);
  for (const [target, reason] of [
    ["six.example:8080", "six.example resolves to IPv6, for which there is no static IP"],
    [`${ONE}:8080`, `${ONE} is one of the policy's own static IPs`],
    [`${OWN}:8080`, `${OWN} is an address of the proxy's own machine`],
  ] as const) {
    assert.deepEqual(reasons(target), [reason, reason]);
  }
});

test("a source without free ports is overloaded", {
  skip: missing ?? false,
}, async () => {
  const range = "/proc/sys/net/ipv4/ip_local_port_range";
  const before = (await inside("cat", range)).trim();
  const proxy = await start(sources(ONE, TWO));
  await untilStatus(proxy, (status) => status.ready);
  const source = await seen(proxy, NAMES[0]!);
  await inside("sh", "-c", `echo 50000 50001 > ${range}`);
  // The local ports of the clients are set, since the proxy needs the two that are left. Tunnels stay open until all are answered.
  const script = `const [port, name] = process.argv.slice(1); const sockets = [];
    const ask = (i) => { if (i === 4) { for (const socket of sockets) socket.destroy(); return; }
      const socket = require("net").connect({ port, host: "127.0.0.1", localAddress: "127.0.0.1", localPort: 61000 + i });
      sockets.push(socket); socket.write("CONNECT " + name + ":8080 HTTP/1.1\\r\\n\\r\\n");
      socket.once("data", (chunk) => { console.log(String(chunk).split("\\r\\n")[0]); ask(i + 1); }); };
    ask(0);`;
  const answers = await inside(process.execPath, "-e", script, `${proxy.port}`, NAMES[0]!);
  const refused = `HTTP/1.1 503 egress-unavailable: source address ${source} has no local port left`;
  const established = "HTTP/1.1 200 Connection established";
  assert.deepEqual(answers.trim().split("\n"), [established, established, refused, refused]);
  await inside("sh", "-c", `echo ${before} > ${range}`);
  assert.equal(await seen(proxy, NAMES[0]!), source);
  assert.equal((await proxy.waitRecord((r) => r.code === "overloaded")).address, undefined);
  await proxy.stop();
});

test("verifies every source, a mapped one by its static IP", {
  skip: missing ?? false,
}, async () => {
  const verification = { echoURLs: [`http://${NAMES[0]}:8080/ip`], intervalSeconds: 1, timeoutSeconds: 1 };
  const both = { staticIPs: [{ address: ONE }, { address: TWO }], verification };
  const proxy = await start(sources(ONE, TWO), both);
  const status = await untilStatus(proxy, (now) => now.verification.every((proof) => proof.verified));
  assert.deepEqual(
    status.verification.map(({ way, observed }) => [way, ...observed]),
    [
      [ONE, ONE],
      [TWO, TWO],
    ],
  );
  assert.equal(status.ready, true);
  await proxy.stop();

  const mapped = { staticIPs: [{ address: "198.51.100.7", sourceAddress: ONE }], verification };
  const behind = await start(sources(ONE), mapped);
  const wrong = await untilStatus(behind, (now) => now.verification[0]!.observed.length > 0);
  assert.deepEqual(
    wrong.verification.map(({ verified, observed, expected }) => ({ verified, observed, expected })),
    [{ verified: false, observed: [ONE], expected: ["198.51.100.7"] }],
  );
  assert.equal(await seen(behind, "host-1.example"), "503");
  await behind.stop();
});

test("wrong source addresses are one line and exit 2", async () => {
  const policy = join(import.meta.dirname, "../../examples/acl.yaml");
  for (const [args, message] of [
    [["--source-address", "eth0"], /--source-address must be an IP address, not "eth0"/],
    [["--source-address", ONE, "--source-address", ONE], /--source-address: the address is given twice/],
  ] as const) {
    const result = await runOutrider(["proxy", "--policy", policy, ...args]);
    assert.equal(result.status, 2);
    assert.match(result.stderr, message);
  }
});
