import type { Finished } from "../harness/finish.ts";

/** Counts of the tests of one file. */
export interface Result {
  passed: number;
  failed: number;
  skipped: number;
}

/** The last line of the runner. */
const COUNTS = /^(\d+) passed, (\d+) failed, (\d+) skipped$/m;

/** The counts of a run of `test/run.ts`. A run that was ended by its limit, or that ran no test, is a failure. */
export function resultOf({ status, stdout }: Finished): Result {
  const [passed = 0, failed = 0, skipped = 0] = COUNTS.exec(stdout)?.slice(1).map(Number) ?? [];
  return { passed, failed: status === 0 ? failed : Math.max(failed, 1), skipped };
}

function cellOf(result: Result | undefined): string {
  if (result === undefined) return "not run";
  const { passed, failed, skipped } = result;
  return `${passed}${failed > 0 ? `, ${failed} FAILED` : ""}${skipped > 0 ? `, ${skipped} skipped` : ""}`;
}

/**
 * A Markdown table for docs/compatibility.md with a row for each file and a column for each version: the passed tests,
 * and then those that failed and were skipped.
 */
export function tableOf(files: readonly string[], results: ReadonlyMap<string, ReadonlyMap<string, Result>>): string {
  const columns = [...results.values()];
  const rows = files.map(
    (file) => `| \`${file}\` | ${columns.map((column) => cellOf(column.get(file))).join(" | ")} |`,
  );
  return [`| file | ${[...results.keys()].join(" | ")} |`, `|---|${"---|".repeat(results.size)}`, ...rows].join("\n");
}
