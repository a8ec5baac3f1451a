import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { RESOURCE } from "../../api/kinds.ts";
import { ANNOTATION, FIELD_MANAGER, LABEL, MANAGED_BY, PROXY_NAME, REASON } from "../../api/names.ts";
import type { ConfigMap, Deployment, EndpointSlice, Node, Pod, Service, ServiceCIDR } from "../../api/objects.ts";
import { optIn } from "../../injection/inject.ts";
import { type Cache, type Informers, type OnChange, withoutManagedFields } from "../../kube/informers.ts";
import type { KubeObject } from "../../kube/resource.ts";
import { RECORD_SELECTOR, recordOwner } from "../objects/record.ts";
import { isUpgrading, marksOf } from "../objects/upgrade-marks.ts";
import { heldByDeployment, heldByProxy, heldByService } from "./held-addresses.ts";

/** Label that names the policy of an object. Each kind has its own, since users set `policy` on pods as they like. */
type OwnerLabel = typeof LABEL.policy | typeof LABEL.fleet | typeof LABEL.injected;

/** Key (`namespace/name`) of the policy that a label names. */
export function ownerOf({ metadata }: KubeObject, label: OwnerLabel): string | undefined {
  const name = metadata.labels?.[label];
  return name === undefined ? undefined : `${metadata.namespace}/${name}`;
}

/** Index by {@link ownerOf}. */
const ownedBy =
  (label: OwnerLabel) =>
  (object: KubeObject): string[] => {
    const owner = ownerOf(object, label);
    return owner === undefined ? [] : [owner];
  };

/** Keeps of `managedFields` only which manager set `replicas`, and which fields of the spec other managers own. */
function specManagers(object: Deployment): Deployment {
  const managedFields = (object.metadata.managedFields ?? []).flatMap(({ manager, fieldsV1 }) => {
    const spec = fieldsV1?.["f:spec"] as Record<string, unknown> | undefined;
    const own = spec?.["f:replicas"] === undefined ? undefined : { "f:replicas": {} };
    const kept = manager === FIELD_MANAGER ? own : spec;
    if (kept === undefined) return [];
    return [{ ...(manager === undefined ? {} : { manager }), fieldsV1: { "f:spec": kept } }];
  });
  return { ...object, metadata: { ...object.metadata, managedFields } };
}

/** Keeps of a node only what decisions read: its list of images alone is many kilobytes. */
function nodeParts(node: Node): Node {
  const { podCIDR, podCIDRs, unschedulable, taints } = node.spec ?? {};
  const spec = {
    ...(podCIDR === undefined ? {} : { podCIDR }),
    ...(podCIDRs === undefined ? {} : { podCIDRs }),
    ...(unschedulable === undefined ? {} : { unschedulable }),
    ...(taints === undefined ? {} : { taints }),
  };
  return { ...withoutManagedFields(node), spec, status: { addresses: node.status?.addresses ?? [] } };
}

const injectedBy = ownedBy(LABEL.injected);
const requestedBy = (pod: KubeObject): string[] => {
  const name = optIn(pod);
  return name === undefined ? [] : [`${pod.metadata.namespace}/${name}`];
};

/** Keeps the labels and annotations of a pod only if it uses or requests a policy. */
function podParts(pod: KubeObject): KubeObject {
  const { name, namespace, uid, resourceVersion, deletionTimestamp, labels, annotations } = pod.metadata;
  const own = injectedBy(pod).length > 0 || requestedBy(pod).length > 0;
  const metadata = {
    name,
    ...(namespace && { namespace }),
    ...(uid && { uid }),
    ...(resourceVersion && { resourceVersion }),
    ...(deletionTimestamp && { deletionTimestamp }),
    ...(own && labels && { labels }),
    ...(own && annotations && { annotations }),
  };
  return { apiVersion: pod.apiVersion, kind: pod.kind, metadata };
}

/** Handler that notices when an object of a slot no longer holds an address. */
function released<T extends KubeObject>(held: (object: T) => string[], { released }: CacheListeners): OnChange<T> {
  return (event, object, before) => {
    if (before === undefined) return;
    const now = event === "deleted" ? [] : held(object);
    if (held(before).some((one) => !now.includes(one))) released();
  };
}

/** Excludes pods that have ended: they send nothing, and finished pods of a Job exist until a user deletes them. */
export const RUNNING = "status.phase!=Succeeded,status.phase!=Failed";

/** Selects objects of fleets. */
export const fleetSelector = `${LABEL.managedBy}=${MANAGED_BY},${LABEL.name}=${PROXY_NAME}`;

/** Objects that belong to policies, and the pods that use them. */
interface PolicyCaches {
  policies: Cache<EgressPolicy>;
  configMaps: Cache<ConfigMap>;
  /** Records of policies, in the namespace of the operator. Index `policy`: namespace/name. */
  records: Cache<ConfigMap>;
  services: Cache<Service>;
  deployments: Cache<Deployment>;
  accounts: Cache<KubeObject>;
  budgets: Cache<KubeObject>;
  networkPolicies: Cache<KubeObject>;
  proxies: Cache<Pod>;
  /** Metadata of all pods that have not ended. Indexes: `injected`, `requested`. */
  pods: Cache<KubeObject>;
}

/** Objects of the cluster, which need cluster-wide rights. Undefined without `--discover-cidrs`. */
interface ClusterCaches {
  namespaces: Cache<KubeObject & { status?: { phase?: string } }> | undefined;
  nodes: Cache<Node> | undefined;
  serviceCIDRs: Cache<ServiceCIDR> | undefined;
  apiServers: Cache<EndpointSlice> | undefined;
}

/** Informer caches that the facts of a policy are gathered from. */
export interface Caches extends PolicyCaches, ClusterCaches {}

/** Handlers of changes in the caches. */
export interface CacheListeners {
  policy: OnChange<EgressPolicy>;
  record: OnChange<ConfigMap>;
  /** An object of a policy, a pod of its fleet, or a pod that uses it changed. `owner`: key of the policy. */
  child(owner: string): void;
  proxy: OnChange<Pod>;
  /** A Deployment, a Service or a proxy of a slot no longer holds an address, which may be free now. */
  released(): void;
  /** The upgrade of a fleet began, ended or failed. */
  upgraded(): void;
  /** Nodes, services or API servers changed. */
  ranges(): void;
  /** A node was added or removed, or its labels, taints or addresses changed. */
  nodes(): void;
  namespace(name: string): void;
}

/** Settings of the caches. */
export interface CachesOptions {
  /** Watches the ranges of the cluster, which needs cluster-wide rights. */
  discover: boolean;
  /** Namespace of the records. */
  recordNamespace: string;
}

/** Adds the informer of every kind. */
export function addCaches(informers: Informers, listeners: CacheListeners, options: CachesOptions): Caches {
  const cluster = options.discover
    ? addClusterCaches(informers, listeners)
    : { namespaces: undefined, nodes: undefined, serviceCIDRs: undefined, apiServers: undefined };
  const records = addRecords(informers, listeners, options.recordNamespace);
  return { ...addOwnedCaches(informers, listeners), records, ...addPodCaches(informers, listeners), ...cluster };
}

function addRecords(informers: Informers, { record }: CacheListeners, namespace: string): Cache<ConfigMap> {
  const policy = (object: KubeObject) => [recordOwner(object)].filter((owner) => owner !== undefined);
  return informers.add<ConfigMap>(RESOURCE.configMap, record, {
    ...{ namespace, labelSelector: RECORD_SELECTOR, indexes: { policy } },
  });
}

/**
 * Longest interval of comparing the caches of policies and Deployments with the API server, in milliseconds. With the
 * time that a watch gets to deliver what is missing, missed changes are found within a minute. These kinds have few
 * objects; others, such as all pods of the cluster, are compared at every resync.
 */
const COMPARE_MS = 40 * 1000;

/** State of the upgrade of a Deployment, as far as other fleets depend on it. */
function upgradeState(deployment: Deployment | undefined): string {
  if (deployment === undefined || !isUpgrading(deployment)) return "";
  const failed = deployment.status?.conditions?.some(({ reason }) => reason === REASON.deadlineExceeded);
  return `${marksOf(deployment).upgradedAt} ${failed}`;
}

/** Handler that also notifies the previous owner: if a user edits the label, the operator has to restore it. */
function childBy(label: OwnerLabel, { child }: CacheListeners): OnChange<KubeObject> {
  return (_, object, before) => {
    for (const one of before === undefined ? [object] : [before, object]) {
      const owner = ownerOf(one, label);
      if (owner !== undefined) child(owner);
    }
  };
}

/** Policies, and the objects that they own. */
function addOwnedCaches(
  informers: Informers,
  listeners: CacheListeners,
): Omit<PolicyCaches, "records" | "proxies" | "pods"> {
  const child = childBy(LABEL.policy, listeners);
  const serviceReleased = released(heldByService, listeners);
  const deploymentReleased = released(heldByDeployment, listeners);
  const owned = { labelSelector: fleetSelector, indexes: { owner: ownedBy(LABEL.policy) } };
  return {
    policies: informers.add(RESOURCE.policy, listeners.policy, { compareMs: COMPARE_MS }),
    configMaps: informers.add<ConfigMap>(RESOURCE.configMap, child, owned),
    services: informers.add<Service>(
      RESOURCE.service,
      (event, object, before) => {
        child(event, object, before);
        serviceReleased(event, object, before);
      },
      { ...owned, indexes: { ...owned.indexes, held: heldByService } },
    ),
    accounts: informers.add<KubeObject>(RESOURCE.serviceAccount, child, owned),
    budgets: informers.add<KubeObject>(RESOURCE.pdb, child, owned),
    networkPolicies: informers.add<KubeObject>(RESOURCE.networkPolicy, child, owned),
    deployments: informers.add<Deployment>(
      RESOURCE.deployment,
      (event, object, before) => {
        child(event, object, before);
        deploymentReleased(event, object, before);
        const [now, then] = [event === "deleted" ? undefined : object, event === "deleted" ? object : before];
        if (upgradeState(now) !== upgradeState(then)) listeners.upgraded();
      },
      {
        ...owned,
        compareMs: COMPARE_MS,
        indexes: { ...owned.indexes, held: heldByDeployment },
        transform: specManagers,
      },
    ),
  };
}

/** Proxy pods, and the metadata of all pods. */
function addPodCaches(informers: Informers, listeners: CacheListeners): Pick<PolicyCaches, "proxies" | "pods"> {
  const ofFleet = childBy(LABEL.fleet, listeners);
  const proxyReleased = released(heldByProxy, listeners);
  return {
    proxies: informers.add<Pod>(
      RESOURCE.pod,
      (event, object, before) => {
        listeners.proxy(event, object, before);
        ofFleet(event, object, before);
        proxyReleased(event, object, before);
      },
      { labelSelector: fleetSelector, indexes: { owner: ownedBy(LABEL.fleet), held: heldByProxy } },
    ),
    pods: informers.add<KubeObject>(
      RESOURCE.pod,
      (_, object, before) => {
        for (const one of before === undefined ? [object] : [before, object]) {
          for (const policy of new Set([...injectedBy(one), ...requestedBy(one)])) listeners.child(policy);
        }
      },
      {
        metadataOnly: true,
        fieldSelector: RUNNING,
        indexes: { injected: injectedBy, requested: requestedBy },
        transform: podParts,
      },
    ),
  };
}

/** Namespaces, nodes, and the ranges of the cluster. */
function addClusterCaches(informers: Informers, listeners: CacheListeners): ClusterCaches {
  return {
    namespaces: informers.add(RESOURCE.namespace, (_, { metadata }) => listeners.namespace(metadata.name)),
    nodes: informers.add<Node>(RESOURCE.node, nodeHandler(listeners), { transform: nodeParts }),
    serviceCIDRs: informers.add<ServiceCIDR>(RESOURCE.serviceCIDR, () => listeners.ranges()),
    apiServers: informers.add<EndpointSlice>(RESOURCE.endpointSlice, () => listeners.ranges(), {
      namespace: "default",
      labelSelector: "kubernetes.io/service-name=kubernetes",
    }),
  };
}

/** Ignores the heartbeats of kubelets, which write the status of their node every few minutes. */
function nodeHandler(listeners: CacheListeners): OnChange<Node> {
  const has = ({ metadata, status }: Node) => [status?.addresses, metadata.annotations?.[ANNOTATION.addresses]];
  const takes = ({ metadata, spec }: Node) => [metadata.labels, spec?.unschedulable, spec?.taints];
  return (event, node, before) => {
    const changed = (part: (node: Node) => unknown) =>
      event !== "updated" || before === undefined || JSON.stringify(part(before)) !== JSON.stringify(part(node));
    if (changed((one) => [one.spec?.podCIDR, one.spec?.podCIDRs, has(one)])) listeners.ranges();
    if (changed((one) => [takes(one), has(one)])) listeners.nodes();
  };
}
