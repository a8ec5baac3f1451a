import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { Program } from "../processes.ts";

const MADE_MS = 5000;

/** A network namespace that exists as long as its process. */
export class Namespace {
  readonly #holder: Program;
  readonly enter: readonly string[];

  constructor(name: string, folder: string) {
    this.#holder = new Program(name, ["unshare", "--net", "sleep", "infinity"], join(folder, `${name}.log`));
    this.#holder.start();
    // The program becomes `unshare`, and then `sleep`, with the same process id.
    const own = execFileSync("readlink", ["/proc/self/ns/net"], { encoding: "utf8" });
    const link = `/proc/${this.#holder.pid}/ns/net`;
    for (const began = Date.now(); ; ) {
      if (execFileSync("readlink", [link], { encoding: "utf8" }) !== own) break;
      if (Date.now() - began > MADE_MS) throw new Error(`no network namespace: ${this.#holder.tail}`);
    }
    this.enter = ["nsenter", `--net=${link}`, "--"];
  }

  get pid(): number {
    return this.#holder.pid;
  }

  stop(): Promise<void> {
    return this.#holder.stop();
  }
}

/** Runs a program to its end and returns its output. @throws when it fails */
export function run(command: readonly string[], input?: string): string {
  return execFileSync(command[0]!, command.slice(1), { encoding: "utf8", input, stdio: ["pipe", "pipe", "inherit"] });
}
