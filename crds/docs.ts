import { readFileSync } from "node:fs";
import { type Schema, walk } from "./schema.ts";

const INTRO = new URL("intro.md", import.meta.url);

function cell(text: string): string {
  return text
    .replace(/\s+/g, " ")
    .replace(/[|*]/g, "\\$&")
    .replace(/[<>]/g, (c) => (c === "<" ? "&lt;" : "&gt;"));
}

function typeName(schema: Schema): string {
  if (schema["x-kubernetes-int-or-string"]) return "integer or string";
  if (schema.enum !== undefined) return schema.enum.map((word) => `\`${word}\``).join(", ");
  if (schema.items !== undefined) {
    const kind = schema["x-kubernetes-list-type"];
    const keys = schema["x-kubernetes-list-map-keys"]?.join(", ");
    const inner = schema.items.enum === undefined ? typeName(schema.items) : "string";
    return `list of ${inner}${kind === "map" ? `, by ${keys}` : kind === "set" ? ", a set" : ""}`;
  }
  if (schema.additionalProperties !== undefined) return `map to ${typeName(schema.additionalProperties)}`;
  return schema.type ?? "object";
}

function range(low: number | undefined, high: number | undefined, unit: string): string[] {
  if (high === undefined) return low === undefined ? [] : [`at least ${low}${unit}`];
  return [low === undefined ? `at most ${high}${unit}` : `${low} to ${high}${unit}`];
}

/** Bounds in words. A list also shows the bounds of its items. */
function bounds(schema: Schema): string {
  const parts = [
    ...range(schema.minItems, schema.maxItems, " entries"),
    ...range(schema.minProperties, schema.maxProperties, " keys"),
    ...range(schema.minimum, schema.maximum, ""),
    ...(schema.enum === undefined ? range(schema.minLength, schema.maxLength, " characters") : []),
  ];
  const items = schema.items ?? schema.additionalProperties;
  if (items !== undefined && items.properties === undefined) {
    const inner = bounds(items);
    if (inner !== "") parts.push(`each ${inner}`);
  }
  return parts.join("; ");
}

/** The rows of a field and of all below it. */
function rows(root: Schema, under: string): string[] {
  return [...walk(root)]
    .filter(([path]) => path === under || path.startsWith(`${under}.`) || path.startsWith(`${under}[`))
    .filter(([path]) => !path.endsWith("[]") && !path.endsWith("{}"))
    .map(([path, node, required]) => {
      const normal = node.default === undefined ? (required ? "required" : "") : `\`${JSON.stringify(node.default)}\``;
      const limits = bounds(node);
      const what = cell(node.description ?? "") + (limits === "" ? "" : ` (${limits})`);
      return `| \`${path}\` | ${cell(typeName(node))} | ${normal} | ${what} |`;
    });
}

function table(lines: readonly string[]): string {
  return ["| field | type | default | description |", "| --- | --- | --- | --- |", ...lines, ""].join("\n");
}

function rules(root: Schema): string {
  const nodes: Iterable<[string, Schema, boolean]> = [["", root, true], ...walk(root)];
  const lines = [...nodes].flatMap(([path, node]) =>
    (node["x-kubernetes-validations"] ?? []).map(
      (rule) => `| ${path === "" ? "" : `\`${path}\``} | ${cell(rule.message)} |`,
    ),
  );
  return ["| at | message |", "| --- | --- |", ...lines, ""].join("\n");
}

/** The reference `docs/crd.md`. */
export function docsOf(root: Schema): string {
  const { spec, status } = root.properties ?? {};
  if (spec?.properties === undefined || status === undefined) throw new Error("the schema has no spec or no status");
  const below = Object.keys(spec.properties).map((name) => ({ name, lines: rows(root, `spec.${name}`) }));
  const plain = below.filter(({ lines }) => lines.length === 1).flatMap(({ lines }) => lines);
  const parts = [readFileSync(INTRO, "utf8"), "## Spec\n", table(plain)];
  for (const { name, lines } of below) if (lines.length > 1) parts.push(`### spec.${name}\n`, table(lines));
  parts.push("## Validation messages\n");
  parts.push(
    "The API server also validates types, bounds, enumerations and patterns, and names the wrong field. A message about a pattern names the expected form in its first parentheses.\n",
    rules(root),
  );
  parts.push("## Status\n", table(rows(root, "status")));
  return parts.join("\n");
}
