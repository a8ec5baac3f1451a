import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { toolsOf } from "../cluster/needs.ts";
import { TIERS, tierNamed, tierOf } from "../tiers.ts";

const root = new URL("../..", import.meta.url).pathname;
const files = globSync("test/**/*.test.ts", { cwd: root });
const tiers = new Map(files.map((file) => [file, tierOf(file, readFileSync(join(root, file), "utf8"))]));
const inTier = (tier: string) => files.filter((file) => tiers.get(file) === tier);

test("every tier has files", () => {
  for (const tier of TIERS) assert.ok(inTier(tier).length > 3, tier);
});

test("files of the quick tier need no tools", () => {
  assert.deepEqual(toolsOf(inTier("quick").map((file) => join(root, file))).tools, []);
});

test("policy, injection, heads and golden files are in the quick tier", () => {
  for (const part of ["test/policy/", "test/injection/", "test/rules/", "test/proxy/head", "test/operator/golden"]) {
    const found = files.filter((file) => file.startsWith(part));
    assert.ok(found.length > 0, part);
    for (const file of found) assert.equal(tiers.get(file), "quick", file);
  }
});

test("a tier is named with a space or a hyphen", () => {
  assert.equal(tierNamed("control-plane"), "control plane");
  assert.equal(tierNamed("control plane"), "control plane");
  assert.equal(tierNamed("slow"), undefined);
});
