import { execFileSync } from "node:child_process";
import { chmodSync, cpSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { parseArgs } from "node:util";
import { makeBundle, packageJson, ROOT } from "../image/bundle.ts";
import { nodeFlags } from "./flags.ts";
import { BuildError, PACKAGES, runScript, withFolder } from "./output.ts";

/**
 * `make npm-package`: writes the bundle as an npm package, without dependencies and without install scripts. Equal
 * input gives equal bytes: npm writes no times and no owners.
 */

const HELP = `Usage: npm.ts [--name NAME] [--source-url URL] [--out FOLDER]

  --name NAME       name of the package, such as @scope/outrider (default: outrider)
  --source-url URL  repository of the sources; npm's site resolves the links of README.md with it
  --out FOLDER      where the package is written (default: packages)`;

/** Options of the package. */
export interface NpmOptions {
  name?: string | undefined;
  sourceUrl?: string | undefined;
}

/** The result of `npm pack --json`. */
export interface Packed {
  filename: string;
  size: number;
  unpackedSize: number;
  files: { path: string; size: number; mode: number }[];
}

/** https://docs.npmjs.com/cli/v11/configuring-npm/package-json#name, without old names that have capitals. */
const NAME = /^(?=.{1,214}$)(@[a-z0-9~-][a-z0-9._~-]*\/)?[a-z0-9~-][a-z0-9._~-]*$/;

/** The package.json of the package. @throws BuildError */
export function npmManifest({ name = "outrider", sourceUrl }: NpmOptions): object {
  if (!NAME.test(name)) throw new BuildError(`--name ${name}: no name of an npm package; use NAME or @SCOPE/NAME`);
  if (sourceUrl !== undefined && !(URL.canParse(sourceUrl) && sourceUrl.startsWith("https://"))) {
    throw new BuildError(`--source-url ${sourceUrl}: no https URL; use that of the repository`);
  }
  const { version, description, license, keywords, author } = packageJson();
  return {
    ...{ name, version, description, keywords, license, author },
    ...(sourceUrl === undefined ? {} : { repository: { type: "git", url: sourceUrl } }),
    type: "module",
    bin: { outrider: "bin/outrider.cjs", "kubectl-egress": "bin/kubectl-egress.cjs" },
    engines: { node: ">=24" },
    // process.execve of the entry point.
    os: ["!win32"],
  };
}

/** The plugin of kubectl, as bin/kubectl-egress. */
const PLUGIN = `#!/usr/bin/env node
process.argv.splice(2, 0, "egress");
require("./outrider.cjs");
`;

/** The entry point with the flags of bin/outrider. */
function startScript(): string {
  const text = readFileSync(join(import.meta.dirname, "npm-start.cjs"), "utf8");
  const line = `const FLAGS = ${JSON.stringify(nodeFlags())};`;
  const written = text.replace(/^const FLAGS = .*$/m, () => line);
  if (written === text) throw new Error("npm-start.cjs: a line that starts with `const FLAGS =` expected");
  return written;
}

/** Builds the package in a folder. @throws BuildError */
export async function writeNpmPackage(out: string, options: NpmOptions = {}): Promise<Packed> {
  const manifest = npmManifest(options);
  mkdirSync(out, { recursive: true });
  return withFolder(async (folder) => {
    await makeBundle(join(folder, "dist"));
    for (const file of ["README.md", "LICENSE", "examples/acl.yaml"]) cpSync(join(ROOT, file), join(folder, file));
    mkdirSync(join(folder, "bin"));
    writeFileSync(join(folder, "bin/outrider.cjs"), startScript());
    writeFileSync(join(folder, "bin/kubectl-egress.cjs"), PLUGIN);
    writeFileSync(join(folder, "package.json"), `${JSON.stringify(manifest, null, 2)}\n`);
    // Neither the umask nor the modes of the checkout are part of the package.
    for (const path of readdirSync(folder, { recursive: true, encoding: "utf8" })) {
      const isProgram = dirname(path) === "bin" || statSync(join(folder, path)).isDirectory();
      chmodSync(join(folder, path), isProgram ? 0o755 : 0o644);
    }
    const args = ["pack", "--json", "--ignore-scripts", "--pack-destination", resolve(out)];
    const text = execFileSync("npm", args, { cwd: folder, encoding: "utf8" });
    const packed = (JSON.parse(text) as Packed[])[0]!;
    // npm's own name without a scope is that of the chart, which the page of a release has as well.
    const filename = `${packageJson().name}-npm-${packageJson().version}.tgz`;
    renameSync(join(out, packed.filename), join(out, filename));
    return { ...packed, filename };
  });
}

async function main(): Promise<void> {
  const options = {
    name: { type: "string" },
    "source-url": { type: "string" },
    out: { type: "string", default: PACKAGES },
    help: { type: "boolean" },
  } as const;
  const { values } = parseArgs({ options });
  if (values.help) return console.log(HELP);
  const packed = await writeNpmPackage(values.out, { name: values.name, sourceUrl: values["source-url"] });
  const file = relative(process.cwd(), join(values.out, packed.filename));
  console.log(`${file}: ${packed.files.length} files, ${Math.ceil(packed.size / 1024)} KiB`);
}

if (import.meta.main) await runScript(main);
