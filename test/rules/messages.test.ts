import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parse } from "yaml";
import { counted, type PolicyCondition } from "../../operator/api/conditions.ts";
import { CONDITIONS, REASON } from "../../operator/api/names.ts";

/** Messages of the operator: counts agree with their nouns, and docs/operator.md lists every reason. */

const root = new URL("../..", import.meta.url).pathname;
const read = (path: string) => readFileSync(join(root, path), "utf8");

const NOUNS = "proxies|nodes|pods|static IPs|slots|Deployments|containers|policies|addresses|namespaces";

/** Conditions of all golden files. */
const recorded = globSync("test/operator/golden/*.out.yaml", { cwd: root }).flatMap((file) => {
  const { status } = parse(read(file)) as { status: { conditions: PolicyCondition[] } };
  return status.conditions.map((condition) => ({ file, ...condition }));
});

/** Without `0/1 nodes are available`, which is the scheduler's. */
const isPluralOne = (message: string) => new RegExp(`(?<![/\\d])1 (?:[a-z]+ ){0,2}(?:${NOUNS})\\b`).test(message);

test("the check finds the plural of one", () => {
  for (const bad of ["1 proxies", "0 of 1 ready proxies run x", "1 static IPs need", "has 1 nodes"]) {
    assert.ok(isPluralOne(bad), bad);
  }
  for (const good of ["1 of 2 proxies", "11 nodes", "new: 0/1 nodes are available", "1 proxy", "has 0 nodes"]) {
    assert.ok(!isPluralOne(good), good);
  }
});

test("no recorded message has the plural of one", () => {
  assert.ok(recorded.length > 100);
  const bad = recorded.filter(({ message }) => isPluralOne(message));
  assert.deepEqual(
    bad.map(({ file, message }) => `${file}: ${message}`),
    [],
  );
});

test("a number agrees with its noun", () => {
  assert.equal(counted(1, "proxy is", "proxies are"), "1 proxy is");
  for (const many of [0, 2, 11]) assert.equal(counted(many, "proxy is", "proxies are"), `${many} proxies are`);
});

test("no message of the operator writes a count before a fixed plural", () => {
  const fixed = new RegExp(`\\$\\{[^}]*\\} (?:[a-z]+ ){0,2}(?:${NOUNS})\\b`);
  const files = globSync("operator/**/*.ts", { cwd: root });
  const hits = files.flatMap((file) =>
    read(file)
      .split("\n")
      .flatMap((line, i) => (fixed.test(line) ? [`${file}:${i + 1}: ${line.trim()}`] : [])),
  );
  assert.deepEqual(hits, []);
});

const page = read("docs/operator.md");
const COLUMNS = ["True", "False", "Unknown"] as const;

/** Reasons in the table of docs/operator.md, as `Condition=Status, Reason`. */
const documented = new Set(
  CONDITIONS.flatMap((type) => {
    const [row] = [...page.matchAll(new RegExp(`^\\| ${type} \\|(.*)\\|$`, "gm"))];
    assert.ok(row !== undefined, `docs/operator.md has no row for ${type}`);
    const cells = row[1]!.split("|");
    return COLUMNS.flatMap((status, i) =>
      [...cells[i]!.matchAll(/`(\w+)`/g)].map(([, reason]) => `${type}=${status}, ${reason}`),
    );
  }),
);

test("docs/operator.md lists the reasons of every condition and status", () => {
  // Ready repeats the reasons of other conditions.
  const own = recorded.filter(({ type, status }) => type !== "Ready" || status === "True");
  const states = new Set(own.map(({ type, status, reason }) => `${type}=${status}, ${reason}`));
  assert.ok(states.size > 25, `${states.size} states`);
  assert.deepEqual(
    [...states].filter((state) => !documented.has(state)),
    [],
  );
});

test("docs/operator.md lists every reason, and no other", () => {
  const listed = new Set([...documented].map((state) => state.split(", ")[1]!));
  assert.deepEqual([...listed].sort(), Object.values(REASON).sort());
});
