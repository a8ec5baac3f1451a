import type { KubeObject } from "../kube/resource.ts";

/** Built-in objects, as far as the operator reads them. Everything else stays in the JSON. */

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
    conditions?: { type: string; status: string; message?: string }[];
    containerStatuses?: { state?: { waiting?: { reason?: string; message?: string } } }[];
  };
}

/** apps/v1 Deployment. */
export interface Deployment extends KubeObject {
  spec?: { replicas?: number; template?: { spec?: { affinity?: { nodeAffinity?: object } } } };
  status?: {
    observedGeneration?: number;
    replicas?: number;
    updatedReplicas?: number;
    availableReplicas?: number;
    conditions?: { type: string; status: string; reason?: string; message?: string }[];
  };
}

/** core/v1 Service. */
export interface Service extends KubeObject {
  spec?: { clusterIP?: string };
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

/** Whether a pod serves: Ready, and not on its way out. */
export function isReady(pod: Pod): boolean {
  if (pod.metadata.deletionTimestamp !== undefined) return false;
  return pod.status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True") ?? false;
}

/** Whether a pod runs no more and never will: one that was evicted stays, with its addresses, until somebody deletes it. */
export function hasEnded({ status }: Pod): boolean {
  return status?.phase === "Failed" || status?.phase === "Succeeded";
}

const unscheduled = (pod: Pod) =>
  pod.status?.conditions?.find(({ type, status }) => type === "PodScheduled" && status === "False");

/** Whether the scheduler found no node for a pod. */
export function isUnschedulable(pod: Pod): boolean {
  return unscheduled(pod) !== undefined;
}

/** Why it found none, in its own words. */
export function whyUnschedulable(pod: Pod): string | undefined {
  return unscheduled(pod)?.message;
}

/** Why a pod does not run, in the words of the scheduler or the kubelet; undefined: it runs, or nobody says. */
export function whyNotRunning(pod: Pod): string | undefined {
  const states = (pod.status?.containerStatuses ?? []).map(({ state }) => state?.waiting);
  const waiting = states.find((state) => state !== undefined);
  const words = [waiting?.reason, waiting?.message].filter((text) => text !== undefined && text !== "");
  return whyUnschedulable(pod) ?? (words.length === 0 ? undefined : words.join(": "));
}
