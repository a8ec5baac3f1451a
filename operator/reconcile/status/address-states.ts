import type { EgressPolicy, EgressPolicyStatus } from "../../api/egresspolicy.ts";
import { canonical, slotId } from "../../fleet/slots.ts";
import type { Provider } from "../../providers/provider.ts";
import type { Facts } from "../facts/facts.ts";

type State = NonNullable<EgressPolicyStatus["staticIPs"]>[number];

/**
 * What is known of each address of the spec. Verified: a proxy's echo check saw it; Mismatch: its slot was seen
 * with another one; Assigned: it is where it should be, and nobody saw it from outside yet. No object's status counts.
 */
export function addressStates(facts: Facts, spec: EgressPolicy["spec"], provider: Provider, now: string): State[] {
  const present = facts.proxies.filter((proxy) => !proxy.leaving);
  return (spec.staticIPs ?? []).map((ip): State => {
    const address = canonical(ip.address);
    const source = canonical(ip.sourceAddress ?? ip.address);
    const slot = provider.slots && ip.phase !== "Pending" ? slotId(address) : undefined;
    const own = slot === undefined ? present : present.filter((proxy) => proxy.slot === slot);
    const proofs = own.flatMap(({ status }) => status?.proofs ?? []);
    const seen = proofs.some((proof) => proof.verified && proof.observed.includes(address));
    const wrong =
      slot === undefined
        ? undefined
        : proofs.flatMap(({ observed }) => observed).find((observed) => observed !== address);
    const assignment =
      ip.phase === "Pending" ? { assigned: false } : provider.assignment(address, source, facts.proxies);
    const state = (): State["state"] => {
      if (ip.phase === "Retiring") return "Retiring";
      if (ip.phase === "Pending") return "Unassigned";
      // A proof outlives the address that it proved: what is not bound now is not there, whatever was seen.
      if (!assignment.assigned) return "Unassigned";
      if (wrong !== undefined) return "Mismatch";
      return seen ? "Verified" : "Assigned";
    };
    const before = facts.policy.status?.staticIPs?.find((old) => old.address === ip.address);
    const observed = wrong ?? (seen ? address : undefined);
    return {
      address: ip.address,
      ...(slot === undefined ? {} : { slot }),
      ...(assignment.node === undefined ? {} : { node: assignment.node }),
      state: state(),
      ...(observed === undefined ? {} : { observedAddress: observed }),
      lastTransitionTime: (before?.state === state() ? before.lastTransitionTime : undefined) ?? now,
    };
  });
}
