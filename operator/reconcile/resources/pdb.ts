import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { childName, LABEL } from "../../api/names.ts";
import type { KubeObject } from "../../kube/resource.ts";
import { childMeta } from "./meta.ts";

/** Drains of nodes take one proxy of a fleet at a time, over all its slots. */
export function fleetBudget(policy: EgressPolicy): KubeObject {
  return {
    apiVersion: "policy/v1",
    kind: "PodDisruptionBudget",
    metadata: childMeta(policy, childName.fleet(policy.metadata.name)),
    spec: { maxUnavailable: 1, selector: { matchLabels: { [LABEL.fleet]: policy.metadata.name } } },
  } as KubeObject;
}
