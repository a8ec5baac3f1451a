import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { ANNOTATION, FIELD_MANAGER } from "../../api/names.ts";
import type { Deployment } from "../../api/objects.ts";
import { isMapping } from "../../kube/mapping.ts";

/**
 * Who has set the number of replicas of a Deployment instead of the operator: the name of the field manager, such as
 * `kubectl` or `kube-controller-manager` (an HPA). Undefined if the number is the operator's.
 *
 * A number without any manager is not the operator's. The scale subresource records none for 0, since `replicas` of
 * autoscaling/v1 Scale has `omitempty`, and none for the number after 0, since the API server tracks no updates of an
 * object without managed fields.
 */
export function replicasSetBy({ metadata, spec }: Deployment): string | undefined {
  const owners = (metadata.managedFields ?? []).filter(({ fieldsV1 }) => {
    const fields = fieldsV1?.["f:spec"];
    return isMapping(fields) && fields["f:replicas"] !== undefined;
  });
  const other = owners.find(({ manager }) => manager !== FIELD_MANAGER);
  if (other !== undefined) return other.manager ?? UNKNOWN;
  const unowned = metadata.managedFields !== undefined && owners.length === 0;
  return unowned || spec?.replicas === 0 ? UNKNOWN : undefined;
}

const UNKNOWN = "another manager";

/** Whether a policy has the annotation by which `spec.proxy.replicas` wins over other managers. */
export function enforcesReplicas({ metadata }: Pick<EgressPolicy, "metadata">): boolean {
  return metadata.annotations?.[ANNOTATION.enforceReplicas] === "true";
}
