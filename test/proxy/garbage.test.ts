import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import { getHeapStatistics } from "node:v8";
import { returnMemoryWhenIdle } from "../../proxy/cli/garbage.ts";
import { manifest, tempFolder } from "../harness/proxy.ts";

const ROOT = new URL("../..", import.meta.url);
const fileOf = (path: string): string => new URL(path, ROOT).pathname;
const LIMIT_MS = 90_000;

/** Makes a process need more memory at a SIGUSR2; V8 then looks whether the process is idle. */
const PRELOAD = `
import { collectGarbage } from ${JSON.stringify(fileOf("proxy/cli/garbage.ts"))};
const kept = [];
process.on("SIGUSR2", () => {
  kept.push(Array.from({ length: 500_000 }, (_, n) => ({ n })));
  collectGarbage();
});`;
const LISTENING = '"msg":"listening"';

/** V8 looks 8 s after the last collection; every further collection would delay this. */
const SIGNAL_MS = 20_000;

const plansCollection = (line: string) => /waiting for|started GC/.test(line);

/** Runs Node.js until V8 has reported enough of whether the process is idle, ends it, and returns this report. */
async function idleReport(t: TestContext, args: readonly string[], isEnough: (line: string) => boolean) {
  const preload = join(tempFolder(), "preload.mjs");
  writeFileSync(preload, PRELOAD);
  const flags = ["--gc-memory-reducer-start-delay-ms=20", "--trace-memory-reducer", `--import=${preload}`];
  const child = spawn(process.execPath, ["--disable-warning=ExperimentalWarning", ...flags, ...args], {
    env: { ...process.env, OUTRIDER_DRAIN_DELAY_SECONDS: "0", OUTRIDER_DRAIN_SECONDS: "0" },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let [stdout, stderr] = ["", ""];
  let signals: NodeJS.Timeout | undefined;
  t.after(() => {
    clearInterval(signals);
    child.kill("SIGKILL");
  });
  const lines = () => stdout.split("\n").filter((line) => line.includes("Memory reducer:"));
  child.stderr.on("data", (chunk: Buffer) => {
    stderr += chunk;
    if (signals !== undefined || !stderr.includes(LISTENING)) return;
    // Reports of the start do not count.
    stdout = "";
    child.kill("SIGUSR2");
    signals = setInterval(() => child.kill("SIGUSR2"), SIGNAL_MS);
  });
  child.stdout.on("data", (chunk: Buffer) => {
    stdout += chunk;
    if (signals === undefined || !lines().some(isEnough)) return;
    clearInterval(signals);
    child.kill("SIGTERM");
  });
  const signal = AbortSignal.timeout(LIMIT_MS);
  const [status] = (await once(child, "close", { signal })) as [number | null];
  assert.ok(lines().length > 0, stderr);
  return { lines: lines(), status, stderr };
}

test("an idle proxy does not drop its compiled code", async (t) => {
  const script = `console.error(${JSON.stringify(LISTENING)}); setInterval(() => {}, 1000);`;
  const policy = join(tempFolder(), "policy.yaml");
  writeFileSync(policy, manifest({}));
  const ports = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
  const [plain, proxy] = await Promise.all([
    idleReport(t, ["--eval", script], plansCollection),
    idleReport(t, [fileOf("proxy/main.ts"), "proxy", "--policy", policy, ...ports], () => true),
  ]);
  // Without the flag V8 plans a collection; with it, it looks and plans none.
  assert.ok(plain.lines.some(plansCollection));
  assert.deepEqual(proxy.lines.filter(plansCollection), []);
  assert.equal(proxy.status, 0, proxy.stderr);
});

const MIB = 1024 * 1024;
const heapMiB = () => getHeapStatistics().total_physical_size / MIB;

/** Leaves garbage of more than 100 MiB in the old generation. */
function leaveGarbage(): void {
  const kept: object[][] = [];
  for (let i = 0; i < 100; i++) kept.push(Array.from({ length: 20_000 }, (_, n) => ({ n, i })));
}

test("memory of a peak is returned after five checks without a request", async (t) => {
  let [checks, requests, busy] = [0, 0, true];
  const atCheck: number[] = [];
  const stop = returnMemoryWhenIdle(() => {
    checks++;
    atCheck.push(heapMiB());
    return busy ? requests++ : requests;
  }, 20);
  t.after(stop);
  const signal = AbortSignal.timeout(LIMIT_MS);
  const until = async (count: number) => {
    while (checks < count) await wait(5, undefined, { signal });
  };
  leaveGarbage();
  await until(10);
  assert.ok(
    atCheck.slice(1).every((mib) => mib > 60),
    `${atCheck}`,
  );
  busy = false;
  // The first check that sees no new request, and four more.
  const last = checks + 5;
  await until(last + 2);
  assert.ok(atCheck[last - 1]! > 60, `${atCheck}`);
  assert.ok(heapMiB() < 60, `${heapMiB()} MiB`);
  leaveGarbage();
  assert.ok(heapMiB() > 60, `${heapMiB()} MiB`);
  await until(checks + 3);
  assert.ok(heapMiB() < 60, `${heapMiB()} MiB: garbage of a later moment`);
});
