import assert from "node:assert/strict";
import { test } from "node:test";
import { Comparison, compareVersions } from "../../../operator/kube/comparison.ts";
import type { KubeObject } from "../../../operator/kube/resource.ts";
import { Store } from "../../../operator/kube/store.ts";

function object(name: string, resourceVersion: string): KubeObject {
  return { apiVersion: "v1", kind: "Pod", metadata: { name, namespace: "n", resourceVersion } };
}

test("compares versions as numbers of any length", () => {
  assert.ok(compareVersions("9", "10") < 0);
  assert.ok(compareVersions("18446744073709551615", "18446744073709551614") > 0);
  assert.equal(compareVersions("7", "7"), 0);
});

/** A comparison of a store with a list of version 20. */
function compared(held: KubeObject[], listed: KubeObject[], before: (started: Comparison) => void = () => undefined) {
  const store = new Store<KubeObject>();
  for (const item of held) store.set(item);
  const comparison = new Comparison(store);
  before(comparison);
  comparison.add(listed);
  comparison.complete("20");
  return { store, comparison };
}
const differences = (...args: Parameters<typeof compared>) => compared(...args).comparison.differences;

test("finds missed additions, updates and deletions", () => {
  const [a, b] = [object("a", "11"), object("b", "15")];
  assert.equal(differences([a, b], [a, b]), 0);
  assert.equal(differences([a], [a, b]), 1, "an addition");
  assert.equal(differences([a, object("b", "12")], [a, b]), 1, "an update");
  assert.equal(differences([a, b], [a]), 1, "a deletion");
});

test("ignores changes after the list", () => {
  const [a, b] = [object("a", "11"), object("b", "15")];
  assert.equal(differences([a, object("b", "21")], [a, b]), 0, "updated");
  assert.equal(differences([a, b, object("c", "22")], [a, b]), 0, "created");
  assert.equal(
    differences([a], [a, b], (one) => one.changed("n/b", "23")),
    0,
    "deleted",
  );
});

test("a former object of the same name does not count as a later deletion", () => {
  const [a, b] = [object("a", "11"), object("b", "15")];
  assert.equal(
    differences([a], [a, b], (one) => one.changed("n/b", "14")),
    1,
  );
});

test("catches up with the last event that the watch owed", () => {
  const [a, b] = [object("a", "11"), object("b", "15")];
  const { store, comparison } = compared([a, object("gone", "12")], [a, b]);
  assert.equal(comparison.differences, 2);
  // An object that was created and deleted before the list.
  store.set(object("short", "13"));
  comparison.changed("n/short");
  store.delete("n/gone");
  comparison.changed("n/gone", "14");
  store.set(b);
  comparison.changed("n/b");
  assert.equal(comparison.over.aborted, false);
  store.delete("n/short");
  comparison.changed("n/short", "16");
  assert.equal(comparison.over.aborted, true);
});

test("ends when the store was replaced, even before its list is complete", () => {
  const { comparison } = compared([], [object("a", "11")], (one) => one.end());
  assert.deepEqual([comparison.over.aborted, comparison.differences], [true, 0]);
});
