import type { Logger } from "pino";
import { type Clock, systemClock } from "./clock.ts";
import { ApiError } from "./error.ts";
import type { KubeMetrics } from "./metrics.ts";
import { WorkQueue } from "./workqueue.ts";

/**
 * Result of a reconcile. A thrown error is retried with back-off. A user error is not, since only a change of the
 * object can fix it.
 */
export type Outcome = { result: "success" } | { result: "requeue"; afterMs: number } | { result: "user-error" };

interface ControllerOptions {
  /** Name in log lines and metrics. */
  name: string;
  workers: number;
  /** Reconciles one key. The signal aborts when the controller stops. */
  reconcile(key: string, signal: AbortSignal): Promise<Outcome>;
  log: Logger;
  metrics?: KubeMetrics | undefined;
  clock?: Clock | undefined;
  random?: (() => number) | undefined;
}

/** Workers that take keys from a queue. No key is with two workers at once. */
export class Controller {
  readonly #options: ControllerOptions;
  readonly #clock: Clock;
  readonly #queue: WorkQueue;
  readonly #stop = new AbortController();
  #workers: Promise<void>[] = [];

  constructor(options: ControllerOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#queue = new WorkQueue(options);
    for (const result of ["success", "requeue", "requeue_after", "user_error", "error"]) {
      options.metrics?.reconciles.inc({ controller: options.name, result }, 0);
    }
    options.metrics?.reconcileErrors.inc({ controller: options.name }, 0);
    options.metrics?.activeWorkers.set({ controller: options.name }, 0);
  }

  /** Number of keys that wait for a worker. */
  get waiting(): number {
    return this.#queue.length;
  }

  enqueue(key: string): void {
    this.#queue.add(key);
  }

  /** Enqueues after `ms`. The earliest time of a key counts. */
  enqueueAfter(key: string, ms: number): void {
    this.#queue.addAfter(key, ms);
  }

  /** Starts the workers. Keys that were enqueued before wait until then. */
  start(): void {
    if (this.#workers.length > 0) throw new Error(`controller ${this.#options.name}: started twice`);
    this.#workers = Array.from({ length: this.#options.workers }, () => this.#work());
  }

  /** Aborts reconciles in progress. Resolves when no worker writes. */
  async stop(): Promise<void> {
    this.#stop.abort();
    this.#queue.shutDown();
    await Promise.all(this.#workers);
  }

  async #work(): Promise<void> {
    for (;;) {
      const key = await this.#queue.next();
      if (key === undefined) return;
      await this.#reconcile(key);
      this.#queue.done(key);
    }
  }

  async #reconcile(key: string): Promise<void> {
    const { name, metrics, log } = this.#options;
    const started = this.#clock.now();
    metrics?.activeWorkers.inc({ controller: name });
    try {
      const outcome = await this.#options.reconcile(key, this.#stop.signal);
      metrics?.reconciles.inc({ controller: name, result: this.#settle(key, outcome) });
    } catch (error) {
      const stopped = this.#stop.signal.aborted;
      if (!stopped) metrics?.reconciles.inc({ controller: name, result: this.#retry(key, error) });
      else log.debug({ controller: name, key, err: error }, "reconcile aborted by the shutdown");
    } finally {
      metrics?.activeWorkers.dec({ controller: name });
      metrics?.reconcileSeconds.observe({ controller: name }, (this.#clock.now() - started) / 1000);
    }
  }

  #settle(key: string, outcome: Outcome): string {
    this.#queue.forget(key);
    if (outcome.result === "success") return "success";
    if (outcome.result === "user-error") return "user_error";
    this.#queue.addAfter(key, outcome.afterMs);
    return "requeue_after";
  }

  #retry(key: string, error: unknown): string {
    const { name, metrics, log } = this.#options;
    const retryAfterMs = error instanceof ApiError ? error.retryAfterMs : undefined;
    if (retryAfterMs === undefined) this.#queue.addRateLimited(key);
    else this.#queue.addAfter(key, retryAfterMs);
    // Another program changed the object: ordinary, and the next reconcile reads the change.
    if (error instanceof ApiError && error.reason === "Conflict") {
      log.info({ controller: name, key, reason: error.message }, "conflict, reconciling again");
      return "requeue";
    }
    metrics?.reconcileErrors.inc({ controller: name });
    log.error({ controller: name, key, err: error }, "reconcile failed, retrying");
    return "error";
  }
}
