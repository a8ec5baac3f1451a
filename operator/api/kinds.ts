import type { Resource } from "../kube/resource.ts";
import { GROUP, KIND, PLURAL, VERSION } from "./names.ts";

/** Kinds that the operator reads or writes. Its role must allow all of them. */
export const RESOURCE = {
  policy: { group: GROUP, version: VERSION, kind: KIND, plural: PLURAL, namespaced: true },
  configMap: { group: "", version: "v1", kind: "ConfigMap", plural: "configmaps", namespaced: true },
  service: { group: "", version: "v1", kind: "Service", plural: "services", namespaced: true },
  serviceAccount: { group: "", version: "v1", kind: "ServiceAccount", plural: "serviceaccounts", namespaced: true },
  pod: { group: "", version: "v1", kind: "Pod", plural: "pods", namespaced: true },
  node: { group: "", version: "v1", kind: "Node", plural: "nodes", namespaced: false },
  namespace: { group: "", version: "v1", kind: "Namespace", plural: "namespaces", namespaced: false },
  deployment: { group: "apps", version: "v1", kind: "Deployment", plural: "deployments", namespaced: true },
  pdb: {
    group: "policy",
    version: "v1",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    namespaced: true,
  },
  networkPolicy: {
    group: "networking.k8s.io",
    version: "v1",
    kind: "NetworkPolicy",
    plural: "networkpolicies",
    namespaced: true,
  },
  serviceCIDR: {
    group: "networking.k8s.io",
    version: "v1",
    kind: "ServiceCIDR",
    plural: "servicecidrs",
    namespaced: false,
  },
  endpointSlice: {
    group: "discovery.k8s.io",
    version: "v1",
    kind: "EndpointSlice",
    plural: "endpointslices",
    namespaced: true,
  },
} as const satisfies Record<string, Resource>;

/** Kinds that a policy owns. */
export const CHILDREN = ["serviceAccount", "configMap", "service", "pdb", "networkPolicy", "deployment"] as const;
