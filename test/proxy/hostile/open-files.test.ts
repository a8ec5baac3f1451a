import assert from "node:assert/strict";
import { execFile, execFileSync, spawnSync } from "node:child_process";
import { readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { shareFiles } from "../../../proxy/sockets/descriptors.ts";
import { Baseline } from "../../harness/baseline.ts";
import { startDns } from "../../harness/dns.ts";
import { makeNetns, netnsMissing } from "../../harness/netns.ts";
import { manifest, OPEN_LOOPBACK, type ProxyHandle, startProxy, tempFolder } from "../../harness/proxy.ts";
import { listen, RawClient } from "../../harness/raw.ts";

/** Senders and receivers that use up the proxy's file descriptors. */

const OPEN_FILES = 256;
/** Files that the proxy reads for a moment, such as the kernel's routes. */
const SPARE_FILES = 2;
const noPrlimit =
  spawnSync("prlimit", ["--version"]).error === undefined ? false : "needs prlimit (Debian: util-linux)";
const noNetns = netnsMissing() ?? false;

const connectHead = (target: string) => `CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\n`;

/** Reads all input, and closes with its peer. */
const receive = (host: string) => listen((socket) => socket.resume().on("end", () => socket.end()), host);

/** Descriptors of a proxy at rest: the fewest of some samples, since it opens files for a moment, such as its policy. */
async function handlesAtRest(proxy: ProxyHandle): Promise<number> {
  let fewest = proxy.handles();
  for (let i = 0; i < 40; i++) {
    await sleep(25);
    fewest = Math.min(fewest, proxy.handles());
  }
  return fewest;
}

/**
 * Waits until a running proxy has no more descriptors than at rest, then lowers its limit of open files to this many
 * more.
 */
async function leaveFiles(proxy: ProxyHandle, atRest: number, free: number): Promise<void> {
  const open = () => new Set(readdirSync(`/proc/${proxy.pid}/fd`).map(Number));
  let used = open();
  for (let i = 0; i < 100 && used.size > atRest; i++) {
    await sleep(50);
    used = open();
  }
  let limit = 0;
  for (let left = free; left > 0 || used.has(limit); limit++) if (!used.has(limit)) left--;
  execFileSync("prlimit", ["--pid", `${proxy.pid}`, `--nofile=${limit}:`]);
}

const giveFiles = (proxy: ProxyHandle) => execFileSync("prlimit", ["--pid", `${proxy.pid}`, "--nofile=1024:"]);

/** Opens one more connection with this many free descriptors; returns the answer to a request on it. */
async function answered(proxy: ProxyHandle, target: string): Promise<string> {
  const client = await RawClient.open(proxy.port);
  client.socket.write(connectHead(target));
  await client.untilEnd();
  client.socket.destroy();
  return client.text.split("\r\n")[0]!;
}

test("the limit of open files limits the tunnels", async () => {
  const { tunnels } = shareFiles(OPEN_FILES);
  const receiver = await receive("127.0.0.1");
  const proxy = await startProxy({ args: OPEN_LOOPBACK, openFiles: OPEN_FILES });
  const warning = proxy.stderr().match(/.*the limit of open files is too low.*/)?.[0] ?? "{}";
  const { openFiles, maxTunnels, wanted } = JSON.parse(warning) as Record<string, unknown>;
  assert.deepEqual([openFiles, maxTunnels, wanted], [OPEN_FILES, tunnels, 10_000]);
  const baseline = await Baseline.of(proxy);
  const clients = await Promise.all(Array.from({ length: 3 * tunnels }, () => RawClient.open(proxy.port)));
  for (const client of clients) client.socket.write(connectHead(`127.0.0.1:${receiver.port}`));
  await Promise.all(clients.map((client) => client.until(() => client.text.includes("\r\n\r\n"), "answer")));
  const statuses = clients.map((client) => client.text.slice(9, 12));
  assert.equal(statuses.filter((status) => status === "200").length, tunnels);
  assert.deepEqual(new Set(statuses), new Set(["200", "503"]));
  for (const client of clients) client.socket.destroy();
  await baseline.restored();
  assert.equal(await proxy.stop(), 0);
  await receiver.close();
});

test("survives a flood of connections with 64 open files", async () => {
  const receiver = await receive("127.0.0.1");
  const proxy = await startProxy({ args: OPEN_LOOPBACK, openFiles: 64 });
  const baseline = await Baseline.of(proxy);
  const clients: RawClient[] = [];
  for (let round = 0; round < 4; round++) {
    for (let i = 0; i < 50; i++) {
      const client = await RawClient.open(proxy.port);
      // Every second address is silent.
      if (i % 2 === 0) client.socket.write(connectHead(`127.0.0.1:${receiver.port}`));
      clients.push(client);
    }
    await sleep(400);
  }
  const answers = clients.map((client) => client.text.slice(9, 12)).filter((status) => status !== "");
  assert.deepEqual(new Set(answers), new Set(["200", "503"]));
  for (const client of clients) client.socket.destroy();
  await baseline.restored();
  const again = await RawClient.open(proxy.port);
  await again.connect(`127.0.0.1:${receiver.port}`);
  again.socket.destroy();
  assert.equal(await proxy.stop(), 0);
  await receiver.close();
});

test("recovers from a lack of file descriptors", { skip: noPrlimit }, async (t) => {
  const receiver = await receive("127.0.0.5");
  const dns = await startDns((_, type) => ({ addresses: type === "A" ? ["127.0.0.5"] : [], ttl: 5 }));
  const args = [...OPEN_LOOPBACK, "--resolver", dns.address, "--source-address", "127.0.0.1"];
  const proxy = await startProxy({ args, policy: { allow: [{ hosts: ["*"], cidrs: ["127.0.0.5/32"] }] } });
  const before = await proxy.untilStatus((status) => status.ready);
  const baseline = await Baseline.of(proxy);
  const atRest = await handlesAtRest(proxy);
  let requests = 0;

  await t.test("a connection to a target answers 503 overloaded", async () => {
    await leaveFiles(proxy, atRest, 1);
    requests++;
    const answer = await answered(proxy, `127.0.0.5:${receiver.port}`);
    assert.equal(answer, "HTTP/1.1 503 egress-unavailable: this proxy has no file descriptor left");
  });
  await t.test("a lookup answers 503 overloaded and is not cached", async () => {
    await leaveFiles(proxy, atRest, 1);
    requests++;
    const answer = await answered(proxy, `one.example:${receiver.port}`);
    const reason = "cannot resolve one.example: this proxy has no file descriptor left";
    assert.equal(answer, `HTTP/1.1 503 egress-unavailable: ${reason}`);
    assert.equal(dns.queries.length, 0);
  });
  await t.test("keeps the process, its policy and its source addresses", async () => {
    await leaveFiles(proxy, atRest, 0);
    // Accepted and closed by libuv, which keeps a spare descriptor for this.
    assert.equal(await answered(proxy, `127.0.0.5:${receiver.port}`).catch(() => ""), "");
    writeFileSync(proxy.policyFile, manifest({ allow: [{ hosts: ["one.example"], cidrs: ["127.0.0.5/32"] }] }));
    await sleep(2500);
    giveFiles(proxy);
    const status = await proxy.untilStatus(({ policy }) => policy?.hash !== before.policy?.hash);
    assert.deepEqual([status.ready, status.policyError, status.sources[0]?.assigned], [true, null, true]);
    assert.doesNotMatch(proxy.stderr(), /source addresses changed|"level":"fatal"/);
  });
  await t.test("resolves names and connects to targets again", async () => {
    requests++;
    const client = await RawClient.open(proxy.port);
    await client.connect(`one.example:${receiver.port}`);
    client.socket.destroy();
    const { text } = await proxy.admin("/metrics");
    assert.match(text, /outrider_proxy_bound_total\{bound="open-files"\} 2\n/);
  });
  await baseline.restored(requests);
  assert.equal(await proxy.stop(), 0);
  await dns.close();
  await receiver.close();
});

test("a lack of file descriptors keeps the passwords, and a removal counts afterwards", {
  skip: noPrlimit,
}, async () => {
  const folder = tempFolder();
  for (const name of ["alice", "bob"]) writeFileSync(join(folder, name), "one");
  const receiver = await receive("127.0.0.1");
  const proxy = await startProxy({ args: [...OPEN_LOOPBACK, "--password-dir", folder] });
  const tunnel = async (user: string) => {
    const client = await RawClient.open(proxy.port);
    const credentials = Buffer.from(`${user}:one`).toString("base64");
    client.socket.write(
      `CONNECT 127.0.0.1:${receiver.port} HTTP/1.1\r\nProxy-Authorization: Basic ${credentials}\r\n\r\n`,
    );
    await client.untilText("200 Connection established");
    return client;
  };
  const [alice, bob] = [await tunnel("alice"), await tunnel("bob")];
  await leaveFiles(proxy, await handlesAtRest(proxy), 0);
  rmSync(join(folder, "alice"));
  for (const began = Date.now(); !/EMFILE/.test(proxy.stderr()); await sleep(50))
    assert.ok(Date.now() - began < 10_000);
  // Further attempts.
  await sleep(1500);
  assert.deepEqual([alice.socket.destroyed, bob.socket.destroyed], [false, false]);
  giveFiles(proxy);
  await alice.until(() => alice.socket.destroyed, "end of the tunnel of a removed password");
  await proxy.untilStatus(({ policyError }) => policyError === null);
  assert.equal(bob.socket.destroyed, false);
  // Twice a second the same error would fill the log.
  assert.equal(proxy.stderr().match(/EMFILE/g)?.length, 1);
  bob.socket.destroy();
  assert.equal(await proxy.stop(), 0);
  await receiver.close();
});

test("a name with silent addresses uses at most 8 descriptors", {
  skip: noNetns,
  timeout: 30_000,
}, async () => {
  const silent = Array.from({ length: 24 }, (_, i) => `11.0.1.${i + 1}`);
  const net = makeNetns([], silent);
  const hosts = silent.map((address) => `${address} many.example`).join("\n");
  const args = ["--connect-seconds", "4", "--readiness", "policy"];
  const proxy = await startProxy({ netns: net.inside, hosts, args, openFiles: OPEN_FILES });
  const inside = (...command: string[]) =>
    execFileSync("ip", ["netns", "exec", net.inside, ...command], { encoding: "utf8" });
  const idle = proxy.handles();
  // A client in the network namespace of the proxy sends this many requests and waits for their answers.
  const script = (count: number) => `const net = require("net"); let left = ${count};
    for (let i = 0; i < ${count}; i++) { const socket = net.connect(${proxy.port}, "127.0.0.1");
      socket.write("CONNECT many.example:443 HTTP/1.1\\r\\n\\r\\n");
      socket.once("data", (chunk) => { console.log(String(chunk).split("\\r\\n")[0]); socket.destroy(); }); }`;
  const run = async (count: number) => {
    let most = 0;
    const watch = setInterval(() => {
      most = Math.max(most, proxy.handles() - idle);
    }, 20);
    const stdout = await new Promise<string>((resolve, reject) => {
      const command = ["netns", "exec", net.inside, process.execPath, "-e", script(count)];
      execFile("ip", command, { timeout: 15_000 }, (error, out) => (error === null ? resolve(out) : reject(error)));
    });
    clearInterval(watch);
    const answers = stdout.trim().split("\n");
    assert.equal(answers.length, count);
    assert.deepEqual(new Set(answers.map((line) => line.slice(0, 12))), new Set(["HTTP/1.1 504"]));
    return most;
  };
  const one = await run(1);
  assert.ok(one <= 1 + 8 + SPARE_FILES, `${one} descriptors: more than the client and 8 attempts`);
  const count = 16;
  const { extraAttempts } = shareFiles(OPEN_FILES);
  const most = await run(count);
  assert.ok(most <= 2 * count + extraAttempts + SPARE_FILES, `${most} descriptors for ${count} requests`);
  const metrics = inside("curl", "-s", `http://127.0.0.1:${proxy.adminPort}/metrics`);
  assert.match(metrics, new RegExp(`bound_total\\{bound="dial-attempts"\\} ${1 + count}\n`));
  assert.equal(await proxy.stop(), 0);
  net.close();
});

test("an unhandled rejection ends the process and logs its stack", async () => {
  const policy = { allow: [{ hosts: ["*"], cidrs: ["127.0.0.1/32"] }] };
  const fault = new URL("./fault.ts", import.meta.url).pathname;
  const proxy = await startProxy({ policy, args: OPEN_LOOPBACK, env: { NODE_OPTIONS: `--import ${fault}` } });
  proxy.signal("SIGUSR2");
  for (let i = 0; i < 100 && !proxy.stderr().includes("fatal"); i++) await sleep(50);
  const line = JSON.parse(proxy.stderr().trim().split("\n").at(-1)!) as { level: string; err: { stack: string } };
  assert.equal(line.level, "fatal");
  assert.match(line.err.stack, /a fault of the test\n +at /);
  assert.equal(await proxy.stop(), 70);
});
