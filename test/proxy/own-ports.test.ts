import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
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
