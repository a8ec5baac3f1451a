import { ANNOTATION } from "../api/names.ts";

/** Types of a pod in an admission request, with the fields that injection reads. Other fields stay in the JSON. */

/** core/v1 EnvVar. A missing `value` is "", since the API server stores no empty ones. */
export interface EnvVar {
  name: string;
  value?: string;
  valueFrom?: Record<string, unknown>;
}

/** core/v1 Container. */
export interface Container {
  name: string;
  image?: string;
  command?: string[];
  args?: string[];
  env?: EnvVar[];
  envFrom?: unknown[];
  volumeMounts?: { name: string; mountPath: string; readOnly?: boolean }[];
  /** Always: an init container that runs beside the app containers (a native sidecar). */
  restartPolicy?: string;
}

/** A pod, or only its metadata. */
export interface PodLike {
  metadata: { labels?: Record<string, string>; annotations?: Record<string, string> };
  spec?: {
    hostNetwork?: boolean;
    dnsPolicy?: string;
    containers?: Container[];
    initContainers?: Container[];
    volumes?: { name: string; secret?: object }[];
  };
}

/** Whether a pod mirrors a static pod, whose containers the kubelet starts from a file and not from the object. */
export function isMirror({ metadata }: Pick<PodLike, "metadata">): boolean {
  return metadata.annotations?.[ANNOTATION.mirror] !== undefined;
}

/** RFC 6902. */
export interface JsonPatch {
  op: "add" | "replace" | "remove";
  path: string;
  value?: unknown;
}

/** Entry of a variable. The kubelet uses the last of several with one name. */
export function variable(container: Container, name: string): EnvVar | undefined {
  return container.env?.findLast((entry) => entry.name === name);
}

/** Whether an entry has a value. Convoy's chart sets `HTTP_PROXY: ""` on every container. */
export function isSet(entry: EnvVar | undefined): entry is EnvVar {
  return entry !== undefined && (entry.valueFrom !== undefined || (entry.value ?? "").trim() !== "");
}

/** Value of a variable; undefined if it is unset or set by reference. */
export function literal(container: Container, name: string): string | undefined {
  const entry = variable(container, name);
  return isSet(entry) && entry.valueFrom === undefined ? entry.value : undefined;
}

/** Splits NO_PROXY and similar lists at commas, and at spaces, which Ruby allows. */
export function entries(list: string | undefined): string[] {
  return (list ?? "").split(/[\s,]+/).filter((entry) => entry !== "");
}
