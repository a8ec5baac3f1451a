import type { EgressPolicy } from "../../api/egresspolicy.ts";
import type { ConfigMap, Deployment, Node, Service } from "../../api/objects.ts";
import type { ProxyFacts } from "../../fleet/proxy-status.ts";
import type { KubeObject, ObjectMeta } from "../../kube/resource.ts";
import type { Grants } from "../../providers/grants.ts";

/** Existing objects that a policy owns, by name. */
export interface Children {
  configMaps: ReadonlyMap<string, ConfigMap>;
  services: ReadonlyMap<string, Service>;
  deployments: ReadonlyMap<string, Deployment>;
  others: readonly KubeObject[];
}

/** Metadata of a pod that requests a policy, and the labels of its namespace. */
export interface RequestingPod {
  pod: { metadata: ObjectMeta };
  namespaceLabels: Readonly<Record<string, string>> | undefined;
}

/** Snapshot of all that decisions about one policy depend on. */
export interface Facts {
  /** Milliseconds since the epoch. */
  now: number;
  policy: EgressPolicy;
  namespaceTerminating: boolean;
  /** All other policies. */
  others: readonly EgressPolicy[];
  /** Uid of the policy that has a slot for an address, or binds it. */
  holderOf(address: string): string | undefined;
  grants: Grants;
  /** Ranges of this cluster that no target may be in, besides the special-purpose ones. */
  blockedCIDRs: readonly string[];
  children: Children;
  proxies: readonly ProxyFacts[];
  /** Pods that were injected with this policy's proxy. */
  injected: readonly { metadata: ObjectMeta }[];
  requesting: readonly RequestingPod[];
  /** Undefined if nodes are not watched (`--discover-cidrs off`). */
  nodes: readonly Node[] | undefined;
}
