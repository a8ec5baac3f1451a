import assert from "node:assert/strict";
import { test } from "node:test";
import { decide } from "../../operator/reconcile/decision/decide.ts";
import type { Facts } from "../../operator/reconcile/facts/facts.ts";
import { statusOf } from "../../operator/reconcile/status/status.ts";
import { manySlots } from "./many-slots.ts";

/** Facts that one reconcile reads only once, for any number of slots. The test counts reads, not time. */

const OPTIONS = {
  image: "outrider:1",
  imagePullPolicy: "IfNotPresent" as const,
  imagePullSecrets: [],
  adminFrom: ["outrider-system"],
};
const applied = { problem: undefined, networkPolicy: undefined };

function reconcile(facts: Facts): void {
  const plan = decide(facts, () => undefined, OPTIONS);
  assert.equal(plan.rejection, undefined);
  const status = statusOf(facts, { plan, applied, recorded: false, clusterDomain: "cluster.local" });
  assert.equal(status.staticIPs?.length, facts.policy.spec.staticIPs?.length);
}

/** Reads of the addresses of all nodes. */
function readsOf(slots: number, nodes: number): number {
  const facts = manySlots(slots, nodes);
  let reads = 0;
  for (const node of facts.nodes!) {
    const { status } = node;
    Object.defineProperty(node, "status", {
      get: () => {
        reads++;
        return status;
      },
    });
  }
  reconcile(facts);
  return reads;
}

test("reads the addresses of each node as often for 64 slots as for 2", () => {
  const [few, many] = [readsOf(2, 100), readsOf(64, 100)];
  assert.equal(many, few);
  // The placements, and the network of the senders' NetworkPolicy.
  assert.ok(few <= 2 * 100, `${few} reads of 100 nodes`);
});
