import assert from "node:assert/strict";
import { test } from "node:test";
import { type AccessRecord, newRecord } from "../../proxy/outcome/access-record.ts";
import { ClientCounts } from "../../proxy/outcome/client-counts.ts";
import { makeDocument } from "../../proxy/policy/document.ts";
import { compile } from "../../proxy/policy/engine.ts";

/** A compiled policy with these clients. */
function policyOf(...names: string[]) {
  if (names.length === 0) return compile(makeDocument({}));
  const authentication = { mode: "Basic" as const, allowMissing: false, sharedClient: "default" };
  return compile(makeDocument({ version: 2, authentication, clients: names.map((name) => ({ name })) }));
}

const record = (entry: string | undefined, more: Partial<AccessRecord> = {}): AccessRecord => ({
  ...newRecord("connect", "127.0.0.1:1", "a.example:443"),
  ...(entry === undefined ? {} : { entry }),
  bytesUp: 3,
  bytesDown: 5,
  ...more,
});

test("counts requests and bytes of each entry", () => {
  const counts = new ClientCounts();
  counts.use(policyOf("billing", "__proto__"));
  counts.count(record("billing"));
  counts.count(record("billing", { verdict: "deny" }));
  counts.count(record("__proto__"));
  assert.deepEqual(
    [...counts],
    [
      ["__proto__", { allow: 1, deny: 0, up: 3, down: 5 }],
      ["billing", { allow: 1, deny: 1, up: 6, down: 10 }],
    ],
  );
});

test("counts no entry that the policy does not have", () => {
  const counts = new ClientCounts();
  counts.use(policyOf("billing"));
  for (const entry of [undefined, "constructor", "Billing", ""]) counts.count(record(entry));
  assert.deepEqual([...counts], [["billing", { allow: 0, deny: 0, up: 0, down: 0 }]]);
});

test("a reload keeps the counts of an entry and drops those of a removed one", () => {
  const counts = new ClientCounts();
  counts.use(policyOf("billing", "crawler"));
  for (const entry of ["billing", "crawler"]) counts.count(record(entry));
  counts.use(policyOf("billing"));
  counts.count(record("crawler"));
  assert.deepEqual([...counts], [["billing", { allow: 1, deny: 0, up: 3, down: 5 }]]);
  counts.use(policyOf("billing", "crawler"));
  assert.deepEqual([...counts][1], ["crawler", { allow: 0, deny: 0, up: 0, down: 0 }]);
  counts.use(policyOf());
  assert.deepEqual([...counts], []);
});
