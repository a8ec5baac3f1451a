import assert from "node:assert/strict";
import { test } from "node:test";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import { childName, recordName, SPEC_KEY } from "../../operator/api/names.ts";
import type { ConfigMap } from "../../operator/api/objects.ts";
import type { Caches } from "../../operator/reconcile/facts/caches.ts";
import { inForce } from "../../operator/reconcile/in-force.ts";
import { packSpec } from "../../operator/reconcile/objects/record.ts";
import { PolicyRecords } from "../../operator/reconcile/writes/records.ts";
import { makeLog } from "../../proxy/cli/log.ts";
import { withDefaults } from "../harness/defaults.ts";

/** By which spec a pod is injected while the newest one is refused. */

type Spec = EgressPolicy["spec"];
const UID = "8b1f";
const SYSTEM = "outrider-system";
const accepted = withDefaults({ injection: { noProxy: ["otel"] } }) as Spec;
const newest = withDefaults({ ports: ["9-1"] }) as Spec;
const ungranted = withDefaults({ nat: { provider: "KubeVIP" }, staticIPs: [{ address: "203.0.113.10" }] }) as Spec;
const rejected = withDefaults({ ports: ["8-2"] }) as Spec;
const other = withDefaults({ injection: { noProxy: ["other"] } }) as Spec;

const policyOf = (status: "True" | "False", observedGeneration: number): EgressPolicy =>
  ({
    apiVersion: "egress.outrider.dev/v1alpha1",
    kind: "EgressPolicy",
    metadata: { name: "webhooks", namespace: "convoy", uid: UID, generation: 2 },
    spec: newest,
    status: { conditions: [{ type: "Accepted", status, observedGeneration, message: "spec.ports[0]: turned round" }] },
  }) as unknown as EgressPolicy;

/** Caches with the record of the policy, and with its ConfigMap of a former version. */
function cachesWith(kept: string | undefined, former?: string, uid = UID): Caches {
  const withSpec = (metadata: object, spec: string | undefined) =>
    spec === undefined ? [] : [{ metadata, binaryData: { [SPEC_KEY]: spec } } as unknown as ConfigMap];
  const document = { name: childName.document("webhooks"), ownerReferences: [{ uid, controller: true }] };
  const cacheOf = (objects: readonly ConfigMap[]) => ({
    get: (key: string) => objects.find(({ metadata }) => key === `${SYSTEM}/${metadata.name}`),
    by: () => objects,
    list: () => objects,
  });
  const caches: Record<string, unknown> = {
    records: cacheOf(withSpec({ name: recordName(UID), namespace: SYSTEM, resourceVersion: "7" }, kept)),
    configMaps: cacheOf(withSpec(document, former)),
  };
  return new Proxy({} as Caches, { get: (_, kind) => caches[String(kind)] ?? cacheOf([]) });
}
const recordsIn = (caches: Caches) =>
  new PolicyRecords({
    client: undefined as never,
    cache: caches.records,
    namespace: SYSTEM,
    isWatched: () => true,
    log: makeLog("silent"),
  });
for (const [about, policy, caches, spec, warned] of [
  ["the last accepted spec", policyOf("False", 2), cachesWith(packSpec(accepted)), accepted, true],
  ["the newest spec if it is accepted", policyOf("True", 2), cachesWith(packSpec(accepted)), newest, false],
  ["the newest spec before its validation", policyOf("False", 1), cachesWith(packSpec(accepted)), newest, false],
  ["the newest spec if none was accepted", policyOf("False", 2), cachesWith(undefined), newest, true],
  [
    "the last accepted spec after its grant was revoked",
    policyOf("False", 2),
    cachesWith(packSpec(ungranted)),
    ungranted,
    true,
  ],
  [
    "the last accepted spec although it is rejected, too: the fleet is left unchanged",
    policyOf("False", 2),
    cachesWith(packSpec(rejected)),
    rejected,
    true,
  ],
  ["the newest spec if the stored one cannot be read", policyOf("False", 2), cachesWith("bm90aGluZw=="), newest, true],
  [
    "the last accepted spec of a former version",
    policyOf("False", 2),
    cachesWith(undefined, packSpec(accepted)),
    accepted,
    true,
  ],
  [
    "the record if the ConfigMap has another spec",
    policyOf("False", 2),
    cachesWith(packSpec(accepted), packSpec(other)),
    accepted,
    true,
  ],
  [
    "the newest spec if another policy owns the former ConfigMap",
    policyOf("False", 2),
    cachesWith(undefined, packSpec(accepted), "x"),
    newest,
    true,
  ],
] as const) {
  test(`injection uses ${about}`, () => {
    const records = recordsIn(caches);
    const found = inForce(caches, policy, records);
    assert.deepEqual(found.policy.spec, spec);
    assert.equal(found.rejected, warned ? "spec.ports[0]: turned round" : undefined);
    // The same object: its document is made once.
    if (spec === accepted) assert.equal(inForce(caches, policy, records).policy.spec, found.policy.spec);
  });
}
