import { isDeepStrictEqual } from "node:util";
import { decide } from "../../../operator/reconcile/decision/decide.ts";
import { statusOf } from "../../../operator/reconcile/status/status.ts";
import { manySlots } from "../../operator/many-slots.ts";

/**
 * Time for which one decision and its status block the event loop, in the process that also answers admissions. Usage:
 * node test/bench/operator/decide.ts [SLOTS NODES]
 */

const ROUNDS = 5;
const OPTIONS = {
  image: "outrider:1",
  imagePullPolicy: "IfNotPresent" as const,
  imagePullSecrets: [],
  adminFrom: ["outrider-system"],
};
const applied = { problem: undefined, networkPolicy: undefined };

const [slots = 64, nodes = 1000] = process.argv.slice(2).map(Number);
const facts = manySlots(slots, nodes);
const times: number[] = [];
let first: unknown;
for (let round = 0; round < ROUNDS; round++) {
  const began = performance.now();
  const plan = decide(facts, () => undefined, OPTIONS);
  statusOf(facts, { plan, applied, recorded: true, clusterDomain: "cluster.local" });
  times.push(performance.now() - began);
  first ??= plan.desired;
  if (plan.desired === undefined || !isDeepStrictEqual(plan.desired, first)) throw new Error("decisions differ");
}
const shown = times.map((ms) => `${ms.toFixed(0)} ms`).join(", ");
console.log(`${slots} slots on ${nodes} nodes: ${shown}`);
