import assert from "node:assert/strict";
import { test } from "node:test";
import type { EgressPolicySpec } from "../../operator/api/egresspolicy.ts";
import { ANNOTATION, childName } from "../../operator/api/names.ts";
import type { ConfigMap } from "../../operator/api/objects.ts";
import { decide } from "../../operator/reconcile/decision/decide.ts";
import type { Facts } from "../../operator/reconcile/facts/facts.ts";
import { statusOf } from "../../operator/reconcile/status/status.ts";
import { A, B, factsOf, NAME, OPTIONS, settled, specOf, VERIFIED, type World, withProxies } from "./worlds.ts";

/** Fleets whose newest spec and whose last accepted spec are rejected: their objects are left unchanged. */

const HASH = `sha256:${"1".repeat(64)}`;
const spec = specOf("KubeVIP", [A, B]);
const document = (hash: string): ConfigMap => ({
  ...{ apiVersion: "v1", kind: "ConfigMap" },
  metadata: { name: childName.document(NAME), annotations: { [ANNOTATION.hash]: hash } },
});

/** Facts after the grant was revoked. */
function revoked(world: World, hash = HASH): Facts {
  const facts = factsOf(world, spec);
  const configMaps = new Map([[childName.document(NAME), document(hash)]]);
  return { ...facts, grants: [], children: { ...facts.children, configMaps } };
}

function outcomeOf(facts: Facts, kept: EgressPolicySpec = spec) {
  const plan = decide(facts, () => kept, OPTIONS);
  const applied = { problem: undefined, networkPolicy: undefined };
  const status = statusOf(facts, { plan, applied, recorded: true, clusterDomain: "cluster.local" });
  const reasonOf = (type: string) => status.conditions!.find((condition) => condition.type === type)!.reason;
  return { plan, status, reasonOf };
}

const world = settled(spec);
const withoutLabels = withProxies(world, ({ pod }) => {
  const { [VERIFIED]: _, ...labels } = pod.metadata.labels!;
  return { pod: { ...pod, metadata: { ...pod.metadata, labels } } };
});

test("sets the serving labels of proxies although no spec is accepted", () => {
  const { plan } = outcomeOf(revoked(withoutLabels));
  assert.equal(plan.keptRejection?.reason, "NotGranted");
  assert.equal(plan.desired, undefined);
  const patched = plan.repairs.map(({ pod, labels }) => [pod.metadata.name, labels]);
  assert.deepEqual(
    patched,
    world.proxies.map(({ pod }) => [pod.metadata.name, { [VERIFIED]: "true" }]),
  );
});

test("reports the proxies and addresses although no spec is accepted", () => {
  const proven = withProxies(world, ({ status }) => ({ status: { ...status!, hash: HASH } }));
  const { status, reasonOf } = outcomeOf(revoked(proven));
  assert.deepEqual(["Accepted", "Programmed", "PolicyDistributed", "IPsAssigned"].map(reasonOf), [
    "NotGranted",
    "NotAccepted",
    "Distributed",
    "Assigned",
  ]);
  assert.equal(status.summary?.policyHash, HASH);
  assert.deepEqual(
    status.staticIPs?.map(({ state }) => state),
    ["Assigned", "Assigned"],
  );
});

test("ignores an edited hash of the document", () => {
  const { plan, reasonOf } = outcomeOf(revoked(world, "forged"));
  assert.equal(plan.effective, undefined);
  assert.equal(reasonOf("PolicyDistributed"), "NotAccepted");
});
