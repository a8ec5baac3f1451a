import { readFileSync } from "node:fs";
import { parse } from "yaml";

/** A node of the CRD's schema: as much of OpenAPI v3 as is used there. */
export interface Schema {
  type?: "object" | "array" | "string" | "integer" | "boolean";
  description?: string;
  format?: string;
  default?: unknown;
  enum?: (string | number)[];
  required?: string[];
  properties?: Record<string, Schema>;
  additionalProperties?: Schema;
  items?: Schema;
  minimum?: number;
  maximum?: number;
  minLength?: number;
  maxLength?: number;
  pattern?: string;
  minItems?: number;
  maxItems?: number;
  minProperties?: number;
  maxProperties?: number;
  "x-kubernetes-int-or-string"?: boolean;
  "x-kubernetes-list-type"?: "atomic" | "set" | "map";
  "x-kubernetes-list-map-keys"?: string[];
  "x-kubernetes-map-type"?: "atomic" | "granular";
  "x-kubernetes-validations"?: { rule: string; message: string; fieldPath?: string }[];
}

/** The hand-written CRD. */
export const CRD_FILE = new URL("egresspolicies.yaml", import.meta.url);

/** The schema of the one version. */
export function readSchema(): Schema {
  const crd = parse(readFileSync(CRD_FILE, "utf8")) as {
    spec: { versions: { schema: { openAPIV3Schema: Schema } }[] };
  };
  return crd.spec.versions[0]!.schema.openAPIV3Schema;
}

/** Every node with its path, such as `spec.allow[].hosts`; the members of a map are `{}`. Parents come first. */
export function* walk(schema: Schema, path = ""): Generator<[path: string, node: Schema, required: boolean]> {
  for (const [name, node] of Object.entries(schema.properties ?? {})) {
    const here = path === "" ? name : `${path}.${name}`;
    yield [here, node, schema.required?.includes(name) ?? false];
    yield* walk(node, here);
  }
  if (schema.items !== undefined) {
    yield [`${path}[]`, schema.items, true];
    yield* walk(schema.items, `${path}[]`);
  }
  if (schema.additionalProperties !== undefined) yield [`${path}{}`, schema.additionalProperties, true];
}
