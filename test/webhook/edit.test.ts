import assert from "node:assert/strict";
import { test } from "node:test";
import { reviewEdit } from "../../operator/webhook/edit.ts";

const policy = (spec: object) => {
  const metadata = { name: "webhooks", namespace: "convoy" };
  return { apiVersion: "egress.outrider.dev/v1alpha1", kind: "EgressPolicy", metadata, spec };
};
const BEFORE = policy({ deny: [{ name: "bad", hosts: ["bad.example"] }] });
const small = { uid: "u1", before: BEFORE, now: policy({}) };
/** Takes the whole budget of a comparison. */
const large = {
  uid: "u2",
  before: policy({}),
  now: policy({ deny: [{ cidrs: Array.from({ length: 20_000 }, (_, i) => `${20 + (i >> 8)}.${i & 255}.1.0/24`) }] }),
};

test("an edit right after a long comparison is allowed without one", () => {
  const opens = { warnings: ["outrider: this edit opens targets that deny rules refused (bad): bad.example"] };
  assert.deepEqual(reviewEdit(small, 0), opens);
  assert.deepEqual(reviewEdit(small, 1000), opens);
  assert.match(reviewEdit(large, 2000).warnings![0]!, /too large to compare/);
  assert.match(reviewEdit(small, 2001).warnings![0]!, /is not compared/);
  assert.deepEqual(reviewEdit(small, 1_000_000), opens);
});
