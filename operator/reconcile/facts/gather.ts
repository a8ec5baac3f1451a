import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { LABEL } from "../../api/names.ts";
import { hasEnded, isReady, type Pod } from "../../api/objects.ts";
import type { ProxyFacts } from "../../fleet/proxy-status.ts";
import { canonical, SHARED } from "../../fleet/slots.ts";
import type { KubeObject } from "../../kube/resource.ts";
import type { Grants } from "../../providers/grants.ts";
import type { World } from "./caches.ts";
import type { Children, Facts } from "./facts.ts";
import type { Scraper } from "./status-scraper.ts";

/** What facts are made of besides the watched objects. */
export interface Surroundings {
  scraper: Scraper;
  grants: Grants;
  /** Exclusive addresses that were accepted, and for whom (policy uid). */
  claims: ReadonlyMap<string, string>;
  /** The same array as long as the ranges are the same: documents are remembered by it. */
  blockedCIDRs: readonly string[];
  now: number;
}

const named = <T extends KubeObject>(objects: readonly T[]): ReadonlyMap<string, T> =>
  new Map(objects.map((object) => [object.metadata.name, object]));

function proxyFacts(pod: Pod, scraper: Scraper): ProxyFacts {
  const { status, error, asked } = scraper.latest(pod);
  return {
    pod,
    slot: pod.metadata.labels?.[LABEL.slot] ?? SHARED,
    node: pod.spec?.nodeName,
    ips: (pod.status?.podIPs ?? []).map(({ ip }) => canonical(ip)),
    ready: isReady(pod),
    leaving: pod.metadata.deletionTimestamp !== undefined,
    status,
    error,
    asked,
  };
}

/** Whether an object's controller is this very policy, not one of the same name that is gone. */
export function isControlledBy(object: KubeObject, policy: EgressPolicy): boolean {
  return (object.metadata.ownerReferences ?? []).some(
    ({ uid, controller }) => controller === true && uid === policy.metadata.uid,
  );
}

/** Who has an address: whom it was accepted for, else whose slot stands there. */
function holderIn(world: World, claims: ReadonlyMap<string, string>, address: string): string | undefined {
  const standing = world.deployments
    .by("address", address)
    .map(({ metadata }) => metadata.ownerReferences?.find(({ controller }) => controller === true)?.uid);
  return claims.get(address) ?? standing.find((uid) => uid !== undefined);
}

/** Everything that is known about a policy now. Reads stores only. */
export function gather(world: World, policy: EgressPolicy, around: Surroundings): Facts {
  const { namespace, name, uid } = policy.metadata;
  const key = `${namespace}/${name}`;
  const own = <T extends KubeObject>(objects: T[]) => objects.filter((object) => isControlledBy(object, policy));
  const space = world.namespaces?.get(namespace!);
  return {
    now: around.now,
    policy,
    namespaceTerminating: space?.status?.phase === "Terminating",
    others: world.policies.list().filter((other) => other.metadata.uid !== uid),
    holderOf: (address) => holderIn(world, around.claims, address),
    grants: around.grants,
    blockedCIDRs: around.blockedCIDRs,
    children: {
      configMaps: named(own(world.configMaps.by("owner", key))),
      services: named(own(world.services.by("owner", key))),
      deployments: named(own(world.deployments.by("owner", key))),
      others: own([world.accounts, world.budgets, world.networkPolicies].flatMap((kind) => kind.by("owner", key))),
    },
    // Sorted, since stores are not: messages name proxies, and would change with every look.
    proxies: world.proxies
      .by("owner", key)
      .filter((pod) => !hasEnded(pod))
      .sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1))
      .map((pod) => proxyFacts(pod, around.scraper)),
    injected: world.pods.by("injected", key),
    asking: world.pods
      .by("asking", key)
      .filter(({ metadata }) => metadata.deletionTimestamp === undefined)
      .map((pod) => ({ pod, namespaceLabels: space?.metadata.labels })),
    nodes: world.nodes?.list(),
  };
}

/** The children with what was just written: a status must not call that ready of which no watch has told yet. */
export function withWritten(children: Children, written: readonly KubeObject[]): Children {
  const those = <T extends KubeObject>(kind: string, before: ReadonlyMap<string, T>): ReadonlyMap<string, T> =>
    new Map([
      ...before,
      ...written.filter((object) => object.kind === kind).map((object) => [object.metadata.name, object as T] as const),
    ]);
  return {
    ...children,
    services: those("Service", children.services),
    deployments: those("Deployment", children.deployments),
  };
}
