import { spawn } from "node:child_process";
import { once } from "node:events";
import { namespaceMissing } from "../harness/namespace.ts";
import { HELP, type Options, readOptions } from "./options.ts";
import { Run } from "./run.ts";
import { NAMESPACE_TRAPS } from "./world.ts";

/** `make fuzz`: see {@link HELP}. Exit status 0: no violation. 1: at least one. 2: wrong usage. */

/** The environment variable of the process that runs in its own network namespace. */
const INSIDE = "OUTRIDER_FUZZ_INSIDE";
const ENDING = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** Runs this command again in a network namespace that has loopback alone, so that no packet can leave. */
async function runInside(seed: number): Promise<number> {
  const addresses = NAMESPACE_TRAPS.map(
    (text) => `ip addr add ${text}/${text.includes(":") ? "128 nodad" : 32} dev lo`,
  );
  const script = `ip link set lo up && ${addresses.join(" && ")} && exec "$@"`;
  const command = ["--pdeathsig", "KILL", "--", "unshare", "--net", "--", "sh", "-c", script, "sh"];
  // The last --seed wins: both processes use the same seed.
  const self = [process.execPath, ...process.execArgv, ...process.argv.slice(1), "--seed", `${seed}`];
  const child = spawn("setpriv", [...command, ...self], { stdio: "inherit", env: { ...process.env, [INSIDE]: "1" } });
  for (const signal of ENDING) process.on(signal, () => child.kill("SIGTERM"));
  const [status] = (await once(child, "close")) as [number | null];
  return status ?? 1;
}

async function main(): Promise<number> {
  let options: Options | null;
  try {
    options = readOptions(process.argv.slice(2), process.env);
  } catch (error) {
    console.error(`fuzz: ${(error as Error).message}`);
    return 2;
  }
  if (options === null) {
    console.log(HELP);
    return 0;
  }
  const inside = process.env[INSIDE] !== undefined;
  const missing = inside ? null : namespaceMissing();
  if (!inside && missing === null) return runInside(options.seed);
  if (missing !== null) console.log(`SKIPPED: private and metadata addresses as targets (${missing})`);
  // `startProxy` ends the proxy when this process exits. The other processes end when their parent does.
  for (const signal of ENDING) process.on(signal, () => process.exit(1));
  const { seed, connections, minutes } = options;
  console.log(`SEED=${seed}: ${connections} connections, ${minutes} minutes at most`);
  return new Run(options, inside).go();
}

process.exit(await main());
