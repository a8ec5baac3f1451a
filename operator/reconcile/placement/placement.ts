import { parseAddress } from "../../../proxy/policy/cidr.ts";
import type { EgressPolicySpec } from "../../api/egresspolicy.ts";
import { ANNOTATION } from "../../api/names.ts";
import type { Node } from "../../api/objects.ts";
import { isOpen } from "../../fleet/proxy-status.ts";
import { canonicalAddress, type Slot } from "../../fleet/slots.ts";
import type { KubeObject } from "../../kube/resource.ts";
import type { Provider } from "../../providers/provider.ts";
import type { Facts } from "../facts/facts.ts";
import { isSelected } from "./nodes.ts";

/** Nodes that may run the proxy of a slot whose address is on a node. */
export interface Placement {
  slot: Slot;
  /** Names of the nodes that have the address, sorted. Empty if no node lists it. */
  nodes: readonly string[];
  /** Nodes that other slots need, so this slot must not use them. */
  avoid: readonly string[];
}

/** Placements by the id of their slot, in the order of the spec. */
type Placements = ReadonlyMap<string, Placement>;

/** A spec with its provider, its slots, and where their proxies may run. */
export interface PlacedSpec {
  spec: EgressPolicySpec;
  provider: Provider;
  slots: readonly Slot[];
  /** Empty unless the addresses are on nodes. */
  placements: Placements;
}

/** Nodes by each address that they have. */
type NodesByAddress = ReadonlyMap<string, readonly Node[]>;

/** Types of node addresses that are IP addresses (core/v1 NodeAddress). */
const ADDRESS_TYPES = ["InternalIP", "ExternalIP"];

const annotated = ({ metadata }: KubeObject): string[] =>
  (metadata.annotations?.[ANNOTATION.addresses] ?? "")
    .split(",")
    .map((text) => text.trim())
    .filter((text) => text !== "");

/**
 * Addresses in the annotation `addresses`. On a node: addresses that its kubelet does not list. On the Deployment of a
 * shared fleet: all its addresses.
 */
export function annotatedAddresses(object: KubeObject): string[] {
  return annotated(object)
    .filter((text) => parseAddress(text) !== null)
    .map(canonicalAddress);
}

/** Items of a node's annotation that are no addresses: likely typing errors. */
export function misannotated(node: Node): string[] {
  return annotated(node).filter((text) => parseAddress(text) === null);
}

/** All addresses of a node. */
function nodeAddresses(node: Node): string[] {
  const listed = (node.status?.addresses ?? []).filter(({ type }) => ADDRESS_TYPES.includes(type));
  return [...listed.map(({ address }) => canonicalAddress(address)), ...annotatedAddresses(node)];
}

/** Reads the addresses of each node once: a lookup for each slot would parse them again and again. */
export function indexByAddress(nodes: readonly Node[]): NodesByAddress {
  const index = new Map<string, Node[]>();
  for (const node of nodes) {
    for (const address of new Set(nodeAddresses(node))) {
      const known = index.get(address);
      if (known === undefined) index.set(address, [node]);
      else known.push(node);
    }
  }
  return index;
}

/** Nodes that have the address that is bound. If there are none: nodes that have the static IP, which a router maps. */
export function nodesWith(index: NodesByAddress, { source, address }: Slot): readonly Node[] {
  return index.get(source) ?? index.get(address) ?? [];
}

/** Placement of every slot. Names are sorted, since a different order would replace pods. */
export function placementsOf(nodes: readonly Node[], spec: EgressPolicySpec, slots: readonly Slot[]): Placements {
  const index = indexByAddress(nodes.filter((node) => isSelected(node, spec)));
  const found = slots.map((slot) => ({
    slot,
    nodes: nodesWith(index, slot)
      .map(({ metadata }) => metadata.name)
      .sort(),
  }));
  const needed = [...new Set(found.flatMap((one) => one.nodes))].sort();
  return new Map(found.map((one) => [one.slot.id, { ...one, avoid: one.nodes.length === 0 ? needed : [] }]));
}

/**
 * core/v1 NodeAffinity; undefined allows any node. A field requirement takes one value, so each node has its own term.
 */
function affinityTo({ nodes, avoid }: Placement): object | undefined {
  const name = (operator: "In" | "NotIn", value: string) => ({ key: "metadata.name", operator, values: [value] });
  const nodeSelectorTerms = nodes.map((node) => ({ matchFields: [name("In", node)] }));
  if (avoid.length > 0) nodeSelectorTerms.push({ matchFields: avoid.map((node) => name("NotIn", node)) });
  return nodeSelectorTerms.length === 0
    ? undefined
    : { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms } };
}

/** Whether the proxy of a slot has its address on its present node, or may get it soon. */
function isAtHome(
  { proxies, children }: Facts,
  spec: EgressPolicySpec,
  { slot, nodes }: Placement,
  deployment: string,
): boolean {
  const actual = children.deployments.get(deployment)?.metadata.annotations;
  if (actual?.[ANNOTATION.source] !== slot.source) return false;
  return proxies.some(({ slot: id, terminating, node, ready, status, polled }) => {
    if (id !== slot.id || terminating || node === undefined) return false;
    const bound = status?.sources.some((one) => one.address === slot.source && one.assigned) ?? false;
    // Keep a serving proxy whatever nodes list, since the list may be wrong. A proxy that was not polled yet may serve.
    if (!polled || (bound && isOpen(status, spec))) return true;
    return (bound || ready) && (nodes.length === 0 || nodes.includes(node));
  });
}

/**
 * Node affinity of a slot. A change of the affinity replaces the pod, so the affinity stays unchanged while the proxy
 * serves, even if nodes list other addresses.
 */
export function affinityOf(
  facts: Facts,
  spec: EgressPolicySpec,
  placement: Placement,
  deployment: string,
): object | undefined {
  if (!isAtHome(facts, spec, placement, deployment)) return affinityTo(placement);
  return facts.children.deployments.get(deployment)?.spec?.template?.spec?.affinity?.nodeAffinity;
}
