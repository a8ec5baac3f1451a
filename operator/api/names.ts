/** Every string that other programs see: group, labels, annotations, field managers, condition types and reasons. */

export const GROUP = "egress.outrider.dev";
export const VERSION = "v1alpha1";
export const KIND = "EgressPolicy";
export const PLURAL = "egresspolicies";

/** Field managers of server-side apply: one for objects, one for status, so that neither takes the other's fields. */
export const FIELD_MANAGER = "outrider";
export const STATUS_MANAGER = "outrider-status";

/** Keeps a policy until no pod uses its fleet. */
export const FINALIZER = `${GROUP}/in-use`;

/** Labels. */
export const LABEL = {
  /** On every object that a policy owns, and on pods that opt in: the policy's name. */
  policy: `${GROUP}/policy`,
  /** On the proxy pods: the policy whose fleet they are. Not `policy`, which would ask for injection. */
  fleet: `${GROUP}/fleet`,
  /** On the proxy pods of a slot, and its objects: six hex digits that stand for the address. */
  slot: `${GROUP}/slot`,
  /** On proxy pods whose source address is proven, where the client Service selects by it. */
  verified: `${GROUP}/verified`,
  /** On pods that were injected: the policy's name. */
  injected: `${GROUP}/injected`,
  name: "app.kubernetes.io/name",
  instance: "app.kubernetes.io/instance",
  component: "app.kubernetes.io/component",
  managedBy: "app.kubernetes.io/managed-by",
} as const;

/** Annotations. */
export const ANNOTATION = {
  /** SHA-256 of the object as it was applied: what is not there any more is noticed by it. */
  applied: `${GROUP}/applied`,
  /** On proxy pods: makes the kubelet look at their volumes at once. */
  refresh: `${GROUP}/refresh`,
  /** "true": delete the fleet although pods still use it. */
  forceDelete: `${GROUP}/force-delete`,
  /** On the policy's ConfigMap: the hash of its document. */
  hash: `${GROUP}/policy-hash`,
} as const;

/** The value of `app.kubernetes.io/managed-by`. */
export const MANAGED_BY = "outrider";
/** The value of `app.kubernetes.io/name` on everything that belongs to a fleet. */
export const PROXY_NAME = "outrider-proxy";

/** Condition types, in the order in which they are shown. */
export const CONDITIONS = [
  "Ready",
  "Accepted",
  "Programmed",
  "PolicyDistributed",
  "ProxyAvailable",
  "IPsAssigned",
  "EgressIPVerified",
  "WorkloadsInjected",
  "NetworkPolicyApplied",
] as const;
export type ConditionType = (typeof CONDITIONS)[number];
