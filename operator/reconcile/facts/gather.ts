import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { LABEL } from "../../api/names.ts";
import { hasEnded, isReady, type Pod } from "../../api/objects.ts";
import type { ProxyFacts } from "../../fleet/proxy-status.ts";
import { canonicalAddress, SHARED } from "../../fleet/slots.ts";
import { type KubeObject, keyOf } from "../../kube/resource.ts";
import type { Grants } from "../../providers/grants.ts";
import type { PolicyRecord } from "../objects/record.ts";
import type { Caches } from "./caches.ts";
import type { Claims } from "./claims.ts";
import type { Children, Facts } from "./facts.ts";
import type { FleetUpgrades } from "./fleet-upgrades.ts";
import { holdersIn } from "./holders.ts";
import type { StatusScraper } from "./status-scraper.ts";

/** Inputs of facts besides the caches. */
export interface Surroundings {
  scraper: Pick<StatusScraper, "latest">;
  records: { read(policy: EgressPolicy, configMaps: Children["configMaps"]): PolicyRecord };
  grants: Grants;
  image: string;
  claims: Pick<Claims, "ownerOf">;
  /** A policy with its newest spec as the same object as long as its generation is the same. */
  interned(policy: EgressPolicy): EgressPolicy;
  acceptedSpecOf: Facts["acceptedSpecOf"];
  upgrades: Pick<FleetUpgrades, "others">;
  /** The same array as long as the ranges are the same: memos compare it by identity. */
  blockedCIDRs: readonly string[];
  now: number;
}

const byName = <T extends KubeObject>(objects: readonly T[]): ReadonlyMap<string, T> =>
  new Map(objects.map((object) => [object.metadata.name, object]));

function proxyFacts(pod: Pod, scraper: Surroundings["scraper"]): ProxyFacts {
  const { status, error, polled, outdated } = scraper.latest(pod);
  return {
    pod,
    slot: pod.metadata.labels?.[LABEL.slot] ?? SHARED,
    node: pod.spec?.nodeName,
    ips: (pod.status?.podIPs ?? []).map(({ ip }) => canonicalAddress(ip)),
    ready: isReady(pod),
    terminating: pod.metadata.deletionTimestamp !== undefined,
    status,
    error,
    polled,
    outdated,
  };
}

/**
 * Proxies of a policy that have not ended. Sorted, since caches are not: otherwise messages that name proxies would change
 * with every reconcile. `key`: namespace/name of the policy.
 */
export function proxiesOf({ proxies }: Pick<Caches, "proxies">, key: string, scraper: Surroundings["scraper"]) {
  return proxies
    .by("owner", key)
    .filter((pod) => !hasEnded(pod))
    .sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1))
    .map((pod) => proxyFacts(pod, scraper));
}

/** Whether this policy controls an object. A deleted policy of the same name has another uid. */
export function isControlledBy(object: KubeObject, policy: EgressPolicy): boolean {
  return (object.metadata.ownerReferences ?? []).some(
    ({ uid, controller }) => controller === true && uid === policy.metadata.uid,
  );
}

/**
 * Whether the namespace of a policy terminates. False if namespaces are not watched. No policy can be created in such a
 * namespace, so a younger policy belongs to a new namespace of the same name, which the cache does not have yet.
 */
function isTerminating({ namespaces }: Caches, { metadata }: EgressPolicy): boolean {
  const space = namespaces?.get(metadata.namespace!);
  const since = space?.metadata.deletionTimestamp;
  const isYounger = since !== undefined && Date.parse(metadata.creationTimestamp ?? since) > Date.parse(since);
  return space?.status?.phase === "Terminating" && !isYounger;
}

/** ConfigMaps that a policy controls, by name. */
export function configMapsOf({ configMaps }: Caches, policy: EgressPolicy): Children["configMaps"] {
  return byName(configMaps.by("owner", keyOf(policy)).filter((object) => isControlledBy(object, policy)));
}

/** All other policies. In a namespace that terminates, no policy is reconciled, so none there can be accepted. */
function othersThan(uid: string | undefined, caches: Caches): EgressPolicy[] {
  return caches.policies.list().filter((other) => other.metadata.uid !== uid && !isTerminating(caches, other));
}

/** Gathers the facts of a policy from the caches. */
export function gather(caches: Caches, policy: EgressPolicy, around: Surroundings): Facts {
  const { namespace, name, uid } = policy.metadata;
  const key = `${namespace}/${name}`;
  const own = <T extends KubeObject>(objects: T[]) => objects.filter((object) => isControlledBy(object, policy));
  const configMaps = configMapsOf(caches, policy);
  const space = caches.namespaces?.get(namespace!);
  return {
    now: around.now,
    policy,
    record: around.records.read(policy, configMaps),
    namespaceTerminating: isTerminating(caches, policy),
    others: () => othersThan(uid, caches).map(around.interned),
    holdersOf: (address) => holdersIn(caches, around, address),
    acceptedSpecOf: around.acceptedSpecOf,
    grants: around.grants,
    image: around.image,
    blockedCIDRs: around.blockedCIDRs,
    upgrades: () => around.upgrades.others(key, around.now),
    children: {
      configMaps,
      services: byName(own(caches.services.by("owner", key))),
      deployments: byName(own(caches.deployments.by("owner", key))),
      others: own([caches.accounts, caches.budgets, caches.networkPolicies].flatMap((kind) => kind.by("owner", key))),
    },
    proxies: proxiesOf(caches, key, around.scraper),
    injected: caches.pods.by("injected", key),
    requesting: caches.pods
      .by("requested", key)
      .filter(({ metadata }) => metadata.deletionTimestamp === undefined)
      .map((pod) => ({ pod, namespaceLabels: space?.metadata.labels })),
    nodes: caches.nodes?.list(),
  };
}

/** The children with the objects that were just written, which the caches may not have yet. */
export function withWritten(children: Children, written: readonly KubeObject[]): Children {
  const merged = <T extends KubeObject>(kind: string, before: ReadonlyMap<string, T>): ReadonlyMap<string, T> =>
    new Map([
      ...before,
      ...written.filter((object) => object.kind === kind).map((object) => [object.metadata.name, object as T] as const),
    ]);
  return {
    ...children,
    services: merged("Service", children.services),
    deployments: merged("Deployment", children.deployments),
  };
}
