import type { EgressPolicy } from "../../api/egresspolicy.ts";
import type { ConfigMap, Deployment, Node, Service } from "../../api/objects.ts";
import type { ProxyFacts } from "../../fleet/proxy-status.ts";
import type { KubeObject, ObjectMeta } from "../../kube/resource.ts";
import type { Grants } from "../../providers/grants.ts";
import type { Asking } from "../status/workloads.ts";

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
  /** Who has a slot for an address, or binds it: the uid of the policy. */
  holderOf(address: string): string | undefined;
  grants: Grants;
  /** Ranges of this cluster that no target may be in, besides the special-purpose ones. */
  blockedCIDRs: readonly string[];
  children: Children;
  proxies: readonly ProxyFacts[];
  /** Pods that were injected with this policy's proxy. */
  injected: readonly { metadata: ObjectMeta }[];
  /** Pods that ask for this policy. */
  asking: readonly Asking[];
  /** Undefined: nodes are not watched (`--discover-cidrs off`). */
  nodes: readonly Node[] | undefined;
}
