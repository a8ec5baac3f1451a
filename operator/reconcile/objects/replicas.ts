import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { ANNOTATION, FIELD_MANAGER } from "../../api/names.ts";
import type { Deployment } from "../../api/objects.ts";
import { isMapping } from "../../kube/mapping.ts";

/**
 * Who has set the number of replicas of a Deployment instead of the operator: the name of the field manager, such as
 * `kubectl` or `kube-controller-manager` (an HPA). Undefined if the number is the operator's.
 *
 * The API server records no manager for 0 in the scale subresource, since `replicas` of autoscaling/v1 Scale has
 * `omitempty`. The operator never sets 0.
 */
export function replicasSetBy({ metadata, spec }: Deployment): string | undefined {
  for (const { manager, fieldsV1 } of metadata.managedFields ?? []) {
    const fields = fieldsV1?.["f:spec"];
    if (manager !== FIELD_MANAGER && isMapping(fields) && fields["f:replicas"] !== undefined) {
      return manager ?? UNKNOWN;
    }
  }
  return spec?.replicas === 0 ? UNKNOWN : undefined;
}

const UNKNOWN = "another manager";

/** Whether a policy has the annotation by which `spec.proxy.replicas` wins over other managers. */
export function enforcesReplicas({ metadata }: Pick<EgressPolicy, "metadata">): boolean {
  return metadata.annotations?.[ANNOTATION.enforceReplicas] === "true";
}
