import assert from "node:assert/strict";
import { existsSync, globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { ALONE, LONGEST, stepsOf } from "../schedule.ts";
import type { Tier } from "../tiers.ts";

const root = new URL("../..", import.meta.url).pathname;
const isOnNodes = (file: string) => file.startsWith("test/e2e/");
const tierOf = (file: string): Tier => {
  if (file.startsWith("test/quick/")) return "quick";
  return isOnNodes(file) ? "node" : "control plane";
};
const [alone] = Object.keys(ALONE) as [string];

test("the files that a run orders exist", () => {
  for (const file of [...LONGEST, ...Object.keys(ALONE)]) assert.ok(existsSync(join(root, file)), file);
});

test("a file that builds dist/ runs alone", () => {
  const builds = globSync("test/**/*.{test,inside}.ts", { cwd: root }).filter((file) =>
    /\b(makeBundle|writeArchive)\(/.test(readFileSync(join(root, file), "utf8")),
  );
  assert.ok(builds.length > 0);
  for (const file of builds) assert.ok(file in ALONE || isOnNodes(file), file);
});

test("runs each file once, one file of real nodes at a time", () => {
  const files = ["test/a.test.ts", "test/e2e/b.test.ts", "test/c.test.ts", "test/e2e/d.test.ts", alone];
  const queues = stepsOf(files, tierOf).flat();
  assert.deepEqual(queues.flatMap((queue) => queue.files).sort(), [...files].sort());
  for (const queue of queues.filter((one) => one.files.some(isOnNodes))) {
    assert.equal(queue.workers, 1);
    assert.ok(queue.files.every(isOnNodes));
  }
});

test("runs a file that needs the machine after all others", () => {
  const steps = stepsOf([alone, "test/a.test.ts", "test/e2e/b.test.ts"], tierOf);
  assert.deepEqual(steps.at(-1), [{ files: [alone], workers: 1 }]);
  assert.equal(steps.length, 2);
});

test("starts the longest files first, and those of the quick tier last", () => {
  const others = LONGEST.filter((file) => !isOnNodes(file));
  const [queue] = stepsOf(["test/quick/b.test.ts", "test/a.test.ts", ...others.toReversed()], tierOf)[0]!;
  assert.deepEqual(queue!.files, [...others, "test/a.test.ts", "test/quick/b.test.ts"]);
});

test("makes no step without files", () => {
  assert.deepEqual(stepsOf([], tierOf), []);
  assert.deepEqual(stepsOf(["test/e2e/b.test.ts"], tierOf), [[{ files: ["test/e2e/b.test.ts"], workers: 1 }]]);
});
