import { ANNOTATION, childName, LABEL } from "../../api/names.ts";
import { type Deployment, isRolledOut, isUnschedulable } from "../../api/objects.ts";
import type { ProxyFacts } from "../../fleet/proxy-status.ts";
import { boundSource, SHARED, slotId } from "../../fleet/slots.ts";
import { isOnNode } from "../../providers/provider.ts";
import type { Facts } from "../facts/facts.ts";
import { annotatedAddresses } from "../placement/placement.ts";
import type { Former, FormerAddress } from "./document.ts";
import { serves } from "./pod-labels.ts";
import { noLongerUsed } from "./published-ips.ts";
import { type ResolvedSpec, wantedSlots } from "./resolved-spec.ts";

/** Deployments that the spec no longer needs, and the proxies of them that still run. */
export interface Handover {
  /** Deployments to delete now. */
  remove: Deployment[];
  /** Deployments that serve until their replacements do. */
  keep: Deployment[];
  former: Former;
  /** Running proxies of Deployments that are kept, or that were deleted and whose pods still terminate. */
  running: readonly ProxyFacts[];
}

const slotLabel = ({ metadata }: Deployment): string => metadata.labels?.[LABEL.slot] ?? "";

/** Decides which old Deployments to delete: all of them once their replacements serve. */
export function handoverOf(facts: Facts, resolved: ResolvedSpec): Handover {
  const { spec } = resolved;
  const slots = wantedSlots(resolved);
  const wanted = new Set(slots.map((slot) => slot?.id ?? SHARED));
  const extra = [...facts.children.deployments.values()].filter((deployment) => !wanted.has(slotLabel(deployment)));
  const ready = slots.every((slot) => {
    if (slot !== undefined) return slot.retiring || serves(slot.id, facts.proxies, spec);
    const fleet = facts.children.deployments.get(childName.fleet(facts.policy.metadata.name));
    return fleet !== undefined && isRolledOut(fleet) && serves(SHARED, facts.proxies, spec);
  });
  // Exception: a new slot without a node would wait forever for the node of an old slot.
  const stuck = facts.proxies.filter((proxy) => wanted.has(proxy.slot) && isUnschedulable(proxy.pod));
  const obstacle = extra.find((deployment) => stuck.some(({ slot }) => isInTheWay(facts, resolved, deployment, slot)));
  const remove = extra.filter((deployment) => ready || deployment === obstacle);
  const keep = extra.filter((deployment) => !remove.includes(deployment));
  // A terminating proxy still serves for a while.
  const running = facts.proxies.filter(({ slot, pod }) => !wanted.has(slot) && pod.status?.phase === "Running");
  return { remove, keep, former: formerOf(resolved, keep, running), running };
}

/** Whether an old Deployment uses a node that a slot needs. The Deployment of a shared fleet uses no ports of nodes. */
function isInTheWay(
  { proxies }: Facts,
  { provider, placements }: ResolvedSpec,
  deployment: Deployment,
  slot: string,
): boolean {
  if (slot === SHARED || slotLabel(deployment) === SHARED) return false;
  if (!isOnNode(provider.shape)) return true;
  const needed = placements.get(slot)?.nodes ?? [];
  if (needed.length === 0) return true;
  const own = proxies.filter((proxy) => proxy.slot === slotLabel(deployment));
  return own.some(({ node }) => node !== undefined && needed.includes(node));
}

/** Addresses of a Deployment's proxies, from its annotations. */
function addressesOf(deployment: Deployment): FormerAddress[] {
  const { annotations } = deployment.metadata;
  if (slotLabel(deployment) === SHARED) {
    return annotatedAddresses(deployment).map((address) => ({ address, source: address }));
  }
  const address = annotations?.[ANNOTATION.address];
  return address === undefined ? [] : [{ address, source: annotations?.[ANNOTATION.source] ?? address }];
}

/** Addresses of the former fleet. For proxies whose Deployment is deleted, only the published list still has them. */
function formerOf(
  { spec, provider, slots, published }: ResolvedSpec,
  keep: readonly Deployment[],
  running: readonly ProxyFacts[],
): Former {
  const annotated = keep.flatMap(addressesOf);
  const orphans = running.filter(({ slot }) => !keep.some((deployment) => slotLabel(deployment) === slot));
  const others = noLongerUsed(spec, published).flatMap((address): FormerAddress[] => {
    const proxy = orphans.find(({ slot }) => slot === SHARED || slot === slotId(address));
    if (proxy === undefined || annotated.some((one) => one.address === address)) return [];
    return [{ address, source: boundSource(proxy.pod) ?? address }];
  });
  const addresses = [...annotated, ...others];
  const shared = keep.filter((deployment) => slotLabel(deployment) === SHARED).flatMap(addressesOf);
  const unbound = (provider.shape.kind === "Slots" ? shared : slots).map(({ address }) => address);
  return { addresses, unbound: addresses.length === 0 || unbound.length === 0 ? undefined : new Set(unbound) };
}
