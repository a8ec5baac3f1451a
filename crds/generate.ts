import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { docsOf } from "./docs.ts";
import { readSchema } from "./schema.ts";
import { typesOf } from "./types.ts";

/** Generates the types and the reference from crds/egresspolicies.yaml. `--verify` only compares: exit status 1 if they differ. */

const ROOT = new URL("..", import.meta.url);
const TYPES = "operator/api/egresspolicy.ts";
const DOCS = "docs/crd.md";

function format(text: string): string {
  const biome = new URL("node_modules/.bin/biome", ROOT).pathname;
  const options = { cwd: ROOT.pathname, input: text, encoding: "utf8" as const };
  return execFileSync(biome, ["format", `--stdin-file-path=${TYPES}`], options);
}

/** The generated files by their path from the root. */
export function generate(): Record<string, string> {
  const schema = readSchema();
  return { [TYPES]: format(typesOf(schema)), [DOCS]: docsOf(schema) };
}

/** Generated files that are out of date. */
export function outdated(): string[] {
  return Object.entries(generate())
    .filter(([path, text]) => read(path) !== text)
    .map(([path]) => path);
}

function read(path: string): string | undefined {
  try {
    return readFileSync(new URL(path, ROOT), "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

if (import.meta.main) {
  if (process.argv.includes("--verify")) {
    const differ = outdated();
    if (differ.length > 0) {
      console.error(`${differ.join(", ")}: out of date with crds/egresspolicies.yaml; run make generate`);
      process.exitCode = 1;
    }
  } else {
    for (const [path, text] of Object.entries(generate())) writeFileSync(new URL(path, ROOT), text);
  }
}
