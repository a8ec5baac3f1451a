import { getHeapStatistics, setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/** Size of a heap that probably contains much garbage: it has about 12 MiB after the start, 35 under load. */
const LARGE_HEAP_BYTES = 40 * 1024 * 1024;
const CHECK_MS = 60_000;
/** Checks in a row without a connection, after which a proxy is idle. */
const IDLE_CHECKS = 5;

/**
 * Keeps the compiled code of a proxy in pauses of the traffic. V8 collects garbage after some seconds with few allocations,
 * and then drops the shapes of objects that do not exist at that moment, such as those of connections. All code that was
 * optimized for these shapes is compiled again, which doubles the cost of the requests after each pause
 * (docs/performance.md). Without these collections, memory has to be returned by {@link returnMemoryWhenIdle}.
 */
export function keepCompiledCode(): void {
  setFlagsFromString("--memory-reducer-gc-count=0");
}

/**
 * Collects garbage and returns the freed memory to the system. Takes 25 to 60 ms of CPU time, and drops compiled code. After
 * the start, in which parsing and compiling leave some 8 MiB, V8 would keep them until the process needs the memory.
 */
export function collectGarbage(): void {
  setFlagsFromString("--expose-gc");
  const gc = runInNewContext("gc") as (options: object) => void;
  setFlagsFromString("--no-expose-gc");
  gc({ type: "major", execution: "sync", flavor: "last-resort" });
}

/**
 * Returns the memory of a peak once the proxy has had no connection for some minutes, once in each such time.
 *
 * @param connections The number of open connections now.
 * @returns Ends the checks.
 */
export function returnMemoryWhenIdle(connections: () => number, everyMs = CHECK_MS): () => void {
  let idle = 0;
  const timer = setInterval(() => {
    idle = connections() === 0 ? idle + 1 : 0;
    if (idle === IDLE_CHECKS && getHeapStatistics().total_physical_size > LARGE_HEAP_BYTES) collectGarbage();
  }, everyMs);
  timer.unref();
  return () => clearInterval(timer);
}
