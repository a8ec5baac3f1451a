import type { EgressPolicy } from "../api/egresspolicy.ts";
import { RESOURCE } from "../api/kinds.ts";
import { KIND, LABEL, MANAGED_BY, PROXY_NAME } from "../api/names.ts";
import { apiVersionOf, type KubeObject, type ObjectMeta } from "../kube/resource.ts";

/** Common labels of all objects of a fleet. */
function commonLabels(policy: EgressPolicy): Record<string, string> {
  return {
    [LABEL.name]: PROXY_NAME,
    [LABEL.instance]: policy.metadata.name,
    [LABEL.component]: "proxy",
    [LABEL.managedBy]: MANAGED_BY,
  };
}

/** Metadata of an object that a policy owns. Garbage collection deletes the object with the policy. */
export function childMeta(policy: EgressPolicy, name: string, labels: Record<string, string> = {}): ObjectMeta {
  const { metadata } = policy;
  return {
    name,
    namespace: metadata.namespace!,
    labels: { ...commonLabels(policy), [LABEL.policy]: metadata.name, ...labels },
    ownerReferences: [
      {
        apiVersion: apiVersionOf(RESOURCE.policy),
        kind: KIND,
        name: metadata.name,
        uid: metadata.uid!,
        controller: true,
        blockOwnerDeletion: true,
      },
    ],
  };
}

/** Labels of proxy pods. The label `policy` is not among them, since on a pod it requests injection. */
export function podLabels(policy: EgressPolicy, slot: string): Record<string, string> {
  return { ...commonLabels(policy), ...podSelector(policy, slot) };
}

/** Value of the slot label of an object; empty if it has none. */
export const slotLabel = ({ metadata }: KubeObject): string => metadata.labels?.[LABEL.slot] ?? "";

/** Selector of the pods of one slot. */
export function podSelector(policy: EgressPolicy, slot: string): Record<string, string> {
  return { [LABEL.fleet]: policy.metadata.name, [LABEL.slot]: slot };
}
