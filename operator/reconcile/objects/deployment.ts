import type {
  V1Affinity,
  V1Container,
  V1DeploymentSpec,
  V1DeploymentStrategy,
  V1PodSpec,
  V1Toleration,
  V1TopologySpreadConstraint,
  V1Volume,
  V1WeightedPodAffinityTerm,
} from "@kubernetes/client-node";
import type { EgressPolicy, EgressPolicySpec } from "../../api/egresspolicy.ts";
import { ANNOTATION, childName, DOCUMENT_KEY, LABEL } from "../../api/names.ts";
import { childMeta, podLabels, podSelector } from "../../fleet/metadata.ts";
import { SHARED, type Slot, usedAddresses } from "../../fleet/slots.ts";
import type { KubeObject } from "../../kube/resource.ts";
import { externalArguments } from "./external.ts";
import { proxyFiles } from "./proxy-files.ts";

/** Settings of proxy pods from the configuration of the operator and from the provider. */
export interface ProxyPods {
  image: string;
  imagePullPolicy: "Always" | "IfNotPresent" | "Never";
  /** Names of the pull secrets of policies that set none. */
  imagePullSecrets: readonly string[];
  /** Absent if another manager, such as an HPA, owns the number. */
  replicas?: number;
  /** With a slot, the pod uses the network of its node and binds its sockets to the address of the slot. */
  slot?: Slot;
  /** Condition of `/readyz`. `policy` if only a ready pod gets the address. */
  readiness: "policy" | "verified";
  /** Annotations that the provider needs. */
  annotations: Record<string, string>;
  /** Labels by which the client Service selects the pods from their start. */
  labels: Record<string, string>;
  nodeSelector: Record<string, string>;
  /** Core/v1 NodeAffinity; undefined allows every node that the selector matches. */
  nodeAffinity: object | undefined;
  /** Start the new pod before the old one has ended. For slots whose node is known: the two pods do not conflict. */
  eager: boolean;
}

const POLICY_FOLDER = "/etc/outrider/policy";
/** Delay of the graceful shutdown after SIGTERM, while endpoints are updated. */
const DRAIN_DELAY_SECONDS = 5;
/** Margin after the drain and its delay, before the kubelet kills the container. */
const GRACE_MARGIN_SECONDS = 5;
const DEFAULT_DRAIN_SECONDS = 30;
/** Toleration of a lost node. The API server's default of 300 s is a long outage for one address. */
const NODE_GONE_SECONDS = 30;
const DEFAULT_RESOURCES = { requests: { cpu: "100m", memory: "160Mi" }, limits: { memory: "512Mi" } };
const DEFAULT_PORT = 4750;
const DEFAULT_ADMIN_PORT = 9750;
/** Weights of preferences, from 1 to 100. Two proxies on one node are worse than two in one zone. */
const NODE_WEIGHT = 100;
const ZONE_WEIGHT = 50;

/**
 * Labels and annotations that keep sidecars of service meshes out of proxies: the NetworkPolicy of the proxies does not
 * let a sidecar reach its control plane, and a sidecar would dial the targets itself. `docs/mesh.md` has the sources.
 */
export const NO_MESH_LABELS = {
  "sidecar.istio.io/inject": "false",
  "istio.io/dataplane-mode": "none",
  "kuma.io/sidecar-injection": "disabled",
};
/** Annotations for the same purpose. */
export const NO_MESH_ANNOTATIONS = {
  "linkerd.io/inject": "disabled",
  "consul.hashicorp.com/connect-inject": "false",
  "dapr.io/enabled": "false",
};

/** Ports that the proxies of a policy listen on, by the names of the container's ports. */
export function proxyPorts({
  proxy,
}: EgressPolicySpec): Record<"proxy" | "admin", number> & { tls?: number; external?: number } {
  return {
    proxy: proxy?.port ?? DEFAULT_PORT,
    admin: proxy?.adminPort ?? DEFAULT_ADMIN_PORT,
    ...(proxy?.tls && { tls: proxy.tls.port }),
    ...(proxy?.external && { external: proxy.external.port }),
  };
}

function tolerations(spec: EgressPolicySpec): V1Toleration[] {
  const own = spec.proxy?.tolerations ?? [];
  const added = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]
    .filter((key) => !own.some((toleration) => toleration.key === key))
    .map((key) => ({ key, operator: "Exists", effect: "NoExecute", tolerationSeconds: NODE_GONE_SECONDS }));
  return [...own, ...added];
}

function proxyArguments(spec: EgressPolicySpec, { slot, readiness }: ProxyPods): string[] {
  const ports = proxyPorts(spec);
  // Brackets, since the address of the node may be IPv6.
  const host = slot === undefined ? "" : "[$(NODE_IP)]";
  return [
    "proxy",
    `--policy=${POLICY_FOLDER}/${DOCUMENT_KEY}`,
    `--listen=${host}:${ports.proxy}`,
    `--admin=${host}:${ports.admin}`,
    "--on-bad-policy=wait",
    `--readiness=${readiness}`,
    `--drain-delay-seconds=${DRAIN_DELAY_SECONDS}`,
    ...(slot === undefined ? [] : [`--source-address=${slot.source}`]),
    ...(ports.tls === undefined ? [] : [`--listen-tls=${host}:${ports.tls}`]),
    ...externalArguments(spec),
    ...proxyFiles(spec).flatMap(({ args }) => args),
  ];
}

function container(spec: EgressPolicySpec, pods: ProxyPods): V1Container {
  const probe = (path: string) => ({ httpGet: { path, port: "admin", scheme: "HTTP" } });
  const nodeIP = { name: "NODE_IP", valueFrom: { fieldRef: { apiVersion: "v1", fieldPath: "status.hostIP" } } };
  return {
    name: "proxy",
    image: pods.image,
    imagePullPolicy: pods.imagePullPolicy,
    args: proxyArguments(spec, pods),
    ...(pods.slot === undefined ? {} : { env: [nodeIP] }),
    ports: Object.entries(proxyPorts(spec)).map(([name, containerPort]) => ({ name, containerPort, protocol: "TCP" })),
    readinessProbe: { ...probe("/readyz"), periodSeconds: 2, failureThreshold: 2, timeoutSeconds: 2 },
    livenessProbe: { ...probe("/livez"), periodSeconds: 10, failureThreshold: 3, timeoutSeconds: 5 },
    // The API server also takes numbers, which the types of the client do not have.
    resources: (spec.proxy?.resources ?? DEFAULT_RESOURCES) as NonNullable<V1Container["resources"]>,
    securityContext: {
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ["ALL"] },
    },
    volumeMounts: [
      { name: "policy", mountPath: POLICY_FOLDER, readOnly: true },
      ...proxyFiles(spec).map(({ mount }) => mount),
    ],
  };
}

function volumes(policy: EgressPolicy, spec: EgressPolicySpec): V1Volume[] {
  const name = childName.document(policy.metadata.name);
  const document = { name: "policy", configMap: { name, items: [{ key: DOCUMENT_KEY, path: DOCUMENT_KEY }] } };
  return [document, ...proxyFiles(spec).map(({ volume }) => volume)];
}

/** Preference for topologies without another proxy of the fleet. During a roll-out only new proxies count. */
function apart(policy: EgressPolicy, topologyKey: string, weight: number): V1WeightedPodAffinityTerm {
  const labelSelector = { matchLabels: { [LABEL.fleet]: policy.metadata.name } };
  return { weight, podAffinityTerm: { labelSelector, matchLabelKeys: ["pod-template-hash"], topologyKey } };
}

/**
 * Scheduling of proxies. Slots never share a node, since each uses ports of its node. The pods of a single Deployment
 * use no ports of nodes and are only spread over nodes and zones; slots may run beside them during a migration. They are
 * spread by affinity: a topology spread constraint by zone would exclude nodes without zone labels from the scores of all
 * constraints (kubernetes/kubernetes#122278).
 */
function scheduling(
  policy: EgressPolicy,
  spec: EgressPolicySpec,
  pods: ProxyPods,
): Pick<V1PodSpec, "affinity" | "topologySpreadConstraints"> {
  const fleet = { matchLabels: { [LABEL.fleet]: policy.metadata.name } };
  if (pods.slot !== undefined) {
    const slots = { ...fleet, matchExpressions: [{ key: LABEL.slot, operator: "NotIn", values: [SHARED] }] };
    const term = { labelSelector: slots, topologyKey: "kubernetes.io/hostname" };
    const podAntiAffinity = { requiredDuringSchedulingIgnoredDuringExecution: [term] };
    return { affinity: { ...(pods.nodeAffinity && { nodeAffinity: pods.nodeAffinity }), podAntiAffinity } };
  }
  const podAntiAffinity = {
    preferredDuringSchedulingIgnoredDuringExecution: [
      apart(policy, "kubernetes.io/hostname", NODE_WEIGHT),
      apart(policy, "topology.kubernetes.io/zone", ZONE_WEIGHT),
    ],
  };
  const { affinity, topologySpreadConstraints } = spec.proxy ?? {};
  const constraints = topologySpreadConstraints?.map((one) => ({ labelSelector: fleet, ...one }));
  return {
    affinity: { podAntiAffinity, ...affinity } as V1Affinity,
    ...(constraints && { topologySpreadConstraints: constraints as V1TopologySpreadConstraint[] }),
  };
}

function strategy({ slot, eager }: ProxyPods): V1DeploymentStrategy {
  if (slot === undefined) return { type: "RollingUpdate", rollingUpdate: { maxUnavailable: 0, maxSurge: 1 } };
  // Recreate would wait for the end of the old pod, which never comes on a lost node, although the address has moved.
  // On the same node the scheduler delays the new pod, since the old pod has its ports.
  if (eager) return { type: "RollingUpdate", rollingUpdate: { maxUnavailable: 1, maxSurge: 0 } };
  // The address is on one node only: the new pod gets it after the old pod has ended.
  return { type: "Recreate" };
}

/** Addresses of the proxies, which are needed after the spec has changed. */
function addressAnnotations(spec: EgressPolicySpec, slot: Slot | undefined): { annotations?: Record<string, string> } {
  if (slot !== undefined) {
    return { annotations: { [ANNOTATION.address]: slot.address, [ANNOTATION.source]: slot.source } };
  }
  const all = usedAddresses(spec);
  return all.length === 0 ? {} : { annotations: { [ANNOTATION.addresses]: all.join(",") } };
}

function podSpec(policy: EgressPolicy, spec: EgressPolicySpec, pods: ProxyPods): V1PodSpec {
  const drain = spec.proxy?.timeouts?.drainSeconds ?? DEFAULT_DRAIN_SECONDS;
  const priorityClassName = spec.proxy?.priorityClassName;
  const imagePullSecrets = spec.proxy?.imagePullSecrets ?? pods.imagePullSecrets.map((name) => ({ name }));
  return {
    ...(imagePullSecrets.length === 0 ? {} : { imagePullSecrets }),
    serviceAccountName: childName.fleet(policy.metadata.name),
    automountServiceAccountToken: false,
    enableServiceLinks: false,
    terminationGracePeriodSeconds: DRAIN_DELAY_SECONDS + drain + GRACE_MARGIN_SECONDS,
    ...(pods.slot === undefined ? {} : { hostNetwork: true, dnsPolicy: "ClusterFirstWithHostNet" }),
    ...(Object.keys(pods.nodeSelector).length === 0 ? {} : { nodeSelector: pods.nodeSelector }),
    ...(priorityClassName === undefined ? {} : { priorityClassName }),
    tolerations: tolerations(spec),
    ...scheduling(policy, spec, pods),
    // No user: the image has a numeric one, and OpenShift admits only users of the range of the namespace.
    securityContext: { runAsNonRoot: true, seccompProfile: { type: "RuntimeDefault" } },
    containers: [container(spec, pods)],
    volumes: volumes(policy, spec),
  };
}

/** Deployment of all proxies of a policy, or of one slot. */
export function proxyDeployment(
  policy: EgressPolicy,
  spec: EgressPolicySpec,
  pods: ProxyPods,
): KubeObject & { spec: V1DeploymentSpec } {
  const slot = pods.slot?.id ?? SHARED;
  const own = policy.metadata.name;
  const name = pods.slot === undefined ? childName.fleet(own) : childName.slot(own, slot);
  const annotations = { ...NO_MESH_ANNOTATIONS, ...spec.proxy?.podAnnotations, ...pods.annotations };
  return {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: {
      ...childMeta(policy, name, { [LABEL.slot]: slot }),
      ...addressAnnotations(spec, pods.slot),
    },
    spec: {
      ...(pods.replicas === undefined ? {} : { replicas: pods.replicas }),
      revisionHistoryLimit: 3,
      strategy: strategy(pods),
      selector: { matchLabels: podSelector(policy, slot) },
      template: {
        metadata: {
          labels: { ...NO_MESH_LABELS, ...spec.proxy?.podLabels, ...podLabels(policy, slot), ...pods.labels },
          annotations,
        },
        spec: podSpec(policy, spec, pods),
      },
    },
  };
}
