import { once } from "node:events";
import { globSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { relative, resolve } from "node:path";
import { run } from "node:test";
import { parseArgs } from "node:util";
import { toolsToGet } from "./cluster/needs.ts";
import { getTools, NO_BUILD } from "./cluster/tools.ts";
import { TIERS, type Tier, tierNamed, tierOf } from "./tiers.ts";

/**
 * Gets the programs that the test files need, runs the files, prints failures as they come, and ends with the skipped
 * tests and their reasons, and with what ran of each tier. Files of the tiers `control plane` and `node` run one after
 * the other. Those of real nodes run beside the others: they have their own network namespaces, and wait most of the time.
 *
 * Usage: node test/run.ts [--tier quick|control-plane|node] [FILE…]
 */

/** Limit of a test without a `timeout` of its own, and of a hook. A test that hangs fails by its name. */
const TEST_TIMEOUT_MS = 60 * 1000;
/** Limit of a file, also for code that blocks its process. */
const FILE_TIMEOUT_MS = 20 * 60 * 1000;
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
const named = positionals.length > 0 ? positionals : globSync("test/**/*.test.ts", { cwd: root }).sort();
const files = named.map(where).filter((file) => wanted.length === 0 || wanted.includes(tierOfFile(file)));

const counts = { passed: 0, failed: 0 };
const byTier = new Map(TIERS.map((tier) => [tier, { passed: 0, failed: 0, skipped: 0 }]));
const skips: string[] = [];
const execArgv = ["--import", new URL("flush.ts", import.meta.url).href, `--test-timeout=${TEST_TIMEOUT_MS}`];
const isOnNodes = (file: string) => tierOfFile(file) === "node";
const groups = [files.filter(isOnNodes), files.filter((file) => !isOnNodes(file))].filter((group) => group.length > 0);
/** Files of `quick` share no ports and no programs. */
const concurrency = wanted.length === 1 && wanted[0] === "quick" ? availableParallelism() : 1;

function start(group: string[]): Promise<unknown> {
  const stream = run({
    files: group.map((file) => resolve(root, file)),
    ...{ cwd: root, concurrency, timeout: FILE_TIMEOUT_MS, forceExit: true, execArgv },
  });
  stream.on("test:pass", (event) => {
    if (event.details.type === "suite") return;
    const tier = byTier.get(tierOfFile(event.file))!;
    if (event.skip !== undefined && event.skip !== false) {
      tier.skipped++;
      skips.push(`${where(event.file)}: ${event.name}: ${event.skip === true ? "no reason given" : event.skip}`);
      return;
    }
    counts.passed++;
    tier.passed++;
    console.log(`ok   ${where(event.file)}: ${event.name} (${Math.round(event.details.duration_ms)} ms)`);
  });
  stream.on("test:fail", (event) => {
    if (event.details.type === "suite" && event.details.error.message.includes("subtest")) return;
    counts.failed++;
    byTier.get(tierOfFile(event.file))!.failed++;
    const cause = event.details.error.cause ?? event.details.error;
    console.log(`FAIL ${where(event.file)}: ${event.name}`);
    console.log(cause instanceof Error ? (cause.stack ?? cause.message) : String(cause));
  });
  stream.on("test:stderr", (event) => process.stdout.write(event.message));
  stream.resume();
  return once(stream, "end");
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

const notBuilt: string[] = [];
await getTools(toolsToGet(files.map((file) => resolve(root, file))), console.log, (tool, error) => {
  console.log(error.message);
  notBuilt.push(tool.name);
});
// Tests that need them fail with this line instead of building again; others run.
if (notBuilt.length > 0) process.env[NO_BUILD] = `builds at the start of this run failed: ${notBuilt.join(", ")}`;
await Promise.all(groups.map(start));
if (skips.length > 0) console.log(`\nskipped:\n${skips.map((skip) => `  ${skip}`).join("\n")}`);
if (counts.passed === 0) console.log("no test ran");
printTiers();
console.log(`\n${counts.passed} passed, ${counts.failed} failed, ${skips.length} skipped`);
process.exitCode = counts.failed > 0 || counts.passed === 0 ? 1 : 0;
