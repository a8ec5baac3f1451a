import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { closeSync, existsSync, openSync, readFileSync } from "node:fs";
import { createServer } from "node:net";

/** Why programs cannot be bound to this process; null when they can. */
export function setprivMissing(): string | null {
  return spawnSync("setpriv", ["--version"]).error === undefined ? null : "needs setpriv (Debian: util-linux)";
}

const TAIL_LINES = 15;

/** One program that tests run. The kernel ends it with this process, however that ends (prctl(2), PR_SET_PDEATHSIG). */
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

  /** The last lines that it wrote. */
  get tail(): string {
    return existsSync(this.log) ? readFileSync(this.log, "utf8").split("\n").slice(-TAIL_LINES).join("\n") : "";
  }

  signal(signal: NodeJS.Signals): void {
    this.#child?.kill(signal);
  }

  /** Waits until it is gone, however that comes. */
  async ended(): Promise<void> {
    if (this.running) await once(this.#child!, "exit");
  }

  /** Ends it and waits until it is gone. */
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

/** Below the ports that the kernel hands out to connections, so that none takes it before it is listened on. */
const FIRST_PORT = 18_000;
const LAST_PORT = 32_000;

/** A port of 127.0.0.1 that nobody listens on. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = FIRST_PORT + Math.floor(Math.random() * (LAST_PORT - FIRST_PORT));
    const server = createServer();
    const free = await new Promise<boolean>((resolve) => {
      server.once("error", () => resolve(false));
      server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
    });
    if (free) return port;
  }
}
