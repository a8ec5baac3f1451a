import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { createServer } from "node:net";

/** With `setpriv` (util-linux) the kernel ends a child with its parent, also when that is killed. */
const DEATH_SIGNAL = spawnSync("setpriv", ["--pdeathsig", "KILL", "true"]).status === 0;

/** One program that tests run, which ends with them. */
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
    const command = [...(DEATH_SIGNAL ? ["setpriv", "--pdeathsig", "KILL"] : []), ...this.#command];
    const out = openSync(this.log, "a");
    this.#child = spawn(command[0]!, command.slice(1), { stdio: ["ignore", out, out], env: this.#env });
    closeSync(out);
    children.add(this.#child);
    this.#child.once("exit", () => children.delete(this.#child!));
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

  signal(signal: NodeJS.Signals): void {
    this.#child?.kill(signal);
  }

  /** Ends it and waits until it is gone. */
  async stop(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    if (!this.running) return;
    const gone = once(this.#child!, "exit");
    this.#child!.kill(signal);
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
