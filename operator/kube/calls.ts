import { apiVersionOf, type KubeObject, type Resource } from "./resource.ts";
import type { WatchEvent } from "./watch.ts";

/** Options of every call. */
export interface CallOptions {
  signal?: AbortSignal | undefined;
  timeoutMs?: number | undefined;
}

/** Selection of a list, or of one page of it. */
export interface ListOptions extends CallOptions {
  /** Default: all namespaces. */
  namespace?: string | undefined;
  labelSelector?: string | undefined;
  fieldSelector?: string | undefined;
  limit?: number | undefined;
  continue?: string | undefined;
  resourceVersion?: string | undefined;
  /** The server sends only metadata. The objects still have the apiVersion and kind of the resource. */
  metadataOnly?: boolean | undefined;
}

/** One page of a list. */
export interface List<T> {
  items: T[];
  resourceVersion: string;
  /** Token of the next page; undefined on the last one. */
  continue: string | undefined;
}

type Subresource = "status" | "scale";

/** Options of a server-side apply. */
export interface ApplyOptions extends CallOptions {
  fieldManager: string;
  /** Takes over fields from other managers. Without it they are a Conflict. */
  force?: boolean;
  subresource?: Subresource;
  dryRun?: boolean;
}

/** Options of writes other than a server-side apply. */
export interface WriteOptions extends CallOptions {
  fieldManager?: string;
  subresource?: Subresource;
  dryRun?: boolean;
}

/** Options of a patch, with its format. */
export interface PatchOptions extends WriteOptions {
  /** RFC 7386 or RFC 6902. */
  type: "merge" | "json";
}

/** Preconditions of a deletion, and what happens to dependents. */
export interface DeleteOptions extends CallOptions {
  /** Deletes only this object; fails with Conflict if another one has its name. */
  uid?: string;
  resourceVersion?: string;
  propagation?: "Background" | "Foreground" | "Orphan";
}

/** One watch: which objects, from which version, and for how long. */
export interface WatchOptions {
  namespace?: string | undefined;
  labelSelector?: string | undefined;
  fieldSelector?: string | undefined;
  resourceVersion: string;
  metadataOnly?: boolean | undefined;
  /** Time after which the server ends the watch. */
  timeoutSeconds: number;
  signal?: AbortSignal | undefined;
  /** Called for each event in order. An error that it throws ends the watch. */
  onEvent: (event: WatchEvent) => void;
}

/** Sets apiVersion and kind: list items have none, and metadata alone has those of its wrapper. */
export function named<T extends KubeObject>(resource: Resource, object: T): T {
  object.apiVersion = apiVersionOf(resource);
  object.kind = resource.kind;
  return object;
}

/** Value of Accept: whole objects, or their metadata as `PartialObjectMetadata` or its list (`kind`). */
export function acceptOf(metadataOnly: boolean | undefined, kind: string): string {
  return metadataOnly === true ? `application/json;as=${kind};g=meta.k8s.io;v=v1` : "application/json";
}

/** Name and namespace of an object. @throws Error when the path of its kind needs one that is missing */
export function identityOf(
  { kind, namespaced }: Resource,
  metadata: Partial<KubeObject["metadata"]> | undefined,
): { name: string; namespace: string | undefined } {
  if (!metadata?.name) throw new Error(`${kind}: metadata.name is missing`);
  if (namespaced && !metadata.namespace) throw new Error(`${kind} ${metadata.name}: metadata.namespace is missing`);
  return { name: metadata.name, namespace: metadata.namespace };
}

/** Path of one object, or of all objects if there is no name. */
export function pathOf(resource: Resource, namespace?: string, name?: string, subresource?: string): string {
  const { group, version, plural, kind, namespaced } = resource;
  if (namespaced && name !== undefined && namespace === undefined)
    throw new Error(`${kind} ${name}: no namespace given`);
  const parts = group === "" ? ["api", version] : ["apis", group, version];
  if (namespaced && namespace !== undefined) parts.push("namespaces", namespace);
  parts.push(plural);
  if (name !== undefined) parts.push(name);
  if (subresource !== undefined) parts.push(subresource);
  return `/${parts.map(encodeURIComponent).join("/")}`;
}

/** Query of a write, with its `?`; empty without options. */
export function writeQuery({ fieldManager, dryRun }: WriteOptions): string {
  return queryOf({ fieldManager, dryRun: dryRun === true ? "All" : undefined });
}

/** Query of the fields that have a value, with its `?`; empty when none has one. */
export function queryOf(fields: { [name: string]: string | number | boolean | undefined }): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(fields)) if (value !== undefined) query.set(name, String(value));
  return query.size === 0 ? "" : `?${query}`;
}
