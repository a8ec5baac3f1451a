import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { startDns } from "../harness/dns.ts";
import { finish } from "../harness/finish.ts";
import { manifest, OPEN_LOOPBACK, OUTRIDER, tempFolder } from "../harness/proxy.ts";

/** Explains a name with this text in resolv.conf; returns the output. */
async function explain(resolvConf: string, name: string): Promise<string> {
  const folder = tempFolder();
  writeFileSync(join(folder, "policy.json"), manifest({}));
  writeFileSync(join(folder, "resolv.conf"), resolvConf);
  const inside = `mount --bind ${folder}/resolv.conf /etc/resolv.conf && exec "$@"`;
  const command = [OUTRIDER, "explain", "--policy", join(folder, "policy.json"), ...OPEN_LOOPBACK, "--resolve", name];
  const child = spawn("unshare", ["--mount", "sh", "-c", inside, "sh", ...command], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  const { stdout } = await finish(child);
  return stdout;
}

async function startOn(t: TestContext, host: string, address: string): Promise<void> {
  const zone = (_: string, type: string) => ({ addresses: type === "A" ? [address] : [] });
  const dns = await startDns(zone, { host, port: 53 });
  t.after(() => dns.close());
}

test("uses the first name server that answers", async (t) => {
  await startOn(t, "127.0.0.53", "127.0.0.5");
  // The first one has no listener.
  const text = "search a.test\nnameserver 127.0.0.9\nnameserver 127.0.0.53\noptions ndots:5\n";
  assert.match(await explain(text, "hooks.test:443"), / {2}address {2}127\.0\.0\.5 /);
});

test("uses this machine without a name server", async (t) => {
  await startOn(t, "127.0.0.1", "127.0.0.6");
  assert.match(await explain("options ndots:5\n", "hooks.test:443"), / {2}address {2}127\.0\.0\.6 /);
});

test("a missing name server is a failure of the name", async () => {
  const text = await explain("nameserver 127.0.0.9\n", "hooks.test:443");
  assert.match(text, /unknown[\s\S]*cannot resolve hooks\.test: no resolver answers/);
});
