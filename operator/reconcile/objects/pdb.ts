import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { childName, LABEL } from "../../api/names.ts";
import { childMeta } from "../../fleet/metadata.ts";
import type { KubeObject } from "../../kube/resource.ts";

/**
 * Drains of nodes take one proxy of a fleet at a time, over all its slots. Those that are not ready serve nobody: by
 * default they could not be evicted as long as the others are too few, and would hold up every drain (KEP-3017).
 */
export function fleetBudget(policy: EgressPolicy): KubeObject {
  return {
    apiVersion: "policy/v1",
    kind: "PodDisruptionBudget",
    metadata: childMeta(policy, childName.fleet(policy.metadata.name)),
    spec: {
      maxUnavailable: 1,
      unhealthyPodEvictionPolicy: "AlwaysAllow",
      selector: { matchLabels: { [LABEL.fleet]: policy.metadata.name } },
    },
  } as KubeObject;
}
