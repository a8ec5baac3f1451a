/** Time as the runtime sees it, so that tests can run it faster or by hand. */
export interface Clock {
  /** Milliseconds, monotonic: never compared with what another machine wrote. */
  now(): number;
  /** Calls once after that many milliseconds; the returned function takes it back. */
  after(ms: number, call: () => void): () => void;
}

/** The longest delay of a timer: above it Node fires at once. */
const MAX_TIMER_MS = 2 ** 31 - 1;

export const systemClock: Clock = {
  now: () => performance.now(),
  after(ms, call) {
    const timer = setTimeout(call, Math.min(ms, MAX_TIMER_MS));
    return () => clearTimeout(timer);
  },
};

/** Resolves after that many milliseconds, at once when the signal is (or gets) aborted. */
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

/** A delay after that many failures in a row (from 1 on), in milliseconds: it doubles up to a maximum, and 80 to 120 % of that. */
export function backOff(failures: number, firstMs: number, maxMs: number, random: () => number): number {
  const full = Math.min(firstMs * 2 ** Math.min(failures - 1, 64), maxMs);
  return Math.min(full * (0.8 + 0.4 * random()), maxMs);
}
