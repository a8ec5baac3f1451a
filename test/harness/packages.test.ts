import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import {
  aptLine,
  CLUSTER_PROGRAMS,
  NGINX_STREAM,
  PLUGIN_PACKAGE,
  packagesMissing,
  programMissing,
  TEST_PROGRAMS,
} from "./packages.ts";
import { tempFolder } from "./proxy.ts";

/** Debian packages of the demo and the tests, and the reports without them. */

const root = new URL("../..", import.meta.url).pathname;
const read = (file: string) => readFileSync(join(root, file), "utf8");
const packagesOf = (programs: Readonly<Record<string, string>>) => [...new Set(Object.values(programs))];
/** Every Debian has it. */
const ESSENTIAL = "util-linux";

test("README.md and .ci/run list the packages that the code checks for", () => {
  const demo = [...packagesOf(CLUSTER_PROGRAMS), PLUGIN_PACKAGE].filter((name) => name !== ESSENTIAL).sort();
  const more = [...packagesOf(TEST_PROGRAMS), NGINX_STREAM.name].sort();
  const lines = [...read("README.md").matchAll(/^ +(?:sudo )?(apt-get install .*?)(?: +#.*)?$/gm)].map(
    ([, line]) => line,
  );
  assert.deepEqual(lines, [aptLine(demo), aptLine(more)]);
  const pairs = /^for pair in (.*); do$/m.exec(read(".ci/run"))![1]!.split(" ");
  const own = Object.entries({ ...CLUSTER_PROGRAMS, ...TEST_PROGRAMS }).map((pair) => pair.join(":"));
  assert.deepEqual(pairs.sort(), own.sort());
  assert.ok(read(".ci/run").includes(`missing+=(${PLUGIN_PACKAGE})`));
  assert.ok(read(".ci/run").includes(`[[ -e ${NGINX_STREAM.file} ]] || missing+=(${NGINX_STREAM.name})`));
});

test("a program is missing without an executable file in PATH", () => {
  const [folder, path] = [tempFolder(), process.env.PATH];
  try {
    process.env.PATH = folder;
    writeFileSync(join(folder, "curl"), "");
    assert.equal(programMissing("curl"), "needs curl (Debian: curl)");
    chmodSync(join(folder, "curl"), 0o755);
    assert.equal(programMissing("curl"), null);
    assert.deepEqual(packagesMissing({ ctr: "containerd", containerd: "containerd", curl: "curl" }), ["containerd"]);
  } finally {
    process.env.PATH = path;
  }
});

const noRoot = process.getuid?.() === 0 ? false : "needs root";

test("make demo lists missing packages with the install command", { skip: noRoot }, () => {
  const PATH = tempFolder();
  for (const name of ["containerd", "ctr", "ip", "nsenter", "setpriv", "unshare"]) {
    writeFileSync(join(PATH, name), "#!/bin/sh\n", { mode: 0o755 });
  }
  const { DEMO_CONTEXT: _, ...env } = process.env;
  const file = join(root, "test/cluster/demo.ts");
  const { status, stdout, stderr } = spawnSync(process.execPath, [file], { env: { ...env, PATH }, encoding: "utf8" });
  assert.equal(status, 2, stdout + stderr);
  assert.match(stdout, /^step 1 of 7, 0 s: check this machine$/m);
  assert.match(
    stderr,
    /the Debian packages (.*, )?iptables, nftables, openssl, runc: apt-get install .*iptables nftables openssl runc$/m,
  );
  assert.doesNotMatch(stderr, /containerd(,| )|iproute2/);
});
