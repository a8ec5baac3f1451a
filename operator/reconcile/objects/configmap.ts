import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { ANNOTATION, childName, DOCUMENT_KEY, PUBLISHED_KEY, SPEC_KEY } from "../../api/names.ts";
import type { ConfigMap } from "../../api/objects.ts";
import { childMeta } from "../../fleet/metadata.ts";
import { publishedFeed } from "./published/feed.ts";
import { type PublishedIPs, type PublishedList, parsePublished, textOfPublished } from "./published/list.ts";
import { publishedPage } from "./published/page.ts";

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

/** ConfigMap with the addresses for webhook receivers, in four forms. */
export function publishedConfigMap(policy: EgressPolicy, published: PublishedIPs): ConfigMap {
  const { name, uid } = policy.metadata;
  return {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: childMeta(policy, childName.published(name)),
    data: {
      "ips.txt": published.all.map((address) => `${address}\n`).join(""),
      [PUBLISHED_KEY]: textOfPublished(published.json),
      "ips.html": publishedPage(name, published.json),
      "ips.atom": publishedFeed({ name, uid: uid! }, published.json),
    },
  };
}

/** Reads a published list from a ConfigMap that has one; undefined if it is missing or not valid. */
export function readPublished(configMap: ConfigMap | undefined): PublishedList | undefined {
  const text = configMap?.data?.[PUBLISHED_KEY];
  return text === undefined ? undefined : parsePublished(text);
}
