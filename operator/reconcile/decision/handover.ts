import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { ANNOTATION, childName, LABEL } from "../../api/names.ts";
import { type Deployment, isUnschedulable } from "../../api/objects.ts";
import type { ProxyFacts } from "../../fleet/proxy-status.ts";
import { canonical, SHARED, type Slot, slotId, slotsOf, usedAddresses } from "../../fleet/slots.ts";
import type { Provider } from "../../providers/provider.ts";
import type { Facts } from "../facts/facts.ts";
import { annotatedAddresses, placementsOf } from "../placement/placement.ts";
import { isRolledOut } from "../status/availability.ts";
import type { Former, Leaving } from "./document.ts";
import { serves } from "./pod-labels.ts";
import { noLongerUsed, publishedBefore } from "./published-ips.ts";

type Spec = EgressPolicy["spec"];

/** A fleet's Deployments that are not wanted any more, and what of them still sends. */
export interface Surplus {
  /** Those that go now. */
  go: Deployment[];
  /** Those that serve until others do. */
  stay: Deployment[];
  former: Former;
  /** Proxies that run although they are not wanted: of what stays, and such as end. */
  running: readonly ProxyFacts[];
}

const slotOf = ({ metadata }: Deployment): string => metadata.labels?.[LABEL.slot] ?? "";

/** Slots that are used; undefined stands for the one Deployment of a provider without slots. */
export function wantedSlots(spec: Spec, provider: Provider): (Slot | undefined)[] {
  return provider.slots ? slotsOf(spec) : [undefined];
}

/** What stands there and is not wanted: kept while what replaces it does not serve yet. */
export function surplusOf(facts: Facts, spec: Spec, provider: Provider): Surplus {
  const slots = wantedSlots(spec, provider);
  const wanted = new Set(slots.map((slot) => slot?.id ?? SHARED));
  const extra = [...facts.children.deployments.values()].filter((deployment) => !wanted.has(slotOf(deployment)));
  const ready = slots.every((slot) => {
    if (slot !== undefined) return slot.retiring || serves(slot.id, facts.proxies, spec);
    const fleet = facts.children.deployments.get(childName.fleet(facts.policy.metadata.name));
    return fleet !== undefined && isRolledOut(fleet) && serves(SHARED, facts.proxies, spec);
  });
  // A new slot that finds no node would wait for ever for the one that an old slot has.
  const stuck = facts.proxies.filter((proxy) => wanted.has(proxy.slot) && isUnschedulable(proxy.pod));
  const inTheWay = extra.find((deployment) =>
    stuck.some(({ slot }) => isInTheWay(facts, spec, provider, deployment, slot)),
  );
  const go = extra.filter((deployment) => ready || deployment === inTheWay);
  const stay = extra.filter((deployment) => !go.includes(deployment));
  // One that ends serves on for a while.
  const running = facts.proxies.filter(({ slot, pod }) => !wanted.has(slot) && pod.status?.phase === "Running");
  return {
    go,
    stay,
    former: formerOf(facts, spec, provider, stay, running),
    running,
  };
}

/** Whether a Deployment that is not wanted has a node that a slot needs: a shared fleet takes no ports of nodes. */
function isInTheWay(
  { nodes, proxies }: Facts,
  spec: Spec,
  provider: Provider,
  deployment: Deployment,
  slot: string,
): boolean {
  if (slot === SHARED || slotOf(deployment) === SHARED) return false;
  if (!provider.pinned) return true;
  const needed = placementsOf(nodes ?? [], spec).find((one) => one.slot.id === slot)?.nodes ?? [];
  if (needed.length === 0) return true;
  const own = proxies.filter((proxy) => proxy.slot === slotOf(deployment));
  return own.some(({ node }) => node !== undefined && needed.includes(node));
}

/** What a Deployment's proxies send from, as it says itself. */
function addressesOf(deployment: Deployment): Leaving[] {
  const { annotations } = deployment.metadata;
  if (slotOf(deployment) === SHARED) {
    return annotatedAddresses(deployment).map((address) => ({ address, source: address }));
  }
  const address = annotations?.[ANNOTATION.address];
  return address === undefined ? [] : [{ address, source: annotations?.[ANNOTATION.source] ?? address }];
}

const SOURCE = "--source-address=";

/** What a proxy binds, by its own arguments. */
function sourceOf({ pod }: ProxyFacts): string | undefined {
  const args = (pod.spec?.containers ?? []).flatMap((container) => container.args ?? []);
  const source = args.find((arg) => arg.startsWith(SOURCE));
  return source === undefined ? undefined : canonical(source.slice(SOURCE.length));
}

/** What proxies send from whose Deployment is gone or goes, the published list alone still tells. */
function formerOf(
  { policy, children }: Facts,
  spec: Spec,
  provider: Provider,
  stay: readonly Deployment[],
  running: readonly ProxyFacts[],
): Former {
  const said = stay.flatMap(addressesOf);
  const unsaid = running.filter(({ slot }) => !stay.some((deployment) => slotOf(deployment) === slot));
  const before = publishedBefore(children.configMaps.get(childName.published(policy.metadata.name)));
  const others = noLongerUsed(spec, before).flatMap((address): Leaving[] => {
    const proxy = unsaid.find(({ slot }) => slot === SHARED || slot === slotId(address));
    if (proxy === undefined || said.some((one) => one.address === address)) return [];
    return [{ address, source: sourceOf(proxy) ?? address }];
  });
  const leaving = [...said, ...others];
  const shared = stay.filter((deployment) => slotOf(deployment) === SHARED).flatMap(addressesOf);
  const machine = provider.slots ? shared.map(({ address }) => address) : usedAddresses(spec);
  return { leaving, machine: leaving.length === 0 || machine.length === 0 ? undefined : new Set(machine) };
}
