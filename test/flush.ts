/**
 * Loaded into every test file's process. A file ends with its last test, even if a failed test left a socket open
 * (`forceExit`). Its reports must be written before: the runner's exit would truncate them (seen with Node 24.21).
 */

const FLUSH_MS = 500;
const { exit } = process;
process.exit = ((code?: number) => {
  setTimeout(() => exit.call(process, code), FLUSH_MS);
}) as typeof process.exit;
