import { ANNOTATION } from "../../api/names.ts";
import type { Deployment } from "../../api/objects.ts";
import { slotLabel } from "../../fleet/metadata.ts";
import type { ProxyFacts } from "../../fleet/proxy-status.ts";
import { boundSource, SHARED, slotId } from "../../fleet/slots.ts";
import type { Facts } from "../facts/facts.ts";
import { annotatedAddresses } from "../placement/placement.ts";
import type { Round } from "./disturbances.ts";
import type { Former, FormerAddress } from "./document.ts";
import { noLongerUsed } from "./published-ips.ts";
import { type ResolvedSpec, wantedLabels } from "./resolved-spec.ts";

/** Deployments that the spec no longer needs, and the proxies of them that still run. */
export interface Handover {
  /** Deployments to delete now. */
  remove: readonly Deployment[];
  /** Deployments that serve until their replacements do. */
  keep: Deployment[];
  former: Former;
  /** Running proxies of Deployments that are kept, or that were deleted and whose pods still terminate. */
  running: readonly ProxyFacts[];
}

/**
 * Splits old Deployments into those that are deleted now and those that still serve. A slot whose change waits keeps its
 * stored source in the document: its proxy still binds it, and would lose its proof.
 */
export function handoverOf(
  facts: Facts,
  resolved: ResolvedSpec,
  { remove, waiting }: Pick<Round, "remove" | "waiting">,
): Handover {
  const wanted = wantedLabels(resolved);
  const keep = [...facts.children.deployments.values()].filter(
    (deployment) => !wanted.has(slotLabel(deployment)) && !remove.includes(deployment),
  );
  // A terminating proxy still serves for a while.
  const running = facts.proxies.filter(({ slot, pod }) => !wanted.has(slot) && pod.status?.phase === "Running");
  const late = waiting.flatMap(({ unit }) => facts.children.deployments.get(unit.name) ?? []);
  return { remove, keep, former: formerOf(resolved, keep, late, running), running };
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
  late: readonly Deployment[],
  running: readonly ProxyFacts[],
): Former {
  const annotated = keep.flatMap(addressesOf);
  const orphans = running.filter(({ slot }) => !keep.some((deployment) => slotLabel(deployment) === slot));
  const others = noLongerUsed(spec, published).flatMap((address): FormerAddress[] => {
    const proxy = orphans.find(({ slot }) => slot === SHARED || slot === slotId(address));
    if (proxy === undefined || annotated.some((one) => one.address === address)) return [];
    return [{ address, source: boundSource(proxy.pod) ?? address }];
  });
  const unchanged = late.filter((deployment) => slotLabel(deployment) !== SHARED).flatMap(addressesOf);
  const addresses = [...annotated, ...unchanged, ...others];
  const shared = keep.filter((deployment) => slotLabel(deployment) === SHARED).flatMap(addressesOf);
  const unbound = (provider.shape.kind === "Slots" ? shared : slots).map(({ address }) => address);
  return { addresses, unbound: addresses.length === 0 || unbound.length === 0 ? undefined : new Set(unbound) };
}
