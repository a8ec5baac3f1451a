import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Module } from "./modules.ts";

/** Runs Stryker for one module. Stryker is installed into `.cache/stryker`: it has more packages than the whole project. */

const root = new URL("../..", import.meta.url).pathname;
const cache = join(root, ".cache");
const home = join(cache, "stryker");
const LOCK = "package-lock.json";
/** Added to three times the normal time of the tests. Long, since slowness must not count as a killed mutant. */
const TIMEOUT_MS = 15_000;
/** Limit of the mutants of one module, and of the installation. A module takes up to 5 minutes on a loaded machine. */
const LIMIT_MS = 15 * 60_000;
/** Small enough for hundreds of mutants, with the same inputs for each. */
const ENVIRONMENT = { SEED: "1", RUNS_SHARE: "0.02", NODE_COMPILE_CACHE: join(cache, "compiled") };

export interface Survivor {
  /** `path:line`. */
  place: string;
  mutation: string;
}

export interface Result {
  /** Mutants that a test detected. */
  killed: number;
  /** Mutants whose tests did not end; they count as detected. */
  timedOut: number;
  survivors: Survivor[];
}

interface Report {
  files: Record<
    string,
    {
      source: string;
      mutants: {
        mutatorName: string;
        replacement: string;
        status: string;
        location: { start: Position; end: Position };
      }[];
    }
  >;
}

interface Position {
  line: number;
  column: number;
}

/** Runs a command within the limit. Returns its exit status. */
async function run(command: string, args: readonly string[], cwd: string): Promise<number> {
  const path = `${dirname(process.execPath)}:${process.env.PATH}`;
  const env = { ...process.env, ...ENVIRONMENT, PATH: path };
  // A process group, since a mutant that loops forever does not notice the end of Stryker.
  const child = spawn(command, args, { cwd, env, stdio: ["ignore", "inherit", "inherit"], detached: true });
  const end = () => {
    try {
      process.kill(-child.pid!, "SIGKILL");
    } catch {
      // It has ended.
    }
  };
  process.on("exit", end);
  const limit = setTimeout(() => {
    console.error(`${command}: stopped after ${LIMIT_MS / 60_000} minutes`);
    end();
  }, LIMIT_MS);
  const [status] = (await once(child, "close")) as [number | null];
  clearTimeout(limit);
  process.off("exit", end);
  return status ?? 1;
}

/** Installs Stryker as pinned in this folder, unless it is there. */
export async function installStryker(): Promise<void> {
  const locks = [join(root, "test/mutants", LOCK), join(home, "node_modules", LOCK)] as const;
  if (existsSync(locks[1]) && readFileSync(locks[0], "utf8") === readFileSync(locks[1], "utf8")) return;
  mkdirSync(home, { recursive: true });
  for (const name of ["package.json", LOCK]) copyFileSync(join(root, "test/mutants", name), join(home, name));
  if ((await run("npm", ["ci", "--no-audit", "--no-fund"], home)) !== 0) throw new Error("npm ci for Stryker failed");
  copyFileSync(locks[0], locks[1]);
}

/** One line for a mutation: the text before and after it, shortened. */
function mutationOf(source: string, { start, end }: { start: Position; end: Position }, replacement: string): string {
  const lines = source.split("\n").slice(start.line - 1, end.line);
  lines[lines.length - 1] = lines.at(-1)!.slice(0, end.column - 1);
  lines[0] = lines[0]!.slice(start.column - 1);
  const short = (text: string) => text.replace(/\s+/g, " ").slice(0, 70);
  return `${short(lines.join(" "))}  =>  ${short(replacement)}`;
}

function readReport(text: string): Result {
  const result: Result = { killed: 0, timedOut: 0, survivors: [] };
  for (const [path, { source, mutants }] of Object.entries((JSON.parse(text) as Report).files)) {
    for (const { status, location, replacement } of mutants) {
      if (status === "Killed") result.killed++;
      if (status === "Timeout") result.timedOut++;
      if (status !== "Survived" && status !== "NoCoverage") continue;
      result.survivors.push({
        place: `${path}:${location.start.line}`,
        mutation: `${mutationOf(source, location, replacement)}${status === "NoCoverage" ? "  (no test reaches it)" : ""}`,
      });
    }
  }
  return result;
}

/** Tests every mutant of a module, and prints its progress every 10 s. Takes up to {@link LIMIT_MS}. @throws Error if Stryker fails */
export async function mutate({ source, tests }: Module): Promise<Result> {
  const name = source.replaceAll("/", "-").replace(".ts", "");
  const report = join(cache, "mutants", `${name}.json`);
  const config = join(cache, "mutants", `${name}.config.json`);
  mkdirSync(dirname(report), { recursive: true });
  const options = {
    testRunner: "outrider",
    plugins: [join(root, "test/mutants/runner.ts")],
    outrider: { tests },
    warnings: { unknownOptions: false, slow: false },
    mutate: [source],
    // Text of messages is left out: tests match the part of it that matters.
    mutator: { excludedMutations: ["StringLiteral"] },
    // Stryker would rewrite tsconfig.json, which needs a TypeScript that has an API.
    tsconfigFile: "none.json",
    disableTypeChecks: false,
    coverageAnalysis: "perTest",
    concurrency: 1,
    timeoutMS: TIMEOUT_MS,
    timeoutFactor: 3,
    dryRunTimeoutMinutes: 15,
    ignorePatterns: [".cache", "dist", "coverage"],
    tempDirName: ".cache/stryker-tmp",
    reporters: ["json", "progress-append-only"],
    logLevel: "warn",
    jsonReporter: { fileName: report },
    allowConsoleColors: false,
  };
  writeFileSync(config, JSON.stringify(options, null, 2));
  const status = await run(process.execPath, [join(home, "node_modules/.bin/stryker"), "run", config], root);
  if (status !== 0) throw new Error(`Stryker failed for ${source} (exit status ${status})`);
  return readReport(readFileSync(report, "utf8"));
}
