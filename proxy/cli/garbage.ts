import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/**
 * Keeps the compiled code of an idle process. V8 collects garbage after some seconds with few allocations, and then drops
 * the shapes of objects that do not exist at that moment, such as those of connections. All code that was optimized for
 * these shapes is compiled again, which doubles the cost of the requests after each pause (docs/performance.md).
 */
export function keepCompiledCode(): void {
  setFlagsFromString("--memory-reducer-gc-count=0");
}

/**
 * Collects the garbage of the start, once: parsing and compiling leave some 8 MiB, and V8 would keep them until the process
 * needs the memory. Takes 25 to 50 ms of CPU time.
 */
export function collectGarbage(): void {
  setFlagsFromString("--expose-gc");
  const gc = runInNewContext("gc") as (options: object) => void;
  setFlagsFromString("--no-expose-gc");
  // This flavour returns the freed pages to the system.
  gc({ type: "major", execution: "sync", flavor: "last-resort" });
}
