import type { EgressPolicySpec } from "../../api/egresspolicy.ts";
import { SHARED, type Slot, slotsOf } from "../../fleet/slots.ts";
import { isOnNode, type Provider } from "../../providers/provider.ts";
import type { Facts } from "../facts/facts.ts";
import type { PublishedList } from "../objects/published/list.ts";
import { type PlacedSpec, placementsOf } from "../placement/placement.ts";

/**
 * An accepted spec with values that decisions and status derive from it. They are computed once per reconcile.
 * Placements of 64 slots on 1,000 nodes, computed for each slot, would block the event loop for seconds in the process
 * that answers admissions.
 */
export interface ResolvedSpec extends PlacedSpec {
  /** The published list of the record. */
  published: PublishedList | undefined;
}

/** Pure. */
export function resolveSpec(facts: Facts, spec: EgressPolicySpec, provider: Provider): ResolvedSpec {
  const { record, nodes } = facts;
  const slots = slotsOf(spec);
  return {
    spec,
    provider,
    slots,
    placements: isOnNode(provider.shape) ? placementsOf(nodes ?? [], spec, slots) : new Map(),
    published: record.published,
  };
}

/** Slots that need a Deployment each. Undefined stands for the one Deployment of a fleet without slots. */
export function wantedSlots({
  provider,
  slots,
}: Pick<ResolvedSpec, "provider" | "slots">): readonly (Slot | undefined)[] {
  switch (provider.shape.kind) {
    case "Deployment":
      return [undefined];
    case "Slots":
      return slots;
  }
}

/** Slot labels of {@link wantedSlots}. */
export function wantedLabels(resolved: ResolvedSpec): ReadonlySet<string> {
  return new Set(wantedSlots(resolved).map((slot) => slot?.id ?? SHARED));
}
