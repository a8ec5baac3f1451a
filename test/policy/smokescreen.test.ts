import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { counterpartOfFlag, SETTINGS, smokescreenKeys } from "../../proxy/policy/smokescreen.ts";

const page = readFileSync(new URL("../../docs/migrate.md", import.meta.url), "utf8");

test("docs/migrate.md lists every flag and key of Smokescreen that outrider knows", () => {
  const rows = [...page.matchAll(/^\| (?:`--([a-z-]+)` )?\| (?:`([a-z_]+)` )?\| (.+) \|$/gm)].map(
    ([, flag, key, ours]) => ({ flag, key, ours: ours!.replaceAll("`", "") }),
  );
  const known = SETTINGS.map(({ flag, key, ours }) => ({ flag, key, ours }));
  assert.deepEqual(rows, known);
});

test("finds the counterpart of a flag and of the keys of a file", () => {
  assert.equal(counterpartOfFlag("deny-range"), "--deny-cidr CIDR");
  for (const other of ["deny_ranges", "policy", ""]) assert.equal(counterpartOfFlag(other), undefined);
  assert.deepEqual(smokescreenKeys({ port: 1, ports: 2, acl_file: null }), [
    { key: "acl_file", ours: "--policy FILE" },
    { key: "port", ours: "--listen IP:PORT" },
  ]);
  assert.deepEqual(smokescreenKeys({ constructor: 1 }), []);
});
