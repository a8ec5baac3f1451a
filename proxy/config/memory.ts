import { totalmem } from "node:os";

/** Bytes of a mebibyte. */
export const MIB = 1024 * 1024;

/** Bytes of memory that this process may have: the limit of its cgroup, or the memory of the machine. */
export function memoryLimit(): number {
  // Without a limit Node answers 0, or more than any machine has.
  return Math.min(process.constrainedMemory() || Number.POSITIVE_INFINITY, totalmem());
}
