import { gunzipSync, gzipSync } from "node:zlib";
import type { EgressPolicy, EgressPolicySpec } from "../../api/egresspolicy.ts";
import {
  ANNOTATION,
  childName,
  LABEL,
  MANAGED_BY,
  PUBLISHED_KEY,
  RECORD,
  recordName,
  SPEC_KEY,
} from "../../api/names.ts";
import type { ConfigMap } from "../../api/objects.ts";
import type { KubeObject } from "../../kube/resource.ts";
import { MAX_CONFIGMAP_BYTES, readPublished } from "./configmap.ts";
import { type PublishedList, textOfPublished } from "./published/list.ts";

/** Limit of an unpacked spec, in bytes: more than the API server stores of an object. */
const MAX_UNPACKED_BYTES = 4 * 1024 * 1024;

/** Room for the published list, in bytes: hundreds of addresses, and a spec has at most 64. */
const PUBLISHED_BYTES = 64 * 1024;

/** Limit of a packed spec, in bytes. */
export const MAX_SPEC_BYTES = MAX_CONFIGMAP_BYTES - PUBLISHED_BYTES;

/** Selector of records. */
export const RECORD_SELECTOR = `${LABEL.managedBy}=${MANAGED_BY},${LABEL.component}=${RECORD}`;

/**
 * Memory of the operator about a policy: all that decisions depend on and that other objects do not show. It is stored
 * in the namespace of the operator, where users of policies cannot write.
 */
export interface PolicyRecord {
  /** The last accepted spec as {@link packSpec} returns it. It stays in force while a newer spec is rejected. */
  spec: string | undefined;
  /** The published list. Only it has the addresses that the spec no longer has and that proxies may still use. */
  published: PublishedList | undefined;
}

/** Packs a spec. Equal specs give equal texts. A string, since a small Buffer keeps 64 KiB of Node's pool in use. */
export function packSpec(spec: EgressPolicySpec): string {
  return gzipSync(JSON.stringify(spec), { level: 9 }).toString("base64");
}

/** Unpacks a spec. @throws Error if `packSpec` did not write it */
export function unpackSpec(text: string): EgressPolicySpec {
  const packed = gunzipSync(Buffer.from(text, "base64"), { maxOutputLength: MAX_UNPACKED_BYTES });
  const spec = JSON.parse(packed.toString("utf8")) as EgressPolicySpec | null;
  if (spec === null || typeof spec !== "object") throw new Error(`${SPEC_KEY} holds no spec`);
  return spec;
}

/**
 * ConfigMap of a record. It has no owner reference: garbage collection deletes objects whose owner is in another
 * namespace.
 */
export function recordConfigMap(
  { metadata: { namespace, name, uid } }: EgressPolicy,
  recordNamespace: string,
  { spec, published }: PolicyRecord,
): ConfigMap {
  return {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: {
      name: recordName(uid!),
      namespace: recordNamespace,
      labels: { [LABEL.managedBy]: MANAGED_BY, [LABEL.component]: RECORD },
      annotations: { [ANNOTATION.recordOf]: `${namespace}/${name}` },
    },
    ...(published === undefined ? {} : { data: { [PUBLISHED_KEY]: textOfPublished(published) } }),
    ...(spec === undefined ? {} : { binaryData: { [SPEC_KEY]: spec } }),
  };
}

/** Reads the ConfigMap of a record. */
export function readRecord(configMap: ConfigMap): PolicyRecord {
  return { spec: configMap.binaryData?.[SPEC_KEY], published: readPublished(configMap) };
}

/** Key (`namespace/name`) of the policy of a record. */
export function recordOwner({ metadata }: KubeObject): string | undefined {
  return metadata.annotations?.[ANNOTATION.recordOf];
}

/**
 * The record of a policy that has none, from the ConfigMaps where version 0.1.0 stored both. Users of the namespace can
 * edit these, so they are read only if the status shows that this version has no record yet: only the operator writes
 * the status. A policy without a status is new.
 */
export function formerRecord(
  { metadata, status }: EgressPolicy,
  configMaps: ReadonlyMap<string, ConfigMap>,
): PolicyRecord {
  if (status === undefined || status.recorded === true) return { spec: undefined, published: undefined };
  const { name } = metadata;
  return {
    spec: configMaps.get(childName.document(name))?.binaryData?.[SPEC_KEY],
    published: readPublished(configMaps.get(childName.published(name))),
  };
}
