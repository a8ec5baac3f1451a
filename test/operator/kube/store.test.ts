import assert from "node:assert/strict";
import { test } from "node:test";
import type { KubeObject } from "../../../operator/kube/resource.ts";
import { Store } from "../../../operator/kube/store.ts";

function object(name: string, resourceVersion: string, labels: Record<string, string> = {}): KubeObject {
  return { apiVersion: "v1", kind: "Pod", metadata: { name, namespace: "n", resourceVersion, labels } };
}
const names = (objects: readonly KubeObject[]) => objects.map(({ metadata }) => metadata.name).sort();

test("finds objects by their current index values only", () => {
  const store = new Store<KubeObject>({ app: ({ metadata }) => metadata.labels?.app?.split(",") ?? [] });
  store.set(object("a", "1", { app: "x,y" }));
  store.set(object("b", "2", { app: "y" }));
  assert.deepEqual(names(store.by("app", "y")), ["a", "b"]);
  assert.deepEqual(names(store.by("app", "x")), ["a"]);
  assert.equal(store.set(object("a", "3", { app: "z" }))?.metadata.resourceVersion, "1");
  assert.deepEqual(names(store.by("app", "x")), []);
  assert.deepEqual(names(store.by("app", "z")), ["a"]);
  assert.equal(store.delete("n/a")?.metadata.resourceVersion, "3");
  assert.equal(store.delete("n/a"), undefined);
  assert.deepEqual(names(store.by("app", "z")), []);
  assert.equal(store.size, 1);
  assert.throws(() => store.by("nope", "z"), /no index "nope"/);
});
