import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { toolsOf } from "./needs.ts";

/** The tools that the runner builds before the tests. */

const root = new URL("../..", import.meta.url).pathname;
const files = globSync("test/**/*.test.ts", { cwd: root }).map((file) => join(root, file));
/** Imports with which a test file starts programs of the test cluster. */
const STARTS = /from "[./]+(?:cluster\/)?(?:control-plane|node\/cluster)\.ts"|from "[./]+(?:chart\/)?helm\.ts"/;

test("the runner knows the tools of every test file", () => {
  const starting = files.filter((file) => STARTS.test(readFileSync(file, "utf8")));
  assert.ok(starting.length > 20, `${starting.length}`);
  for (const file of starting) assert.notDeepEqual(toolsOf([file]).tools, [], file);
});

test("only files that need tools get them", () => {
  const tools = (file: string) => toolsOf([join(root, "test", file)]).tools;
  assert.deepEqual(tools("policy/engine.test.ts"), []);
  assert.deepEqual(tools("chart/chart.test.ts"), ["helm"]);
  assert.deepEqual(tools("chart/alerts.test.ts"), ["helm", "promtool"]);
  for (const name of ["prometheus", "read-dashboard"]) assert.ok(tools("chart/dashboard.test.ts").includes(name), name);
  assert.ok(tools("chart/upgrade.test.ts").includes("helm4"));
  assert.ok(tools("e2e/network-policy.test.ts").includes("kube-router"));
  assert.ok(!tools("e2e/journey.test.ts").includes("kube-router"));
  for (const name of ["kubelet", "helm", "sender"]) assert.ok(tools("e2e/demo.test.ts").includes(name), name);
  assert.ok(tools("operator/slots.test.ts").includes("kwok"));
});
