import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { finish } from "../harness/finish.ts";
import { namespaceMissing } from "../harness/namespace.ts";
import { tempFolder } from "../harness/proxy.ts";
import { install, PROXIES } from "../senders/install.ts";

/** The guard of the benchmark from start to end, with tiny slices, without warm-up, and references that decide in any case. */

const missing = namespaceMissing() ?? install(PROXIES, console.error).missing;
/** Ten starts: 12 s on an idle machine. */
const LIMIT_MS = 170_000;
const main = new URL("../bench/guard.ts", import.meta.url).pathname;

/** Ends with the test. */
async function guard(t: TestContext, ...args: string[]) {
  const command = [main, "--only", "refused", "--slice-seconds", "0.1", "--warm-up", "100", ...args];
  return finish(spawn(process.execPath, command, { stdio: ["ignore", "pipe", "pipe"], signal: t.signal }));
}

/** A reference file with this ratio for refusals. */
function referenceOf(median: number): string {
  const about = { machine: "CPU", cores: 2, node: "v24", yardstick: "nginx", date: "2026-01-02", reason: "a test" };
  const file = join(tempFolder(), "reference.json");
  writeFileSync(
    file,
    JSON.stringify({ ...about, ratios: { refused: { median, low: median, high: median, rounds: 5 } } }),
  );
  return file;
}

test("the guard fails with one line if a ratio is worse than its reference", {
  skip: missing ?? false,
  timeout: LIMIT_MS,
}, async (t) => {
  const { status, stdout, stderr } = await guard(t, "--reference", referenceOf(0.01));
  assert.equal(status, 1, stderr);
  assert.match(stdout, /^WORSE +refused: [\d.]+ \[[\d.]+-[\d.]+\] after 5 rounds, reference 0\.01, at most 0\.01$/m);
  assert.match(stdout, /^reference: 2026-01-02, .*: a test$/m);
  assert.equal(stderr, "");
});

test("the guard succeeds if each ratio is within the margin", {
  skip: missing ?? false,
  timeout: LIMIT_MS,
}, async (t) => {
  const file = referenceOf(1000);
  const { status, stdout, stderr } = await guard(t, "--reference", file);
  assert.equal(status, 0, stderr);
  assert.match(stdout, /^ok +refused: .* after 5 rounds, reference 1,000, at most 1,150$/m);
  assert.equal(JSON.parse(readFileSync(file, "utf8")).reason, "a test");
});

test("the guard reports wrong input in one line and measures nothing", async (t) => {
  for (const [args, message] of [
    [["--reference", "/missing.json"], /^\/missing\.json: ENOENT/],
    [["--only", "refusals"], /^--only refusals: unknown workload; see --help\n$/],
    [["--only", "bulk-up-1", "--reference", referenceOf(1)], /: ratios\.bulk-up-1: missing\n$/],
    [["--rounds", "3"], /^--rounds 3: use 5 or more\n$/],
    [["--update", "a reason"], /^--update needs a reason, and measures all workloads: leave out --only\n$/],
  ] as const) {
    const { status, stdout, stderr } = await guard(t, ...args);
    assert.equal(status, 2);
    assert.match(stderr, message);
    assert.equal(stdout, "");
  }
});

test("the committed reference has every workload that the guard measures", async (t) => {
  const { status, stdout } = await guard(t, "--help");
  assert.equal(status, 0);
  const workloads = /^Workloads \(default (.*)\):$/m.exec(stdout)![1]!.split(" ");
  const text = readFileSync(new URL("../bench/reference.json", import.meta.url), "utf8");
  assert.deepEqual(Object.keys(JSON.parse(text).ratios), workloads);
});
