import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { startDeliveries } from "../harness/deliveries.ts";
import { OPEN_LOOPBACK, startProxy, tempFolder } from "../harness/proxy.ts";
import { listen } from "../harness/raw.ts";

const example = readFileSync(new URL("../../examples/haproxy/haproxy.cfg", import.meta.url), "utf8");
const missing = spawnSync("haproxy", ["-v"]).error !== undefined && "needs haproxy (Debian: haproxy)";

/** A free port. */
async function freePort(): Promise<number> {
  const server = await listen(() => {});
  await server.close();
  return server.port;
}

test("examples/haproxy: a rolling restart loses no delivery", { skip: missing, timeout: 180_000 }, async (t) => {
  const ports = await Promise.all(Array.from({ length: 5 }, freePort));
  const [front, ...behind] = ports as [number, number, number, number, number];
  let text = example.replace("bind :4750", `bind 127.0.0.1:${front}`);
  for (const [i, name] of ["4751", "9751", "4752", "9752"].entries()) text = text.replace(name, `${behind[i]}`);
  const file = join(tempFolder(), "haproxy.cfg");
  writeFileSync(file, text);
  const check = spawnSync("haproxy", ["-c", "-f", file], { encoding: "utf8" });
  assert.equal(check.status, 0, check.stderr);

  const start = (i: 0 | 1) =>
    startProxy({
      listen: `127.0.0.1:${behind[2 * i]}`,
      admin: `127.0.0.1:${behind[2 * i + 1]}`,
      args: OPEN_LOOPBACK,
      env: { OUTRIDER_DRAIN_DELAY_SECONDS: "3", OUTRIDER_DRAIN_SECONDS: "10" },
    });
  const fleet = [await start(0), await start(1)];
  const haproxy = spawn("haproxy", ["-db", "-f", file], { stdio: ["ignore", "inherit", "pipe"] });
  t.after(() => haproxy.kill("SIGKILL"));
  let log = "";
  haproxy.stderr.on("data", (chunk) => {
    log += chunk;
  });
  await new Promise((resolve) => setTimeout(resolve, 2500));
  assert.equal(haproxy.exitCode, null, log);
  const deliveries = await startDeliveries(front);
  for (const i of [0, 1] as const) {
    assert.equal(await fleet[i]!.stop(), 0);
    fleet[i] = await start(i);
    // Until HAProxy has detected it: one check a second.
    await new Promise((resolve) => setTimeout(resolve, 2500));
  }
  const { sent, delivered, retries } = await deliveries.stop();
  assert.ok(sent > 100, `${sent} deliveries`);
  assert.deepEqual({ delivered, retries }, { delivered: sent, retries: 0 });
  assert.match(log, /Server outrider\/one is DOWN[\s\S]*Server outrider\/two is DOWN/);
  haproxy.kill("SIGTERM");
  await once(haproxy, "close");
  for (const proxy of fleet) await proxy.stop();
});
