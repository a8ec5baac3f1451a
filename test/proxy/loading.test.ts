import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { test } from "node:test";
import { finish } from "../harness/finish.ts";
import { manifest, OUTRIDER, tempFolder } from "../harness/proxy.ts";

/** The sources that each command loads: the code of other commands would only take time and memory. */

const ROOT = new URL("../..", import.meta.url).pathname;
const folder = tempFolder();
const policy = join(folder, "policy.json");
writeFileSync(policy, manifest({ defaultAction: "Allow" }));
const list = join(folder, "loaded");
const recorder = join(folder, "recorder.mjs");
writeFileSync(
  recorder,
  `import { appendFileSync } from "node:fs";
import { registerHooks } from "node:module";
registerHooks({ load(url, context, next) { appendFileSync(${JSON.stringify(list)}, url + "\\n"); return next(url, context); } });`,
);

/** Sources of the proxy that a command has loaded when it ends. */
async function loadedBy(...args: string[]): Promise<string[]> {
  writeFileSync(list, "");
  const env = { ...process.env, NODE_OPTIONS: `--import ${recorder}` };
  const { status, stderr } = await finish(spawn(OUTRIDER, args, { env, stdio: ["ignore", "pipe", "pipe"] }));
  assert.equal(status, 0, stderr);
  const urls = readFileSync(list, "utf8").split("\n");
  return urls.filter((url) => url.startsWith("file:")).map((url) => relative(ROOT, new URL(url).pathname));
}

/** Sources of one command only. */
const OWN: Readonly<Record<string, RegExp>> = {
  proxy: /^proxy\/(run|admin|metrics)\.ts$|^proxy\/connections\/server\.ts$/,
  diff: /^proxy\/(tools\/diff\.ts|policy\/diff\/)/,
  import: /^proxy\/tools\/import\.ts$/,
  check: /^proxy\/tools\/check\.ts$/,
};

for (const [own, args] of [
  ["proxy", ["proxy", "--help"]],
  ["diff", ["diff", policy, policy]],
  ["import", ["import", join(ROOT, "examples/acl.yaml")]],
  ["check", ["check", "--policy", policy]],
  ["--version", ["--version"]],
] as const) {
  test(`${own} loads no sources of other commands`, async () => {
    const files = await loadedBy(...args);
    assert.ok(files.includes("proxy/main.ts"));
    for (const [command, pattern] of Object.entries(OWN)) {
      const found = files.filter((file) => pattern.test(file));
      if (command === own) assert.notEqual(found.length, 0, command);
      else assert.deepEqual(found, [], command);
    }
  });
}
