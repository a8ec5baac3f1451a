import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { opensslMissing } from "../harness/certificate.ts";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";
import { permissionOptions } from "../harness/permissions.ts";
import { manifest, runOutrider, startProxy, tempFolder } from "../harness/proxy.ts";

/** Node's permission model with the options of docs/proxy.md. */

const ROOT = new URL("../..", import.meta.url).pathname;

/** Prints the code of the error of each attempt. */
const ATTEMPTS = `
const { readFileSync, writeFileSync } = require("node:fs");
const attempts = {
  passwd: () => readFileSync("/etc/passwd"),
  environment: () => readFileSync("/proc/self/environ"),
  root: () => readFileSync("/proc/self/root/etc/passwd"),
  write: () => writeFileSync(process.argv[1] + "new", ""),
  program: () => require("node:child_process").spawnSync("/bin/true"),
  thread: () => new (require("node:worker_threads").Worker)("", { eval: true }),
  policy: () => readFileSync(process.argv[1] + "policy.yaml"),
};
const outcome = (attempt) => {
  try {
    attempt();
    return "allowed";
  } catch (error) {
    return error.code;
  }
};
console.log(JSON.stringify(Object.fromEntries(Object.entries(attempts).map(([name, one]) => [name, outcome(one)]))));
`;

test("the documented options allow the files of the proxy, and nothing else", () => {
  const files = join(tempFolder(), "/");
  writeFileSync(join(files, "policy.yaml"), "");
  const env = { ...process.env, NODE_OPTIONS: permissionOptions(ROOT, files) };
  const outcomes = JSON.parse(execFileSync(process.execPath, ["-e", ATTEMPTS, files], { env, encoding: "utf8" }));
  const denied = "ERR_ACCESS_DENIED";
  assert.deepEqual(outcomes, {
    ...{ passwd: denied, environment: denied, root: denied, write: denied, program: denied, thread: denied },
    policy: "allowed",
  });
});

test("an option with a file that is not allowed is a wrong usage", async () => {
  const files = join(tempFolder(), "/");
  mkdirSync(join(files, "allowed"));
  const policy = join(files, "policy.yaml");
  writeFileSync(policy, manifest({}));
  const env = { NODE_OPTIONS: permissionOptions(ROOT, join(files, "allowed/")) };
  const { status, stderr } = await runOutrider(["proxy", "--policy", policy], env);
  assert.equal(status, 2);
  assert.match(
    stderr,
    /^outrider: --policy \S+: Access to this API has been restricted\. Use --allow-fs-read [^\n]*\n$/,
  );
});

test("with permissions, a long policy is loaded without a thread", async () => {
  const files = join(tempFolder(), "/");
  const policyFile = join(files, "acl.yaml");
  const hosts = Array.from({ length: 3000 }, (_, i) => `- h${i}.example.org`).join("\n");
  writeFileSync(policyFile, `global_allow_list:\n${hosts}\n`);
  const proxy = await startProxy({ policyFile, env: { NODE_OPTIONS: permissionOptions(ROOT, files) } });
  assert.match(proxy.stderr(), /"policy":"acl\.yaml".*"msg":"policy loaded"/);
  assert.equal(await proxy.stop(), 0);
});

test(
  "with permissions, the proxy reloads its files and reads the tables of the kernel",
  {
    skip: namespaceMissing() ?? opensslMissing() ?? false,
  },
  () => runInNamespace(new URL("permission.inside.ts", import.meta.url)),
);
