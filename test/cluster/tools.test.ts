import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterEach, test } from "node:test";
import { programMissing } from "../harness/packages.ts";
import { tempFolder } from "../harness/proxy.ts";
import { inTerminal } from "../harness/terminal.ts";
import {
  absentTools,
  cachedPath,
  findTool,
  getTools,
  hasGo,
  NO_BUILD,
  OLDER_MINOR,
  olderMinors,
  presentTool,
  TOOLS,
  toolNamed,
  toolsMissing,
  toolVersion,
} from "./tools.ts";
import { buildTool } from "./tools-build.ts";

/** Sources of the programs of a test cluster. */

const ENV = { ...process.env };
/** Settings of Go that a test changes. */
const GO = ["GOPROXY", "GONOSUMDB", "GOMODCACHE", "GOFLAGS"];
afterEach(() => {
  for (const name of ["KUBEBUILDER_ASSETS", "XDG_CACHE_HOME", "PATH", NO_BUILD, OLDER_MINOR, ...GO]) {
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
  assert.throws(() => toolNamed("kubeadm"), /no tool is called kubeadm: sender, read-dashboard, cilium-crd, etcd, /);
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
  assert.match(
    toolsMissing(["etcd", "sender"])!,
    /^needs Go >= 1\.26 \S+ to build sender, which sends webhooks as Convoy does$/,
  );
  await assert.rejects(findTool("etcd"), /install Go >= 1\.26, or set KUBEBUILDER_ASSETS .* OUTRIDER_ENVTEST_SHA512 /);
  await assert.rejects(
    findTool("kwok"),
    /KUBEBUILDER_ASSETS to a folder that has it \(envtest's archive does not have it\)/,
  );
});

test("an older minor changes the programs of Kubernetes only", () => {
  process.env.XDG_CACHE_HOME = tempFolder();
  process.env.KUBEBUILDER_ASSETS = tempFolder();
  program(process.env.KUBEBUILDER_ASSETS, "kube-apiserver");
  const [server, etcd] = [toolNamed("kube-apiserver"), toolNamed("etcd")];
  const etcdVersion = toolVersion(etcd);
  for (const minor of olderMinors()) {
    process.env[OLDER_MINOR] = minor;
    assert.match(toolVersion(server), new RegExp(`^v${minor.replace(".", "\\.")}\\.\\d+$`));
    assert.equal(toolVersion(etcd), etcdVersion);
    // The folder of the user has another version.
    assert.equal(presentTool("kube-apiserver"), null);
    assert.equal(presentTool("etcd"), null);
  }
  process.env[OLDER_MINOR] = "1.2";
  assert.throws(() => toolVersion(server), /^Error: KUBERNETES=1\.2 is not pinned: use 1\.33, /);
  process.env[OLDER_MINOR] = "";
  assert.equal(presentTool("kube-apiserver"), join(process.env.KUBEBUILDER_ASSETS, "kube-apiserver"));
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

test("make tools shows progress on a terminal and removes it", {
  skip: programMissing("python3") ?? false,
}, async () => {
  const program = [process.execPath, new URL("make-tools.ts", import.meta.url).pathname];
  // Without Go every build fails at once.
  const env = ["env", "PATH=/nonexistent", "KUBEBUILDER_ASSETS=", `${NO_BUILD}=`, `XDG_CACHE_HOME=${tempFolder()}`];
  const { text, lines, status } = await inTerminal([...env, ...program]);
  assert.equal(status, 1);
  assert.match(text, /\r\x1b\[Kbuild etcd \(4 of 18\), \d+ % done, about \d+ min left/);
  assert.doesNotMatch(lines.join("\n"), /% done/);
  assert.match(lines.at(-2)!, /^not available: sender, read-dashboard, cilium-crd, etcd, /);
});

const skip = hasGo() ? false : "needs Go";
const CRD = "kind: CustomResourceDefinition\n";

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
    buildSeconds: 1,
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

/** A module proxy in a folder, with `example.test/crds` v1.0.0 that has one file. Go needs no network for it. */
function moduleProxy(): string {
  const folder = tempFolder();
  const versions = join(folder, "example.test/crds/@v");
  mkdirSync(versions, { recursive: true });
  const files = { "go.mod": "module example.test/crds\n\ngo 1.26\n", "crds/gateway.yaml": CRD };
  writeFileSync(join(versions, "v1.0.0.mod"), files["go.mod"]);
  writeFileSync(join(versions, "v1.0.0.info"), '{"Version":"v1.0.0"}');
  const zip = `import json, sys, zipfile
archive = zipfile.ZipFile(sys.argv[1], "w")
for name, text in json.loads(sys.argv[2]).items(): archive.writestr("example.test/crds@v1.0.0/" + name, text)`;
  execFileSync("python3", ["-c", zip, join(versions, "v1.0.0.zip"), JSON.stringify(files)]);
  return folder;
}

test("a file of a module is copied, if the module matches go.sum", { skip }, async () => {
  process.env.GOPROXY = `file://${moduleProxy()}`;
  process.env.GONOSUMDB = "*";
  process.env.GOFLAGS = "-modcacherw";
  process.env.GOMODCACHE = tempFolder();
  const module = tempFolder();
  writeFileSync(join(module, "go.mod"), "module example.test/tool\n\ngo 1.26\n\nrequire example.test/crds v1.0.0\n");
  const path = "example.test/crds";
  const kind = { file: true as const, purpose: "test", buildSeconds: 1 };
  const crd = { name: "crd", module: "tool", path, package: "crds/gateway.yaml", ...kind };
  const out = join(tempFolder(), "bin/crd");
  const silent = () => undefined;
  await buildTool(crd, "v1.0.0", module, out, silent);
  assert.equal(readFileSync(out, "utf8"), CRD);
  await assert.rejects(
    buildTool({ ...crd, package: "crds/renamed.yaml" }, "v1.0.0", module, `${out}-2`, silent),
    /crd v1\.0\.0: the download failed \(exit status 1\):[\s\S]*crds\/renamed\.yaml/,
  );
  const sums = join(module, "go.sum");
  writeFileSync(sums, readFileSync(sums, "utf8").replace(/(v1\.0\.0 h1:)..../, "$1AAAA"));
  process.env.GOMODCACHE = tempFolder();
  await assert.rejects(buildTool(crd, "v1.0.0", module, `${out}-3`, silent), /checksum mismatch/);
  assert.ok(!existsSync(`${out}-3`));
});

test("a file needs no permission to run", () => {
  process.env.XDG_CACHE_HOME = tempFolder();
  delete process.env.KUBEBUILDER_ASSETS;
  const crd = toolNamed("cilium-crd");
  assert.equal(presentTool("cilium-crd"), null);
  mkdirSync(dirname(cachedPath(crd)), { recursive: true });
  writeFileSync(cachedPath(crd), CRD);
  assert.equal(presentTool("cilium-crd"), cachedPath(crd));
});
