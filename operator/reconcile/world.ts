import type { Logger } from "../../proxy/cli/log.ts";
import type { EgressPolicy } from "../api/egresspolicy.ts";
import { RESOURCE } from "../api/kinds.ts";
import { ANNOTATION, LABEL, MANAGED_BY, PROXY_NAME } from "../api/names.ts";
import type { ConfigMap, Deployment, EndpointSlice, Node, Pod, Service, ServiceCIDR } from "../api/objects.ts";
import type { Client } from "../kube/client.ts";
import type { KubeMetrics } from "../kube/metrics.ts";
import { Outage } from "../kube/outage.ts";
import { Reflector } from "../kube/reflector.ts";
import type { KubeObject, Resource } from "../kube/resource.ts";
import { optIn } from "../webhook/inject.ts";

/** Objects of one kind, of all namespaces that count. */
export interface Watched<T extends KubeObject> {
  get(key: string): T | undefined;
  by(index: string, value: string): T[];
  list(): T[];
}

/** What a change of a watched object is told to. */
export type OnChange<T> = (event: "added" | "updated" | "deleted", object: T, before: T | undefined) => void;

/** How the operator watches. */
export interface WatchOptions {
  client: Client;
  log: Logger;
  metrics: KubeMetrics;
  /** Empty: all. */
  namespaces: readonly string[];
  resyncMs: number;
}

/** The label that names the policy: each kind of object has its own, and users set `policy` on pods as they like. */
type OwnerLabel = typeof LABEL.policy | typeof LABEL.fleet | typeof LABEL.injected;

/** `namespace/policy` by that label. */
export function ownerOf({ metadata }: KubeObject, label: OwnerLabel): string | undefined {
  const name = metadata.labels?.[label];
  return name === undefined ? undefined : `${metadata.namespace}/${name}`;
}

/** The same as an index. */
const ownedBy =
  (label: OwnerLabel) =>
  (object: KubeObject): string[] => {
    const owner = ownerOf(object, label);
    return owner === undefined ? [] : [owner];
  };

/** Stores are kept small: of who set which field, only who set `replicas` is asked for. */
function withoutManagers<T extends KubeObject>(object: T): T {
  const { managedFields: _, ...metadata } = object.metadata;
  return { ...object, metadata };
}

function replicaManagers(object: Deployment): Deployment {
  const managedFields = (object.metadata.managedFields ?? []).flatMap((entry) => {
    const spec = entry.fieldsV1?.["f:spec"] as Record<string, unknown> | undefined;
    if (spec?.["f:replicas"] === undefined) return [];
    return [
      {
        ...(entry.manager === undefined ? {} : { manager: entry.manager }),
        fieldsV1: { "f:spec": { "f:replicas": {} } },
      },
    ];
  });
  return { ...object, metadata: { ...object.metadata, managedFields } };
}

/** Of a node only what is looked at: its list of images alone is many kilobytes. */
function nodeParts(node: Node): Node {
  const { podCIDR, podCIDRs, unschedulable, taints } = node.spec ?? {};
  const spec = {
    ...(podCIDR === undefined ? {} : { podCIDR }),
    ...(podCIDRs === undefined ? {} : { podCIDRs }),
    ...(unschedulable === undefined ? {} : { unschedulable }),
    ...(taints === undefined ? {} : { taints }),
  };
  return { ...withoutManagers(node), spec, status: { addresses: node.status?.addresses ?? [] } };
}

/** Everything that the operator looks at, kept up to date by reflectors. */
export class Watches {
  readonly #options: WatchOptions;
  readonly #outage: Outage;
  readonly #reflectors: Pick<Reflector<KubeObject>, "synced" | "start" | "retry" | "stop" | "hasSynced">[] = [];

  constructor(options: WatchOptions) {
    this.#options = options;
    this.#outage = new Outage(options.log);
  }

  /** Watches a kind: once for all namespaces, or once for each that counts. */
  add<T extends KubeObject>(
    resource: Resource,
    onChange: OnChange<T>,
    options: {
      labelSelector?: string;
      fieldSelector?: string;
      namespace?: string;
      metadataOnly?: boolean;
      indexes?: Record<string, (object: T) => readonly string[]>;
      transform?: (object: T) => T;
    } = {},
  ): Watched<T> {
    const { client, log, metrics, namespaces, resyncMs } = this.#options;
    const { namespace, transform, ...rest } = options;
    const scopes: (string | undefined)[] =
      namespace !== undefined
        ? [namespace]
        : resource.namespaced && namespaces.length > 0
          ? [...namespaces]
          : [undefined];
    const reflectors = scopes.map(
      (scope) =>
        new Reflector<T>({
          client,
          resource,
          log,
          outage: this.#outage,
          metrics,
          relistMs: resyncMs,
          onChange,
          transform: transform ?? withoutManagers,
          ...(scope === undefined ? {} : { namespace: scope }),
          ...rest,
        }),
    );
    this.#reflectors.push(...reflectors);
    const stores = reflectors.map((reflector) => reflector.store);
    return {
      get: (key) => stores.map((store) => store.get(key)).find((object) => object !== undefined),
      by: (index, value) => stores.flatMap((store) => store.by(index, value)),
      list: () => stores.flatMap((store) => store.list()),
    };
  }

  start(): void {
    for (const reflector of this.#reflectors) reflector.start();
  }

  /** Ends every wait before another try. */
  retry(): void {
    for (const reflector of this.#reflectors) reflector.retry();
  }

  async synced(): Promise<void> {
    await Promise.all(this.#reflectors.map((reflector) => reflector.synced()));
  }

  get hasSynced(): boolean {
    return this.#reflectors.every((reflector) => reflector.hasSynced);
  }

  async stop(): Promise<void> {
    await Promise.all(this.#reflectors.map((reflector) => reflector.stop()));
  }
}

/** What a policy's facts are gathered from. */
export interface World {
  policies: Watched<EgressPolicy>;
  configMaps: Watched<ConfigMap>;
  services: Watched<Service>;
  deployments: Watched<Deployment>;
  accounts: Watched<KubeObject>;
  budgets: Watched<KubeObject>;
  networkPolicies: Watched<KubeObject>;
  proxies: Watched<Pod>;
  /** All pods that have not ended, by their metadata: those that were injected, and those that ask for it. */
  pods: Watched<KubeObject>;
  /** These take cluster-wide rights; undefined: not watched. */
  namespaces: Watched<KubeObject & { status?: { phase?: string } }> | undefined;
  nodes: Watched<Node> | undefined;
  serviceCIDRs: Watched<ServiceCIDR> | undefined;
  apiServers: Watched<EndpointSlice> | undefined;
}

/** Who is told of changes. */
export interface Listeners {
  policy: OnChange<EgressPolicy>;
  /** An object of a policy, or a pod of its fleet, or one that uses it. */
  child(owner: string): void;
  proxy: OnChange<Pod>;
  /** A slot's Deployment came or went: an address may be free. */
  slot(): void;
  /** Nodes, services or API servers changed. */
  ranges(): void;
  /** A node came, went, or may be used or reached otherwise than before. */
  nodes(): void;
  /** A namespace changed. */
  namespace(name: string): void;
}

const injectedBy = ownedBy(LABEL.injected);
const askedBy = (pod: KubeObject): string[] => {
  const name = optIn(pod);
  return name === undefined ? [] : [`${pod.metadata.namespace}/${name}`];
};

/** Of a pod that has nothing to do with any policy only that it is there; of others what says how they stand to one. */
function podParts(pod: KubeObject): KubeObject {
  const { name, namespace, uid, resourceVersion, deletionTimestamp, labels, annotations } = pod.metadata;
  const own = injectedBy(pod).length > 0 || askedBy(pod).length > 0;
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

/** Of a slot's Deployment: what the world sees, and what is bound. */
const addressesOf = ({ metadata: { annotations } }: KubeObject): string[] =>
  [...new Set([annotations?.[ANNOTATION.address], annotations?.[ANNOTATION.source]])].filter(
    (one) => one !== undefined,
  );

/** A pod that has ended sends nothing and holds nothing up: finished pods of a Job stay until somebody deletes them. */
const RUNNING = "status.phase!=Succeeded,status.phase!=Failed";

const fleetSelector = `${LABEL.managedBy}=${MANAGED_BY},${LABEL.name}=${PROXY_NAME}`;

/** Sets up every watch. `discover`: whether the ranges of the cluster are looked for, which takes cluster-wide rights. */
export function watchWorld(watches: Watches, tell: Listeners, discover: boolean): World {
  // Also whom it belonged to before: a label that somebody edits has to come back.
  const childBy =
    (label: OwnerLabel): OnChange<KubeObject> =>
    (_, object, before) => {
      for (const one of before === undefined ? [object] : [before, object]) {
        const owner = ownerOf(one, label);
        if (owner !== undefined) tell.child(owner);
      }
    };
  const child = childBy(LABEL.policy);
  const ofFleet = childBy(LABEL.fleet);
  const owned = { labelSelector: fleetSelector, indexes: { owner: ownedBy(LABEL.policy) } };
  return {
    policies: watches.add(RESOURCE.policy, tell.policy),
    configMaps: watches.add<ConfigMap>(RESOURCE.configMap, child, owned),
    services: watches.add<Service>(RESOURCE.service, child, owned),
    accounts: watches.add<KubeObject>(RESOURCE.serviceAccount, child, owned),
    budgets: watches.add<KubeObject>(RESOURCE.pdb, child, owned),
    networkPolicies: watches.add<KubeObject>(RESOURCE.networkPolicy, child, owned),
    deployments: watches.add<Deployment>(
      RESOURCE.deployment,
      (event, object, before) => {
        child(event, object, before);
        if (event !== "updated" && object.metadata.annotations?.[ANNOTATION.address] !== undefined) tell.slot();
      },
      { ...owned, indexes: { ...owned.indexes, address: addressesOf }, transform: replicaManagers },
    ),
    proxies: watches.add<Pod>(
      RESOURCE.pod,
      (event, object, before) => {
        tell.proxy(event, object, before);
        ofFleet(event, object, before);
      },
      { labelSelector: fleetSelector, indexes: { owner: ownedBy(LABEL.fleet) } },
    ),
    pods: watches.add<KubeObject>(
      RESOURCE.pod,
      (_, object, before) => {
        for (const one of before === undefined ? [object] : [before, object]) {
          for (const policy of new Set([...injectedBy(one), ...askedBy(one)])) tell.child(policy);
        }
      },
      {
        metadataOnly: true,
        fieldSelector: RUNNING,
        indexes: { injected: injectedBy, asking: askedBy },
        transform: podParts,
      },
    ),
    namespaces: discover
      ? watches.add(RESOURCE.namespace, (_, object) => tell.namespace(object.metadata.name))
      : undefined,
    nodes: discover
      ? watches.add<Node>(
          RESOURCE.node,
          (event, node, before) => {
            const changed = (part: (node: Node) => unknown) =>
              event !== "updated" ||
              before === undefined ||
              JSON.stringify(part(before)) !== JSON.stringify(part(node));
            // Every kubelet writes its node's status every few minutes: that alone is no news.
            const has = ({ metadata, status }: Node) => [
              status?.addresses,
              metadata.annotations?.[ANNOTATION.addresses],
            ];
            const takes = ({ metadata, spec }: Node) => [metadata.labels, spec?.unschedulable, spec?.taints];
            if (changed((one) => [one.spec?.podCIDR, one.spec?.podCIDRs, has(one)])) tell.ranges();
            if (changed((one) => [takes(one), has(one)])) tell.nodes();
          },
          { transform: nodeParts },
        )
      : undefined,
    serviceCIDRs: discover ? watches.add<ServiceCIDR>(RESOURCE.serviceCIDR, () => tell.ranges()) : undefined,
    apiServers: discover
      ? watches.add<EndpointSlice>(RESOURCE.endpointSlice, () => tell.ranges(), {
          namespace: "default",
          labelSelector: "kubernetes.io/service-name=kubernetes",
        })
      : undefined,
  };
}
