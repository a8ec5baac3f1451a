import { execFileSync, spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, mkdirSync, statSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { parseArgs } from "node:util";
import { bundleCode, licensesOf, packageJson, packagesOf, ROOT } from "../image/bundle.ts";
import { nodeFlags } from "./flags.ts";
import { ARCHITECTURES, type Architecture, getNode } from "./node-binary.ts";
import { BuildError, PACKAGES, runScript, withFolder } from "./output.ts";

/**
 * `make executable`: one file with Node.js and both programs, for machines without Node.js
 * (https://nodejs.org/docs/latest-v24.x/api/single-executable-applications.html). All commands start with the flags of the
 * proxy: the file has one set of flags. Equal input gives equal bytes.
 */

const HELP = `Usage: executable.ts [--arch x64|arm64] [--out FOLDER]

  --arch x64|arm64  architecture (default: that of this machine)
  --out FOLDER      where the executable and its licences are written (default: packages)`;

/** Name of the section, and the text in Node's program that postject changes: both are Node's. */
const SECTION = "NODE_SEA_BLOB";
const FUSE = "NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2";

/** Compiled code contains hashes. With one seed they are equal in every build; V8 accepts it in processes with other seeds. */
const SAME_CODE = ["--random-seed=1"];

const THIS = process.arch as Architecture;

/** Result of a build. */
export interface Executable {
  file: string;
  /** Licences of Node.js and of all bundled packages. */
  licences: string;
  bytes: number;
  isStripped: boolean;
}

/** Removes the symbols, a seventh of the file. Returns false without a `strip` for the architecture. */
function strip(file: string, arch: Architecture): boolean {
  const program = arch === THIS ? "strip" : { x64: "x86_64-linux-gnu-strip", arm64: "aarch64-linux-gnu-strip" }[arch];
  const { status, stderr, error } = spawnSync(program, [file], { encoding: "utf8" });
  if (error !== undefined && (error as NodeJS.ErrnoException).code === "ENOENT") return false;
  if (status !== 0) throw new Error(`${program} ${file}: ${error?.message ?? stderr.trim()}`);
  return true;
}

/** Licences of Node.js, with what it contains, and of all bundled packages. */
const licencesOf = (node: string, packages: readonly string[]): string =>
  `Node.js ${process.versions.node}\n\n${node}\n\n${"-".repeat(80)}\n\n${licensesOf(packages)}`;

/** Builds an executable in a folder. @throws BuildError */
export async function writeExecutable(out: string, arch: Architecture = THIS): Promise<Executable> {
  if (!Object.hasOwn(ARCHITECTURES, arch)) throw new BuildError(`--arch ${arch}: unknown; use x64 or arm64`);
  const node = await getNode(arch);
  mkdirSync(out, { recursive: true });
  const file = join(out, `outrider-${packageJson().version}-linux-${arch}`);
  return withFolder(async (folder) => {
    const metafile = await bundleCode(folder, "executable");
    const { proxy: execArgv } = nodeFlags();
    const config = {
      // Relative, since the executable contains it.
      main: "outrider.js",
      output: "blob",
      disableExperimentalSEAWarning: true,
      // Compiled code halves the time of a start. It is for one architecture and one set of flags.
      useCodeCache: arch === THIS,
      execArgv,
      assets: { "package.json": join(ROOT, "package.json"), "read-worker.js": "read-worker.js" },
    };
    writeFileSync(join(folder, "sea.json"), JSON.stringify(config));
    const flags = [...execArgv, ...SAME_CODE, "--experimental-sea-config", "sea.json"];
    execFileSync(process.execPath, flags, { cwd: folder, stdio: "pipe" });
    copyFileSync(node.file, file);
    chmodSync(file, 0o755);
    const isStripped = strip(file, arch);
    // Warns about notes of Node's program that it does not know.
    const postject = join(ROOT, "node_modules/postject/dist/cli.js");
    execFileSync(process.execPath, [postject, file, SECTION, join(folder, "blob"), "--sentinel-fuse", FUSE], {
      stdio: "pipe",
    });
    const licences = `${file}.LICENSES.txt`;
    writeFileSync(licences, licencesOf(node.licence, packagesOf(metafile)));
    return { file, licences, bytes: statSync(file).size, isStripped };
  });
}

async function main(): Promise<void> {
  const options = {
    arch: { type: "string", default: THIS },
    out: { type: "string", default: PACKAGES },
    help: { type: "boolean" },
  } as const;
  const { values } = parseArgs({ options });
  if (values.help) return console.log(HELP);
  const { file, bytes, isStripped } = await writeExecutable(values.out, values.arch as Architecture);
  const notes = [
    `${(bytes / 2 ** 20).toFixed(1)} MiB`,
    ...(isStripped ? [] : ["with symbols: no strip for this architecture (Debian: binutils)"]),
    ...(values.arch === THIS ? [] : ["built and not run: it is for another architecture"]),
  ];
  console.log(`${relative(process.cwd(), file)}: ${notes.join(", ")}`);
}

if (import.meta.main) await runScript(main);
