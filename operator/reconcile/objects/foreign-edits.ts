import { isDeepStrictEqual } from "node:util";
import { FIELD_MANAGER } from "../../api/names.ts";
import type { Deployment } from "../../api/objects.ts";
import { isMapping, type Mapping } from "../../kube/mapping.ts";
import type { KubeObject } from "../../kube/resource.ts";

/** Value of a key of `fieldsV1` (structured-merge-diff): `f:field`, `k:{"key":value}` of a list by key. */
function valueAt(value: unknown, key: string): unknown {
  if (key.startsWith("f:")) return isMapping(value) ? value[key.slice(2)] : undefined;
  if (!key.startsWith("k:") || !Array.isArray(value)) return undefined;
  const keys = Object.entries(JSON.parse(key.slice(2)) as Mapping);
  return value.find((item) => isMapping(item) && keys.every(([name, one]) => isDeepStrictEqual(item[name], one)));
}

/** Whether one of the fields of a manager is one that `desired` sets. */
function overlaps(fields: Mapping, desired: unknown): boolean {
  if (desired === undefined) return false;
  const keys = Object.keys(fields);
  if (keys.length === 0) return true;
  return keys.some((key) => isMapping(fields[key]) && overlaps(fields[key], valueAt(desired, key)));
}

/**
 * Whether another manager owns a field of a Deployment's spec that the operator sets: others have edited it since the
 * operator wrote it, which takes the field away from the operator. `replicas` is left out.
 */
export function isEdited(stored: Deployment, desired: KubeObject): boolean {
  const { replicas: _, ...spec } = (desired as { spec?: Mapping }).spec ?? {};
  return (stored.metadata.managedFields ?? []).some(({ manager, fieldsV1 }) => {
    const fields = fieldsV1?.["f:spec"];
    return manager !== FIELD_MANAGER && isMapping(fields) && overlaps(fields, spec);
  });
}
