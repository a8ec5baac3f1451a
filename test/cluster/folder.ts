import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import type { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A folder that is removed with this process, even after SIGKILL; after an error its logs are kept. */
export interface WorkFolder {
  path: string;
  /** Removes everything except the logs (`*.log`), which are removed at the end of the process if it succeeds. */
  clear(): void;
}

/**
 * Waits on stdin, which ends with this process even at SIGKILL, and removes the folder. Programs may still be writing
 * there.
 */
const JANITOR = `
cat >/dev/null
i=0
while [ -e "$1" ] && [ ! -e "$1/keep" ] && [ $i -lt 100 ]; do rm -rf "$1" 2>/dev/null || sleep 0.1; i=$((i+1)); done
`;
const ATTEMPTS = 10;
const folders = new Set<string>();

/** As rm -rf; programs that were just killed may still create a file. */
const remove = (path: string) => rmSync(path, { recursive: true, force: true, maxRetries: ATTEMPTS, retryDelay: 50 });

// The status shows whether tests failed: only then the logs are useful.
process.on("exit", (code) => {
  for (const folder of folders) {
    if (code === 0) {
      remove(folder);
      continue;
    }
    writeFileSync(join(folder, "keep"), "");
    process.stderr.write(`logs are kept: ${folder}/*.log\n`);
  }
});

/** Makes a folder below the machine's folder of temporary files. */
export function workFolder(prefix: string): WorkFolder {
  const path = mkdtempSync(join(tmpdir(), prefix));
  folders.add(path);
  // In its own session: Ctrl-C must reach the tests, but not this process.
  const janitor = spawn("sh", ["-c", JANITOR, "janitor", path], {
    detached: true,
    stdio: ["pipe", "ignore", "ignore"],
  });
  janitor.unref();
  (janitor.stdin as Socket).unref();
  const clear = () => {
    for (const name of readdirSync(path)) if (!name.endsWith(".log")) remove(join(path, name));
  };
  return { path, clear };
}
