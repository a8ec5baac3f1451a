import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { finish } from "../harness/finish.ts";

/** The runner of the tests, with files of its own. */

const folder = mkdtempSync(join(tmpdir(), "outrider-runner-"));
after(() => rmSync(folder, { recursive: true }));

function file(name: string, body: string): string {
  const path = join(folder, `${name}.test.ts`);
  writeFileSync(path, `import { test } from "node:test";\n${body}\n`);
  return path;
}

function run(...files: string[]) {
  const runner = new URL("../run.ts", import.meta.url).pathname;
  const env = { ...process.env, NODE_TEST_CONTEXT: undefined };
  return finish(spawn(process.execPath, [runner, ...files], { env, stdio: ["ignore", "pipe", "pipe"] }));
}

test("prints the results of each file together, then skips with reasons and counts", async () => {
  const slow = 'import { setTimeout } from "node:timers/promises";\n';
  const one = file("one", `${slow}for (let i = 0; i < 5; i++) test("one " + i, () => setTimeout(50));`);
  const two = file("two", `${slow}for (let i = 0; i < 5; i++) test("two " + i, () => setTimeout(50));`);
  const skips = file("skips", 'test("absent", { skip: "needs a moon" }, () => {});');
  const { status, stdout } = await run(one, two, skips);
  assert.equal(status, 0, stdout);
  const order = [...stdout.matchAll(/^ok +\S+: (one|two) \d/gm)].map(([, name]) => name);
  assert.deepEqual(order.toSorted(), [...Array<string>(5).fill("one"), ...Array<string>(5).fill("two")]);
  assert.equal(new Set(order.slice(0, 5)).size, 1, order.join(" "));
  assert.match(stdout, /^skipped:\n +\S+skips\.test\.ts: absent: needs a moon$/m);
  assert.match(stdout, /^10 passed, 0 failed, 1 skipped$/m);
});

test("fails for a failed test, and for a file that reports no test", async () => {
  const passes = file("passes", 'test("works", () => {});');
  const fails = file("fails", 'test("breaks", () => { throw new Error("on purpose"); });');
  const empty = file("empty", "void test;");
  const { status, stdout } = await run(passes, fails, empty);
  assert.equal(status, 1);
  assert.match(stdout, /^FAIL \S+fails\.test\.ts: breaks\nError: on purpose$/m);
  assert.match(stdout, /^FAIL \S+empty\.test\.ts: it reported no test$/m);
  assert.match(stdout, /^1 passed, 2 failed, 0 skipped$/m);
});

test("loses no report of a file that ends with many", async () => {
  const count = 1000;
  const many = `for (let i = 0; i < ${count}; i++) test(i + "x".repeat(1000), () => {});`;
  // The open listener keeps the process until the runner ends it.
  const { stdout } = await run(
    file("many", `import { createServer } from "node:net";\ncreateServer().listen(0);\n${many}`),
  );
  assert.match(stdout, new RegExp(`^${count} passed, 0 failed, 0 skipped$`, "m"));
});
