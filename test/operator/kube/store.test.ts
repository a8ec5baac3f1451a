import assert from "node:assert/strict";
import { test } from "node:test";
import { Audit, compareVersions } from "../../../operator/kube/audit.ts";
import { type KubeObject, keyOf } from "../../../operator/kube/resource.ts";
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

test("compares versions as numbers of any length", () => {
  assert.ok(compareVersions("9", "10") < 0);
  assert.ok(compareVersions("18446744073709551615", "18446744073709551614") > 0);
  assert.equal(compareVersions("7", "7"), 0);
});

/** The store has the events of a watch up to version 20, which is also the version of the list. */
function auditOf(held: KubeObject[], listed: KubeObject[], deleted: string[] = [], version = "20") {
  const store = new Store<KubeObject>();
  for (const item of held) store.set(item);
  const audit = new Audit();
  for (const name of deleted) audit.deleted(keyOf(object(name, "")));
  audit.listed(listed, "20");
  return audit.differences(version, store);
}

test("an audit finds missed additions, updates and deletions", () => {
  const [a, b] = [object("a", "11"), object("b", "15")];
  assert.equal(auditOf([a, b], [a, b]), 0);
  assert.equal(auditOf([a], [a, b]), 1, "an addition");
  assert.equal(auditOf([a, object("b", "12")], [a, b]), 1, "an update");
  assert.equal(auditOf([a, b], [a]), 1, "a deletion");
  assert.equal(auditOf([a, object("b", "21")], [a, b], [], "25"), 0, "updated after the list");
  assert.equal(auditOf([a, b, object("c", "22")], [a, b], [], "25"), 0, "made after the list");
  assert.equal(auditOf([a], [a, b], ["b"], "25"), 0, "deleted after the list");
});

test("an audit waits until the watch has reached the list", () => {
  const [a, b] = [object("a", "11"), object("b", "15")];
  assert.equal(auditOf([a], [a, b], [], "14"), undefined);
  assert.equal(auditOf([a], [a, b], [], "20"), 1);
  assert.equal(new Audit().differences("99", new Store<KubeObject>()), undefined);
});
