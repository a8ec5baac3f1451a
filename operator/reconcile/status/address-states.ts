import type { EgressPolicyStatus } from "../../api/egresspolicy.ts";
import { canonicalAddress, slotId } from "../../fleet/slots.ts";
import type { Facts } from "../facts/facts.ts";
import type { PlacedSpec } from "../placement/placement.ts";

export type AddressState = NonNullable<EgressPolicyStatus["staticIPs"]>[number];

/**
 * State of each address of the spec. Verified: an echo check of a proxy saw it. Mismatch: an echo check of its slot saw
 * another address. Assigned: the address is where it should be, and no echo check has seen it yet. The status of other
 * objects never counts.
 */
export function addressStates(
  facts: Facts,
  { spec, provider }: Pick<PlacedSpec, "spec" | "provider">,
  now: string,
): AddressState[] {
  const present = facts.proxies.filter((proxy) => !proxy.terminating);
  return (spec.staticIPs ?? []).map((ip): AddressState => {
    const address = canonicalAddress(ip.address);
    const source = canonicalAddress(ip.sourceAddress ?? ip.address);
    const slot = provider.shape.kind === "Slots" && ip.phase !== "Pending" ? slotId(address) : undefined;
    const own = slot === undefined ? present : present.filter((proxy) => proxy.slot === slot);
    const proofs = own.flatMap(({ status }) => status?.proofs ?? []);
    const seen = proofs.some((proof) => proof.verified && proof.observed.includes(address));
    const wrong =
      slot === undefined
        ? undefined
        : proofs.flatMap(({ observed }) => observed).find((observed) => observed !== address);
    const assignment =
      ip.phase === "Pending" ? { assigned: false } : provider.assignment(address, source, facts.proxies);
    const state = (): AddressState["state"] => {
      if (ip.phase === "Retiring") return "Retiring";
      if (ip.phase === "Pending") return "Unassigned";
      // A proof is older than the loss of an address: an address that no proxy has is Unassigned.
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
