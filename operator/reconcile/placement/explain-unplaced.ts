import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { ANNOTATION } from "../../api/names.ts";
import { type Node, whyUnschedulable } from "../../api/objects.ts";
import { type Slot, slotId, slotsOf } from "../../fleet/slots.ts";
import type { Provider } from "../../providers/provider.ts";
import type { Facts } from "../facts/facts.ts";
import { canTake, selectorOf } from "./nodes.ts";
import { misannotated, nodesWith, placementsOf } from "./placement.ts";

type Spec = EgressPolicy["spec"];

const namesOf = (nodes: readonly Node[]) =>
  nodes
    .map(({ metadata }) => metadata.name)
    .sort()
    .join(", ");

/** Why there are too few nodes for the slots of a spec; undefined: there are enough, or none is known. */
export function shortageOf(nodes: readonly Node[] | undefined, spec: Spec, provider: Provider): string | undefined {
  // Without --discover-cidrs no node is known: then the scheduler alone tells.
  if (nodes === undefined || !provider.slots) return undefined;
  const count = slotsOf(spec).length;
  const able = nodes.filter((node) => canTake(node, spec));
  if (able.length < count) {
    const { field } = selectorOf(spec);
    return `${count} static IPs need ${count} nodes, and ${able.length} can take a proxy (${field}, tolerations, cordoned nodes)`;
  }
  return provider.pinned ? obstructed(nodes, able, spec) : undefined;
}

/** Why a slot cannot go where its address is. */
function obstructed(nodes: readonly Node[], able: readonly Node[], spec: Spec): string | undefined {
  const taken = new Map<string, Slot>();
  for (const { slot, nodes: having } of placementsOf(nodes, spec)) {
    const [only] = having;
    if (only === undefined) continue;
    if (!able.some(({ metadata }) => having.includes(metadata.name))) {
      return `node ${having.join(", ")} has ${slot.address} and can take no proxy (tolerations, cordoned)`;
    }
    if (having.length > 1) continue;
    const other = taken.get(only);
    if (other !== undefined) {
      const old = [other, slot].find(({ retiring }) => retiring)?.address;
      const mend = old === undefined ? "move one to another node, or to a policy with other ports" : `remove ${old}`;
      return `${other.address} and ${slot.address} are both on node ${only}, which takes one proxy of a policy; ${mend}`;
    }
    taken.set(only, slot);
  }
  return undefined;
}

/** Why no proxy has an address that should be on a node already, and what to do. */
export function whyUnassigned(facts: Facts, spec: Spec, address: string): string {
  const placements = placementsOf(facts.nodes ?? [], spec);
  const { slot, nodes, avoid } = placements.find((one) => one.slot.id === slotId(address))!;
  const what = slot.source === slot.address ? slot.address : `${slot.source} (for ${slot.address})`;
  const { field } = selectorOf(spec);
  if (facts.nodes === undefined) {
    return `no proxy could bind ${what}, and nodes are not known (--discover-cidrs off): let ${field} fit the node that has it alone`;
  }
  if (nodes.length > 0) {
    const tried = facts.proxies.find(
      ({ slot: id, leaving, node, status }) =>
        id === slot.id && !leaving && status !== undefined && node !== undefined && nodes.includes(node),
    );
    if (tried === undefined) {
      const holder = facts.proxies.find(
        ({ slot: id, node, pod }) =>
          id !== slot.id && node !== undefined && nodes.includes(node) && pod.spec?.hostNetwork === true,
      );
      if (holder !== undefined) {
        return `node ${holder.node}, which has ${what}, takes one proxy of a policy, and ${holder.pod.metadata.name} is there until it ends`;
      }
      const words = facts.proxies.filter((proxy) => proxy.slot === slot.id).map(({ pod }) => whyUnschedulable(pod));
      const why = words.find((one) => one !== undefined);
      return `no proxy runs yet on node ${nodes.join(", ")}, which has ${what}${why === undefined ? "" : `: ${why}`}`;
    }
    const mend = "put it on an interface there, or name in sourceAddress what the node has where a router maps it";
    return `the proxy on node ${tried.node}, which says that it has ${slot.address}, cannot bind ${slot.source}: ${mend}`;
  }
  const elsewhere = nodesWith(facts.nodes, slot);
  if (elsewhere.length > 0) return `node ${namesOf(elsewhere)} has ${what}, and ${field} does not fit it`;
  const [wrong] = facts.nodes.filter((node) => misannotated(node).length > 0);
  if (wrong !== undefined) {
    return `no node lists ${what}, and node ${wrong.metadata.name} has an annotation ${ANNOTATION.addresses} of which ${misannotated(wrong).join(", ")} is no IP address`;
  }
  const able = facts.nodes.filter((node) => canTake(node, spec) && !avoid.includes(node.metadata.name));
  if (able.length === 0) return `no node can take a proxy for ${what}`;
  if (able.length === 1) return `the only node for ${what} is ${namesOf(able)}, and it does not have it: put it there`;
  return `no node lists ${what}: name the one that has it (kubectl annotate node NODE ${ANNOTATION.addresses}=${slot.source})`;
}
