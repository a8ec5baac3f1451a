import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, renameSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { BuildError, withFolder } from "./output.ts";

/** Official builds of Node.js for Linux, from the npm packages that the package `node` installs as well. */

/** Architectures, by Node's names: the machine in an ELF header, and Debian's name. */
export const ARCHITECTURES = {
  x64: { machine: 62, debian: "amd64" },
  arm64: { machine: 183, debian: "arm64" },
} as const;
/** An architecture, by the name of Node.js. */
export type Architecture = keyof typeof ARCHITECTURES;

/** A build of Node.js: the program, and the text of its licences. */
export interface NodeBinary {
  file: string;
  licence: string;
}

/** Whether a file is a 64-bit ELF program of this architecture. */
function isFor(arch: Architecture, file: string): boolean {
  const head = readFileSync(file).subarray(0, 20);
  return (
    head.subarray(0, 5).equals(Buffer.from("\x7fELF\x02", "latin1")) &&
    head.readUInt16LE(18) === ARCHITECTURES[arch].machine
  );
}

/** Runs `npm pack` in a folder. Returns the name of the archive. @throws BuildError */
function npmPack(spec: string, cwd: string): string {
  const args = ["pack", "--loglevel=error", "--prefer-offline", spec];
  const { status, stdout, stderr, error } = spawnSync("npm", args, { cwd, encoding: "utf8" });
  if (error !== undefined) throw new BuildError(`npm pack ${spec}: not found; install npm`);
  if (status === 0) return stdout.trim();
  const lines = [...stderr.matchAll(/^npm error (.*)$/gm)].slice(0, 2).map(([, text]) => text!.replace(/\.$/, ""));
  throw new BuildError(`npm pack ${spec}: ${lines.join(": ")}; check the network and the registry of npm`);
}

/** Makes a folder of the cache. @throws BuildError */
function makeCache(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new BuildError(`${folder}: ${code}; set XDG_CACHE_HOME to a folder that you can write`);
  }
}

/**
 * Gets the build of the version that runs this. npm downloads and verifies it; the folder ~/.cache/outrider/node keeps it.
 * @throws BuildError when npm cannot get it, and when it is for another architecture
 */
export async function getNode(arch: Architecture): Promise<NodeBinary> {
  const name = `node-linux-${arch}`;
  const { node: version } = process.versions;
  const caches = process.env.XDG_CACHE_HOME || join(homedir(), ".cache");
  const folder = join(caches, "outrider/node", `${name}-${version}`);
  if (!existsSync(folder)) {
    makeCache(dirname(folder));
    // Beside its place, so that a rename completes it at once: another build may get it as well.
    await withFolder((temporary) => {
      const archive = npmPack(`${name}@${version}`, temporary);
      const files = ["package/bin/node", "package/LICENSE"];
      execFileSync("tar", ["-xzf", join(temporary, archive), "-C", temporary, ...files]);
      if (!existsSync(folder)) renameSync(join(temporary, "package"), folder);
    }, dirname(folder));
  }
  const file = join(folder, "bin/node");
  if (!isFor(arch, file)) throw new BuildError(`${file}: no ELF program for ${arch}; delete the folder ${folder}`);
  return { file, licence: readFileSync(join(folder, "LICENSE"), "utf8").trim() };
}
