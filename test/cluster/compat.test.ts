import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { resultOf, tableOf } from "./compat-result.ts";
import { olderMinors } from "./tools.ts";

/** Results and options of `make compat`. */

const run = (status: number | null, stdout: string) => resultOf({ status, stdout, stderr: "" });

test("counts the tests of a run", () => {
  assert.deepEqual(run(0, "ok   a\n\n12 passed, 0 failed, 3 skipped\n"), { passed: 12, failed: 0, skipped: 3 });
  assert.deepEqual(run(1, "FAIL a\n\n12 passed, 2 failed, 0 skipped\n"), { passed: 12, failed: 2, skipped: 0 });
});

test("a run without an end, or without a test, is a failure", () => {
  assert.deepEqual(run(124, "ok   a\n"), { passed: 0, failed: 1, skipped: 0 });
  assert.deepEqual(run(1, "no test ran\n\n0 passed, 0 failed, 4 skipped\n"), { passed: 0, failed: 1, skipped: 4 });
});

test("the table shows what failed, was skipped, and did not run", () => {
  const results = new Map([
    ["v1.33.1", new Map([["a.test.ts", { passed: 3, failed: 0, skipped: 0 }]])],
    ["v1.34.1", new Map([["a.test.ts", { passed: 1, failed: 2, skipped: 1 }]])],
  ]);
  assert.equal(
    tableOf(["a.test.ts", "b.test.ts"], results),
    `| file | v1.33.1 | v1.34.1 |
|---|---|---|
| \`a.test.ts\` | 3 | 1, 2 FAILED, 1 skipped |
| \`b.test.ts\` | not run | not run |`,
  );
});

const program = new URL("compat.ts", import.meta.url).pathname;

test("rejects a minor that is not pinned, and lists those that are", () => {
  const { status, stderr } = spawnSync(process.execPath, [program, "--only=1.2"], { encoding: "utf8" });
  assert.equal(status, 2);
  assert.ok(stderr.startsWith(`compat: --only must be one of ${olderMinors().join(", ")};`), stderr);
});
