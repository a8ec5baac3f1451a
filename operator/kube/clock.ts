/** Source of time, which tests replace by a faster one. */
export interface Clock {
  /** Milliseconds, monotonic. Never compared with times of another machine. */
  now(): number;
  /** Calls once after `ms`. The returned function cancels it. */
  after(ms: number, call: () => void): () => void;
}

/** Longest delay of a timer. Node fires longer ones at once. */
const MAX_TIMER_MS = 2 ** 31 - 1;

export const systemClock: Clock = {
  now: () => performance.now(),
  after(ms, call) {
    const timer = setTimeout(call, Math.min(ms, MAX_TIMER_MS));
    return () => clearTimeout(timer);
  },
};

/** Resolves after `ms`, or as soon as the signal is aborted. */
export function sleep(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const end = () => {
      cancel();
      signal.removeEventListener("abort", end);
      resolve();
    };
    const cancel = clock.after(ms, end);
    signal.addEventListener("abort", end);
  });
}

/** Resolves as soon as the signal is aborted. */
export function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}

/** Back-off after a number of failures in a row, in milliseconds. It doubles up to a maximum, with a jitter of 20 %. */
export function backOff(failures: number, firstMs: number, maxMs: number, random: () => number): number {
  const full = Math.min(firstMs * 2 ** Math.min(failures - 1, 64), maxMs);
  return Math.min(full * (0.8 + 0.4 * random()), maxMs);
}
