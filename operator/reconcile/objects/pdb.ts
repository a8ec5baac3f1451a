import type { V1PodDisruptionBudgetSpec } from "@kubernetes/client-node";
import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { childName, LABEL } from "../../api/names.ts";
import { childMeta } from "../../fleet/metadata.ts";
import type { KubeObject } from "../../kube/resource.ts";

/**
 * PodDisruptionBudget of a fleet: node drains evict one proxy at a time, across all slots. `AlwaysAllow` lets drains
 * evict proxies that are not ready. The default would block them while too few proxies are ready (KEP-3017).
 */
export function fleetBudget(policy: EgressPolicy): KubeObject & { spec: V1PodDisruptionBudgetSpec } {
  return {
    apiVersion: "policy/v1",
    kind: "PodDisruptionBudget",
    metadata: childMeta(policy, childName.fleet(policy.metadata.name)),
    spec: {
      maxUnavailable: 1,
      unhealthyPodEvictionPolicy: "AlwaysAllow",
      selector: { matchLabels: { [LABEL.fleet]: policy.metadata.name } },
    },
  };
}
