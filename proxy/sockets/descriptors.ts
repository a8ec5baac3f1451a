import { readFileSync } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { constants } from "node:os";

const { EMFILE, ENFILE, ENOMEM, ENOBUFS } = constants.errno;
const EXHAUSTED: ReadonlySet<number> = new Set([EMFILE, ENFILE, ENOMEM, ENOBUFS]);

/**
 * Whether an error, or one of its causes, means that no file descriptor or kernel memory is left, which is temporary.
 * Compares numbers, since `os.networkInterfaces` has no error codes ("Unknown system error 24").
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

const OPEN_FILES = "/proc/self/fd";

/**
 * Number of open files of this process. Since Linux 6.2 it is the size of a folder. Older kernels have to list the folder,
 * on another thread: with 10,000 files that takes 20 ms. @throws Error without /proc
 */
export async function openFiles(): Promise<number> {
  const { size } = await stat(OPEN_FILES);
  return size > 0 ? size : (await readdir(OPEN_FILES)).length - 1;
}

/**
 * File descriptors reserved for the runtime (about 30), listeners, the admin port, DNS and reading files; half of the
 * limit where that is less.
 */
const RESERVED_FILES = 96;
/** Descriptors of one tunnel: the connections to the client and to the upstream. */
const FILES_PER_TUNNEL = 2;

/** The shares of a limit of open files. No use takes the descriptors of another one. */
interface FileShares {
  /** Concurrent tunnels and requests. */
  tunnels: number;
  /** Client connections without a current request, in addition to the tunnels. */
  idleClients: number;
  /** Idle upstream connections of plain HTTP. */
  pooled: number;
  /** Additional connection attempts: all but the first one of each request. */
  extraAttempts: number;
}

/** Upper bounds of the shares: more is not needed, whatever the limit. */
const MOST = { idleClients: 2000, pooled: 1024, extraAttempts: 512 };

/**
 * Divides a limit of open files: a quarter for idle clients, an eighth each for the pool and additional attempts, the
 * rest for tunnels.
 */
export function shareFiles(limit: number): FileShares {
  const usable = limit - Math.min(RESERVED_FILES, limit / 2);
  const share = (most: number, part: number) => Math.max(1, Math.floor(Math.min(most, usable * part)));
  const idleClients = share(MOST.idleClients, 1 / 4);
  const pooled = share(MOST.pooled, 1 / 8);
  const extraAttempts = share(MOST.extraAttempts, 1 / 8);
  const rest = (usable - idleClients - pooled - extraAttempts) / FILES_PER_TUNNEL;
  return { tunnels: Math.max(1, Math.floor(rest)), idleClients, pooled, extraAttempts };
}
