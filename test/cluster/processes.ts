import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { closeSync, existsSync, openSync, readFileSync } from "node:fs";
import { createServer } from "node:net";

/** Why programs cannot be bound to this process; null when they can. */
export function setprivMissing(): string | null {
  return spawnSync("setpriv", ["--version"]).error === undefined ? null : "needs setpriv (Debian: util-linux)";
}

const TAIL_LINES = 15;

/** Variables that commands of ours get from the test: `PATH`, and the folder of compiled sources (test/run.ts). */
export function inheritedEnv(): NodeJS.ProcessEnv {
  const { PATH, NODE_COMPILE_CACHE } = process.env;
  return { PATH, NODE_COMPILE_CACHE };
}

/** One program of a test. The kernel kills it when this process ends in any way (prctl(2), PR_SET_PDEATHSIG). */
export class Program {
  readonly name: string;
  readonly log: string;
  readonly #command: readonly string[];
  readonly #env: NodeJS.ProcessEnv;
  #child: ChildProcess | undefined;

  constructor(name: string, command: readonly string[], log: string, env: NodeJS.ProcessEnv = process.env) {
    this.name = name;
    this.#command = command;
    this.#env = env;
    this.log = log;
  }

  start(): void {
    if (this.running) throw new Error(`${this.name} is running already`);
    const out = openSync(this.log, "a");
    const child = spawn("setpriv", ["--pdeathsig", "KILL", "--", ...this.#command], {
      stdio: ["ignore", out, out],
      env: this.#env,
    });
    closeSync(out);
    this.#child = child;
    children.add(child);
    child.once("exit", () => children.delete(child));
  }

  get running(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  get pid(): number {
    return this.#child!.pid!;
  }

  get exitCode(): number | null {
    return this.#child?.exitCode ?? null;
  }

  /** The last lines of its output. */
  get tail(): string {
    return existsSync(this.log) ? readFileSync(this.log, "utf8").split("\n").slice(-TAIL_LINES).join("\n") : "";
  }

  signal(signal: NodeJS.Signals): void {
    this.#child?.kill(signal);
  }

  /** Waits until it has ended, for any reason. */
  async ended(): Promise<void> {
    if (this.running) await once(this.#child!, "exit");
  }

  /** Kills it and waits until it has ended. */
  async stop(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    if (!this.running) return;
    const gone = this.ended();
    this.signal(signal);
    await gone;
  }
}

const children = new Set<ChildProcess>();
process.on("exit", () => {
  for (const child of children) child.kill("SIGKILL");
});

/** Below the ephemeral ports of the kernel, so that no connection takes it before the listener does. */
const FIRST_PORT = 18_000;
const LAST_PORT = 32_000;

/** Claims a port for this process: test files run beside each other. The kernel releases a UDP socket with its process. */
function claimPort(port: number): Promise<boolean> {
  const claim = createSocket("udp4");
  claim.unref();
  return new Promise((resolve) => {
    claim.once("error", () => {
      claim.close();
      resolve(false);
    });
    claim.bind({ port, address: "127.0.0.1", exclusive: true }, () => resolve(true));
  });
}

/** A free TCP port of 127.0.0.1, which no other call returns while this process runs. */
export async function freePort(random: () => number = Math.random): Promise<number> {
  for (;;) {
    const port = FIRST_PORT + Math.floor(random() * (LAST_PORT - FIRST_PORT));
    if (!(await claimPort(port))) continue;
    const server = createServer();
    const free = await new Promise<boolean>((resolve) => {
      server.once("error", () => resolve(false));
      server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
    });
    if (free) return port;
  }
}
