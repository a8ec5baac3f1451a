import assert from "node:assert/strict";
import { test } from "node:test";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import type { Deployment } from "../../operator/api/objects.ts";
import type { Facts } from "../../operator/reconcile/facts/facts.ts";
import { replicasSetBy } from "../../operator/reconcile/objects/replicas.ts";
import { availability } from "../../operator/reconcile/status/availability.ts";

const deployment = (replicas: number, manager?: string): Deployment => ({
  apiVersion: "apps/v1",
  kind: "Deployment",
  metadata: {
    name: "webhooks-egress",
    namespace: "convoy",
    ...(manager && { managedFields: [{ manager, fieldsV1: { "f:spec": { "f:replicas": {} } } }] }),
  },
  spec: { replicas },
  status: { replicas, updatedReplicas: replicas, availableReplicas: replicas },
});

/** ProxyAvailable of a fleet with this Deployment. */
function findingOf(one: Deployment, annotations: Record<string, string> = {}) {
  const policy = { metadata: { name: "webhooks", namespace: "convoy", annotations } } as unknown as EgressPolicy;
  const children = { deployments: new Map([[one.metadata.name, one]]) };
  return availability({ policy, children, proxies: [] } as unknown as Facts, undefined, new Set()).finding;
}

test("another manager owns the number of replicas", () => {
  assert.equal(replicasSetBy(deployment(4, "kube-controller-manager")), "kube-controller-manager");
  assert.equal(replicasSetBy(deployment(2, "outrider")), undefined);
  assert.equal(replicasSetBy(deployment(2)), undefined);
});

test("a number that no field manager has set is not the operator's", () => {
  const found = deployment(3);
  assert.equal(replicasSetBy({ ...found, metadata: { ...found.metadata, managedFields: [] } }), "another manager");
});

test("0 replicas are never the operator's, also without a field manager", () => {
  assert.equal(replicasSetBy(deployment(0)), "another manager");
  assert.equal(replicasSetBy(deployment(0, "kubectl-edit")), "kubectl-edit");
});

test("ProxyAvailable names who has set the number of replicas", () => {
  const { status, message } = findingOf(deployment(4, "kubectl"));
  assert.equal(status, "True");
  assert.match(
    message,
    /^4 of 4 proxies are available; kubectl has set the number of replicas, so spec\.proxy\.replicas/,
  );
  assert.match(message, /kubectl annotate egpol webhooks -n convoy egress\.outrider\.dev\/enforce-replicas=true$/);
  assert.equal(findingOf(deployment(2, "outrider")).message, "2 of 2 proxies are available");
  const enforced = { "egress.outrider.dev/enforce-replicas": "true" };
  assert.equal(findingOf(deployment(4, "kubectl"), enforced).message, "4 of 4 proxies are available");
});

test("ProxyAvailable is False with ScaledToZero and says how to undo it", () => {
  const { status, reason, message } = findingOf(deployment(0));
  assert.deepEqual([status, reason], ["False", "ScaledToZero"]);
  assert.match(message, /kubectl scale deployment webhooks-egress -n convoy --replicas=N/);
  assert.match(message, /kubectl annotate egpol webhooks -n convoy egress\.outrider\.dev\/enforce-replicas=true/);
});
