import { gunzipSync, gzipSync } from "node:zlib";
import type { EgressPolicy, EgressPolicySpec } from "../../api/egresspolicy.ts";
import { ANNOTATION, childName, DOCUMENT_KEY, SPEC_KEY } from "../../api/names.ts";
import type { ConfigMap } from "../../api/objects.ts";
import { childMeta } from "../../fleet/metadata.ts";

/** Limit of a ConfigMap, in bytes of all its values (core/v1 MaxSecretSize, which also holds for ConfigMaps). */
export const MAX_CONFIGMAP_BYTES = 1_048_576;

/** Limit of an unpacked spec, in bytes: more than the API server stores of an object. */
const MAX_SPEC_BYTES = 4 * 1024 * 1024;

/** An accepted policy in the forms that its ConfigMap stores. */
export interface Accepted {
  /** Text of the policy document that proxies load. */
  document: string;
  /** Hash of the document. */
  hash: string;
  /** The spec, gzipped, in base64. It stays in force while a newer spec is rejected. */
  spec: string;
}

/** Content of `ips.json`. */
export interface PublishedList {
  ipv4: string[];
  ipv6: string[];
  /** The same addresses as networks. */
  cidrs: string[];
  /** Addresses that are announced and not used yet. */
  pending: string[];
  /** Addresses that are still used and will be removed. */
  retiring: string[];
  /** RFC 3339; time of the last change. */
  updatedAt: string;
}

/** Addresses for the allow lists of webhook receivers. */
export interface PublishedIPs {
  /** Active, pending and retiring addresses: receivers have to accept all of them. */
  all: string[];
  json: PublishedList;
}

/** Packs a spec. Equal specs give equal texts. A string, since a small Buffer keeps 64 KiB of Node's pool in use. */
export function packSpec(spec: EgressPolicySpec): string {
  return gzipSync(JSON.stringify(spec), { level: 9 }).toString("base64");
}

/** Unpacks a spec from binaryData. @throws Error if `packSpec` did not write it */
export function unpackSpec(text: string): EgressPolicySpec {
  const packed = gunzipSync(Buffer.from(text, "base64"), { maxOutputLength: MAX_SPEC_BYTES });
  const spec = JSON.parse(packed.toString("utf8")) as EgressPolicySpec | null;
  if (spec === null || typeof spec !== "object") throw new Error(`${SPEC_KEY} holds no spec`);
  return spec;
}

/** Size of the ConfigMap of an accepted policy, in bytes. */
export function configMapBytes({ document, spec }: Accepted): number {
  return Buffer.byteLength(document) + Buffer.byteLength(spec, "base64");
}

/** ConfigMap of the policy document. Proxies mount only the document, not the spec. */
export function documentConfigMap(policy: EgressPolicy, accepted: Accepted): ConfigMap {
  const metadata = childMeta(policy, childName.document(policy.metadata.name));
  return {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: { ...metadata, annotations: { [ANNOTATION.hash]: accepted.hash } },
    data: { [DOCUMENT_KEY]: accepted.document },
    binaryData: { [SPEC_KEY]: accepted.spec },
  };
}

/** ConfigMap with the addresses for webhook receivers. */
export function publishedConfigMap(policy: EgressPolicy, { all, json }: PublishedIPs): ConfigMap {
  return {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: childMeta(policy, childName.published(policy.metadata.name)),
    data: {
      "ips.txt": all.map((address) => `${address}\n`).join(""),
      "ips.json": `${JSON.stringify(json)}\n`,
    },
  };
}
