import { backOff, type Clock, systemClock } from "./clock.ts";
import type { KubeMetrics } from "./metrics.ts";

/** Back-off of one key: client-go's DefaultTypedControllerRateLimiter, 5 ms doubling up to 1000 s. */
const FIRST_RETRY_MS = 5;
const MAX_RETRY_MS = 1000 * 1000;
/** All keys together: 10 retries a second, 100 at once (same source). */
const RETRIES_PER_SECOND = 10;
const RETRY_BURST = 100;

export interface WorkQueueOptions {
  /** Label of its metrics. */
  name: string;
  metrics?: KubeMetrics | undefined;
  clock?: Clock | undefined;
  random?: (() => number) | undefined;
}

/**
 * Keys to work on, with the rules of client-go's workqueue: a key waits at most once, is never with two workers at a
 * time, and comes again when it was added while it was worked on.
 */
export class WorkQueue {
  readonly #name: string;
  readonly #metrics: KubeMetrics | undefined;
  readonly #clock: Clock;
  readonly #random: () => number;
  /** What waits, in order, and since when. A key being worked on waits in `#dirty` only. */
  readonly #waiting = new Map<string, number>();
  readonly #dirty = new Set<string>();
  readonly #processing = new Map<string, number>();
  readonly #delayed = new Map<string, { at: number; cancel: () => void }>();
  readonly #failures = new Map<string, number>();
  #takers: ((key: string | undefined) => void)[] = [];
  #tokens = RETRY_BURST;
  #tokensAt: number;
  #shutDown = false;

  constructor(options: WorkQueueOptions) {
    this.#name = options.name;
    this.#metrics = options.metrics;
    this.#clock = options.clock ?? systemClock;
    this.#random = options.random ?? Math.random;
    this.#tokensAt = this.#clock.now();
    this.#metrics?.queueDepth.set({ name: this.#name }, 0);
    for (const counter of ["queueAdds", "queueRetries"] as const) this.#metrics?.[counter].inc({ name: this.#name }, 0);
  }

  /** Keys that wait for a worker; delayed ones do not count. */
  get length(): number {
    return this.#waiting.size;
  }

  add(key: string): void {
    if (this.#shutDown || this.#dirty.has(key)) return;
    this.#metrics?.queueAdds.inc({ name: this.#name });
    this.#dirty.add(key);
    if (!this.#processing.has(key)) this.#offer(key);
  }

  /** Adds the key after that many milliseconds; of several times for one key the earliest counts. */
  addAfter(key: string, ms: number): void {
    if (this.#shutDown) return;
    if (ms <= 0) {
      this.add(key);
      return;
    }
    const at = this.#clock.now() + ms;
    const planned = this.#delayed.get(key);
    if (planned !== undefined && planned.at <= at) return;
    planned?.cancel();
    const cancel = this.#clock.after(ms, () => {
      this.#delayed.delete(key);
      this.add(key);
    });
    this.#delayed.set(key, { at, cancel });
  }

  /** Adds the key after its back-off, which grows until {@link forget}. */
  addRateLimited(key: string): void {
    if (this.#shutDown) return;
    const failures = (this.#failures.get(key) ?? 0) + 1;
    this.#failures.set(key, failures);
    this.#metrics?.queueRetries.inc({ name: this.#name });
    this.addAfter(key, Math.max(backOff(failures, FIRST_RETRY_MS, MAX_RETRY_MS, this.#random), this.#reserve()));
  }

  /** Ends the back-off of a key. */
  forget(key: string): void {
    this.#failures.delete(key);
  }

  /** The next key, which has to be given back by {@link done}; undefined once the queue is shut down. */
  next(): Promise<string | undefined> {
    if (this.#shutDown) return Promise.resolve(undefined);
    const first = this.#waiting.keys().next();
    if (first.done === true) return new Promise((resolve) => this.#takers.push(resolve));
    const since = this.#waiting.get(first.value)!;
    this.#waiting.delete(first.value);
    this.#metrics?.queueDepth.set({ name: this.#name }, this.#waiting.size);
    this.#hand(first.value, since);
    return Promise.resolve(first.value);
  }

  /** Ends the work on a key; it waits again if it was added meanwhile. */
  done(key: string): void {
    const since = this.#processing.get(key);
    if (since === undefined) return;
    this.#processing.delete(key);
    this.#metrics?.workSeconds.observe({ name: this.#name }, (this.#clock.now() - since) / 1000);
    if (this.#dirty.has(key) && !this.#shutDown) this.#offer(key);
  }

  /** No key is handed out any more; what waits is dropped, since the next start lists everything anyway. */
  shutDown(): void {
    this.#shutDown = true;
    for (const { cancel } of this.#delayed.values()) cancel();
    this.#delayed.clear();
    this.#waiting.clear();
    this.#metrics?.queueDepth.set({ name: this.#name }, 0);
    for (const take of this.#takers) take(undefined);
    this.#takers = [];
  }

  #offer(key: string): void {
    const take = this.#takers.shift();
    if (take !== undefined) {
      this.#hand(key, this.#clock.now());
      take(key);
      return;
    }
    this.#waiting.set(key, this.#clock.now());
    this.#metrics?.queueDepth.set({ name: this.#name }, this.#waiting.size);
  }

  #hand(key: string, since: number): void {
    const now = this.#clock.now();
    this.#dirty.delete(key);
    this.#processing.set(key, now);
    this.#metrics?.queueSeconds.observe({ name: this.#name }, (now - since) / 1000);
  }

  /** Takes a token of all keys' bucket: how long until there is one, in milliseconds. */
  #reserve(): number {
    const now = this.#clock.now();
    this.#tokens = Math.min(RETRY_BURST, this.#tokens + ((now - this.#tokensAt) / 1000) * RETRIES_PER_SECOND);
    this.#tokensAt = now;
    this.#tokens--;
    return this.#tokens >= 0 ? 0 : (-this.#tokens / RETRIES_PER_SECOND) * 1000;
  }
}
