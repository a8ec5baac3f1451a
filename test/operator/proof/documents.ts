import { createHash } from "node:crypto";
import { ANNOTATION, DOCUMENT_KEY } from "../../../operator/api/names.ts";
import type { ConfigMap } from "../../../operator/api/objects.ts";
import type { KubeObject } from "../../../operator/kube/resource.ts";

/** I3: why the document of a ConfigMap and its hash do not agree; undefined if they do, or if it has none. */
export function documentFault(object: KubeObject): string | undefined {
  const { metadata, data } = object as ConfigMap;
  const said = metadata.annotations?.[ANNOTATION.hash];
  const document = data?.[DOCUMENT_KEY];
  if (said === undefined && document === undefined) return undefined;
  if (document === undefined) return `${metadata.name} has a hash and no document`;
  const hash = `sha256:${createHash("sha256").update(document).digest("hex")}`;
  return said === hash ? undefined : `${metadata.name} says ${said}, its document has ${hash}`;
}
