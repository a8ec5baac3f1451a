import { parseAddress } from "../../../proxy/policy/cidr.ts";
import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { ANNOTATION, childName, DOCUMENT_KEY, PUBLISHED_KEY, SPEC_KEY } from "../../api/names.ts";
import type { ConfigMap } from "../../api/objects.ts";
import { childMeta } from "../../fleet/metadata.ts";

/** Limit of a ConfigMap, in bytes of all its values (core/v1 MaxSecretSize, which also holds for ConfigMaps). */
export const MAX_CONFIGMAP_BYTES = 1_048_576;

/** An accepted policy in the forms that are stored. */
export interface Accepted {
  /** Text of the policy document that proxies load. */
  document: string;
  /** Hash of the document. */
  hash: string;
  /** The spec, gzipped, in base64, for the record of the policy. */
  spec: string;
  /** Parts of the spec that a user should check. */
  warnings: readonly string[];
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

/**
 * Spec in force beside the document, where webhooks of version 0.1.0 read it: their replicas run until a rolling update
 * of the operator has replaced them, and after a downgrade. Only policies that such a version has stored have it. This
 * version never reads it.
 */
function formerSpec(stored: ConfigMap | undefined, { document, spec }: Accepted): Pick<ConfigMap, "binaryData"> {
  const bytes = Buffer.byteLength(document) + Buffer.byteLength(spec, "base64");
  if (stored?.binaryData?.[SPEC_KEY] === undefined || bytes > MAX_CONFIGMAP_BYTES) return {};
  return { binaryData: { [SPEC_KEY]: spec } };
}

/** ConfigMap of the policy document, which proxies mount. `stored`: the existing one. */
export function documentConfigMap(policy: EgressPolicy, accepted: Accepted, stored: ConfigMap | undefined): ConfigMap {
  const metadata = childMeta(policy, childName.document(policy.metadata.name));
  return {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: { ...metadata, annotations: { [ANNOTATION.hash]: accepted.hash } },
    data: { [DOCUMENT_KEY]: accepted.document },
    ...formerSpec(stored, accepted),
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
      [PUBLISHED_KEY]: textOfPublished(json),
    },
  };
}

/** Text of a published list in its ConfigMap and in the record. */
export function textOfPublished(list: PublishedList): string {
  return `${JSON.stringify(list)}\n`;
}

/** Reads a published list from a ConfigMap that has one; undefined if it is missing or not valid. */
export function readPublished(configMap: ConfigMap | undefined): PublishedList | undefined {
  try {
    const list = JSON.parse(configMap?.data?.[PUBLISHED_KEY] ?? "null") as Partial<PublishedList> | null;
    const isList = (value: unknown) =>
      Array.isArray(value) && value.every((one) => typeof one === "string" && parseAddress(one) !== null);
    const valid = isList(list?.ipv4) && isList(list?.ipv6) && isList(list?.pending) && isList(list?.retiring);
    return valid ? (list as PublishedList) : undefined;
  } catch {
    return undefined;
  }
}
