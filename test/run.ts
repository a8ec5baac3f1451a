import { once } from "node:events";
import { globSync } from "node:fs";
import { relative, resolve } from "node:path";
import { run } from "node:test";
import { toolsToGet } from "./cluster/needs.ts";
import { getTools, NO_BUILD } from "./cluster/tools.ts";

/**
 * Gets the programs that the test files need, runs the files, prints failures as they come, and closes with the skips and
 * their reasons. Files run one after the other, but those of real nodes beside all others: they are in network namespaces
 * of their own, and wait for the most part.
 */

const FILE_TIMEOUT_MS = 20 * 60 * 1000;
const root = new URL("..", import.meta.url).pathname;
const files = process.argv.length > 2 ? process.argv.slice(2) : globSync("test/**/*.test.ts", { cwd: root }).sort();

const counts = { passed: 0, failed: 0 };
const skips: string[] = [];
const execArgv = ["--import", new URL("flush.ts", import.meta.url).href];
const isOnNodes = (file: string) => relative(root, resolve(file)).startsWith("test/e2e/");
const groups = [files.filter(isOnNodes), files.filter((file) => !isOnNodes(file))].filter((group) => group.length > 0);
const where = (file: string | undefined) => relative(root, file ?? "");

function start(group: string[]): Promise<unknown> {
  const options = { cwd: root, concurrency: 1, timeout: FILE_TIMEOUT_MS, forceExit: true, execArgv };
  const stream = run({ files: group, ...options });
  stream.on("test:pass", (event) => {
    if (event.details.type === "suite") return;
    if (event.skip !== undefined && event.skip !== false) {
      skips.push(`${where(event.file)}: ${event.name}: ${event.skip === true ? "no reason given" : event.skip}`);
      return;
    }
    counts.passed++;
    console.log(`ok   ${where(event.file)}: ${event.name} (${Math.round(event.details.duration_ms)} ms)`);
  });
  stream.on("test:fail", (event) => {
    if (event.details.type === "suite" && event.details.error.message.includes("subtest")) return;
    counts.failed++;
    const cause = event.details.error.cause ?? event.details.error;
    console.log(`FAIL ${where(event.file)}: ${event.name}`);
    console.log(cause instanceof Error ? (cause.stack ?? cause.message) : String(cause));
  });
  stream.on("test:stderr", (event) => process.stdout.write(event.message));
  stream.resume();
  return once(stream, "end");
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
console.log(`\n${counts.passed} passed, ${counts.failed} failed, ${skips.length} skipped`);
process.exitCode = counts.failed > 0 || counts.passed === 0 ? 1 : 0;
