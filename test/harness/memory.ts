import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";

/** A control group with a memory limit, as of a container. */
export interface MemoryGroup {
  /** Moves a process into it. */
  add(pid: number): void;
  /** Its processes must have ended. */
  close(): void;
}

/** Makes a control group, of version 2 or 1. Null where this process cannot. */
export function memoryGroup(bytes: number): MemoryGroup | null {
  const name = `outrider-test-${process.pid}`;
  for (const [root, limit] of [
    ["/sys/fs/cgroup", "memory.max"],
    ["/sys/fs/cgroup/memory", "memory.limit_in_bytes"],
  ] as const) {
    const folder = `${root}/${name}`;
    try {
      mkdirSync(folder);
    } catch {
      continue;
    }
    try {
      // A folder without the memory controller has no such file.
      readFileSync(`${folder}/${limit}`);
      writeFileSync(`${folder}/${limit}`, String(bytes));
    } catch {
      rmdirSync(folder);
      continue;
    }
    return { add: (pid) => writeFileSync(`${folder}/cgroup.procs`, String(pid)), close: () => rmdirSync(folder) };
  }
  return null;
}
