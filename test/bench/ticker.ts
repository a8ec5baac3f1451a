import { parentPort, workerData } from "node:worker_threads";

/**
 * Signals when each operation of an open loop is due. It has its own thread, since the timers of an event loop have a
 * resolution of whole milliseconds.
 */

/** Time of the first operation on the clock of `process.hrtime`, the distance between two, and their number. */
export interface Beat {
  firstMs: number;
  everyMs: number;
  count: number;
}

const { firstMs, everyMs, count } = workerData as Beat;
const never = new Int32Array(new SharedArrayBuffer(4));

for (let i = 0; i < count; i++) {
  const [seconds, nanoseconds] = process.hrtime();
  const wait = firstMs + i * everyMs - (seconds * 1000 + nanoseconds / 1e6);
  if (wait > 0) Atomics.wait(never, 0, 0, wait);
  parentPort!.postMessage(i);
}
