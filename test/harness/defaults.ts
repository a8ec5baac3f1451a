import { readFileSync } from "node:fs";
import { parse } from "yaml";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";

interface Schema {
  default?: unknown;
  items?: Schema;
  properties?: Record<string, Schema>;
}

const crd = parse(readFileSync(new URL("../../crds/egresspolicies.yaml", import.meta.url), "utf8")) as {
  spec: { versions: { schema: { openAPIV3Schema: Schema } }[] };
};
const schema = crd.spec.versions[0]!.schema.openAPIV3Schema;

function defaulted(value: unknown, { items, properties = {} }: Schema): unknown {
  if (Array.isArray(value)) return items === undefined ? value : value.map((item) => defaulted(item, items));
  if (typeof value !== "object" || value === null) return value;
  const result: Record<string, unknown> = { ...value };
  for (const [key, part] of Object.entries(properties)) {
    const given = key in result ? result[key] : structuredClone(part.default);
    if (given !== undefined) result[key] = defaulted(given, part);
  }
  return result;
}

/** A spec with the defaults of the CRD filled in, as the API server does. */
export function withDefaults(spec: object): EgressPolicy["spec"] {
  return defaulted(spec, schema.properties!.spec!) as EgressPolicy["spec"];
}
