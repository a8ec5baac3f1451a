import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parse } from "yaml";

/** One version for package, chart, image and docs (docs/release.md). */

const root = new URL("../..", import.meta.url).pathname;
const read = (path: string) => readFileSync(join(root, path), "utf8");
const { version } = JSON.parse(read("package.json")) as { version: string };

/** A version after the name of the image, an archive of it, or the chart. */
const NAMED = /\boutrider[:-](\d+\.\d+\.\d+(?:-[\w.]+?)?)(?=\.(?:tar|tgz)\b|[\s`"'<)]|$)/gm;
const NAMING = ["*.md", "Dockerfile", "docs/**/*.md", "charts/*.md", "charts/outrider/*.md", "examples/**/*.yaml"];

test("package-lock.json, Chart.yaml and Dockerfile have the version of package.json", () => {
  const lock = JSON.parse(read("package-lock.json"));
  assert.deepEqual([lock.version, lock.packages[""].version], [version, version], "package-lock.json");
  const chart = parse(read("charts/outrider/Chart.yaml"));
  assert.deepEqual([chart.version, chart.appVersion], [version, version], "charts/outrider/Chart.yaml");
  assert.equal(/^ARG VERSION=(.*)$/m.exec(read("Dockerfile"))?.[1], version, "Dockerfile");
});

test("README, docs, chart and examples name the image with this version", () => {
  const files = globSync(NAMING, { cwd: root, exclude: ["node_modules"] });
  const named = files.flatMap((file) =>
    [...read(file).matchAll(NAMED)].map(([text, found]) => ({ file, text, found })),
  );
  for (const file of [
    "README.md",
    "Dockerfile",
    "docs/quickstart.md",
    "docs/operator.md",
    "charts/outrider/README.md",
  ]) {
    assert.ok(
      named.some((one) => one.file === file),
      `${file} names no version`,
    );
  }
  assert.deepEqual(
    named.filter(({ found }) => found !== version),
    [],
  );
});

test("the changelog has a section for unreleased changes, and release.md notes for this version", () => {
  assert.match(read("CHANGELOG.md"), /^## \[Unreleased\]$/m);
  assert.ok(
    read("docs/release.md").includes(`\n### ${version}\n`),
    `docs/release.md lacks upgrade notes of ${version}`,
  );
});

test("the search finds versions after the name of image, archive and chart", () => {
  const text =
    "outrider:0.1.0 and outrider-0.2.0.tar, outrider-0.3.0-rc.1.tgz `outrider:1.0.0-rc.2`; not outrider-proxy";
  assert.deepEqual(
    [...text.matchAll(NAMED)].map(([, found]) => found),
    ["0.1.0", "0.2.0", "0.3.0-rc.1", "1.0.0-rc.2"],
  );
});
