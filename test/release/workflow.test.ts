import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, globSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { test } from "node:test";
import { parse } from "yaml";
import { sha256 } from "../../bin/image/oci.ts";
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

const release = () => parse(readFileSync(join(ROOT, ".github/workflows/release.yml"), "utf8"));

test("the page of a release has each file that the installation page names", () => {
  const steps: { run?: string }[] = release().jobs.build.steps;
  const run = steps.find(({ run: text }) => text?.includes("assemble.ts"))!.run!;
  const given = [...run.matchAll(/--file "?([^"\s]+)/g)].map(([, file]) =>
    basename(file!.replace(/\$\{.*?\}/, "X.Y.Z")),
  );
  const page = readFileSync(join(ROOT, "docs/install.md"), "utf8");
  const named = new Set(
    [...page.matchAll(/outrider[-_][\w.-]*X\.Y\.Z[\w.-]*(?:tgz|deb|x64)\b/g)].map(([name]) => name),
  );
  assert.equal(named.size, 3);
  // The chart has this name: npm would install it as a package.
  assert.ok(!named.has("outrider-X.Y.Z.tgz"));
  for (const name of named) assert.ok(given.includes(name), `${name} is not in ${given}`);
});

/** A replacement of gh, since the real one needs GitHub. It keeps the page in the folder `page`. */
const GH = `#!/bin/bash
set -eu
echo "$2" >> calls
case $2 in
  view) [ -d page ] || exit 1; echo "$(cat page.draft) $(ls page | wc -l)" ;;
  download) [ -f page/checksums.txt ] || exit 1; cp page/checksums.txt found.txt ;;
  create|upload)
    mkdir -p page; [ "$2" = upload ] || echo false > page.draft
    for arg in "\${@:4}"; do case $arg in release/notes.md) [ "\${last-}" = --notes-file ] || cp "$arg" page ;; release/*|signatures/*) cp "$arg" page ;; esac; last=$arg; done ;;
  edit) echo false > page.draft ;;
esac
`;

test("the job of the page completes an interrupted page, and never changes a published one", async (t) => {
  const steps: { run?: string }[] = release().jobs.page.steps;
  const script = steps.at(-1)!.run!;
  const make = (files: Record<string, string>, draft?: boolean) => {
    const folder = tempFolder();
    const write = (name: string, text: string) => {
      mkdirSync(dirname(join(folder, name)), { recursive: true });
      writeFileSync(join(folder, name), text);
    };
    write("release/chart.tgz", "chart");
    write("release/notes.md", "notes");
    write("release/checksums.txt", `${sha256("chart")}  chart.tgz\n${sha256("notes")}  notes.md\n`);
    write("signatures/checksums.txt.asc", "signature");
    write("bin/gh", GH);
    chmodSync(join(folder, "bin/gh"), 0o755);
    const checksums = readFileSync(join(folder, "release/checksums.txt"), "utf8");
    for (const [name, text] of Object.entries(files)) write(`page/${name}`, text === "same" ? checksums : text);
    if (draft !== undefined) {
      mkdirSync(join(folder, "page"), { recursive: true });
      write("page.draft", `${draft}\n`);
    }
    const env = {
      PATH: `${join(folder, "bin")}:${process.env.PATH}`,
      GITHUB_REF_NAME: "v1.0.0-rc.1",
      CHECKSUMS: sha256(checksums),
    };
    const { status, stdout } = spawnSync("bash", ["-e", "-c", script], { cwd: folder, env, encoding: "utf8" });
    const calls = readFileSync(join(folder, "calls"), "utf8").trim().split("\n");
    const isDraft = readFileSync(join(folder, "page.draft"), "utf8").trim() === "true";
    return { status, stdout, calls: calls.join(" "), page: readdirSync(join(folder, "page")).length, isDraft };
  };
  const complete = { "chart.tgz": "chart", "notes.md": "notes", "checksums.txt": "same", "checksums.txt.asc": "s" };
  await t.test("creates the page", () => {
    const done = { status: 0, stdout: "release/checksums.txt: OK\n", page: 4, isDraft: false };
    assert.deepEqual(make({}), { ...done, calls: "view create" });
  });
  await t.test("does nothing for a complete page", () => {
    const { status, calls } = make(complete, false);
    assert.deepEqual([status, calls], [0, "view download"]);
  });
  await t.test("completes a draft of an interrupted run, also of another build", () => {
    const { status, calls, page, isDraft } = make({ "checksums.txt": "other" }, true);
    assert.deepEqual([status, calls, page, isDraft], [0, "view upload edit", 4, false]);
  });
  await t.test("adds the files to a page without files, which was created with the tag", () => {
    const { status, calls, page } = make({}, false);
    assert.deepEqual([status, calls, page], [0, "view download upload edit", 4]);
  });
  await t.test("completes a published page that lacks a file", () => {
    const { status, calls, page } = make({ "checksums.txt": "same" }, false);
    assert.deepEqual([status, calls, page], [0, "view download upload edit", 4]);
  });
  await t.test("fails for a published page with other files", () => {
    const { status, stdout, calls } = make({ ...complete, "checksums.txt": "other" }, false);
    assert.deepEqual([status, calls], [1, "view download"]);
    assert.match(stdout, /^::error::the page has other files .*; release a new version$/m);
  });
});
