import { spawn } from "node:child_process";
import { finish } from "./finish.ts";

/** Runs commands on a pseudo-terminal, and reads what it shows. */

const PROGRAM = new URL("terminal.py", import.meta.url).pathname;

/** The output of a command on a terminal. */
export interface Shown {
  /** All bytes of stdout and stderr, in their order. */
  text: string;
  /** The lines that are visible in the end. */
  lines: string[];
  /** The exit status; of a process that a signal ended, its negative number. */
  status: number;
}

/** The lines that are visible after a text with carriage returns and "erase in line". Longer lines do not wrap. */
export function visibleLines(text: string): string[] {
  const lines = [""];
  let column = 0;
  for (const [token] of text.matchAll(/\r|\n|\x1b\[K|[^\r\n\x1b]+/g)) {
    const line = lines.at(-1)!;
    if (token === "\r") column = 0;
    else if (token === "\n") lines.push("");
    else if (token === "\x1b[K") lines[lines.length - 1] = line.slice(0, column);
    else {
      lines[lines.length - 1] = line.slice(0, column) + token + line.slice(column + token.length);
      column += token.length;
    }
  }
  return lines;
}

/** Runs a command on a terminal. @param interruptAt a text after which the user presses Ctrl-C */
export async function inTerminal(
  command: readonly string[],
  {
    columns = 80,
    interruptAt = "",
    env = {},
  }: { columns?: number; interruptAt?: string; env?: NodeJS.ProcessEnv } = {},
): Promise<Shown> {
  const child = spawn("python3", [PROGRAM, `${columns}`, interruptAt, ...command], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, TERM: "xterm", ...env },
  });
  const { stdout, stderr } = await finish(child);
  return { text: stdout, lines: visibleLines(stdout), status: Number(stderr) };
}
