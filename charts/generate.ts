import { readFileSync, writeFileSync } from "node:fs";
import { isMap, isScalar, type Node, type Pair, parseDocument, type YAMLMap } from "yaml";

/** Generates the README of the chart, its defaults by their path, and its copy of the CRD. `--verify` only compares: exit status 1 if they differ. */

const ROOT = new URL("..", import.meta.url);
const VALUES = "charts/outrider/values.yaml";
const read = (path: string) => readFileSync(new URL(path, ROOT), "utf8");

/** A value that a user may set. */
export interface Value {
  path: string;
  fallback: unknown;
  /** The comment above it, in one line. */
  text: string;
}

const textOf = (comment: string | null | undefined): string => (comment ?? "").replace(/\s*\n\s*/g, " ").trim();

function valuesIn(map: YAMLMap, prefix: string): Value[] {
  return map.items.flatMap((pair: Pair) => {
    const key = pair.key as Node;
    if (!isScalar(key)) throw new Error(`${VALUES}: ${prefix} has a key that is not a string`);
    const path = `${prefix}${key.value}`;
    const value = pair.value as Node;
    // A map in braces is one value, a map in lines is a group.
    if (isMap(value) && value.flow !== true) {
      const first = value.items[0]!.key as Node;
      // The parser gives the comment above the first key to the map.
      if (first.commentBefore == null && value.commentBefore != null) first.commentBefore = value.commentBefore;
      return valuesIn(value, `${path}.`);
    }
    return [{ path, fallback: value.toJSON(), text: textOf(key.commentBefore) }];
  });
}

/** Values of the chart. @throws Error if one has no comment */
export function values(): Value[] {
  const { contents } = parseDocument(read(VALUES));
  if (!isMap(contents)) throw new Error(`${VALUES} is not a mapping`);
  // The paragraph above the first key describes the file.
  const first = contents.items[0]!.key as Node;
  first.commentBefore = (first.commentBefore ?? contents.commentBefore ?? "").split("\n\n").at(-1)!;
  const all = valuesIn(contents as YAMLMap, "");
  const silent = all.find(({ text }) => text === "");
  if (silent !== undefined) throw new Error(`${VALUES}: ${silent.path} has no comment above it`);
  return all;
}

function readme(): string {
  const cell = (text: string) => text.replaceAll("|", "\\|");
  const rows = values().map(
    ({ path, fallback, text }) => `| \`${path}\` | \`${cell(JSON.stringify(fallback))}\` | ${cell(text)} |`,
  );
  return `${read("charts/intro.md")}
<!-- Generated from values.yaml by make generate. -->

| value | default | meaning |
|---|---|---|
${rows.join("\n")}
`;
}

/** Values by their path, for templates. As JSON in strings, which the formatter leaves alone. */
function defaults(): string {
  const lines = values().map(({ path, fallback }) => `${path}: '${JSON.stringify({ value: fallback })}'\n`);
  return `# Generated from values.yaml by make generate.\n${lines.join("")}`;
}

/** The generated files by their path from the root. */
export function generate(): Record<string, string> {
  return {
    "charts/outrider/README.md": readme(),
    "charts/outrider/files/defaults.yaml": defaults(),
    "charts/outrider/files/egresspolicies.yaml": read("crds/egresspolicies.yaml"),
  };
}

function current(path: string): string | undefined {
  try {
    return read(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** Generated files that are out of date. */
export function outdated(): string[] {
  return Object.entries(generate())
    .filter(([path, text]) => current(path) !== text)
    .map(([path]) => path);
}

if (import.meta.main) {
  if (process.argv.includes("--verify")) {
    const differ = outdated();
    if (differ.length > 0) {
      console.error(`${differ.join(", ")}: out of date with values.yaml or the CRD; run make generate`);
      process.exitCode = 1;
    }
  } else {
    for (const [path, text] of Object.entries(generate())) writeFileSync(new URL(path, ROOT), text);
  }
}
