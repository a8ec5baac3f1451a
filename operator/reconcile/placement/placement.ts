import { parseAddress } from "../../../proxy/policy/cidr.ts";
import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { ANNOTATION } from "../../api/names.ts";
import type { Node } from "../../api/objects.ts";
import { isOpen } from "../../fleet/proxy-status.ts";
import { canonical, type Slot, slotsOf } from "../../fleet/slots.ts";
import type { KubeObject } from "../../kube/resource.ts";
import type { Facts } from "../facts/facts.ts";
import { isSelected } from "./nodes.ts";

type Spec = EgressPolicy["spec"];

/** Where a slot's proxy may run, where addresses are on nodes already. */
export interface Placement {
  slot: Slot;
  /** Names of the nodes that have its address; empty: none is known to. */
  nodes: string[];
  /** Nodes that other slots need, which it must not take from them. */
  avoid: string[];
}

/** Types of node addresses that are addresses (core/v1 NodeAddress). */
const ADDRESS_TYPES = ["InternalIP", "ExternalIP"];

const annotated = ({ metadata }: KubeObject): string[] =>
  (metadata.annotations?.[ANNOTATION.addresses] ?? "")
    .split(",")
    .map((text) => text.trim())
    .filter((text) => text !== "");

/** Addresses that an annotation names: of a node those that its kubelet does not list, of a shared fleet all that it has. */
export function annotatedAddresses(object: KubeObject): string[] {
  return annotated(object)
    .filter((text) => parseAddress(text) !== null)
    .map(canonical);
}

/** What a node's annotation has beside addresses: its author meant something by it. */
export function misannotated(node: Node): string[] {
  return annotated(node).filter((text) => parseAddress(text) === null);
}

/** All addresses that a node says it has. */
function addressesOf(node: Node): string[] {
  const listed = (node.status?.addresses ?? []).filter(({ type }) => ADDRESS_TYPES.includes(type));
  return [...listed.map(({ address }) => canonical(address)), ...annotatedAddresses(node)];
}

/** Nodes that have what is bound; else those that have what the world sees, where a router maps one to the other. */
export function nodesWith<T extends Node>(nodes: readonly T[], { source, address }: Slot): T[] {
  const bound = nodes.filter((node) => addressesOf(node).includes(source));
  return bound.length > 0 ? bound : nodes.filter((node) => addressesOf(node).includes(address));
}

/** Where each slot goes. Sorted, since stores are not: pods would be made anew with every look. */
export function placementsOf(nodes: readonly Node[], spec: Spec): Placement[] {
  const fitting = nodes.filter((node) => isSelected(node, spec));
  const found = slotsOf(spec).map((slot) => ({
    slot,
    nodes: nodesWith(fitting, slot)
      .map(({ metadata }) => metadata.name)
      .sort(),
  }));
  const needed = [...new Set(found.flatMap((one) => one.nodes))].sort();
  return found.map((one) => ({ ...one, avoid: one.nodes.length === 0 ? needed : [] }));
}

/** core/v1 NodeAffinity; undefined: any node. A field's requirement takes one value, so each node has a term. */
function affinityTo({ nodes, avoid }: Placement): object | undefined {
  const name = (operator: "In" | "NotIn", value: string) => ({ key: "metadata.name", operator, values: [value] });
  const nodeSelectorTerms = nodes.map((node) => ({ matchFields: [name("In", node)] }));
  if (avoid.length > 0) nodeSelectorTerms.push({ matchFields: avoid.map((node) => name("NotIn", node)) });
  return nodeSelectorTerms.length === 0
    ? undefined
    : { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms } };
}

/** Whether a slot's proxy has its address where it is, or may have it soon: then it is left there. */
function isAtHome({ proxies, children }: Facts, spec: Spec, { slot, nodes }: Placement, deployment: string): boolean {
  const standing = children.deployments.get(deployment)?.metadata.annotations;
  if (standing?.[ANNOTATION.source] !== slot.source) return false;
  return proxies.some(({ slot: id, leaving, node, ready, status, asked }) => {
    if (id !== slot.id || leaving || node === undefined) return false;
    const bound = status?.sources.some((one) => one.address === slot.source && one.assigned) ?? false;
    // Who serves is left alone, whoever lists its address: that may be a slip. Who was not asked yet may serve.
    if (!asked || (bound && isOpen(status, spec))) return true;
    return (bound || ready) && (nodes.length === 0 || nodes.includes(node));
  });
}

/** The node affinity of a slot. A change of it is a new pod: what nodes list is no reason for one while the proxy serves. */
export function affinityOf(facts: Facts, spec: Spec, slot: Slot, deployment: string): object | undefined {
  const placement = placementsOf(facts.nodes ?? [], spec).find((one) => one.slot.id === slot.id)!;
  if (!isAtHome(facts, spec, placement, deployment)) return affinityTo(placement);
  return facts.children.deployments.get(deployment)?.spec?.template?.spec?.affinity?.nodeAffinity;
}
