import { readFileSync } from "node:fs";
import { constants } from "node:os";

const { EMFILE, ENFILE, ENOMEM, ENOBUFS } = constants.errno;
const EXHAUSTED: ReadonlySet<number> = new Set([EMFILE, ENFILE, ENOMEM, ENOBUFS]);

/**
 * Whether an error, or one of its causes, says that no file descriptor or kernel memory is left: it passes. Compares numbers,
 * since `os.networkInterfaces` has no error codes ("Unknown system error 24").
 */
export function isExhausted(error: unknown): boolean {
  for (let one = error; one instanceof Error; one = one.cause) {
    if (EXHAUSTED.has(Math.abs((one as NodeJS.ErrnoException).errno ?? 0))) return true;
  }
  return false;
}

let lastLimit = Number.POSITIVE_INFINITY;

/**
 * The limit of open files of this process (RLIMIT_NOFILE, soft; Node raises it to the hard limit at its start). Infinity
 * where there is no limit, or no /proc. The last known value while /proc cannot be read.
 */
export function openFileLimit(): number {
  try {
    const soft = /^Max open files +(\S+)/m.exec(readFileSync("/proc/self/limits", "utf8"))?.[1];
    lastLimit = Number(soft) || Number.POSITIVE_INFINITY;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT" && !isExhausted(error)) throw error;
  }
  return lastLimit;
}

/**
 * File descriptors that are kept for the runtime (about 30), listeners, the admin port, DNS and reading files; half of the
 * limit where that is less.
 */
const RESERVED_FILES = 96;
/** Descriptors of one tunnel: the connections to the client and to the upstream. */
const FILES_PER_TUNNEL = 2;

/** How a limit of open files is divided, so that none of these uses takes the descriptors of another one. */
export interface FileShares {
  /** Tunnels and requests at once. */
  tunnels: number;
  /** Client connections without a request at the moment, on top of the tunnels. */
  idleClients: number;
  /** Idle upstream connections of plain HTTP. */
  pooled: number;
  /** Connection attempts beside the first one of each request. */
  extraAttempts: number;
}

/** Upper bounds of the shares: more is not needed, whatever the limit. */
const MOST = { idleClients: 2000, pooled: 1024, extraAttempts: 512 };

/** Divides a limit of open files: a quarter for idle clients, an eighth each for the pool and extra attempts, then tunnels. */
export function shareFiles(limit: number): FileShares {
  const usable = limit - Math.min(RESERVED_FILES, limit / 2);
  const share = (most: number, part: number) => Math.max(1, Math.floor(Math.min(most, usable * part)));
  const idleClients = share(MOST.idleClients, 1 / 4);
  const pooled = share(MOST.pooled, 1 / 8);
  const extraAttempts = share(MOST.extraAttempts, 1 / 8);
  const rest = (usable - idleClients - pooled - extraAttempts) / FILES_PER_TUNNEL;
  return { tunnels: Math.max(1, Math.floor(rest)), idleClients, pooled, extraAttempts };
}
