import { RESOURCE } from "../../api/kinds.ts";
import { ANNOTATION, childName, FIELD_MANAGER, LABEL } from "../../api/names.ts";
import { isRolledOut } from "../../api/objects.ts";
import type { ProxyFacts } from "../../fleet/proxy-status.ts";
import { lastingSlots, type Slot } from "../../fleet/slots.ts";
import type { KubeObject } from "../../kube/resource.ts";
import { type FleetShape, isOnNode, servingLabels } from "../../providers/provider.ts";
import type { Facts } from "../facts/facts.ts";
import { type NetworkPolicies, networkPolicies } from "../network/network-policies.ts";
import { replicasOwnedByOthers, stamp } from "../objects/compare.ts";
import { type Accepted, documentConfigMap, type PublishedIPs, publishedConfigMap } from "../objects/configmap.ts";
import { type ProxyPods, proxyDeployment } from "../objects/deployment.ts";
import { fleetBudget } from "../objects/pdb.ts";
import { clientService } from "../objects/service.ts";
import { proxyAccount } from "../objects/serviceaccount.ts";
import { selectorOf } from "../placement/nodes.ts";
import { affinityOf } from "../placement/placement.ts";
import { withFormer } from "./document.ts";
import type { Handover } from "./handover.ts";
import { serves } from "./pod-labels.ts";
import { publish, stillUsed } from "./published-ips.ts";
import { type ResolvedSpec, wantedSlots } from "./resolved-spec.ts";

/** Settings of proxy pods from the configuration of the operator. */
export interface FleetOptions {
  image: string;
  imagePullPolicy: ProxyPods["imagePullPolicy"];
  /** Namespaces whose pods reach the admin ports of proxies; undefined: no restriction. */
  adminFrom: readonly string[] | undefined;
}

/** Desired state of a policy's objects. */
export interface Desired {
  /** Stamped objects in the order in which they are applied: addresses are published before they are used. */
  objects: KubeObject[];
  /** The list that these objects publish. It is recorded before they are applied. */
  published: PublishedIPs;
  /** Objects of the policy to delete. */
  removals: KubeObject[];
  /** Names of the slot Deployments that change after others. */
  waiting: string[];
  /** Running proxies that the spec no longer needs. */
  formerProxies: readonly ProxyFacts[];
  networkPolicies: NetworkPolicies;
}

const DEFAULT_REPLICAS = 2;

/** Readiness and labels of pods by the shape of their fleet. */
function readinessOf(shape: FleetShape): Pick<ProxyPods, "readiness" | "labels"> {
  switch (shape.kind) {
    case "Deployment":
      return { readiness: "verified", labels: servingLabels(shape) };
    case "Slots":
      switch (shape.address) {
        case "on-node":
          return { readiness: "verified", labels: servingLabels(shape) };
        case "follows-ready-pod":
          // The label follows the proof, so it is set later.
          return { readiness: "policy", labels: {} };
      }
  }
}

/** Deployment of a slot, or the one Deployment of a fleet without slots. */
function deploymentOf(
  facts: Facts,
  { spec, provider, placements }: ResolvedSpec,
  slot: Slot | undefined,
  { image, imagePullPolicy }: FleetOptions,
): KubeObject {
  const { policy, children } = facts;
  const { shape } = provider;
  const shared = {
    ...{ image, imagePullPolicy, ...readinessOf(shape) },
    annotations: provider.podAnnotations(spec),
    nodeSelector: selectorOf(spec).labels,
    eager: isOnNode(shape),
  };
  if (slot !== undefined) {
    const name = childName.slot(policy.metadata.name, slot.id);
    const placement = placements.get(slot.id);
    const nodeAffinity = placement === undefined ? undefined : affinityOf(facts, spec, placement, name);
    return proxyDeployment(policy, spec, { ...shared, slot, replicas: 1, nodeAffinity });
  }
  const actual = children.deployments.get(childName.fleet(policy.metadata.name));
  const foreign = actual !== undefined && replicasOwnedByOthers(actual, FIELD_MANAGER);
  const replicas = spec.proxy?.replicas ?? DEFAULT_REPLICAS;
  return proxyDeployment(policy, spec, { ...shared, ...(foreign ? {} : { replicas }), nodeAffinity: undefined });
}

/**
 * Names of the slot Deployments that must wait. Of the serving slots one changes at a time, and only while all others
 * that are not retiring serve. Otherwise all addresses could be down at once. Slots that do not serve change at once.
 */
function waitingSlots(facts: Facts, deployments: readonly KubeObject[], { spec, slots }: ResolvedSpec): Set<string> {
  const inService = deployments.flatMap((object): { object: KubeObject; changes: boolean }[] => {
    const actual = facts.children.deployments.get(object.metadata.name);
    const slot = object.metadata.labels?.[LABEL.slot] ?? "";
    if (actual === undefined || !isRolledOut(actual) || !serves(slot, facts.proxies, spec)) return [];
    const applied = actual.metadata.annotations?.[ANNOTATION.applied];
    return [{ object, changes: applied !== object.metadata.annotations?.[ANNOTATION.applied] }];
  });
  const changing = inService.filter(({ changes }) => changes).map(({ object }) => object.metadata.name);
  const served = new Set(inService.map(({ object }) => object.metadata.labels?.[LABEL.slot]));
  const all = [...lastingSlots(slots)].every((slot) => served.has(slot));
  return new Set(all ? changing.slice(1) : changing);
}

/** The published list, which also has the addresses that proxies still send from. */
function publishedOf(
  facts: Facts,
  { spec, slots, published }: ResolvedSpec,
  hash: string,
  { former }: Handover,
): PublishedIPs {
  const used = new Set(slots.map(({ address }) => address));
  const leaving = [
    ...former.addresses.map(({ address }) => address).filter((address) => !used.has(address)),
    ...stillUsed(spec, published, facts.proxies, hash),
  ].sort();
  return publish(spec, leaving, published, new Date(facts.now).toISOString());
}

/** Pure: the objects of an accepted spec. */
export function desire(
  facts: Facts,
  resolved: ResolvedSpec,
  accepted: Accepted,
  handover: Handover,
  options: FleetOptions,
): Desired {
  const { policy } = facts;
  const { spec, provider } = resolved;
  const guards = networkPolicies(facts, withFormer(spec, handover.former), provider.shape, options.adminFrom);
  const slots = wantedSlots(resolved);
  const deployments = slots.map((slot) => stamp(deploymentOf(facts, resolved, slot, options)));
  const waiting = provider.shape.kind === "Slots" ? waitingSlots(facts, deployments, resolved) : new Set<string>();
  const published = publishedOf(facts, resolved, accepted.hash, handover);
  const objects = [
    ...[
      publishedConfigMap(policy, published),
      documentConfigMap(policy, accepted),
      proxyAccount(policy),
      clientService(policy, spec, provider.shape),
      fleetBudget(policy),
      // Before the Deployments, so that no proxy of a new fleet runs without them.
      ...guards.objects,
    ].map(stamp),
    ...deployments,
    ...slots.flatMap((slot) => (slot === undefined ? [] : provider.slotObjects(policy, spec, slot))).map(stamp),
  ];
  return {
    objects: objects.filter(({ kind, metadata }) => kind !== "Deployment" || !waiting.has(metadata.name)),
    published,
    removals: [...obsolete(facts, objects, guards, handover), ...handover.remove],
    waiting: [...waiting],
    formerProxies: handover.running,
    networkPolicies: guards,
  };
}

/** Existing objects, other than Deployments, that are not desired. */
function obsolete(
  { policy, children }: Facts,
  objects: readonly KubeObject[],
  guards: NetworkPolicies,
  { keep, running }: Handover,
): KubeObject[] {
  const names = new Set([...objects, ...keep].map(kindAndName));
  if (guards.tooLarge !== undefined) {
    names.add(`${RESOURCE.networkPolicy.kind}/${childName.senders(policy.metadata.name)}`);
  }
  // Keep the objects that give a terminating proxy its address.
  const kept = new Set([
    ...keep.map(({ metadata }) => metadata.labels?.[LABEL.slot]),
    ...running.map(({ slot }) => slot),
  ]);
  const existing = [...children.configMaps.values(), ...children.services.values(), ...children.others];
  return existing.filter(
    (object) => !names.has(kindAndName(object)) && !kept.has(object.metadata.labels?.[LABEL.slot]),
  );
}

const kindAndName = ({ kind, metadata }: KubeObject): string => `${kind}/${metadata.name}`;

/** Proxies that run another document than they should. The kubelet has to update their volume now. */
export function lagging(proxies: readonly ProxyFacts[], hash: string): ProxyFacts[] {
  return proxies.filter(({ terminating, pod, status }) => {
    if (terminating || pod.status?.phase !== "Running") return false;
    return status !== undefined && status.hash !== hash;
  });
}
