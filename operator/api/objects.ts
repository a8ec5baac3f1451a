import type { KubeObject } from "../kube/resource.ts";

/** Types of built-in objects with the fields that the operator reads. Other fields stay in the JSON. */

/** core/v1 ConfigMap. */
export interface ConfigMap extends KubeObject {
  data?: Record<string, string>;
  /** Base64. */
  binaryData?: Record<string, string>;
}

/** core/v1 Pod. */
export interface Pod extends KubeObject {
  spec?: {
    nodeName?: string;
    hostNetwork?: boolean;
    containers?: { args?: string[]; ports?: { name?: string; containerPort: number }[] }[];
  };
  status?: {
    phase?: string;
    podIP?: string;
    podIPs?: { ip: string }[];
    conditions?: { type: string; status: string; message?: string; lastTransitionTime?: string }[];
    containerStatuses?: { state?: { waiting?: { reason?: string; message?: string } } }[];
  };
}

/** apps/v1 Deployment. */
export interface Deployment extends KubeObject {
  spec?: {
    replicas?: number;
    progressDeadlineSeconds?: number;
    template?: { spec?: { affinity?: { nodeAffinity?: object } } };
  };
  status?: {
    observedGeneration?: number;
    replicas?: number;
    updatedReplicas?: number;
    availableReplicas?: number;
    conditions?: { type: string; status: string; reason?: string; message?: string; lastUpdateTime?: string }[];
  };
}

/** core/v1 Service. */
export interface Service extends KubeObject {
  spec?: { clusterIP?: string; selector?: Record<string, string> };
  status?: { loadBalancer?: { ingress?: { ip?: string }[] } };
}

/** core/v1 Node. */
export interface Node extends KubeObject {
  spec?: {
    podCIDR?: string;
    podCIDRs?: string[];
    unschedulable?: boolean;
    taints?: { key: string; value?: string; effect: string }[];
  };
  status?: { addresses?: { type: string; address: string }[] };
}

/** networking.k8s.io/v1 ServiceCIDR. */
export interface ServiceCIDR extends KubeObject {
  spec?: { cidrs?: string[] };
}

/** discovery.k8s.io/v1 EndpointSlice. */
export interface EndpointSlice extends KubeObject {
  endpoints?: { addresses?: string[] }[];
}

/** Whether a pod is Ready and not terminating. */
export function isReady(pod: Pod): boolean {
  if (pod.metadata.deletionTimestamp !== undefined) return false;
  return pod.status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True") ?? false;
}

/** Whether a pod has ended for good. An evicted pod still exists, with its addresses, until a user deletes it. */
export function hasEnded({ status }: Pod): boolean {
  return status?.phase === "Failed" || status?.phase === "Succeeded";
}

const unscheduled = (pod: Pod) =>
  pod.status?.conditions?.find(({ type, status }) => type === "PodScheduled" && status === "False");

/** Whether the scheduler found no node for a pod. */
export function isUnschedulable(pod: Pod): boolean {
  return unscheduled(pod) !== undefined;
}

/** Message of the scheduler if it found no node. */
export function whyUnschedulable(pod: Pod): string | undefined {
  return unscheduled(pod)?.message;
}

/** Message of the scheduler or the kubelet about a pod that does not run; undefined if there is none. */
export function whyNotRunning(pod: Pod): string | undefined {
  const states = (pod.status?.containerStatuses ?? []).map(({ state }) => state?.waiting);
  const waiting = states.find((state) => state !== undefined);
  const words = [waiting?.reason, waiting?.message].filter((text) => text !== undefined && text !== "");
  return whyUnschedulable(pod) ?? (words.length === 0 ? undefined : words.join(": "));
}

/** Whether the Deployment controller has observed the newest spec. */
export function isSeen({ metadata, status }: Deployment): boolean {
  return (status?.observedGeneration ?? 0) >= (metadata.generation ?? 0);
}

/** Whether all pods of a Deployment have its newest template and are available, and no older pod is left. */
export function isRolledOut(deployment: Deployment): boolean {
  const { spec, status } = deployment;
  const replicas = spec?.replicas ?? 1;
  const newest = status?.updatedReplicas ?? 0;
  if (!isSeen(deployment) || newest !== replicas || (status?.replicas ?? 0) !== newest) return false;
  return (status?.availableReplicas ?? 0) >= replicas;
}
