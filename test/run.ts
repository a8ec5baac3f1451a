import { once } from "node:events";
import { existsSync, globSync, readFileSync } from "node:fs";
import { relative, resolve } from "node:path";
import { run } from "node:test";
import { parseArgs } from "node:util";
import { packagesToGet, toolsToGet } from "./cluster/needs.ts";
import { getTools, NO_BUILD } from "./cluster/tools.ts";
import { netnsMissing } from "./harness/netns.ts";
import { type Queue, stepsOf } from "./schedule.ts";
import { install } from "./senders/install.ts";
import { TIERS, type Tier, tierNamed, tierOf } from "./tiers.ts";

/**
 * Gets the programs that the test files need, and runs the files, several beside each other (`schedule.ts`). Prints the
 * results of each file when it ends. The summary has the slowest files, the skipped tests with their reasons, the
 * failed ones again, and what ran of each tier.
 *
 * Usage: node test/run.ts [--tier quick|control-plane|node] [FILE…]
 */

/**
 * Limit of a test without a `timeout` of its own, and of a hook. A test that hangs fails by its name. Files beside each other
 * make a test several times as long.
 */
const TEST_TIMEOUT_MS = 120 * 1000;
/** Limit of a file, also for code that blocks its process. */
const FILE_TIMEOUT_MS = 20 * 60 * 1000;
/** Files in the list of the slowest ones. */
const SLOWEST = 10;
const root = new URL("..", import.meta.url).pathname;
const { values, positionals } = parseArgs({
  options: { tier: { type: "string", multiple: true, default: [] } },
  allowPositionals: true,
});
const unknown = values.tier.find((name) => tierNamed(name) === undefined);
if (unknown !== undefined) {
  console.error(`--tier: unknown tier ${unknown}; use quick, control-plane or node`);
  process.exit(2);
}
const wanted = values.tier.map(tierNamed);

const where = (file: string | undefined) => relative(root, resolve(root, file ?? ""));
const tiers = new Map<string, Tier>();
const tierOfFile = (file: string | undefined): Tier => {
  const path = where(file);
  const tier = tiers.get(path) ?? tierOf(path, readFileSync(resolve(root, path), "utf8"));
  tiers.set(path, tier);
  return tier;
};
const missing = positionals.find((file) => !existsSync(resolve(root, where(file))));
if (missing !== undefined) {
  console.error(`${missing}: no such file`);
  process.exit(2);
}
const named = positionals.length > 0 ? positionals : globSync("test/**/*.test.ts", { cwd: root }).sort();
const files = named.map(where).filter((file) => wanted.length === 0 || wanted.includes(tierOfFile(file)));

const counts = { passed: 0, failed: 0 };
const byTier = new Map(TIERS.map((tier) => [tier, { passed: 0, failed: 0, skipped: 0 }]));
const skips: string[] = [];
/** Each failed test with its error: with files beside each other, failures are far from the end of the output. */
const failures: string[] = [];
const durations: { file: string; seconds: number }[] = [];
const execArgv = ["--import", new URL("flush.ts", import.meta.url).href, `--test-timeout=${TEST_TIMEOUT_MS}`];

/** Runs one file, and prints what it reported when it has ended: others run beside it. */
async function runFile(file: string): Promise<void> {
  const began = performance.now();
  const tier = byTier.get(tierOfFile(file))!;
  const lines: string[] = [];
  const own = { passed: 0, failed: 0, skipped: 0 };
  const fail = (text: string) => {
    own.failed++;
    const failure = `FAIL ${file}: ${text}`;
    lines.push(failure);
    failures.push(failure);
  };
  const path = resolve(root, file);
  const stream = run({
    files: [path],
    ...{ cwd: root, timeout: FILE_TIMEOUT_MS, forceExit: true, execArgv },
  });
  stream.on("test:pass", (event) => {
    // A file without tests passes as a test with its path as name.
    if (event.details.type === "suite" || event.name === path) return;
    if (event.skip !== undefined && event.skip !== false) {
      own.skipped++;
      skips.push(`${file}: ${event.name}: ${event.skip === true ? "no reason given" : event.skip}`);
      return;
    }
    own.passed++;
    lines.push(`ok   ${file}: ${event.name} (${Math.round(event.details.duration_ms)} ms)`);
  });
  stream.on("test:fail", (event) => {
    if (event.details.type === "suite" && event.details.error.message.includes("subtest")) return;
    const cause = event.details.error.cause ?? event.details.error;
    const error = cause instanceof Error ? (cause.stack ?? cause.message) : String(cause);
    fail(`${event.name}\n${error}`);
  });
  stream.on("test:stderr", (event) => lines.push(event.message.replace(/\n$/, "")));
  stream.resume();
  await once(stream, "end");
  if (own.passed + own.failed + own.skipped === 0) fail("it reported no test");
  const seconds = (performance.now() - began) / 1000;
  durations.push({ file, seconds });
  counts.passed += own.passed;
  counts.failed += own.failed;
  for (const key of ["passed", "failed", "skipped"] as const) tier[key] += own[key];
  const { passed, failed, skipped } = own;
  lines.push(
    `     ${file}: ${passed} passed, ${failed} failed, ${skipped} skipped in ${seconds.toFixed(1)} s (file ${durations.length} of ${files.length})`,
  );
  console.log(lines.join("\n"));
}

async function work({ files, workers }: Queue): Promise<void> {
  const left = [...files];
  const worker = async () => {
    for (let file = left.shift(); file !== undefined; file = left.shift()) await runFile(file);
  };
  await Promise.all(Array.from({ length: workers }, worker));
}

/** Results of each tier, and how many of its files ran. */
function printTiers(): void {
  console.log("\ntier            files  passed  failed  skipped");
  for (const [tier, { passed, failed, skipped }] of byTier) {
    const ran = files.filter((file) => tierOfFile(file) === tier).length;
    const cells = [ran, passed, failed, skipped].map((count, i) => String(count).padStart([5, 8, 8, 9][i]!));
    console.log(`${tier.padEnd(16)}${ran === 0 ? "    0  not run" : cells.join("")}`);
  }
}

// Most of the CPU time of a short command is the compilation of its sources. Commands inherit this folder.
process.env.NODE_COMPILE_CACHE ??= resolve(root, ".cache/compile");
// The first network namespace of a machine makes a folder for all. Files beside each other would both make it.
netnsMissing();

const notBuilt: string[] = [];
const paths = files.map((file) => resolve(root, file));
await getTools(toolsToGet(paths), console.log, (tool, error) => {
  console.log(error.message);
  notBuilt.push(tool.name);
});
for (const packages of packagesToGet(paths)) {
  const { missing } = install(packages, console.log);
  if (missing === undefined) continue;
  console.log(missing);
  notBuilt.push(packages.name);
}
// Tests that need them fail with this line instead of building again; others run.
if (notBuilt.length > 0) process.env[NO_BUILD] = `builds at the start of this run failed: ${notBuilt.join(", ")}`;
for (const queues of stepsOf(files, tierOfFile)) await Promise.all(queues.map(work));
const slowest = durations.sort((a, b) => b.seconds - a.seconds).slice(0, SLOWEST);
console.log(
  `\nslowest files of ${Math.round(performance.now() / 1000)} s:\n${slowest.map(({ file, seconds }) => `${seconds.toFixed(0).padStart(6)} s  ${file}`).join("\n")}`,
);
if (skips.length > 0) console.log(`\nskipped:\n${skips.map((skip) => `  ${skip}`).join("\n")}`);
if (failures.length > 0) console.log(`\nfailed:\n${failures.join("\n")}`);
if (counts.passed === 0) console.log("no test ran");
printTiers();
console.log(`\n${counts.passed} passed, ${counts.failed} failed, ${skips.length} skipped`);
process.exitCode = counts.failed > 0 || counts.passed === 0 ? 1 : 0;
