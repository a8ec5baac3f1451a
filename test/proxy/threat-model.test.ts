import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { boundCounts } from "../../proxy/outcome/bounds.ts";

const ROOT = new URL("../..", import.meta.url).pathname;
const text = readFileSync(join(ROOT, "docs/threat-model.md"), "utf8");

test("docs/threat-model.md names constants that exist, with their values", () => {
  // `NAME = value` (`file`), or `name` (`file`)
  const named = [...text.matchAll(/`(\w+)(?: = ([^`]+))?`[\w ]* \(`([\w./-]+)`\)/g)];
  assert.ok(named.length > 40, `${named.length} constants are named`);
  for (const [shown, name, value, file] of named) {
    const source = readFileSync(join(ROOT, file!), "utf8");
    if (value === undefined) assert.match(source, new RegExp(`\\b${name}\\b`), shown);
    else assert.ok(source.includes(`const ${name} = ${value};`), `${file} has no "${name} = ${value}"`);
  }
});

test("docs/threat-model.md names every file that it mentions as it is", () => {
  const files = [...text.matchAll(/`((?:proxy|operator|test)\/[\w./-]+)`/g)];
  const links = [...text.matchAll(/\]\(([^)#]+)(?:#[^)]*)?\)/g)];
  assert.ok(files.length > 10 && links.length > 0, `${files.length} files, ${links.length} links`);
  for (const [, file] of files) {
    assert.ok(existsSync(join(ROOT, file!)), `${file} does not exist`);
  }
  for (const [, link] of links) {
    assert.ok(existsSync(join(ROOT, "docs", dirname(link!), link!.split("/").at(-1)!)), `${link} does not exist`);
  }
});

test("docs/threat-model.md has a row for every bound of the metric", () => {
  const bounds = Object.keys(boundCounts());
  assert.ok(bounds.length > 10, `${bounds.length} bounds`);
  for (const bound of bounds) assert.match(text, new RegExp(`^\\| \`${bound}\` \\|`, "m"));
});
