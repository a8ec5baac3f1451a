import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { RESOURCE } from "../../api/kinds.ts";
import { ANNOTATION, childName, FIELD_MANAGER, LABEL } from "../../api/names.ts";
import type { ProxyFacts } from "../../fleet/proxy-status.ts";
import { lastingSlots, type Slot, usedAddresses } from "../../fleet/slots.ts";
import type { KubeObject } from "../../kube/resource.ts";
import { type Provider, servingLabels } from "../../providers/provider.ts";
import type { Facts } from "../facts/facts.ts";
import { type NetworkPolicies, networkPolicies } from "../network/network-policies.ts";
import { replicasOwnedByOthers, stamp } from "../objects/compare.ts";
import { type Accepted, documentConfigMap, publishedConfigMap } from "../objects/configmap.ts";
import { type ProxyPods, proxyDeployment } from "../objects/deployment.ts";
import { fleetBudget } from "../objects/pdb.ts";
import { clientService } from "../objects/service.ts";
import { proxyAccount } from "../objects/serviceaccount.ts";
import { selectorOf } from "../placement/nodes.ts";
import { affinityOf } from "../placement/placement.ts";
import { isRolledOut } from "../status/availability.ts";
import { withFormer } from "./document.ts";
import { type Surplus, wantedSlots } from "./handover.ts";
import { serves } from "./pod-labels.ts";
import { publish, publishedBefore, stillUsed } from "./published-ips.ts";

/** What the operator's own configuration says of proxy pods. */
export interface FleetOptions {
  image: string;
  imagePullPolicy: ProxyPods["imagePullPolicy"];
  /** Namespaces whose pods reach proxies' admin ports; undefined: whoever can. */
  adminFrom: readonly string[] | undefined;
}

/** What should stand there for a policy. */
export interface Desired {
  /** Whole, stamped, in the order in which they are applied: the list of addresses is published before it is used. */
  objects: KubeObject[];
  /** What is ours and should not stand there. */
  removals: KubeObject[];
  /** Deployments of slots that are changed after others. */
  waiting: string[];
  /** Proxies of what served before that have not ended. */
  formerProxies: readonly ProxyFacts[];
  networkPolicies: NetworkPolicies;
}

const DEFAULT_REPLICAS = 2;

function deploymentOf(
  policy: EgressPolicy,
  spec: EgressPolicy["spec"],
  provider: Provider,
  slot: Slot | undefined,
  facts: Facts,
  options: FleetOptions,
): KubeObject {
  const own = policy.metadata.name;
  const name = slot === undefined ? childName.fleet(own) : childName.slot(own, slot.id);
  const actual = facts.children.deployments.get(name);
  const foreign = slot === undefined && actual !== undefined && replicasOwnedByOthers(actual, FIELD_MANAGER);
  const replicas = slot === undefined ? (spec.proxy?.replicas ?? DEFAULT_REPLICAS) : 1;
  return proxyDeployment(policy, spec, {
    ...options,
    ...(foreign ? {} : { replicas }),
    ...(slot === undefined ? {} : { slot }),
    hostNetwork: provider.hostNetwork,
    readiness: provider.gated ? "policy" : "verified",
    annotations: provider.podAnnotations(spec),
    // What a label tells of a proof comes with the proof.
    labels: provider.gated ? {} : servingLabels(provider),
    nodeSelector: selectorOf(spec).labels,
    nodeAffinity: provider.pinned && slot !== undefined ? affinityOf(facts, spec, slot, name) : undefined,
    eager: provider.pinned,
  });
}

/**
 * Slots restart one after the other, or all addresses would be gone at once: of those that serve, one is changed while
 * every other one serves that is to stay. Those that do not serve are changed at once. Gives the names of those that wait.
 */
function waiting(facts: Facts, deployments: readonly KubeObject[], spec: EgressPolicy["spec"]): Set<string> {
  const inService = deployments.flatMap((object): { object: KubeObject; changes: boolean }[] => {
    const actual = facts.children.deployments.get(object.metadata.name);
    const slot = object.metadata.labels?.[LABEL.slot] ?? "";
    if (actual === undefined || !isRolledOut(actual) || !serves(slot, facts.proxies, spec)) return [];
    const applied = actual.metadata.annotations?.[ANNOTATION.applied];
    return [{ object, changes: applied !== object.metadata.annotations?.[ANNOTATION.applied] }];
  });
  const changing = inService.filter(({ changes }) => changes).map(({ object }) => object.metadata.name);
  const served = new Set(inService.map(({ object }) => object.metadata.labels?.[LABEL.slot]));
  const all = [...lastingSlots(spec)].every((slot) => served.has(slot));
  return new Set(all ? changing.slice(1) : changing);
}

/** Pure: the objects of an accepted spec. */
export function desire(
  facts: Facts,
  spec: EgressPolicy["spec"],
  accepted: Accepted,
  provider: Provider,
  { go, stay, former, running }: Surplus,
  options: FleetOptions,
): Desired {
  const { policy, children } = facts;
  const guards = networkPolicies(facts, withFormer(spec, former), provider, options.adminFrom);
  const slots = wantedSlots(spec, provider);
  const before = publishedBefore(children.configMaps.get(childName.published(policy.metadata.name)));
  const used = new Set(usedAddresses(spec));
  const stillSent = [
    ...former.leaving.map(({ address }) => address).filter((address) => !used.has(address)),
    ...stillUsed(spec, before, facts.proxies, accepted.hash),
  ].sort();
  const deployments = slots.map((slot) => stamp(deploymentOf(policy, spec, provider, slot, facts, options)));
  const later = provider.slots ? waiting(facts, deployments, spec) : new Set<string>();
  const objects = [
    ...[
      publishedConfigMap(policy, publish(spec, stillSent, before, new Date(facts.now).toISOString())),
      documentConfigMap(policy, accepted),
      proxyAccount(policy),
      clientService(policy, spec, provider),
      fleetBudget(policy),
      // Before the Deployments: no proxy of a new fleet runs without.
      ...guards.objects,
    ].map(stamp),
    ...deployments,
    ...slots.flatMap((slot) => (slot === undefined ? [] : provider.slotObjects(policy, spec, slot))).map(stamp),
  ];

  const names = new Set([...objects, ...stay].map((object) => `${object.kind}/${object.metadata.name}`));
  if (guards.tooLarge !== undefined) {
    names.add(`${RESOURCE.networkPolicy.kind}/${childName.senders(policy.metadata.name)}`);
  }
  // Also what gives an ending proxy its address.
  const kept = new Set([
    ...stay.map(({ metadata }) => metadata.labels?.[LABEL.slot]),
    ...running.map(({ slot }) => slot),
  ]);
  const standing = [...children.configMaps.values(), ...children.services.values(), ...children.others];
  const removals = [
    ...standing.filter(
      (object) =>
        !names.has(`${object.kind}/${object.metadata.name}`) && !kept.has(object.metadata.labels?.[LABEL.slot]),
    ),
    ...go,
  ];
  return {
    objects: objects.filter(({ kind, metadata }) => kind !== "Deployment" || !later.has(metadata.name)),
    removals,
    waiting: [...later],
    formerProxies: running,
    networkPolicies: guards,
  };
}

/** Proxies that run another document than they should: their kubelet is told to look at the volume now. */
export function lagging(proxies: readonly ProxyFacts[], hash: string): ProxyFacts[] {
  return proxies.filter(({ leaving, pod, status }) => {
    if (leaving || pod.status?.phase !== "Running") return false;
    return status !== undefined && status.hash !== hash;
  });
}
