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
  /** On every object that a policy owns, and on pods that opt in (there as an annotation, too): the policy's name. */
  policy: `${GROUP}/policy`,
  /** On the proxy pods: the policy whose fleet they are. Not `policy`, which would ask for injection. */
  fleet: `${GROUP}/fleet`,
  /** On the proxy pods of a slot, and its objects: six hex digits that stand for the address. */
  slot: `${GROUP}/slot`,
  /** On proxy pods whose source address is proven, where the client Service selects by it. */
  verified: `${GROUP}/verified`,
  /** On proxy pods of slots, where the client Service selects by it: {@link SERVING_PHASE}, or the phase of an address on its way out. */
  phase: `${GROUP}/phase`,
  /** On pods that were injected: the policy's name. */
  injected: `${GROUP}/injected`,
  /** On namespaces: {@link INJECT_DISABLED} keeps their pods from being injected. */
  inject: `${GROUP}/inject`,
  /** On every namespace, by the API server: its name, which selectors cannot say otherwise. */
  namespace: "kubernetes.io/metadata.name",
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
  /** On a slot's Deployment: the address that it stands for. */
  address: `${GROUP}/address`,
  /** On a slot's Deployment: the address that its proxy binds. */
  source: `${GROUP}/source`,
  /**
   * Comma-separated. On nodes, by whoever runs them: addresses that the node has and its status does not list. On a fleet's one
   * Deployment: the static IPs that it sends from, which outlive the spec that named them.
   */
  addresses: `${GROUP}/addresses`,
  /** On the policy's ConfigMap: the hash of its document. */
  hash: `${GROUP}/policy-hash`,
  /** On pods that opt in: whose key of the policy's Secret is their password. */
  client: `${GROUP}/client`,
  /** On pods that were injected: `policy@hash`, the hash being that of the settings that were injected. */
  injected: `${GROUP}/injected`,
  /** On pods that opted in: what of them was left as it was, and why. */
  skipped: `${GROUP}/skipped`,
  /** On injected pods: senders that are known to ignore what was injected, and why. */
  mayIgnoreProxy: `${GROUP}/may-ignore-proxy`,
  /** On the webhook configuration: {@link BUNDLE_GIVEN} keeps operators from writing its caBundle. */
  caBundle: `${GROUP}/ca-bundle`,
} as const;

/** The value of {@link ANNOTATION.caBundle} that says that caBundle is cert-manager's, or was given. */
export const BUNDLE_GIVEN = "given";

/** The value of {@link LABEL.inject} that opts a namespace out. */
export const INJECT_DISABLED = "disabled";

/** The value of {@link LABEL.phase} of proxies that get new requests. */
export const SERVING_PHASE = "Active";

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

/** Reasons of conditions, and of the events that tell of them: what each means stands in docs/operator.md. */
export const REASON = {
  // Accepted
  accepted: "Accepted",
  invalid: "Invalid",
  tooLarge: "TooLarge",
  conflicted: "Conflicted",
  notGranted: "NotGranted",
  unsupported: "Unsupported",
  // Programmed
  programmed: "Programmed",
  notAccepted: "NotAccepted",
  nameTaken: "NameTaken",
  replacing: "Replacing",
  notEnoughNodes: "NotEnoughNodes",
  applyFailed: "ApplyFailed",
  // PolicyDistributed
  distributed: "Distributed",
  propagating: "Propagating",
  noProxy: "NoReadyProxy",
  // ProxyAvailable
  available: "Available",
  progressing: "Progressing",
  unavailable: "Unavailable",
  replicaFailure: "ReplicaFailure",
  deadlineExceeded: "ProgressDeadlineExceeded",
  // IPsAssigned, EgressIPVerified
  assigned: "Assigned",
  outside: "AssignedOutside",
  unassigned: "Unassigned",
  notRequested: "NotRequested",
  verified: "Verified",
  mismatch: "Mismatch",
  unproven: "Unproven",
  stale: "EchoSilent",
  // WorkloadsInjected
  injected: "Injected",
  missed: "Missed",
  outdated: "Outdated",
  mayIgnoreProxy: "SenderMayIgnoreProxy",
  noWorkload: "NoWorkload",
  // NetworkPolicyApplied
  applied: "Applied",
  widened: "Widened",
  hostNetwork: "HostNetwork",
  // Ready
  ready: "Ready",
  inUse: "InUse",
} as const;
export type Reason = (typeof REASON)[keyof typeof REASON];

/** Events that are no change of a condition. */
export const EVENT_REASON = {
  /** An Active address that was never Pending: receivers had no notice. */
  addedWithoutNotice: "AddressAddedWithoutNotice",
  /** A pod got the variables. */
  injected: "Injected",
  /** A pod that opted in, or a container of it, was left as it was. */
  injectionSkipped: "InjectionSkipped",
  /** NO_PROXY lets tenants' URLs past the proxy. */
  noProxyWidens: "NoProxyWidensSSRF",
  /** The sender is known to ignore the variables that were set. */
  mayIgnoreProxy: "SenderMayIgnoreProxy",
  /** The sender cannot do what the policy asks for, or needs a setting of its own. */
  senderIncompatible: "SenderIncompatible",
  /** What the person who made the pod should know. */
  injectionHint: "InjectionHint",
} as const;

/** Names of the objects of a policy, all within 63 characters: policy names have at most 40. */
export const childName = {
  fleet: (policy: string) => `${policy}-egress`,
  slot: (policy: string, slot: string) => `${policy}-egress-${slot}`,
  document: (policy: string) => `${policy}-egress-policy`,
  published: (policy: string) => `${policy}-egress-ips`,
  senders: (policy: string) => `${policy}-egress-senders`,
} as const;

/** Keys of the document's ConfigMap. */
export const DOCUMENT_KEY = "policy.json";
/** The last accepted spec, gzipped so that it and the document fit into one ConfigMap. */
export const SPEC_KEY = "spec.json.gz";

/** The DNS name of a policy's client Service, which senders use as their proxy. */
export function clientHost({ name, namespace }: { name: string; namespace?: string }, clusterDomain: string): string {
  return `${childName.fleet(name)}.${namespace}.svc.${clusterDomain}`;
}

/** Port of the client Service, whatever port the proxies listen on. */
export const SERVICE_PORT = 4750;
