import type { EgressPolicy } from "../api/egresspolicy.ts";
import { ANNOTATION, childName, FIELD_MANAGER, LABEL } from "../api/names.ts";
import { type Deployment, isUnschedulable } from "../api/objects.ts";
import type { KubeObject } from "../kube/resource.ts";
import type { Provider } from "../providers/provider.ts";
import { publish, publishedBefore } from "./addresses.ts";
import { replicasOwnedByOthers, stamp } from "./apply.ts";
import type { Facts, ProxyFacts } from "./facts.ts";
import { isOpen } from "./proxy-status.ts";
import { type Accepted, documentConfigMap, publishedConfigMap } from "./resources/configmap.ts";
import { type ProxyPods, proxyDeployment } from "./resources/deployment.ts";
import { fleetBudget } from "./resources/pdb.ts";
import { clientService } from "./resources/service.ts";
import { proxyAccount } from "./resources/serviceaccount.ts";
import { SHARED, type Slot, slotsOf } from "./slots.ts";

/** What the operator's own configuration says of proxy pods. */
export interface FleetOptions {
  image: string;
  imagePullPolicy: ProxyPods["imagePullPolicy"];
}

/** What should stand there for a policy. */
export interface Desired {
  /** Whole, stamped, in the order in which they are applied: the list of addresses is published before it is used. */
  objects: KubeObject[];
  /** What is ours and should not stand there. */
  removals: KubeObject[];
  /** Addresses whose slot is no longer wanted, and serves until the slots that are wanted do. */
  leaving: string[];
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
  });
}

/** Whether a slot, or a shared fleet, has a proxy that may take traffic now. */
function serves(slot: string, proxies: readonly ProxyFacts[], spec: EgressPolicy["spec"]): boolean {
  return proxies.some((proxy) => proxy.slot === slot && proxy.ready && isOpen(proxy.status, spec));
}

/** The fleet's Deployments that are not wanted any more: kept while what replaces them does not serve yet. */
function surplus(
  facts: Facts,
  wanted: ReadonlySet<string>,
  spec: EgressPolicy["spec"],
): { go: Deployment[]; stay: Deployment[] } {
  const extra = [...facts.children.deployments.values()].filter(
    (deployment) => !wanted.has(deployment.metadata.labels?.[LABEL.slot] ?? ""),
  );
  const ready = [...wanted].every((slot) => serves(slot, facts.proxies, spec));
  // A new slot that finds no node would wait for ever for the one that an old slot has.
  const stuck = facts.proxies.some((proxy) => wanted.has(proxy.slot) && isUnschedulable(proxy.pod));
  return ready || stuck ? { go: extra, stay: [] } : { go: [], stay: extra };
}

/** Pure: the objects of an accepted spec. */
export function desire(
  facts: Facts,
  spec: EgressPolicy["spec"],
  accepted: Accepted,
  provider: Provider,
  options: FleetOptions,
): Desired {
  const { policy, children } = facts;
  const slots: (Slot | undefined)[] = provider.slots ? slotsOf(spec) : [undefined];
  const wanted = new Set(slots.map((slot) => slot?.id ?? SHARED));
  const { go, stay } = surplus(facts, wanted, spec);
  const leaving = stay
    .map((deployment) => deployment.metadata.annotations?.[ANNOTATION.address])
    .filter((address) => address !== undefined);
  const before = publishedBefore(children.configMaps.get(childName.published(policy.metadata.name)));
  const objects = [
    publishedConfigMap(policy, publish(spec, leaving, before, new Date(facts.now).toISOString())),
    documentConfigMap(policy, accepted),
    proxyAccount(policy),
    clientService(policy, spec, provider),
    fleetBudget(policy),
    ...slots.map((slot) => deploymentOf(policy, spec, provider, slot, facts, options)),
    ...slots.flatMap((slot) => (slot === undefined ? [] : provider.slotObjects(policy, spec, slot))),
  ].map(stamp);

  const names = new Set([...objects, ...stay].map((object) => `${object.kind}/${object.metadata.name}`));
  const kept = new Set(stay.map((deployment) => deployment.metadata.labels?.[LABEL.slot]));
  const standing = [...children.configMaps.values(), ...children.services.values(), ...children.others];
  const removals = [
    ...standing.filter(
      (object) =>
        !names.has(`${object.kind}/${object.metadata.name}`) && !kept.has(object.metadata.labels?.[LABEL.slot]),
    ),
    ...go,
  ];
  return { objects, removals, leaving };
}

/** What is changed on proxy pods: labels and annotations that are merged into theirs; null takes one away. */
export interface PodPatch {
  pod: ProxyFacts["pod"];
  labels?: Record<string, string | null>;
  annotations?: Record<string, string>;
}

/**
 * The `verified` label, where the client Service selects by it: on pods whose gate is open, of slots that are not retiring.
 * A proxy that gives no answer keeps what it has: its own gate still refuses what is not proven.
 */
export function labelPatches(
  proxies: readonly ProxyFacts[],
  gated: boolean,
  retiring: ReadonlySet<string>,
  spec?: EgressPolicy["spec"],
): PodPatch[] {
  return proxies.flatMap(({ pod, slot, status, leaving }): PodPatch[] => {
    const labelled = pod.metadata.labels?.[LABEL.verified] === "true";
    const wanted = gated && !leaving && !retiring.has(slot) && (status === undefined ? labelled : isOpen(status, spec));
    if (wanted === labelled || leaving) return [];
    return [{ pod, labels: { [LABEL.verified]: wanted ? "true" : null } }];
  });
}

/** Proxies that run another document than they should: their kubelet is told to look at the volume now. */
export function lagging(proxies: readonly ProxyFacts[], hash: string): ProxyFacts[] {
  return proxies.filter(({ leaving, pod, status }) => {
    if (leaving || pod.status?.phase !== "Running") return false;
    return status !== undefined && status.hash !== hash;
  });
}
