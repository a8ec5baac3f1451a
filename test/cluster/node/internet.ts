import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { OUTRIDER } from "../../harness/proxy.ts";
import { Program } from "../processes.ts";
import { FOUR, SIX } from "./addresses.ts";
import type { Zone } from "./internet.inside.ts";

/** One request that the receiver got. */
export interface Received {
  /** Milliseconds since the epoch. */
  at: number;
  /** The source address of the request. */
  address: string;
  host: string;
  path: string;
}

const START_MS = 15_000;
/** Answers of the echo server, by address: refused or forged ones. */
export const ECHO_URL = `http://${FOUR.echo}/ip`;
/** The same by name, which has addresses of both families. */
export const ECHO_NAME_URL = "http://echo.example/ip";

/** The hosts of the "internet": a receiver of webhooks, an echo server, a DNS server. */
export class Internet {
  readonly #folder: string;
  readonly #programs: readonly Program[];

  /** `enter`: puts a command into its network namespace. */
  constructor(folder: string, enter: readonly string[]) {
    this.#folder = folder;
    const inside = new URL("internet.inside.ts", import.meta.url).pathname;
    const program = (name: string, command: readonly string[]) =>
      new Program(name, [...enter, ...command], join(folder, `${name}.log`));
    this.#programs = [
      program("receiver", [process.execPath, inside, folder]),
      program("echo", [OUTRIDER, "echo", `--listen=${FOUR.echo}:80`]),
      program("echo-6", [OUTRIDER, "echo", `--listen=[${SIX.echo}]:80`]),
    ];
    this.zone({});
  }

  async start(): Promise<void> {
    for (const program of this.#programs) program.start();
    const [receiver] = this.#programs;
    for (const began = Date.now(); !receiver!.tail.startsWith("ready"); await sleep(20)) {
      if (!receiver!.running || Date.now() - began > START_MS) throw new Error(`the internet: ${receiver!.tail}`);
    }
  }

  /** Sets its names; `hooks.example` is always the receiver, `echo.example` the echo server. */
  zone(names: Zone): void {
    const all = { "hooks.example": [[FOUR.receiver]], "echo.example": [[FOUR.echo, SIX.echo]], ...names };
    writeFileSync(join(this.#folder, "zone.json"), JSON.stringify(all));
  }

  /** Requests of the receiver, from the nth on. */
  received(from = 0): Received[] {
    const file = join(this.#folder, "received.jsonl");
    if (!existsSync(file)) return [];
    const lines = readFileSync(file, "utf8").split("\n").slice(from, -1);
    return lines.map((line) => JSON.parse(line) as Received);
  }

  async stop(): Promise<void> {
    await Promise.all(this.#programs.map((program) => program.stop()));
  }
}
