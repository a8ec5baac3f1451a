import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { build, type Metafile } from "esbuild";

/**
 * `make bundle`: operator and proxy as plain JavaScript in dist/, without node_modules. Half the memory of the sources:
 * the package of the Kubernetes client alone has a thousand files (docs/performance.md).
 */

export const ROOT = new URL("../..", import.meta.url).pathname;
export const DIST = "dist";
/** File that `node` runs in the image. */
export const ENTRY = "dist/outrider.js";

// Packages in CommonJS call `require` for what Node has.
const BANNER = 'import { createRequire } from "node:module";\nconst require = createRequire(import.meta.url);';

export function packageJson(): { name: string; version: string; description: string; license: string } {
  return JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
}

/** Packages that files of a bundle came from, as folders. */
function packagesOf(metafile: Metafile): string[] {
  const folders = Object.keys(metafile.inputs).flatMap(
    (path) => /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(path)?.[0] ?? [],
  );
  return [...new Set(folders)].sort();
}

/** Licences of everything bundled: they have to go where the code goes. */
function licensesOf(folders: readonly string[]): string {
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
 * What runs in the image, by npm: CycloneDX. Without what differs at every call, and with the project's name where npm
 * puts that of the folder, so that equal input gives equal bytes.
 */
function sbom(): string {
  const args = ["sbom", "--sbom-format=cyclonedx", "--sbom-type=application", "--omit=dev", "--package-lock-only"];
  const text = execFileSync("npm", args, { cwd: ROOT, encoding: "utf8", maxBuffer: 64 * 1024 * 1024 });
  type Sbom = { serialNumber?: string; metadata: { timestamp?: string; component: { name: string } } };
  const sbom = JSON.parse(text) as Sbom;
  delete sbom.serialNumber;
  delete sbom.metadata.timestamp;
  sbom.metadata.component.name = packageJson().name;
  return `${JSON.stringify(sbom, null, 2)}\n`;
}

/** Builds a new dist/. Returns its files with their sizes in bytes. */
export async function makeBundle(): Promise<{ file: string; bytes: number }[]> {
  const folder = join(ROOT, DIST);
  rmSync(folder, { recursive: true, force: true });
  const { metafile } = await build({
    absWorkingDir: ROOT,
    // The second one is a thread of its own, which the first one starts.
    entryPoints: { outrider: "bin/image/launch.ts", "read-worker": "proxy/config/read-worker.ts" },
    outdir: DIST,
    bundle: true,
    // The proxy must not load what the operator needs.
    splitting: true,
    format: "esm",
    platform: "node",
    target: "node24",
    banner: { js: BANNER },
    metafile: true,
    logLevel: "warning",
  });
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "LICENSES.txt"), licensesOf(packagesOf(metafile)));
  writeFileSync(join(folder, "sbom.cdx.json"), sbom());
  return Object.entries(metafile.outputs).map(([file, { bytes }]) => ({ file, bytes }));
}

if (import.meta.main) {
  for (const { file, bytes } of await makeBundle()) console.log(`${file} ${Math.ceil(bytes / 1024)} KiB`);
}
