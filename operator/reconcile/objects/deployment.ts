import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { ANNOTATION, childName, DOCUMENT_KEY, LABEL } from "../../api/names.ts";
import { childMeta, podLabels, podSelector } from "../../fleet/metadata.ts";
import { SHARED, type Slot, usedAddresses } from "../../fleet/slots.ts";
import type { KubeObject } from "../../kube/resource.ts";

/** What the operator's configuration and the provider add to a policy. */
export interface ProxyPods {
  image: string;
  imagePullPolicy: "Always" | "IfNotPresent" | "Never";
  /** Absent: somebody else (an HPA) owns the number. */
  replicas?: number;
  /** Undefined: one Deployment for all addresses. */
  slot?: Slot;
  /** Pods use the node's network, and their sockets are bound to the slot's address. */
  hostNetwork: boolean;
  /** What `/readyz` waits for; `policy` where the address only comes to pods that are ready. */
  readiness: "policy" | "verified";
  /** Annotations of the pods that the provider needs. */
  annotations: Record<string, string>;
  /** Labels of the pods by which the client Service selects from the start. */
  labels: Record<string, string>;
  /** Labels of the nodes that may take the pods. */
  nodeSelector: Record<string, string>;
  /** Which of these nodes; undefined: any. */
  nodeAffinity: object | undefined;
  /** The new pod does not wait for the end of the old one: where it has its own node, nothing is in its way. */
  eager: boolean;
}

const POLICY_FOLDER = "/etc/outrider/policy";
const PASSWORD_FOLDER = "/etc/outrider/passwords";
/** Serving on after SIGTERM while endpoints notice. */
const DRAIN_DELAY_SECONDS = 5;
/** Beyond drain and its delay, before the kubelet kills. */
const GRACE_MARGIN_SECONDS = 5;
const DEFAULT_DRAIN_SECONDS = 30;
/** How long a pod stays on a node that is gone: the API server's default of 300 s is a long outage for one address. */
const NODE_GONE_SECONDS = 30;
const DEFAULT_RESOURCES = { requests: { cpu: "100m", memory: "160Mi" }, limits: { memory: "512Mi" } };
const DEFAULT_PORT = 4750;
const DEFAULT_ADMIN_PORT = 9750;
/** distroless' nonroot. */
const USER = 65_532;

/** What a policy's proxies listen on. */
export function proxyPorts({ proxy }: EgressPolicy["spec"]): { port: number; adminPort: number } {
  return { port: proxy?.port ?? DEFAULT_PORT, adminPort: proxy?.adminPort ?? DEFAULT_ADMIN_PORT };
}

function tolerations(spec: EgressPolicy["spec"]): object[] {
  const own = spec.proxy?.tolerations ?? [];
  const added = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]
    .filter((key) => !own.some((toleration) => toleration.key === key))
    .map((key) => ({ key, operator: "Exists", effect: "NoExecute", tolerationSeconds: NODE_GONE_SECONDS }));
  return [...own, ...added];
}

function container(spec: EgressPolicy["spec"], pods: ProxyPods): object {
  const { port, adminPort } = proxyPorts(spec);
  // Brackets: the node's address may be IPv6.
  const host = pods.hostNetwork ? "[$(NODE_IP)]" : "";
  const basic = spec.authentication?.mode === "Basic";
  const args = [
    "proxy",
    `--policy=${POLICY_FOLDER}/${DOCUMENT_KEY}`,
    `--listen=${host}:${port}`,
    `--admin=${host}:${adminPort}`,
    "--on-bad-policy=wait",
    `--readiness=${pods.readiness}`,
    `--drain-delay-seconds=${DRAIN_DELAY_SECONDS}`,
    ...(pods.slot === undefined || !pods.hostNetwork ? [] : [`--source-address=${pods.slot.source}`]),
    ...(basic ? [`--password-dir=${PASSWORD_FOLDER}`] : []),
  ];
  const probe = (path: string) => ({ httpGet: { path, port: "admin", scheme: "HTTP" } });
  return {
    name: "proxy",
    image: pods.image,
    imagePullPolicy: pods.imagePullPolicy,
    args,
    ...(pods.hostNetwork
      ? { env: [{ name: "NODE_IP", valueFrom: { fieldRef: { apiVersion: "v1", fieldPath: "status.hostIP" } } }] }
      : {}),
    ports: [
      { name: "proxy", containerPort: port, protocol: "TCP" },
      { name: "admin", containerPort: adminPort, protocol: "TCP" },
    ],
    readinessProbe: { ...probe("/readyz"), periodSeconds: 2, failureThreshold: 2, timeoutSeconds: 2 },
    livenessProbe: { ...probe("/livez"), periodSeconds: 10, failureThreshold: 3, timeoutSeconds: 5 },
    resources: spec.proxy?.resources ?? DEFAULT_RESOURCES,
    securityContext: {
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ["ALL"] },
    },
    volumeMounts: [
      { name: "policy", mountPath: POLICY_FOLDER, readOnly: true },
      ...(basic ? [{ name: "passwords", mountPath: PASSWORD_FOLDER, readOnly: true }] : []),
    ],
  };
}

function volumes(policy: EgressPolicy, spec: EgressPolicy["spec"]): object[] {
  const name = childName.document(policy.metadata.name);
  const document = { name: "policy", configMap: { name, items: [{ key: DOCUMENT_KEY, path: DOCUMENT_KEY }] } };
  const secret = spec.authentication?.mode === "Basic" ? spec.authentication.secretRef?.name : undefined;
  if (secret === undefined) return [document];
  return [document, { name: "passwords", secret: { secretName: secret } }];
}

/**
 * Proxies keep apart: nodes and zones where it can be had; slots always, since each takes the ports of its node. The one
 * Deployment of a fleet that gives way to slots, or takes their place, has no ports of nodes and is in nobody's way.
 */
function placement(policy: EgressPolicy, pods: ProxyPods): object {
  const fleet = { matchLabels: { [LABEL.fleet]: policy.metadata.name } };
  if (pods.slot !== undefined) {
    const slots = { ...fleet, matchExpressions: [{ key: LABEL.slot, operator: "NotIn", values: [SHARED] }] };
    const term = { labelSelector: slots, topologyKey: "kubernetes.io/hostname" };
    const podAntiAffinity = { requiredDuringSchedulingIgnoredDuringExecution: [term] };
    return { affinity: { ...(pods.nodeAffinity && { nodeAffinity: pods.nodeAffinity }), podAntiAffinity } };
  }
  const spread = (topologyKey: string) => ({
    maxSkew: 1,
    topologyKey,
    whenUnsatisfiable: "ScheduleAnyway",
    labelSelector: fleet,
    matchLabelKeys: ["pod-template-hash"],
  });
  return { topologySpreadConstraints: [spread("kubernetes.io/hostname"), spread("topology.kubernetes.io/zone")] };
}

/** How a new pod takes the place of an old one. */
function strategy({ slot, eager }: ProxyPods): object {
  if (slot === undefined) return { type: "RollingUpdate", rollingUpdate: { maxUnavailable: 0, maxSurge: 1 } };
  // Recreate waits for the old pod's end, which never comes on a node that is gone: the address is elsewhere by then.
  // On the same node the scheduler lets the new pod wait, since the old one has its ports.
  if (eager) return { type: "RollingUpdate", rollingUpdate: { maxUnavailable: 1, maxSurge: 0 } };
  // One address is on one node: the old pod has to leave it before the new one can have it.
  return { type: "Recreate" };
}

/** What the proxies send from, for the time when the spec says something else. */
function addressAnnotations(spec: EgressPolicy["spec"], slot: Slot | undefined): object {
  if (slot !== undefined) {
    return { annotations: { [ANNOTATION.address]: slot.address, [ANNOTATION.source]: slot.source } };
  }
  const all = usedAddresses(spec);
  return all.length === 0 ? {} : { annotations: { [ANNOTATION.addresses]: all.join(",") } };
}

/** The proxies of a policy, or of one of its slots. */
export function proxyDeployment(policy: EgressPolicy, spec: EgressPolicy["spec"], pods: ProxyPods): KubeObject {
  const slot = pods.slot?.id ?? SHARED;
  const own = policy.metadata.name;
  const name = pods.slot === undefined ? childName.fleet(own) : childName.slot(own, slot);
  const drain = spec.proxy?.timeouts?.drainSeconds ?? DEFAULT_DRAIN_SECONDS;
  const priorityClassName = spec.proxy?.priorityClassName;
  const annotations = { ...spec.proxy?.podAnnotations, ...pods.annotations };
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
          labels: { ...spec.proxy?.podLabels, ...podLabels(policy, slot), ...pods.labels },
          ...(Object.keys(annotations).length === 0 ? {} : { annotations }),
        },
        spec: {
          serviceAccountName: childName.fleet(own),
          automountServiceAccountToken: false,
          enableServiceLinks: false,
          terminationGracePeriodSeconds: DRAIN_DELAY_SECONDS + drain + GRACE_MARGIN_SECONDS,
          ...(pods.hostNetwork ? { hostNetwork: true, dnsPolicy: "ClusterFirstWithHostNet" } : {}),
          ...(Object.keys(pods.nodeSelector).length === 0 ? {} : { nodeSelector: pods.nodeSelector }),
          ...(priorityClassName === undefined ? {} : { priorityClassName }),
          tolerations: tolerations(spec),
          ...placement(policy, pods),
          securityContext: {
            runAsNonRoot: true,
            runAsUser: USER,
            runAsGroup: USER,
            seccompProfile: { type: "RuntimeDefault" },
          },
          containers: [container(spec, pods)],
          volumes: volumes(policy, spec),
        },
      },
    },
  } as KubeObject;
}
