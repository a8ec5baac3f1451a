import { gunzipSync, gzipSync } from "node:zlib";
import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { ANNOTATION, childName, DOCUMENT_KEY, SPEC_KEY } from "../../api/names.ts";
import type { ConfigMap } from "../../api/objects.ts";
import { childMeta } from "../../fleet/metadata.ts";
import type { Published } from "../decision/published-ips.ts";

/** What a ConfigMap may hold, in bytes of all its values (core/v1 MaxSecretSize, ConfigMaps alike). */
export const MAX_CONFIGMAP_BYTES = 1_048_576;

/** What a spec may be unpacked: more than the API server stores of one. */
const MAX_SPEC_BYTES = 4 * 1024 * 1024;

/** An accepted policy in the forms in which it is kept. */
export interface Accepted {
  /** The bytes that proxies load, and their hash. */
  document: string;
  hash: string;
  /** The spec that it came from, gzipped, in base64: what is reconciled while a newer one is invalid. */
  spec: string;
}

/** A spec as it is kept. Equal input, equal text: a Buffer of a few bytes would keep 64 KiB of Node's pool alive. */
export function packSpec(spec: EgressPolicy["spec"]): string {
  return gzipSync(JSON.stringify(spec), { level: 9 }).toString("base64");
}

/** A spec out of a ConfigMap's binaryData. @throws Error on anything that was not packed here */
export function unpackSpec(text: string): EgressPolicy["spec"] {
  const packed = gunzipSync(Buffer.from(text, "base64"), { maxOutputLength: MAX_SPEC_BYTES });
  const spec = JSON.parse(packed.toString("utf8")) as EgressPolicy["spec"] | null;
  if (spec === null || typeof spec !== "object") throw new Error(`${SPEC_KEY} holds no spec`);
  return spec;
}

/** Bytes that the ConfigMap of an accepted policy holds. */
export function configMapBytes({ document, spec }: Accepted): number {
  return Buffer.byteLength(document) + Buffer.byteLength(spec, "base64");
}

/** The ConfigMap that proxies mount: only its document. */
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

/** The ConfigMap that is shown to webhook receivers. */
export function publishedConfigMap(policy: EgressPolicy, published: Published): ConfigMap {
  return {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: childMeta(policy, childName.published(policy.metadata.name)),
    data: {
      "ips.txt": published.all.map((address) => `${address}\n`).join(""),
      "ips.json": `${JSON.stringify(published.json)}\n`,
    },
  };
}
