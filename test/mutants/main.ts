import { dirname } from "node:path";
import { parseArgs } from "node:util";
import { HAND_MADE, testByHand } from "./by-hand.ts";
import { MODULES, type Module, REQUIRED } from "./modules.ts";
import { installStryker, mutate, type Result } from "./stryker.ts";

/** `make mutants`: see {@link HELP}. Exit status 0: every score is reached. 1: not, or a run failed. 2: wrong usage. */

const HELP = `Usage: make mutants [ARGS="options"]

Changes the sources in many small ways (mutants) and checks that the tests detect each change. Stryker mutates the pure
modules (test/mutants/modules.ts), one after the other: up to a few minutes each, 15 at most. Then this command applies
the hand-made mutants of modules that run as a program (test/mutants/by-hand.ts), 3 minutes at most for each test. The
sources of this folder are never changed. docs/testing.md lists the survivors that change nothing.

  --only TEXT    only sources whose path contains TEXT; repeatable
  --list         print the modules and the number of hand-made mutants
  --help         print this
`;

/** Detected mutants in percent; a module without mutants has nothing to detect. */
function scoreOf({ killed, timedOut, survivors }: Result): number {
  const all = killed + timedOut + survivors.length;
  return all === 0 ? 100 : (100 * (killed + timedOut)) / all;
}

const sum = (results: readonly Result[]): Result => ({
  killed: results.reduce((count, one) => count + one.killed, 0),
  timedOut: results.reduce((count, one) => count + one.timedOut, 0),
  survivors: results.flatMap((one) => one.survivors),
});

function row(name: string, result: Result, end = ""): string {
  const counts = [result.killed, result.timedOut, result.survivors.length].map((count) => String(count).padStart(9));
  return `${name.padEnd(48)}${counts.join("")}${scoreOf(result).toFixed(1).padStart(8)}${end}`;
}

/** Prints the table. Returns whether every folder has its score. */
function report(results: ReadonlyMap<Module, Result>): boolean {
  let passed = true;
  console.log(`\n${"module".padEnd(48)}   killed  timeout survived   score`);
  for (const [folder, required] of Object.entries(REQUIRED)) {
    const inside = [...results].filter(([{ source }]) => dirname(source) === folder);
    if (inside.length === 0) continue;
    for (const [{ source }, result] of inside) console.log(row(source, result));
    const whole = sum(inside.map(([, result]) => result));
    const reached = scoreOf(whole) >= required;
    passed &&= reached;
    console.log(row(folder, whole, `  ${reached ? "ok" : "below"}, required: ${required}`));
  }
  return passed;
}

async function main(): Promise<number> {
  let only: string[];
  try {
    const { values } = parseArgs({
      options: {
        only: { type: "string", multiple: true, default: [] },
        list: { type: "boolean" },
        help: { type: "boolean" },
      },
    });
    if (values.help) {
      console.log(HELP);
      return 0;
    }
    if (values.list) {
      console.log(`${MODULES.map(({ source }) => source).join("\n")}\n${HAND_MADE.length} hand-made mutants`);
      return 0;
    }
    only = values.only;
  } catch (error) {
    console.error(`mutants: ${(error as Error).message}; see --help`);
    return 2;
  }
  const isWanted = ({ source }: { source: string }) => only.length === 0 || only.some((text) => source.includes(text));
  const modules = MODULES.filter(isWanted);
  const byHand = HAND_MADE.filter(isWanted);
  if (modules.length + byHand.length === 0) {
    console.error(`mutants: --only ${only.join(", ")}: no such module; see --list`);
    return 2;
  }
  let passed = true;
  const start = performance.now();
  const results = new Map<Module, Result>();
  if (modules.length > 0) await installStryker();
  for (const [i, module] of modules.entries()) {
    const minutes = Math.floor((performance.now() - start) / 60_000);
    console.log(`\n${i + 1}/${modules.length} ${module.source}, after ${minutes} min`);
    try {
      const result = await mutate(module);
      results.set(module, result);
      for (const { place, mutation } of result.survivors) console.log(`  survived: ${place}: ${mutation}`);
      console.log(row(module.source, result));
    } catch (error) {
      console.error((error as Error).message);
      passed = false;
    }
  }
  if (byHand.length > 0) passed = (await testByHand(byHand)) && passed;
  return report(results) && passed ? 0 : 1;
}

// Stryker ends with this process.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => process.exit(1));
process.exit(await main());
