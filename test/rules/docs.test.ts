import assert from "node:assert/strict";
import { existsSync, globSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { parse } from "yaml";
import { REASON } from "../../operator/api/names.ts";

/** Docs that have to match the tree and the code: links, folders of ARCHITECTURE.md, sections of the runbook. */

const root = new URL("../..", import.meta.url).pathname;
const read = (path: string) => readFileSync(join(root, path), "utf8");
const pages = globSync(["*.md", ".github/*.md", "docs/**/*.md", "charts/*/*.md"], { cwd: root });

/** Anchors that GitHub derives from headings. */
const anchorsOf = (text: string): Set<string> =>
  new Set(
    [...text.matchAll(/^#+ (.*)$/gm)].map(([, title]) =>
      title!
        .toLowerCase()
        .replace(/[^\p{L}\p{N}\s_-]/gu, "")
        .trim()
        .replaceAll(" ", "-"),
    ),
  );

test("every link of the docs leads to a file and a heading", () => {
  const broken = pages.flatMap((page) =>
    [...read(page).matchAll(/\]\(([^)\s]+)\)/g)].flatMap(([, link]) => {
      if (/^https?:/.test(link!)) return [];
      const [path, anchor] = link!.split("#") as [string, string?];
      const target = path === "" ? page : join(dirname(page), path);
      if (!existsSync(join(root, target))) return [`${page}: ${link}`];
      const isFound = anchor === undefined || anchorsOf(read(target)).has(anchor);
      return isFound ? [] : [`${page}: ${link} (no such heading)`];
    }),
  );
  assert.deepEqual(broken, []);
});

test("docs/README.md lists every page", () => {
  const index = read("docs/README.md");
  for (const page of globSync("docs/**/*.md", { cwd: root })) {
    const path = page.slice("docs/".length);
    if (path !== "README.md") assert.ok(index.includes(`(${path})`), `docs/README.md lacks ${path}`);
  }
});

test("ARCHITECTURE.md names every folder of the programs", () => {
  const text = read("ARCHITECTURE.md");
  for (const parent of ["proxy", "operator", "operator/reconcile"]) {
    const folders = readdirSync(join(root, parent), { withFileTypes: true }).filter((entry) => entry.isDirectory());
    for (const { name } of folders) {
      const shown = parent === "operator/reconcile" ? `\`${name}/\`` : `\`${parent}/${name}/\``;
      assert.ok(text.includes(shown), `ARCHITECTURE.md lacks ${parent}/${name}`);
    }
  }
});

test("every path that ARCHITECTURE.md and CONTRIBUTING.md name exists", () => {
  for (const page of ["ARCHITECTURE.md", "CONTRIBUTING.md"]) {
    const paths = [...read(page).matchAll(/`((?:bin|charts|crds|docs|examples|operator|proxy|test)\/[\w./-]*)`/g)];
    assert.ok(paths.length > 5);
    for (const [, path] of paths) assert.ok(existsSync(join(root, path!)), `${page}: ${path}`);
  }
});

/** Sections of the runbook by heading. */
const sections = new Map(
  read("docs/runbook.md")
    .split(/^### /m)
    .slice(1)
    .map((section) => [section.slice(0, section.indexOf("\n")), section] as const),
);
/** Reasons that need no action, with status True or Unknown. */
const HEALTHY: readonly string[] = [
  ...[REASON.accepted, REASON.applied, REASON.assigned, REASON.outside, REASON.available, REASON.distributed],
  ...[REASON.hostNetwork, REASON.injected, REASON.notRequested, REASON.noWorkload, REASON.programmed, REASON.ready],
  REASON.verified,
];

function checkSection(name: string, parts: readonly string[]): void {
  const section = sections.get(name);
  assert.ok(section !== undefined, `docs/runbook.md lacks a section "### ${name}"`);
  for (const part of parts) assert.match(section, new RegExp(`^- \\*\\*${part}\\*\\*`, "m"), `${name}: ${part}`);
}

const ALL_PARTS = ["Symptom", "Meaning", "Check", "Fix"];
const rules = parse(read("charts/outrider/files/alerts.yaml")) as Record<string, { for: string; severity: string }>;
const alerts = Object.keys(rules);

test("docs/metrics.md lists every alert", () => {
  const rows = [...read("docs/metrics.md").matchAll(/^\| `(Outrider\w+)` \| .* \| (\w+) \| (\w+) \|$/gm)];
  assert.deepEqual(
    rows.map(([, name, after, severity]) => [name, after, severity]),
    alerts.map((name) => [name, rules[name]!.for, rules[name]!.severity]),
  );
});

test("every alert has a section in the runbook", () => {
  for (const name of alerts) checkSection(name, ALL_PARTS);
});

test("every condition reason has a section in the runbook", () => {
  for (const name of Object.values(REASON)) checkSection(name, HEALTHY.includes(name) ? ["Meaning"] : ALL_PARTS);
});

test("the runbook has no other sections, and the reasons are sorted", () => {
  const reasons = Object.values(REASON).sort();
  assert.deepEqual([...sections.keys()], [...alerts, ...reasons]);
});

test("the chart links each alert to its section", () => {
  const template = read("charts/outrider/templates/rules.yaml");
  assert.ok(template.includes('printf "%s#%s" (trimSuffix "#" .) (lower $name)'));
  const anchors = anchorsOf(read("docs/runbook.md"));
  for (const name of alerts) assert.ok(anchors.has(name.toLowerCase()), name);
  const golden = read("test/chart/golden/everything.yaml");
  const urls = [...golden.matchAll(/runbook_url: ".*#(.*)"/g)].map(([, anchor]) => anchor!);
  assert.ok(urls.length > 0);
  for (const anchor of urls) assert.ok(anchors.has(anchor), anchor);
});
