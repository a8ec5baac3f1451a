import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { globSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { findTool, toolsMissing } from "../cluster/tools.ts";
import { tempFolder } from "../harness/proxy.ts";

/** The workflows by actionlint: syntax, expressions, inputs of actions, outputs of jobs. test/rules/github.test.ts checks rights. */

const ROOT = new URL("../..", import.meta.url).pathname;
const skip = toolsMissing(["actionlint"]) ?? false;

/** Findings in files, one line each; empty: none. shellcheck and pyflakes of this machine do not count. */
async function findings(files: readonly string[]): Promise<string> {
  const args = ["-shellcheck=", "-pyflakes=", "-oneline", ...files];
  const { status, stdout, stderr } = spawnSync(await findTool("actionlint"), args, { encoding: "utf8" });
  assert.ok(status === 0 || status === 1, stderr);
  return stdout;
}

test("actionlint finds nothing in the workflows", { skip }, async () => {
  const files = globSync(".github/workflows/*.yml", { cwd: ROOT }).map((file) => join(ROOT, file));
  assert.ok(files.length >= 2);
  assert.equal(await findings(files), "");
});

test("actionlint finds an output that no step has", { skip }, async () => {
  const folder = join(tempFolder(), ".github/workflows");
  mkdirSync(folder, { recursive: true });
  const file = join(folder, "release.yml");
  const text = readFileSync(join(ROOT, ".github/workflows/release.yml"), "utf8");
  writeFileSync(file, text.replace("needs.build.outputs.checksums", "needs.build.outputs.sums"));
  assert.match(await findings([file]), /property "sums" is not defined/);
});
