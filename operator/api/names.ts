/** Names that other programs see: group, labels, annotations, field managers, condition types and reasons. */

/** API group of the CRD, and prefix of the operator's labels and annotations. */
export const GROUP = "egress.outrider.dev";
/** API version of the CRD. */
export const VERSION = "v1alpha1";
/** Kind of a policy. */
export const KIND = "EgressPolicy";
/** Resource name of policies in URLs and roles. */
export const PLURAL = "egresspolicies";

/** Field manager of server-side apply, for all fields except the status. */
export const FIELD_MANAGER = "outrider";
/** Field manager of the status. With a separate one, neither write removes the fields of the other. */
export const STATUS_MANAGER = "outrider-status";

/** Finalizer of a policy while pods use its fleet. */
export const FINALIZER = `${GROUP}/in-use`;

/** Labels. */
export const LABEL = {
  /** Name of the policy, on every object that a policy owns, and on pods that opt in (also as an annotation). */
  policy: `${GROUP}/policy`,
  /** Name of the policy, on proxy pods. The label `policy` would request injection. */
  fleet: `${GROUP}/fleet`,
  /** Id of a slot, on its proxy pods and objects: six hex digits of a hash of the address. */
  slot: `${GROUP}/slot`,
  /** On proxy pods with a proven source address, if the client Service selects by this label. */
  verified: `${GROUP}/verified`,
  /**
   * On proxy pods of slots, if the client Service selects by this label: {@link SERVING_PHASE}, or the phase of a
   * retiring address.
   */
  phase: `${GROUP}/phase`,
  /** Name of the policy, on injected pods. */
  injected: `${GROUP}/injected`,
  /**
   * On Deployments: fingerprint of what the operator adds to pod templates, see `templateFingerprint`. Labels, since the
   * API server increments the generation of a Deployment when an annotation changes: it would count as not rolled out.
   */
  operatorSettings: `${GROUP}/operator-settings`,
  /** On Deployments: `generation-hash` of the spec that the pod template is from, see `ownerSettings`. */
  ownerSettings: `${GROUP}/owner-settings`,
  /** On Deployments that were upgraded: an {@link UPGRADE}. */
  upgrade: `${GROUP}/upgrade`,
  /** On namespaces: {@link INJECT_DISABLED} excludes their pods from injection. */
  inject: `${GROUP}/inject`,
  /** Name of a namespace, which the API server sets. Selectors can only use labels. */
  namespace: "kubernetes.io/metadata.name",
  name: "app.kubernetes.io/name",
  instance: "app.kubernetes.io/instance",
  component: "app.kubernetes.io/component",
  managedBy: "app.kubernetes.io/managed-by",
} as const;

/** Annotations. */
export const ANNOTATION = {
  /** SHA-256 of the applied object, which shows removed fields. */
  applied: `${GROUP}/applied`,
  /** On proxy pods: a change makes the kubelet update their volumes at once. */
  refresh: `${GROUP}/refresh`,
  /** "true" deletes the fleet although pods still use it. */
  forceDelete: `${GROUP}/force-delete`,
  /** On policies: "true" makes `spec.proxy.replicas` win over the number that another manager has set. */
  enforceReplicas: `${GROUP}/enforce-replicas`,
  /** On a slot's Deployment: the static IP. */
  address: `${GROUP}/address`,
  /** On a slot's Deployment: the address that its proxy binds. */
  source: `${GROUP}/source`,
  /**
   * Comma-separated addresses. On nodes, set by administrators: addresses that the status does not list. On the
   * Deployment of a fleet without slots: its static IPs, which are needed after the spec has changed.
   */
  addresses: `${GROUP}/addresses`,
  /** On Deployments: start of their last upgrade (RFC 3339). */
  upgradedAt: `${GROUP}/upgraded-at`,
  /** On the policy's ConfigMap: hash of its document. */
  hash: `${GROUP}/policy-hash`,
  /** On pods that opt in: client name, which is the key of their password in the policy's Secret. */
  client: `${GROUP}/client`,
  /** On injected pods: names of all their init containers, since the state of a pod is judged by its metadata alone. */
  initContainers: `${GROUP}/init-containers`,
  /** On injected pods: variables that name endpoints for which the proxy rejects requests. */
  rejectedEndpoints: `${GROUP}/rejected-endpoints`,
  /** On static pods, set by the kubelet: the object only mirrors a pod that exists already. */
  mirror: "kubernetes.io/config.mirror",
  /** On injected pods: `policy@hash`, with the hash of the injected settings. */
  injected: `${GROUP}/injected`,
  /** On pods that opted in: skipped containers, with the reason. */
  skipped: `${GROUP}/skipped`,
  /** On injected pods: senders that are known to ignore the variables, with the reason. */
  mayIgnoreProxy: `${GROUP}/may-ignore-proxy`,
  /** On the webhook configuration: a {@link BundleSource}. Only operators with such certificates write caBundle. */
  caBundle: `${GROUP}/ca-bundle`,
  /** On the record of a policy: namespace/name of the policy. */
  recordOf: `${GROUP}/record-of`,
} as const;

/** Values of {@link ANNOTATION.caBundle}. */
export const BUNDLE_SOURCE = {
  /** The operator creates the certificates. */
  generated: "generated",
  /** The certificates are mounted, from cert-manager or the user. */
  given: "given",
} as const;
/** One of {@link BUNDLE_SOURCE}. */
export type BundleSource = (typeof BUNDLE_SOURCE)[keyof typeof BUNDLE_SOURCE];

/** Values of {@link LABEL.upgrade}. */
export const UPGRADE = { progressing: "progressing", complete: "complete" } as const;

/** Value of {@link LABEL.inject} that opts a namespace out. */
export const INJECT_DISABLED = "disabled";

/** Value of {@link LABEL.phase} for proxies that get new requests. */
export const SERVING_PHASE = "Active";

/** Value of `app.kubernetes.io/managed-by`. */
export const MANAGED_BY = "outrider";
/** Value of `app.kubernetes.io/name` on all objects of a fleet. */
export const PROXY_NAME = "outrider-proxy";

/** Condition types, in the order of the status. */
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
/** One of the condition types. */
export type ConditionType = (typeof CONDITIONS)[number];

/** Reasons of conditions and of their events. docs/operator.md explains each of them. */
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
  upgradeWaiting: "UpgradeWaiting",
  upgradePaused: "UpgradePaused",
  // PolicyDistributed
  distributed: "Distributed",
  propagating: "Propagating",
  noProxy: "NoReadyProxy",
  // ProxyAvailable
  available: "Available",
  progressing: "Progressing",
  unavailable: "Unavailable",
  scaledToZero: "ScaledToZero",
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
  clientUnlisted: "ClientUnlisted",
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
/** One of the reasons. */
export type Reason = (typeof REASON)[keyof typeof REASON];

/** Reasons of events that are not condition changes. */
export const EVENT_REASON = {
  /** An Active address was never Pending, so receivers had no notice. */
  addedWithoutNotice: "AddressAddedWithoutNotice",
  /** The clients of a policy were removed, and each client gets the rules of the policy now. */
  clientsRemoved: "ClientsRemoved",
  /** An edit opened special-purpose ranges, targets that a deny rule refused, or targets that no rule lists. */
  reachWidened: "ReachWidened",
  /** A pod got the variables. */
  injected: "Injected",
  /** A pod that opted in, or one of its containers, was skipped. */
  injectionSkipped: "InjectionSkipped",
  /** NO_PROXY lets tenants' URLs bypass the proxy. */
  noProxyWidens: "NoProxyWidensSSRF",
  /** The sender is known to ignore the variables. */
  mayIgnoreProxy: "SenderMayIgnoreProxy",
  /** The sender does not support a setting of the policy, or needs a setting of its own. */
  senderIncompatible: "SenderIncompatible",
  /** A hint for the user who created the pod. */
  injectionHint: "InjectionHint",
} as const;

/** Names of the objects of a policy, all within 63 characters: policy names have at most 40. */
export const childName = {
  fleet: (policy: string) => `${policy}-egress`,
  slot: (policy: string, slot: string) => `${policy}-egress-${slot}`,
  document: (policy: string) => `${policy}-egress-policy`,
  published: (policy: string) => `${policy}-egress-ips`,
  senders: (policy: string) => `${policy}-egress-senders`,
  external: (policy: string) => `${policy}-egress-external`,
} as const;

/** Name of the record of a policy, in the namespace of the operator. */
export const recordName = (policyUid: string): string => `egresspolicy-${policyUid}`;

/** Value of `app.kubernetes.io/component` on records. */
export const RECORD = "policy-record";

/** Name of an object: a DNS subdomain (RFC 1123) of at most 253 characters, with fewer rules about dots than that. */
export const OBJECT_NAME = /^(?=.{1,253}$)[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/;

/** Key of the document's ConfigMap. */
export const DOCUMENT_KEY = "policy.json";
/** Key of the published list, in its ConfigMap and in the record. */
export const PUBLISHED_KEY = "ips.json";
/** Key of the last accepted spec in the record (in version 0.1.0 beside the document), gzipped so that the largest spec fits. */
export const SPEC_KEY = "spec.json.gz";

/** DNS name of a policy's client Service, which senders use as their proxy. */
export function clientHost({ name, namespace }: { name: string; namespace?: string }, clusterDomain: string): string {
  return `${childName.fleet(name)}.${namespace}.svc.${clusterDomain}`;
}

/** Port of the client Service. The proxies may listen on another port. */
export const SERVICE_PORT = 4750;
/** Port of the client Service for TLS, with `spec.proxy.tls`, and of the Service for clients outside of the cluster. */
export const SERVICE_TLS_PORT = 4751;
