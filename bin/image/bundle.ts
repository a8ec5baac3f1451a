import { execFile } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { build, type Metafile } from "esbuild";
import { commandsTogether, htmlFiles, lateModules, unusedModules } from "./modules.ts";

/**
 * `make bundle`: builds operator and proxy as plain JavaScript in dist/, without node_modules. They need half the
 * memory of the sources: the package of the Kubernetes client alone has a thousand files (docs/performance.md).
 */

export const ROOT = new URL("../..", import.meta.url).pathname;
/** Folder of the bundle, from the root of the project. */
export const DIST = "dist";
/** File that `node` runs in the image. */
export const ENTRY = "dist/outrider.js";

// CommonJS packages call `require` for Node's own modules.
const BANNER = 'import { createRequire } from "node:module";\nconst require = createRequire(import.meta.url);';

/** Fields of package.json that a bundle needs. */
export function packageJson(): Record<"name" | "version" | "description" | "license" | "author", string> & {
  keywords: string[];
} {
  return JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
}

/** Folders of the packages that a bundle contains. */
export function packagesOf(metafile: Metafile): string[] {
  const folders = Object.keys(metafile.inputs).flatMap(
    (path) => /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(path)?.[0] ?? [],
  );
  return [...new Set(folders)].sort();
}

/** Licences of all bundled packages: they must be distributed with the code. */
export function licensesOf(folders: readonly string[]): string {
  const parts = folders.map((folder) => {
    const path = join(ROOT, folder);
    const { name, version, license } = JSON.parse(readFileSync(join(path, "package.json"), "utf8")) as {
      name: string;
      version: string;
      license?: string;
    };
    const files = readdirSync(path).filter((file) => /^(licen[cs]e|notice|copying)/i.test(file));
    const texts = files.sort().map((file) => readFileSync(join(path, file), "utf8").trim());
    return [`${name} ${version} (${license ?? "no licence named"})`, ...texts].join("\n\n");
  });
  return `${parts.join(`\n\n${"-".repeat(80)}\n\n`)}\n`;
}

/**
 * The software bill of materials of the image, by npm (CycloneDX). Fields that differ at every call are removed, and
 * the project's name replaces that of the folder, so that equal input gives equal bytes.
 */
async function sbom(): Promise<string> {
  const args = ["sbom", "--sbom-format=cyclonedx", "--sbom-type=application", "--omit=dev", "--package-lock-only"];
  const { stdout } = await promisify(execFile)("npm", args, {
    cwd: ROOT,
    encoding: "utf8",
    maxBuffer: 64 * 1024 * 1024,
  });
  type Sbom = { serialNumber?: string; metadata: { timestamp?: string; component: { name: string } } };
  const sbom = JSON.parse(stdout) as Sbom;
  delete sbom.serialNumber;
  delete sbom.metadata.timestamp;
  sbom.metadata.component.name = packageJson().name;
  return `${JSON.stringify(sbom, null, 2)}\n`;
}

/** Options of esbuild that differ between the forms of a bundle. */
const FORMS = {
  // The proxy must not load modules that only the operator needs.
  modules: { format: "esm", splitting: true, banner: { js: BANNER } },
  // One CommonJS file for each entry point. `readAsset` reads the files of its URLs from the executable.
  executable: { format: "cjs", define: { "import.meta.url": '"file:///outrider.js"' } },
} as const;

/** Builds the JavaScript of both programs in a folder: modules for `node`, or the files of a single executable. */
export async function bundleCode(outdir: string, form: keyof typeof FORMS = "modules"): Promise<Metafile> {
  const { metafile } = await build({
    absWorkingDir: ROOT,
    // The second one is a worker thread, which the first one starts.
    entryPoints: { outrider: "bin/image/launch.ts", "read-worker": "proxy/config/read-worker.ts" },
    outdir,
    bundle: true,
    ...FORMS[form],
    platform: "node",
    target: "node24",
    plugins: [commandsTogether, htmlFiles, unusedModules, lateModules],
    metafile: true,
    logLevel: "warning",
  });
  return metafile;
}

/** Builds a new bundle in this folder. Returns its files with their sizes in bytes. */
export async function makeBundle(folder = join(ROOT, DIST)): Promise<{ file: string; bytes: number }[]> {
  rmSync(folder, { recursive: true, force: true });
  const metafile = await bundleCode(folder);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "LICENSES.txt"), licensesOf(packagesOf(metafile)));
  writeFileSync(join(folder, "sbom.cdx.json"), await sbom());
  return Object.entries(metafile.outputs).map(([file, { bytes }]) => ({ file, bytes }));
}

if (import.meta.main) {
  for (const { file, bytes } of await makeBundle()) console.log(`${file} ${Math.ceil(bytes / 1024)} KiB`);
}
