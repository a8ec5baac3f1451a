import type { EgressPolicySpec } from "../../api/egresspolicy.ts";
import { ANNOTATION } from "../../api/names.ts";
import { type Node, whyUnschedulable } from "../../api/objects.ts";
import type { ProxyFacts } from "../../fleet/proxy-status.ts";
import type { Slot } from "../../fleet/slots.ts";
import { isOnNode } from "../../providers/provider.ts";
import type { Facts } from "../facts/facts.ts";
import { canTake, selectorOf } from "./nodes.ts";
import {
  indexByAddress,
  misannotated,
  nodesWith,
  type PlacedSpec,
  type Placement,
  type Placements,
} from "./placement.ts";

const nodeNames = (nodes: readonly Node[]) =>
  nodes
    .map(({ metadata }) => metadata.name)
    .sort()
    .join(", ");

/** Why there are too few nodes for the slots of a spec; undefined if there are enough, or if nodes are not watched. */
export function shortageOf(nodes: readonly Node[] | undefined, placed: PlacedSpec): string | undefined {
  const { spec, provider, slots, placements } = placed;
  // Without --discover-cidrs the operator knows no nodes; the scheduler reports the problem then.
  if (nodes === undefined || provider.shape.kind !== "Slots") return undefined;
  const able = nodes.filter((node) => canTake(node, spec));
  const count = slots.length;
  if (able.length < count) {
    const { field } = selectorOf(spec);
    return `${count} static IPs need ${count} nodes, but ${able.length} can run a proxy (check ${field}, tolerations, cordoned nodes)`;
  }
  return isOnNode(provider.shape) ? obstructed(able, placements) : undefined;
}

/** Why a slot cannot run on the node that has its address. */
function obstructed(able: readonly Node[], placements: Placements): string | undefined {
  const usable = new Set(able.map(({ metadata }) => metadata.name));
  const taken = new Map<string, Slot>();
  for (const { slot, nodes } of placements.values()) {
    const [only] = nodes;
    if (only === undefined) continue;
    if (!nodes.some((name) => usable.has(name))) {
      return `node ${nodes.join(", ")} has ${slot.address} but cannot run a proxy (check tolerations, cordoned nodes)`;
    }
    if (nodes.length > 1) continue;
    const other = taken.get(only);
    if (other !== undefined) {
      const old = [other, slot].find(({ retiring }) => retiring)?.address;
      const fix = old === undefined ? "move one to another node, or to a policy with other ports" : `remove ${old}`;
      return `${other.address} and ${slot.address} are both on node ${only}, which can run only one proxy of a policy; ${fix}`;
    }
    taken.set(only, slot);
  }
  return undefined;
}

/** Why no proxy has an address that should be on a node already, and the fix. */
export function whyUnassigned(facts: Facts, spec: EgressPolicySpec, placement: Placement): string {
  const { slot, nodes } = placement;
  const what = slot.source === slot.address ? slot.address : `${slot.source} (for ${slot.address})`;
  if (facts.nodes === undefined) {
    const { field } = selectorOf(spec);
    return `no proxy could bind ${what}, and the operator does not watch nodes (--discover-cidrs off); set ${field} so that it selects only the node that has the address`;
  }
  if (nodes.length > 0) return whyNotBound(facts.proxies, placement, what);
  return whyNotListed(facts.nodes, spec, placement, what);
}

/** Why the proxy does not use an address that a node lists. */
function whyNotBound(proxies: readonly ProxyFacts[], { slot, nodes }: Placement, what: string): string {
  const tried = proxies.find(
    ({ slot: id, terminating, node, status }) =>
      id === slot.id && !terminating && status !== undefined && node !== undefined && nodes.includes(node),
  );
  if (tried !== undefined) {
    const fix = "add the address to an interface of the node, or set sourceAddress if a router maps it";
    return `the proxy on node ${tried.node} cannot bind ${slot.source}, although the node lists ${slot.address}; ${fix}`;
  }
  const holder = proxies.find(
    ({ slot: id, node, pod }) =>
      id !== slot.id && node !== undefined && nodes.includes(node) && pod.spec?.hostNetwork === true,
  );
  if (holder !== undefined) {
    return `node ${holder.node} has ${what} but can run only one proxy of a policy; the proxy starts after ${holder.pod.metadata.name} has ended`;
  }
  const words = proxies.filter((proxy) => proxy.slot === slot.id).map(({ pod }) => whyUnschedulable(pod));
  const why = words.find((one) => one !== undefined);
  return `no proxy runs yet on node ${nodes.join(", ")}, which has ${what}${why === undefined ? "" : `: ${why}`}`;
}

/** Why no node that the policy selects lists an address. */
function whyNotListed(
  nodes: readonly Node[],
  spec: EgressPolicySpec,
  { slot, avoid }: Placement,
  what: string,
): string {
  const elsewhere = nodesWith(indexByAddress(nodes), slot);
  if (elsewhere.length > 0)
    return `node ${nodeNames(elsewhere)} has ${what}, but ${selectorOf(spec).field} does not select it`;
  const [wrong] = nodes.filter((node) => misannotated(node).length > 0);
  if (wrong !== undefined) {
    return `no node lists ${what}; annotation ${ANNOTATION.addresses} on node ${wrong.metadata.name} contains an invalid address: ${misannotated(wrong).join(", ")}`;
  }
  const able = nodes.filter((node) => canTake(node, spec) && !avoid.includes(node.metadata.name));
  if (able.length === 0) return `no node can run a proxy for ${what}`;
  if (able.length === 1)
    return `the only node for ${what} is ${nodeNames(able)}, which does not have it; add the address to that node`;
  return `no node lists ${what}; annotate the node that has it (kubectl annotate node NODE ${ANNOTATION.addresses}=${slot.source})`;
}
