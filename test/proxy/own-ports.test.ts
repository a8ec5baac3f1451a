import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { test } from "node:test";
import { promisify } from "node:util";
import { makeNetns, netnsMissing } from "../harness/netns.ts";
import { startProxy } from "../harness/proxy.ts";

const run = promisify(execFile);
const missing = netnsMissing();

test("denies the proxy's own ports on every local address", {
  skip: missing ?? false,
}, async (t) => {
  const net = makeNetns([], []);
  t.after(() => net.close());
  for (const address of ["10.9.8.7/32", "11.22.33.44/32"]) {
    execFileSync("ip", ["-n", net.inside, "addr", "add", address, "dev", "eth0"]);
  }
  const addresses = ["127.0.0.1", "127.0.0.2", "192.0.2.1", "10.9.8.7", "11.22.33.44", "[::1]", "[2001:db8::1]"];
  const names = addresses.map((_, i) => `self-${i}.example`);
  const hosts = addresses.map((address, i) => `${address.replace(/[[\]]/g, "")} ${names[i]}`).join("\n");
  const open = ["127.0.0.0/8", "::1/128", "10.0.0.0/8", "192.0.2.0/24", "11.22.33.44/32", "2001:db8::/32"];
  const proxy = await startProxy({
    netns: net.inside,
    listen: ":4750",
    admin: ":9750",
    hosts: `${hosts}\n`,
    args: [...open.flatMap((cidr) => ["--allow-cidr", cidr]), "--resolver", "127.0.0.1:53"],
  });
  const ask = async (target: string, port: number) => {
    const args = ["-s", "-o", "/dev/null", "-w", "%{http_connect}", "--proxytunnel", "-x", proxy.url()];
    const command = ["netns", "exec", net.inside, "curl", ...args, `http://${target}:${port}/`];
    const { stdout } = await run("ip", command).catch((error: { stdout: string }) => error);
    return stdout;
  };
  for (const target of [...addresses, ...names]) {
    for (const port of [4750, 9750]) assert.equal(await ask(target, port), "403", `${target}:${port}`);
  }
  // The ranges really are open: another port of the same address is dialled, and the kernel refuses it.
  for (const target of addresses) assert.equal(await ask(target, 4751), "502", target);
  assert.equal(await proxy.stop(), 0);
  const denied = proxy.records().filter((record) => !record.target.endsWith(":4751"));
  assert.equal(denied.length, 2 * (addresses.length + names.length));
  for (const record of denied) {
    assert.equal(record.address, undefined, "no dial was made");
    assert.match(String(record.reason), /this proxy itself/);
  }
});

/** Local ports on which a process listens. */
function listeningPorts(pid: number): number[] {
  const links = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
  const rows = ["tcp", "tcp6"].flatMap((file) => readFileSync(`/proc/${pid}/net/${file}`, "utf8").trim().split("\n"));
  return rows
    .map((row) => row.trim().split(/\s+/))
    .filter(([, , , state, , , , , , inode]) => state === "0A" && links.includes(`socket:[${inode}]`))
    .map((row) => Number.parseInt(row[1]!.split(":")[1]!, 16))
    .sort();
}

test("a fresh proxy has no other port, and no record, count or connection", async () => {
  const proxy = await startProxy({ policy: { defaultAction: "Deny" } });
  assert.deepEqual(listeningPorts(proxy.pid), [proxy.port, proxy.adminPort].sort());
  const { connections, active } = await proxy.untilStatus(() => true);
  assert.deepEqual([connections, active], [0, 0]);
  const { text } = await proxy.admin("/metrics");
  assert.doesNotMatch(text, /^outrider_proxy_requests_total\{/m);
  assert.match(text, /^outrider_proxy_bytes_total\{direction="up"\} 0$/m);
  assert.match(text, /^outrider_proxy_connect_seconds_count 0$/m);
  assert.equal(await proxy.stop(), 0);
  assert.deepEqual(proxy.records(), []);
});
