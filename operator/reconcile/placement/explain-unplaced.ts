import { counted, joinNames } from "../../api/conditions.ts";
import type { EgressPolicySpec } from "../../api/egresspolicy.ts";
import { ANNOTATION } from "../../api/names.ts";
import { type Node, whyUnschedulable } from "../../api/objects.ts";
import type { ProxyFacts } from "../../fleet/proxy-status.ts";
import type { Slot } from "../../fleet/slots.ts";
import { isOnNode } from "../../providers/provider.ts";
import type { Facts } from "../facts/facts.ts";
import { canTake, selectorOf, unusable } from "./nodes.ts";
import { indexByAddress, misannotated, nodesWith, type PlacedSpec, type Placement } from "./placement.ts";

/** Subject and verb for nodes, by their names: `node a has`, `nodes a, b have`. */
const have = (names: readonly string[]) =>
  names.length === 1 ? `node ${names[0]} has` : `nodes ${names.join(", ")} have`;

/** Why there are too few nodes for the slots of a spec; undefined if there are enough, or if nodes are not watched. */
export function shortageOf(nodes: readonly Node[] | undefined, placed: PlacedSpec): string | undefined {
  const { spec, provider, slots } = placed;
  // Without --discover-cidrs the operator knows no nodes; the scheduler reports the problem then.
  if (nodes === undefined || provider.shape.kind !== "Slots") return undefined;
  const able = nodes.filter((node) => canTake(node, spec));
  if (able.length < slots.length) {
    const usable = `${able.length} of ${counted(nodes.length, "node", "nodes")} can run a proxy`;
    const obstacles = unusable(nodes, spec);
    const fix = obstacles.length === 0 ? "add nodes" : "add nodes, or make these usable";
    const ips = counted(slots.length, "static IP", "static IPs");
    return [`too few nodes for ${ips}: ${usable}`, ...obstacles, fix].join("; ");
  }
  return isOnNode(provider.shape) ? obstructed(nodes, able, placed) : undefined;
}

/** Why a slot cannot run on the node that has its address. */
function obstructed(all: readonly Node[], able: readonly Node[], { spec, placements }: PlacedSpec): string | undefined {
  const usable = new Set(able.map(({ metadata }) => metadata.name));
  const taken = new Map<string, Slot>();
  for (const { slot, nodes } of placements.values()) {
    const [only] = nodes;
    if (only === undefined) continue;
    if (!nodes.some((name) => usable.has(name))) {
      const having = all.filter(({ metadata }) => nodes.includes(metadata.name));
      const obstacles = unusable(having, spec);
      return `no node that has ${slot.address} can run a proxy; ${obstacles.join("; ")}; make such a node usable, or move the address to another node`;
    }
    if (nodes.length > 1) continue;
    const other = taken.get(only);
    if (other !== undefined) {
      const old = [other, slot].find(({ retiring }) => retiring)?.address;
      const fix =
        old === undefined
          ? "move one to another node, or to a policy with other ports"
          : `remove ${old} from spec.staticIPs`;
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
    const old = holder.pod.metadata.name;
    return `node ${holder.node} has ${what}, but still runs proxy ${old}, and a node can run only one proxy of a policy; the new proxy starts after ${old} has ended`;
  }
  const words = proxies.filter((proxy) => proxy.slot === slot.id).map(({ pod }) => whyUnschedulable(pod));
  const why = words.find((one) => one !== undefined);
  return `${have(nodes)} ${what}, but its proxy does not run there yet${why === undefined ? "" : `: ${why}`}`;
}

/** Why no node that the policy selects lists an address. */
function whyNotListed(
  nodes: readonly Node[],
  spec: EgressPolicySpec,
  { slot, avoid }: Placement,
  what: string,
): string {
  const elsewhere = nodesWith(indexByAddress(nodes), slot);
  if (elsewhere.length > 0) {
    const { field } = selectorOf(spec);
    const names = elsewhere.map(({ metadata }) => metadata.name).sort();
    return `${have(names)} ${what}, but not the labels of ${field}; label a node that has the address, or change ${field}`;
  }
  const [wrong] = nodes.filter((node) => misannotated(node).length > 0);
  if (wrong !== undefined) {
    return `no node lists ${what}; annotation ${ANNOTATION.addresses} on node ${wrong.metadata.name} contains an invalid address: ${misannotated(wrong).join(", ")}; correct the annotation`;
  }
  const taken = nodes.filter(({ metadata }) => avoid.includes(metadata.name));
  const able = nodes.filter((node) => canTake(node, spec) && !taken.includes(node));
  if (able.length === 0) {
    const others = taken.length === 0 ? [] : [`needed for other static IPs: ${joinNames(taken)}`];
    const obstacles = [...others, ...unusable(nodes, spec)].join("; ");
    return `no node lists ${what}, and no other node can run its proxy; ${obstacles}; add a node that has the address`;
  }
  if (able.length === 1) {
    const name = able[0]!.metadata.name;
    return `only node ${name} can run the proxy for ${what}, and it does not have the address; add the address to that node`;
  }
  return `no node lists ${what}; annotate the node that has it (kubectl annotate node NODE ${ANNOTATION.addresses}=${slot.source})`;
}
