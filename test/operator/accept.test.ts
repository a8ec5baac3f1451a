import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import type { EgressPolicy, EgressPolicySpec } from "../../operator/api/egresspolicy.ts";
import { clientsRemoved, judgeSpec } from "../../operator/reconcile/decision/accept.ts";
import { decide } from "../../operator/reconcile/decision/decide.ts";
import { documentOf } from "../../operator/reconcile/decision/document.ts";
import type { Facts } from "../../operator/reconcile/facts/facts.ts";
import { MAX_SPEC_BYTES } from "../../operator/reconcile/objects/record.ts";
import { withDefaults } from "../harness/defaults.ts";
import { A, B, factsOf, OPTIONS, settled, specOf } from "./worlds.ts";

/** Which specs are accepted, by themselves, and which one of several reasons is reported. */

const judged = (spec: EgressPolicySpec, more: Partial<Facts> = {}) => {
  const verdict = judgeSpec({ ...factsOf(settled(specOf("External", [A])), spec), ...more });
  return "accepted" in verdict ? "accepted" : `${verdict.reason}: ${verdict.message}`;
};

test("accepts a spec without static IPs", () => {
  const { staticIPs: _, ...spec } = specOf("KubeVIP", [A]);
  assert.equal(judged(spec as EgressPolicySpec), "accepted");
});

test("only slots need source addresses of their own", () => {
  const staticIPs = [A, B].map((address) => ({ address, sourceAddress: "10.0.0.1", phase: "Active" }));
  assert.equal(judged(withDefaults({ nat: { provider: "PodIP" }, staticIPs })), "accepted");
  assert.match(
    judged(specOf("KubeVIP", staticIPs)),
    /^Invalid: spec\.staticIPs\[1\]\.sourceAddress: 10\.0\.0\.1 is also /,
  );
});

test("names the known providers if a spec has another one", () => {
  const spec = withDefaults({ nat: { provider: "Teleport" } });
  assert.match(judged(spec), /^Unsupported: spec\.nat\.provider: .* Teleport; use one of External, PodIP, /);
});

test("rejects a spec whose compressed form does not fit into the record", () => {
  const podAnnotations = { incompressible: randomBytes(MAX_SPEC_BYTES).toString("base64") };
  const message = judged(specOf("External", [A], { podAnnotations }));
  assert.match(message, /^TooLarge: spec: the compressed spec has \d+ bytes/);
  assert.ok(message.includes(`room for ${MAX_SPEC_BYTES};`), message);
});

test("reports an invalid spec before a conflict", () => {
  const holdersOf = () => [{ policy: "billing/other", draining: false }];
  const spec = { ...specOf("KubeVIP", [A]), ports: ["9-8"] } as EgressPolicySpec;
  assert.match(judged(spec, { holdersOf }), /^Invalid: /);
  assert.match(judged(specOf("KubeVIP", [A]), { holdersOf }), /^Conflicted: /);
});

test("judges a spec again after the ranges of the cluster have changed", () => {
  const spec = specOf("External", [A]);
  const hashIn = (blockedCIDRs: readonly string[]) => {
    const verdict = judgeSpec({ ...factsOf(settled(spec), spec), blockedCIDRs });
    return "accepted" in verdict ? verdict.accepted.hash : "";
  };
  assert.notEqual(hashIn(["34.118.0.0/16"]), hashIn([]));
});

test("the last accepted spec is in force while the newest is rejected", () => {
  const world = settled(specOf("KubeVIP", [A]));
  const rejected = { ...specOf("KubeVIP", [A]), ports: ["9-8"] } as EgressPolicySpec;
  const planOf = (kept: EgressPolicySpec | undefined, more: Partial<Facts> = {}) =>
    decide({ ...factsOf(world, rejected), ...more }, () => kept, OPTIONS);
  const plan = planOf(specOf("KubeVIP", [A]));
  assert.deepEqual([plan.rejection?.reason, plan.accepted, plan.keptRejection], ["Invalid", undefined, undefined]);
  assert.equal(plan.effective?.slots.length, 1);
  assert.notEqual(plan.desired, undefined);
  const none = planOf(undefined);
  assert.deepEqual([none.rejection?.reason, none.effective, none.desired], ["Invalid", undefined, undefined]);
});

test("a last accepted spec whose grant was revoked changes nothing", () => {
  const spec = { ...specOf("KubeVIP", [A]), ports: ["9-8"] } as EgressPolicySpec;
  const facts: Facts = { ...factsOf(settled(specOf("KubeVIP", [A])), spec), grants: [] };
  const plan = decide(facts, () => specOf("KubeVIP", [A]), OPTIONS);
  assert.equal(plan.rejection?.reason, "Invalid");
  assert.equal(plan.keptRejection?.reason, "NotGranted");
  assert.deepEqual([plan.accepted, plan.effective, plan.desired], [undefined, undefined, undefined]);
});

test("an accepted spec is in force without the last accepted one", () => {
  const spec = specOf("KubeVIP", [A]);
  const plan = decide(factsOf(settled(spec), spec), () => assert.fail("reads the record"), OPTIONS);
  assert.deepEqual([plan.rejection, plan.keptRejection], [undefined, undefined]);
  assert.equal(plan.accepted?.hash, plan.effective?.hash);
});

test("a document of a migration does not replace the document of the spec", () => {
  const policy: EgressPolicy = factsOf(settled(specOf("External", [A])), specOf("External", [A])).policy;
  const former = { addresses: [{ address: B, source: B }], unbound: new Set([A]) };
  const none: string[] = [];
  const during = documentOf(policy, none, former);
  const after = documentOf(policy, none);
  assert.ok(during.document.includes(B) && !after.document.includes(B));
  assert.equal(during.spec, after.spec);
  assert.notEqual(documentOf(policy, ["34.118.0.0/16"]).hash, after.hash);
  assert.equal(documentOf(policy, none).hash, after.hash);
});

const clients = { ...withDefaults({ authentication: { mode: "Basic", secretRef: { name: "passwords" } } }) };

for (const [what, spec, says] of [
  [
    "a set that does not exist",
    { hostSets: [{ name: "pay", hosts: ["a.example"] }], clients: [{ name: "b", allow: [{ hosts: ["set:pya"] }] }] },
    /^Invalid: spec\.clients\[0\]\.allow\[0\]\.hosts\[0\]: "set:pya" refers to no host set; the policy has pay/,
  ],
  [
    "more references than a rule may have",
    {
      hostSets: Array.from({ length: 9 }, (_, i) => ({ name: `s${i}`, hosts: ["a.example"] })),
      deny: [{ hosts: Array.from({ length: 9 }, (_, i) => `set:s${i}`) }],
    },
    /^Invalid: spec\.deny\[0\]: refers to more than 8 host sets/,
  ],
  [
    "a network of a client with host bits",
    { clients: [{ name: "b", allow: [{ hosts: ["*"], cidrs: ["10.0.0.5/8"] }] }] },
    /^Invalid: spec\.clients\[0\]\.allow\[0\]\.cidrs\[0\]: .*10\.0\.0\.0\/8/,
  ],
  [
    "a range of ports of a client in descending order",
    { clients: [{ name: "b", ports: ["90-80"] }] },
    /^Invalid: spec\.clients\[0\]\.ports\[0\]: .*90-80.* is not a port/,
  ],
  [
    "a rule of a client with the name of a rule of the policy",
    {
      deny: [{ name: "x", hosts: ["a.example"] }],
      clients: [{ name: "b", deny: [{ name: "x", hosts: ["b.example"] }] }],
    },
    /^Invalid: spec\.clients\[0\]\.deny\[0\]\.name: "x" is the name of spec\.deny\[0\] already/,
  ],
  [
    "ports of a client that nothing uses",
    { defaultAction: "Deny", clients: [{ name: "b", ports: [8443] }] },
    /^Invalid: spec\.clients\[0\]\.ports: has no effect; the policy's rules keep the policy's ports/,
  ],
] as const) {
  test(`rejects ${what}, with the field`, () => {
    assert.match(judged({ ...clients, ...spec } as unknown as EgressPolicySpec), says);
  });
}

test("warns of an edit that removes the clients of a policy", () => {
  const before = { ...clients, clients: [{ name: "billing" }, { name: "default" }] };
  assert.match(clientsRemoved(before, clients)!, /has the rules of the policy \(before: billing, default\)$/);
  assert.equal(clientsRemoved(before, withDefaults({})), undefined);
  assert.equal(clientsRemoved(before, before), undefined);
  assert.equal(clientsRemoved(clients, clients), undefined);
  assert.equal(clientsRemoved(undefined, clients), undefined);
});
