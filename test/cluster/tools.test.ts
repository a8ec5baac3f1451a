import assert from "node:assert/strict";
import { chmodSync, existsSync, mkdirSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterEach, test } from "node:test";
import { tempFolder } from "../harness/proxy.ts";
import {
  absentTools,
  cachedPath,
  findTool,
  getTools,
  hasGo,
  NO_BUILD,
  presentTool,
  TOOLS,
  toolNamed,
  toolsMissing,
  toolVersion,
} from "./tools.ts";
import { buildTool } from "./tools-build.ts";

/** Sources of the programs of a test cluster. */

const ENV = { ...process.env };
afterEach(() => {
  for (const name of ["KUBEBUILDER_ASSETS", "XDG_CACHE_HOME", "PATH", NO_BUILD]) {
    if (ENV[name] === undefined) delete process.env[name];
    else process.env[name] = ENV[name];
  }
});

function program(folder: string, name: string): string {
  const file = join(folder, name);
  mkdirSync(folder, { recursive: true });
  writeFileSync(file, "#!/bin/sh\n");
  chmodSync(file, 0o755);
  return file;
}

test("a version is pinned by go.mod, or a hash of our sources", () => {
  for (const tool of TOOLS) {
    assert.match(toolVersion(tool), tool.own ? /^source-[0-9a-f]{12}$/ : /^v\d+\.\d+\.\d+$/, tool.name);
  }
  assert.throws(() => toolNamed("kubeadm"), /no tool is called kubeadm: sender, etcd, /);
});

test("KUBEBUILDER_ASSETS overrides the cache for executable files", async () => {
  process.env.XDG_CACHE_HOME = tempFolder();
  process.env.KUBEBUILDER_ASSETS = tempFolder();
  assert.equal(presentTool("etcd"), null);
  const cached = program(dirname(cachedPath(toolNamed("etcd"))), "etcd");
  writeFileSync(join(process.env.KUBEBUILDER_ASSETS, "etcd"), "");
  assert.equal(await findTool("etcd"), cached);
  assert.equal(await findTool("etcd"), cachedPath(toolNamed("etcd")));
  const given = program(process.env.KUBEBUILDER_ASSETS, "etcd");
  assert.equal(await findTool("etcd"), given);
});

test("without Go it downloads nothing without a digest", async () => {
  process.env.XDG_CACHE_HOME = tempFolder();
  process.env.PATH = tempFolder();
  delete process.env.KUBEBUILDER_ASSETS;
  delete process.env[NO_BUILD];
  assert.equal(
    toolsMissing(["kwok", "etcd"]),
    "needs Go >= 1.26 (https://go.dev/dl), or KUBEBUILDER_ASSETS with etcd, kwok",
  );
  assert.match(toolsMissing(["etcd", "sender"])!, /^needs Go >= 1\.26 \S+ to build a sender like Convoy's$/);
  await assert.rejects(findTool("etcd"), /install Go >= 1\.26, or set KUBEBUILDER_ASSETS .* OUTRIDER_ENVTEST_SHA512 /);
  await assert.rejects(
    findTool("kwok"),
    /KUBEBUILDER_ASSETS to a folder that has it \(envtest's archive does not have it\)/,
  );
});

test("ignores KUBEBUILDER_ASSETS for programs of this repository", () => {
  process.env.XDG_CACHE_HOME = tempFolder();
  process.env.KUBEBUILDER_ASSETS = tempFolder();
  program(process.env.KUBEBUILDER_ASSETS, "sender");
  assert.equal(presentTool("sender"), null);
  assert.deepEqual(
    absentTools(["etcd", "sender"]).map(({ name }) => name),
    ["sender", "etcd"],
  );
});

test("without builds, a missing program is one line with reason and fix", async () => {
  process.env.XDG_CACHE_HOME = tempFolder();
  delete process.env.KUBEBUILDER_ASSETS;
  process.env[NO_BUILD] = "there is no route";
  const said: string[] = [];
  const line = /^etcd v\S+ is missing and is not built now: there is no route\. Fix: run `make tools`$/;
  await assert.rejects(
    findTool("etcd", (text) => void said.push(text)),
    (error: Error) => line.test(error.message),
  );
  await assert.rejects(
    getTools(["etcd"], (text) => void said.push(text)),
    (error: Error) => line.test(error.message),
  );
  assert.deepEqual(said, []);
});

test("a failed build does not stop the next ones", async () => {
  process.env.XDG_CACHE_HOME = tempFolder();
  process.env.PATH = tempFolder();
  delete process.env.KUBEBUILDER_ASSETS;
  delete process.env[NO_BUILD];
  program(dirname(cachedPath(toolNamed("kubectl"))), "kubectl");
  const [said, failed]: [string[], string[]] = [[], []];
  await getTools(
    ["kwok", "kubectl", "etcd"],
    (text) => void said.push(text),
    ({ name }) => void failed.push(name),
  );
  assert.deepEqual(said, ["missing programs of the test cluster: etcd, kwok"]);
  assert.deepEqual(failed, ["etcd", "kwok"]);
  await assert.rejects(
    getTools(["kwok"], () => undefined),
    /^Error: kwok v\S+ is missing: install Go >= 1\.26/,
  );
});

const skip = hasGo() ? false : "needs Go";

test("two processes build the same tool once", { skip }, async () => {
  const module = tempFolder();
  writeFileSync(join(module, "go.mod"), "module example.test/tool\n\ngo 1.26\n");
  writeFileSync(join(module, "main.go"), "package main\n\nfunc main() {}\n");
  const tool = {
    name: "tool",
    module: "tool",
    path: "example.test/tool",
    package: "example.test/tool",
    purpose: "test",
  };
  const out = join(tempFolder(), "bin/tool");
  const said: string[] = [];
  const build = () => buildTool(tool, "v1.0.0", module, out, (line) => void said.push(line));
  await Promise.all([build(), build()]);
  assert.equal(said.filter((line) => line.includes("another process builds it")).length, 1, said.join("\n"));
  assert.ok(existsSync(out));
  const { ino } = statSync(out);
  await build();
  assert.equal(statSync(out).ino, ino);
  writeFileSync(join(module, "main.go"), "package main\n\nfunc main() { nothing }\n");
  await assert.rejects(
    buildTool(tool, "v1.0.0", module, `${out}-2`, () => undefined),
    /tool v1\.0\.0: the build failed \(exit status 1\):[\s\S]*undefined: nothing/,
  );
  assert.ok(!existsSync(`${out}-2`));
});
