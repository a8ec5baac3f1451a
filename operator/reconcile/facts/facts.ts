import type { EgressPolicy, EgressPolicySpec } from "../../api/egresspolicy.ts";
import type { ConfigMap, Deployment, Node, Service } from "../../api/objects.ts";
import type { ProxyFacts } from "../../fleet/proxy-status.ts";
import type { KubeObject, ObjectMeta } from "../../kube/resource.ts";
import type { Grants } from "../../providers/grants.ts";
import type { PolicyRecord } from "../objects/record.ts";

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

/** A policy that holds an exclusive address. */
export interface Holder {
  /** Key (namespace/name) of the policy, which may be deleted. */
  policy: string;
  /** Only objects that are about to end hold the address: proxies that drain, or the Service of their slot. */
  draining: boolean;
}

/** Upgrades of the other fleets now. */
export interface OtherUpgrades {
  /** Most fleets that may be upgraded at the same time; 0: no limit. */
  limit: number;
  /** Fleets of other policies whose upgrade is in progress. */
  progressing: number;
  /** Keys (namespace/name) of those whose upgrade has failed with the settings of this operator. */
  failed: readonly string[];
  /** When the next one of the others fails, in milliseconds since the epoch; undefined if none can. */
  deadline: number | undefined;
  /** Whether this policy is one of the fleets already, although the caches may not show it yet. */
  reserved: boolean;
}

/** Snapshot of all that decisions about one policy depend on. */
export interface Facts {
  /** Milliseconds since the epoch. */
  now: number;
  policy: EgressPolicy;
  /** Memory of earlier decisions about this policy. */
  record: PolicyRecord;
  namespaceTerminating: boolean;
  /** All other policies now, except those in namespaces that terminate. */
  others(): readonly EgressPolicy[];
  /** Policies that hold an exclusive address now: more than one only in a state that an earlier version left. */
  holdersOf(address: string): readonly Holder[];
  /** Last accepted spec of this or another policy. The same object as its newest spec if that is accepted. */
  acceptedSpecOf(policy: EgressPolicy): EgressPolicySpec | undefined;
  grants: Grants;
  /** Image of the proxies of policies that set none. */
  image: string;
  /** Ranges of this cluster that no target may be in, besides the special-purpose ones. */
  blockedCIDRs: readonly string[];
  /** Computed only if an upgrade of this fleet may have to wait. */
  upgrades(): OtherUpgrades;
  children: Children;
  proxies: readonly ProxyFacts[];
  /** Pods that were injected with this policy's proxy. */
  injected: readonly { metadata: ObjectMeta }[];
  requesting: readonly RequestingPod[];
  /** Undefined if nodes are not watched (`--discover-cidrs off`). */
  nodes: readonly Node[] | undefined;
}
