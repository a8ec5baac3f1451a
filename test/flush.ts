/**
 * Loaded into every test file's process. A file ends with its last test even when a failed test left a socket open
 * (`forceExit`), and what it reported must be out before: the runner's exit would cut it off (seen with Node 24.21).
 */

const FLUSH_MS = 500;
const { exit } = process;
process.exit = ((code?: number) => {
  setTimeout(() => exit.call(process, code), FLUSH_MS);
}) as typeof process.exit;
