/** A pod as an admission request has it, as far as injection reads it. Everything else stays in the JSON. */

/** core/v1 EnvVar. The API server stores no empty `value`, so a missing one is "". */
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
}

/** A pod, or the metadata of one alone. */
export interface PodLike {
  metadata: { labels?: Record<string, string>; annotations?: Record<string, string> };
  spec?: { hostNetwork?: boolean; containers?: Container[]; initContainers?: Container[] };
}

/** RFC 6902. */
export interface JsonPatch {
  op: "add" | "replace" | "remove";
  path: string;
  value?: unknown;
}

/** The entry that counts: of several with one name the kubelet takes the last. */
export function variable(container: Container, name: string): EnvVar | undefined {
  return container.env?.findLast((entry) => entry.name === name);
}

/** Whether an entry says anything: Convoy's chart sets `HTTP_PROXY: ""` on every container. */
export function isSet(entry: EnvVar | undefined): entry is EnvVar {
  return entry !== undefined && (entry.valueFrom !== undefined || (entry.value ?? "").trim() !== "");
}

/** The value where it is written in the pod; undefined where it is unset or comes from elsewhere. */
export function literal(container: Container, name: string): string | undefined {
  const entry = variable(container, name);
  return isSet(entry) && entry.valueFrom === undefined ? entry.value : undefined;
}

/** Splits NO_PROXY and its like: commas, and spaces, which Ruby allows. */
export function entries(list: string | undefined): string[] {
  return (list ?? "").split(/[\s,]+/).filter((entry) => entry !== "");
}
