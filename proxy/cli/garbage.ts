import { getHeapStatistics, setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/** Growth of a heap since the last collection that is probably garbage: a proxy under load has 24 MiB of young generation. */
const GROWTH_BYTES = 32 * 1024 * 1024;
const CHECK_MS = 60_000;
/** Checks in a row without a finished request, after which a proxy is idle. */
const IDLE_CHECKS = 5;

/**
 * Keeps the compiled code of a proxy in pauses of the traffic. V8 collects garbage after some seconds with few allocations,
 * and then drops the shapes of objects that do not exist at that moment, such as those of connections. All code that was
 * optimized for these shapes is compiled again, during which requests cost up to 2.7 times as much (docs/performance.md).
 * Without these collections, memory has to be returned by {@link returnMemoryWhenIdle}. Node.js 22 to 26 know this flag;
 * another one would print an error and continue.
 */
export function keepCompiledCode(): void {
  setFlagsFromString("--memory-reducer-gc-count=0");
}

/**
 * Collects garbage and returns the freed memory to the system. Takes 25 to 75 ms of CPU time, longer with a large policy,
 * and drops compiled code. The start leaves some 8 MiB of garbage; without this call, V8 keeps it until the process
 * needs memory.
 */
export function collectGarbage(): void {
  setFlagsFromString("--expose-gc");
  const gc = runInNewContext("gc") as (options: object) => void;
  setFlagsFromString("--no-expose-gc");
  // This flavour returns the freed pages to the system.
  gc({ type: "major", execution: "sync", flavor: "last-resort" });
}

const heapBytes = (): number => getHeapStatistics().total_physical_size;

/**
 * Returns the memory of a peak once the proxy has finished no request for five minutes.
 *
 * @param requests The number of finished requests and tunnels so far.
 * @returns Ends the checks.
 */
export function returnMemoryWhenIdle(requests: () => number, everyMs = CHECK_MS): () => void {
  let [idle, before, collected] = [0, requests(), heapBytes()];
  const timer = setInterval(() => {
    const now = requests();
    idle = now === before ? idle + 1 : 0;
    before = now;
    if (idle < IDLE_CHECKS || heapBytes() < collected + GROWTH_BYTES) return;
    collectGarbage();
    collected = heapBytes();
  }, everyMs);
  timer.unref();
  return () => clearInterval(timer);
}
