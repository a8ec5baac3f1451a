import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { type TestContext, test } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import { getHeapStatistics } from "node:v8";
import { returnMemoryWhenIdle } from "../../proxy/cli/garbage.ts";
import { manifest, tempFolder } from "../harness/proxy.ts";

const ROOT = new URL("../..", import.meta.url);
const fileOf = (path: string): string => new URL(path, ROOT).pathname;
const LIMIT_MS = 60_000;

/** Runs Node.js until V8 looks whether the process is idle, ends it, and returns what V8 reported of this. */
async function idleReport(t: TestContext, args: readonly string[]): Promise<string[]> {
  const flags = ["--gc-memory-reducer-start-delay-ms=20", "--trace-memory-reducer"];
  const child = spawn(process.execPath, ["--disable-warning=ExperimentalWarning", ...flags, ...args], {
    env: { ...process.env, OUTRIDER_DRAIN_DELAY_SECONDS: "0", OUTRIDER_DRAIN_SECONDS: "0" },
    stdio: ["ignore", "pipe", "pipe"],
  });
  t.after(() => child.kill("SIGKILL"));
  const stderr = text(child.stderr);
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => {
    output += chunk;
    if (output.includes("Memory reducer:")) child.kill("SIGTERM");
  });
  const signal = AbortSignal.timeout(LIMIT_MS);
  await once(child, "close", { signal });
  const lines = output.split("\n").filter((line) => line.includes("Memory reducer:"));
  assert.ok(lines.length > 0, await stderr);
  return lines;
}

const plansCollection = (line: string) => /waiting for|started GC/.test(line);

test("an idle proxy does not drop its compiled code", async (t) => {
  const garbage = JSON.stringify(fileOf("proxy/cli/garbage.ts"));
  const script = `import { collectGarbage } from ${garbage}; collectGarbage(); setInterval(() => {}, 1000);`;
  const plain = await idleReport(t, ["--input-type=module", "--eval", script]);
  assert.ok(plain.some(plansCollection), plain.join("\n"));
  const policy = join(tempFolder(), "policy.yaml");
  writeFileSync(policy, manifest({}));
  const ports = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
  const proxy = await idleReport(t, [fileOf("proxy/main.ts"), "proxy", "--policy", policy, ...ports]);
  assert.deepEqual(proxy.filter(plansCollection), []);
});

const MIB = 1024 * 1024;
const heapMiB = () => getHeapStatistics().total_physical_size / MIB;

/** Leaves garbage of more than 100 MiB in the old generation. */
function leaveGarbage(): void {
  const kept: object[][] = [];
  for (let i = 0; i < 100; i++) kept.push(Array.from({ length: 20_000 }, (_, n) => ({ n, i })));
}

test("memory of a peak is returned after five checks without a connection, once", async (t) => {
  let checks = 0;
  let connections = 0;
  const atCheck: number[] = [];
  const stop = returnMemoryWhenIdle(() => {
    checks++;
    atCheck.push(heapMiB());
    return connections;
  }, 20);
  t.after(stop);
  const until = async (count: number) => {
    while (checks < count) await wait(5);
  };
  connections = 1;
  leaveGarbage();
  await until(10);
  assert.ok(Math.min(...atCheck) > 60, `${atCheck}`);
  connections = 0;
  const first = checks;
  await until(first + 6);
  assert.ok(atCheck[first + 4]! > 60, `${atCheck}`);
  assert.ok(heapMiB() < 60, `${heapMiB()} MiB`);
  leaveGarbage();
  const again = heapMiB();
  await until(checks + 10);
  assert.ok(heapMiB() > 60 && again > 60, `${again} MiB, then ${heapMiB()} MiB`);
});
