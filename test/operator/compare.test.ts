import assert from "node:assert/strict";
import { test } from "node:test";
import { covers, differs, stamp } from "../../operator/reconcile/objects/compare.ts";

/** An existing object, a desired one, and whether the first covers the second. */
const CASES: readonly [string, unknown, unknown, boolean][] = [
  ["defaults of the API server", { a: 1, added: "x" }, { a: 1 }, true],
  ["another value", { a: 2 }, { a: 1 }, false],
  ["a missing field", {}, { a: 1 }, false],
  ["an empty mapping equals a missing one", undefined, {}, true],
  ["an empty list equals a missing one", undefined, [], true],
  ["a list of strings is compared as a whole", ["a", "b"], ["a"], false],
  ["a list of strings in another order", ["b", "a"], ["a", "b"], false],
  ["items with a key", [{ name: "theirs" }, { name: "ours", v: 1 }], [{ name: "ours", v: 1 }], true],
  ["an edited item with a key", [{ name: "ours", v: 2 }], [{ name: "ours", v: 1 }], false],
  ["a missing item with a key", [{ name: "theirs" }], [{ name: "ours" }], false],
  ["ports by number", [{ containerPort: 1, protocol: "TCP" }], [{ containerPort: 1 }], true],
  ["items without a key are compared as a whole", [{ key: "a" }, { key: "b" }], [{ key: "a" }], false],
  [
    "quantities by value",
    { requests: { cpu: "1", memory: "1Gi" } },
    { requests: { cpu: "1000m", memory: "1024Mi" } },
    true,
  ],
  ["quantities of another value", { limits: { cpu: "1" } }, { limits: { cpu: "100m" } }, false],
  ["a number is not a string", { cpu: 1 }, { cpu: "1" }, false],
];

for (const [what, actual, desired, covered] of CASES) {
  test(`${covered ? "keeps" : "applies over"} the existing object: ${what}`, () => {
    assert.equal(covers(actual, desired), covered);
  });
}

const object = (extra: object = {}) => ({ apiVersion: "v1", kind: "ConfigMap", metadata: { name: "a" }, ...extra });

test("the stamp shows that a field is no longer set", () => {
  const before = stamp(object({ data: { a: "1", b: "2" } }));
  const after = stamp(object({ data: { a: "1" } }));
  assert.equal(differs(before, before), false);
  assert.equal(covers(before, object({ data: { a: "1" } })), true);
  assert.equal(differs(before, after), true);
  assert.equal(differs(undefined, after), true);
});
