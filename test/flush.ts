/**
 * Loaded into every test file's process. A file ends with its last test, even if a failed test left a socket open
 * (`forceExit`). Its reports must be written before: the runner's exit would truncate them (seen with Node 24.21).
 */

/** A runner that reads nothing must not keep the process. */
const FLUSH_MS = 30_000;
const { exit } = process;
process.exit = ((code?: number) => {
  // The callback of a write follows after all writes before it.
  const written = [process.stdout, process.stderr].map((stream) => new Promise((resolve) => stream.write("", resolve)));
  const late = new Promise((resolve) => setTimeout(resolve, FLUSH_MS));
  void Promise.race([Promise.all(written), late]).then(() => exit.call(process, code));
}) as typeof process.exit;
