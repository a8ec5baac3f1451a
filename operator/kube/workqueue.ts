import { backOff, type Clock, systemClock } from "./clock.ts";
import type { KubeMetrics } from "./metrics.ts";

/** Back-off of one key: client-go's DefaultTypedControllerRateLimiter, 5 ms doubling up to 1000 s. */
const FIRST_RETRY_MS = 5;
const MAX_RETRY_MS = 1000 * 1000;
/** Limit of retries of all keys: 10 per second, with a burst of 100 (same source). */
const RETRIES_PER_SECOND = 10;
const RETRY_BURST = 100;

interface WorkQueueOptions {
  /** Label of the metrics. */
  name: string;
  metrics?: KubeMetrics | undefined;
  clock?: Clock | undefined;
  random?: (() => number) | undefined;
}

/**
 * Queue of keys with the rules of client-go's workqueue. A key waits at most once and is never with two workers at
 * once. A key that is added while a worker has it is delivered again afterwards.
 */
export class WorkQueue {
  readonly #name: string;
  readonly #metrics: KubeMetrics | undefined;
  readonly #clock: Clock;
  readonly #random: () => number;
  /** Waiting keys in order, with their time. A key that a worker has waits in `#dirty` only. */
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

  /** Number of keys that wait for a worker, without delayed ones. */
  get length(): number {
    return this.#waiting.size;
  }

  add(key: string): void {
    if (this.#shutDown || this.#dirty.has(key)) return;
    this.#metrics?.queueAdds.inc({ name: this.#name });
    this.#dirty.add(key);
    if (!this.#processing.has(key)) this.#offer(key);
  }

  /** Adds a key after `ms`. The earliest time of a key counts. */
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

  /** Adds a key after its back-off, which increases until {@link forget}. */
  addRateLimited(key: string): void {
    if (this.#shutDown) return;
    const failures = (this.#failures.get(key) ?? 0) + 1;
    this.#failures.set(key, failures);
    this.#metrics?.queueRetries.inc({ name: this.#name });
    this.addAfter(key, Math.max(backOff(failures, FIRST_RETRY_MS, MAX_RETRY_MS, this.#random), this.#reserve()));
  }

  /** Resets the back-off of a key. */
  forget(key: string): void {
    this.#failures.delete(key);
  }

  /** Next key; undefined after the shutdown. The worker must call {@link done} for it. */
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

  /** Releases a key. It waits again if it was added in the meantime. */
  done(key: string): void {
    const since = this.#processing.get(key);
    if (since === undefined) return;
    this.#processing.delete(key);
    this.#metrics?.workSeconds.observe({ name: this.#name }, (this.#clock.now() - since) / 1000);
    if (this.#dirty.has(key) && !this.#shutDown) this.#offer(key);
  }

  /** Ends the queue. Waiting keys are dropped, since the next start lists all objects. */
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

  /** Takes a token of the common limit. Returns the time until it is available, in milliseconds. */
  #reserve(): number {
    const now = this.#clock.now();
    this.#tokens = Math.min(RETRY_BURST, this.#tokens + ((now - this.#tokensAt) / 1000) * RETRIES_PER_SECOND);
    this.#tokensAt = now;
    this.#tokens--;
    return this.#tokens >= 0 ? 0 : (-this.#tokens / RETRIES_PER_SECOND) * 1000;
  }
}
