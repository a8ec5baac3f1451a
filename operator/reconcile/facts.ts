import type { EgressPolicy } from "../api/egresspolicy.ts";
import type { ConfigMap, Deployment, Node, Pod, Service } from "../api/objects.ts";
import type { KubeObject, ObjectMeta } from "../kube/resource.ts";
import type { Grants } from "./grants.ts";
import type { ProxyStatus } from "./proxy-status.ts";

/** One proxy of a fleet, as its pod and its own answer say. */
export interface ProxyFacts {
  pod: Pod;
  slot: string;
  node: string | undefined;
  /** The pod's own addresses, canonical. */
  ips: string[];
  ready: boolean;
  /** Deleted, and not gone yet. */
  leaving: boolean;
  /** Its last answer; undefined while it gives none. */
  status: ProxyStatus | undefined;
  /** Why it gives none. */
  error: string | undefined;
  /** False: it was not asked yet, so nothing can be said of it. */
  asked: boolean;
}

/** Everything that a policy owns and that stands there, by name. */
export interface Children {
  configMaps: ReadonlyMap<string, ConfigMap>;
  services: ReadonlyMap<string, Service>;
  deployments: ReadonlyMap<string, Deployment>;
  others: readonly KubeObject[];
}

/** What is known about one policy at one moment: all that decisions are made from. */
export interface Facts {
  /** Milliseconds since the epoch. */
  now: number;
  policy: EgressPolicy;
  namespaceTerminating: boolean;
  /** All other policies. */
  others: readonly EgressPolicy[];
  /** Who has a slot for an address, by slot label: the uid of the policy that controls its Deployment. */
  holders: ReadonlyMap<string, string>;
  grants: Grants;
  /** Ranges of this cluster that no target may be in, besides the special-purpose ones. */
  blockedCIDRs: readonly string[];
  children: Children;
  proxies: readonly ProxyFacts[];
  /** Pods that were injected with this policy's proxy. */
  injected: readonly { metadata: ObjectMeta }[];
  /** Undefined: nodes are not watched (`--discover-cidrs off`). */
  nodes: readonly Node[] | undefined;
}
