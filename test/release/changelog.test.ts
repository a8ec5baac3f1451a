import assert from "node:assert/strict";
import { test } from "node:test";
import { absoluteLinks, changesOf, sectionOf, upgradeNotesOf } from "../../bin/release/changelog.ts";
import { releaseOf, type Sources } from "../../bin/release/check.ts";
import { combined } from "../../bin/release/image-index.ts";
import { targetOf } from "../../bin/release/target.ts";

/** The pure part of a release: versions, sections of the changelog, names in a registry. */

const CHANGELOG = `# Changelog

## [Unreleased]

- Later.

## [1.2.0] - 2026-03-04

Some words.

### Fixed

- One line
  that continues. A second sentence ([page](docs/a.md#b)).
- [A link](#top) first.

### Notes

- Not for Artifact Hub.

## [1.1.0]

- No date.

## [1.0.0] - 2026-01-01
`;

test("a section ends before the next one", () => {
  const section = sectionOf(CHANGELOG, "1.2.0");
  assert.ok("text" in section);
  assert.equal(section.date, "2026-03-04");
  assert.match(section.text, /^Some words\.[\s\S]*Not for Artifact Hub\.$/);
});

test("a section that is absent, undated or empty is an error with the fix", () => {
  const fix = (version: string) => `rename "## [Unreleased]" to "## [${version}] - YYYY-MM-DD"`;
  assert.deepEqual(sectionOf(CHANGELOG, "1.3.0"), { error: `CHANGELOG.md: no section of 1.3.0; ${fix("1.3.0")}` });
  // A dot is no wildcard.
  assert.ok("error" in sectionOf(CHANGELOG, "1.2x0"));
  assert.deepEqual(sectionOf(CHANGELOG, "1.1.0"), {
    error: `CHANGELOG.md: the section of 1.1.0 has no date; ${fix("1.1.0")}`,
  });
  assert.deepEqual(sectionOf(CHANGELOG, "1.0.0"), {
    error: "CHANGELOG.md: the section of 1.0.0 is empty; describe its changes",
  });
});

test("changes are the first sentences of the known kinds, without links", () => {
  assert.deepEqual(changesOf(sectionOf(CHANGELOG, "1.2.0") as { date: string; text: string }), [
    { kind: "fixed", description: "One line that continues." },
    { kind: "fixed", description: "A link first." },
  ]);
});

test("changes are bounded in number and length", () => {
  const long = `### Added\n${`\n- ${"x".repeat(400)}`.repeat(300)}`;
  const changes = changesOf({ date: "", text: long });
  assert.equal(changes.length, 200);
  assert.equal(changes[0]!.description, `${"x".repeat(299)}…`);
});

test("links are relative to the page that has them", () => {
  const base = "https://git.example/o/r/blob/v1/charts/outrider/README.md";
  assert.equal(
    absoluteLinks("[a](../../docs/x.md#y) [b](https://e.example/) [c](#d) [e](mailto:f@g)", base),
    "[a](https://git.example/o/r/blob/v1/docs/x.md#y) [b](https://e.example/) [c](#d) [e](mailto:f@g)",
  );
});

test("upgrade notes are those of the version", () => {
  assert.equal(upgradeNotesOf("### 1.2.0\n\n- Act.\n\n### 1.1.0\n\nNothing.\n", "1.2.0"), "- Act.");
  assert.equal(upgradeNotesOf("### 1.2.0\n", "1.3.0"), undefined);
});

const SOURCES: Sources = {
  "package.json": '{"version":"1.2.0"}',
  "charts/outrider/Chart.yaml": 'name: outrider\nversion: 1.2.0\nappVersion: "1.2.0"\n',
  "CHANGELOG.md": CHANGELOG,
  "docs/release.md": "### 1.2.0\n\nAct.\n",
};

test("a tag is released if package, chart and changelog have its version", () => {
  const release = releaseOf("v1.2.0", SOURCES);
  assert.ok("version" in release);
  assert.deepEqual([release.version, release.upgradeNotes], ["1.2.0", "Act."]);
  const wrong = (tag: string, change: Partial<Sources> = {}) => releaseOf(tag, { ...SOURCES, ...change });
  for (const tag of ["1.2.0", "v1.2", "v1.2.0+build", "", "release", "v1.2.0 "]) {
    assert.deepEqual(wrong(tag), { error: `tag "${tag}" is not vX.Y.Z or vX.Y.Z-PRE` });
  }
  const end = "not 1.2.0; tag the commit of the release";
  assert.deepEqual(wrong("v1.2.0", { "package.json": '{"version":"1.1.0"}' }), {
    error: `tag v1.2.0: package.json: version is 1.1.0, ${end}`,
  });
  for (const field of ["version", "appVersion"] as const) {
    const chart = SOURCES["charts/outrider/Chart.yaml"].replace(new RegExp(`^${field}: .*$`, "m"), `${field}: 1.1.0`);
    assert.deepEqual(wrong("v1.2.0", { "charts/outrider/Chart.yaml": chart }), {
      error: `tag v1.2.0: charts/outrider/Chart.yaml: ${field} is 1.1.0, ${end}`,
    });
  }
});

test("names in a registry are in lower case, and wrong ones are refused", () => {
  assert.deepEqual(targetOf("GHCR.io", "Acme/Team"), {
    image: "ghcr.io/acme/team/outrider",
    charts: "ghcr.io/acme/team/charts",
    isLoopback: false,
  });
  assert.ok(targetOf("127.0.0.1:5000", "a").isLoopback);
  assert.ok(!targetOf("127.0.0.1.example", "a").isLoopback);
  for (const registry of ["https://ghcr.io", "ghcr.io/acme", "", "ghcr.io:x"]) {
    assert.throws(() => targetOf(registry, "acme"), /^Error: --registry: ".*" is no host\[:port\]; use the host only/);
  }
  for (const owner of ["", "/acme", "acme/", "a b", "../x"]) {
    assert.throws(() => targetOf("ghcr.io", owner), /^Error: --owner: ".*" is no path of a registry/);
  }
});

test("an image needs an archive", () => {
  assert.throws(() => combined([], "1.2.0"), /^Error: --image is missing; give an archive of each architecture$/);
});
