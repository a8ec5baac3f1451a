import type { Logger } from "pino";
import type { Client, WatchEvent } from "./client.ts";
import { aborted, backOff, type Clock, sleep, systemClock } from "./clock.ts";
import { Comparison } from "./comparison.ts";
import { ApiError } from "./error.ts";
import type { KubeMetrics } from "./metrics.ts";
import type { Outage } from "./outage.ts";
import { type KubeObject, keyOf, type Resource } from "./resource.ts";
import { type Indexes, Store } from "./store.ts";

/** Duration of a watch in seconds, random between these, so that not all watches end at once (as in client-go). */
const MIN_WATCH_SECONDS = 300;
const MAX_WATCH_SECONDS = 600;
/**
 * Longest time without an event. The server sends a bookmark about every minute, so a longer silence is a dead
 * connection.
 */
const SILENCE_MS = 75 * 1000;
/** Back-off of failed lists and watches (client-go's reflector). */
const FIRST_WATCH_RETRY_MS = 800;
const MAX_WATCH_RETRY_MS = 30 * 1000;
/** Minimum duration of a watch. A shorter one causes a back-off, since something between ends all watches. */
const SHORT_MS = 1000;
/** Duration of a watch that ends the back-off. */
const LASTING_MS = 10 * 1000;
/** Interval of comparisons with a list. A comparison begins after 80 to 100 % of it. */
const AUDIT_MS = 10 * 60 * 1000;
/** Time in which the watch has to deliver what a list has. Later it counts as missed, and the store is listed again. */
const PATIENCE_MS = { audit: 10 * 1000, takeover: 2 * 1000, doubt: 2 * 1000 };
/** Longest back-off of a comparison that reconciles wait for. */
const MAX_COMPARE_RETRY_MS = 5 * 1000;

type Change = "added" | "updated" | "deleted";

export interface ReflectorOptions<T extends KubeObject> {
  client: Client;
  resource: Resource;
  namespace?: string | undefined;
  labelSelector?: string | undefined;
  fieldSelector?: string | undefined;
  metadataOnly?: boolean | undefined;
  indexes?: Indexes<T> | undefined;
  /** Drops unneeded fields before an object is stored. Must depend on the object alone. */
  transform?: ((object: T) => T) | undefined;
  /** Called after the store has changed. Should only enqueue keys. An error that it throws is logged and counted. */
  onChange(change: Change, object: T, before: T | undefined): void;
  log: Logger;
  /** Shared by all reflectors of a program, so that a common problem is logged once. */
  outage?: Outage | undefined;
  metrics?: KubeMetrics | undefined;
  clock?: Clock | undefined;
  random?: (() => number) | undefined;
  /** Interval of comparing the store with a list of metadata, in milliseconds. Default: 10 minutes. */
  relistMs?: number | undefined;
}

/** Why a store is compared: at intervals, before this process leads, or after a live read found something else. */
type Doubt = keyof typeof PATIENCE_MS;
type Cause = "start" | "expired" | Doubt;

/**
 * Keeps a store equal to the state of the API server: a complete list, then a watch that is resumed after every break.
 * Changes that a later list finds are counted. They should only occur while a watch could not be resumed.
 */
export class Reflector<T extends KubeObject> {
  readonly store: Store<T>;
  readonly #options: ReflectorOptions<T>;
  readonly #clock: Clock;
  readonly #random: () => number;
  readonly #stop = new AbortController();
  readonly #synced = Promise.withResolvers<void>();
  #running: Promise<unknown> | undefined;
  #forgetContact: (() => void) | undefined;
  readonly #comparisons = new Set<Comparison>();
  #hasSynced = false;
  /** Version from which the watch resumes; undefined if a list is needed first. */
  #version: string | undefined;
  #cause: Cause = "start";
  /** Whether another list is needed after the one in progress. */
  #isRequested = false;
  #failures = 0;
  #waiting: AbortController | undefined;
  #watching: AbortController | undefined;
  #doubted: Promise<void> | undefined;
  #problem = "";
  #heardAt: number;

  constructor(options: ReflectorOptions<T>) {
    this.#options = options;
    this.store = new Store<T>(options.indexes);
    this.#clock = options.clock ?? systemClock;
    this.#random = options.random ?? Math.random;
    this.#heardAt = this.#clock.now();
  }

  /** True after the first complete list. */
  get hasSynced(): boolean {
    return this.#hasSynced;
  }

  /** Resolves after the first complete list. */
  synced(): Promise<void> {
    return this.#synced.promise;
  }

  start(): void {
    const { resource, metrics } = this.#options;
    if (this.#running !== undefined) throw new Error(`reflector of ${resource.plural}: started twice`);
    this.#heardAt = this.#clock.now();
    this.#forgetContact = metrics?.contact(resource.plural, () => (this.#clock.now() - this.#heardAt) / 1000);
    this.#running = Promise.all([this.#run(), this.#auditPeriodically()]);
  }

  /** Ends the back-off: the API server is known to be available again. */
  retry(): void {
    this.#failures = 0;
    this.#waiting?.abort();
  }

  /** Resolves when no more changes are reported. */
  async stop(): Promise<void> {
    this.#stop.abort();
    for (const comparison of this.#comparisons) comparison.end();
    await this.#running;
    this.#forgetContact?.();
  }

  async #run(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      try {
        // Again if another list was requested meanwhile.
        while (this.#version === undefined) await this.#list();
        await this.#watch();
      } catch (error) {
        if (this.#stop.signal.aborted) return;
        this.#waiting = new AbortController();
        const end = AbortSignal.any([this.#stop.signal, this.#waiting.signal]);
        await sleep(this.#clock, this.#handleFailure(error), end);
      }
    }
  }

  /** Handles a failure. Returns the delay of the next attempt, and drops the version if a list is needed first. */
  #handleFailure(error: unknown): number {
    const { resource, metrics } = this.#options;
    const failure = error instanceof ApiError ? error : new ApiError(0, "Bug", String(error), { cause: error });
    metrics?.watchErrors.inc({ resource: resource.plural, reason: failure.reason });
    const relist = failure.code === 410 || failure.reason === "Missed";
    // Failures that the next attempt fixes are not logged.
    if (!relist && failure.reason !== "Silent") this.#report(failure);
    this.#failures++;
    if (relist) this.#version = undefined;
    if (relist && this.#failures === 1) return 0;
    return failure.retryAfterMs ?? backOff(this.#failures, FIRST_WATCH_RETRY_MS, MAX_WATCH_RETRY_MS, this.#random);
  }

  /** Logs each new problem once as a warning, and its repetitions at level debug. */
  #report(error: ApiError): void {
    const { resource, namespace, log, outage } = this.#options;
    if (outage?.covers(error)) return;
    const problem = `${error.code} ${error.reason}`;
    const level = problem === this.#problem ? "debug" : "warn";
    this.#problem = problem;
    const name = resource.group === "" ? resource.plural : `${resource.plural}.${resource.group}`;
    const what = `${this.#version === undefined ? "list" : "watch"} ${name}${namespace ? ` in namespace ${namespace}` : ""}`;
    if (error.code === 403)
      log[level]({ reason: error.message }, `not allowed to ${what}, retrying until it is granted`);
    else if (error.code === 404) log[level](`the API server has no ${name} of version ${resource.version}, retrying`);
    else log[level]({ reason: error.message }, `cannot ${what}, retrying`);
  }

  #scope() {
    const { namespace, labelSelector, fieldSelector, metadataOnly } = this.#options;
    return { namespace, labelSelector, fieldSelector, metadataOnly };
  }

  async #list(): Promise<void> {
    const { client, resource, metrics, log } = this.#options;
    const cause = this.#cause;
    const older = [...this.#comparisons];
    this.#isRequested = false;
    // Changes are reported after the list is complete: a partial list would look like deletions.
    const { items, resourceVersion } = await client.listAll<T>(resource, {
      ...this.#scope(),
      signal: this.#stop.signal,
    });
    this.#heard();
    metrics?.relists.inc({ resource: resource.plural, cause });
    const found = this.#replace(items);
    for (const comparison of older) comparison.end();
    this.#version = this.#isRequested ? undefined : resourceVersion;
    if (!this.#isRequested) this.#cause = "expired";
    if (this.#hasSynced) {
      // A comparison has counted its differences already. This list also has newer changes.
      if (cause === "expired") metrics?.missed.inc({ resource: resource.plural, cause }, found);
      log.info({ resource: resource.plural, cause, found }, "listed again");
      return;
    }
    this.#hasSynced = true;
    this.#synced.resolve();
  }

  /** Replaces the content of the store. Returns the number of changes. */
  #replace(items: readonly T[]): number {
    let changes = 0;
    const gone = new Set(this.store.keys());
    for (const item of items) {
      gone.delete(keyOf(item));
      if (this.#put(item)) changes++;
    }
    for (const key of gone) this.#remove(key);
    return changes + gone.size;
  }

  async #watch(): Promise<void> {
    const { client, resource } = this.#options;
    const ended = new AbortController();
    this.#watching = ended;
    const end = () => ended.abort();
    this.#stop.signal.addEventListener("abort", end);
    const started = this.#clock.now();
    const expectNews = () =>
      this.#clock.after(SILENCE_MS, () => {
        const text = `watch of ${resource.plural}: no event for ${SILENCE_MS / 1000} s`;
        ended.abort(new ApiError(0, "Silent", text));
      });
    let cancel = expectNews();
    try {
      await client.watch(resource, {
        ...this.#scope(),
        signal: ended.signal,
        resourceVersion: this.#version!,
        timeoutSeconds: Math.floor(MIN_WATCH_SECONDS + (MAX_WATCH_SECONDS - MIN_WATCH_SECONDS) * this.#random()),
        onEvent: (event) => {
          if (ended.signal.aborted) return;
          cancel();
          cancel = expectNews();
          this.#apply(event);
        },
      });
      if (this.#clock.now() - started < SHORT_MS)
        throw new ApiError(0, "Short", `watch of ${resource.plural}: ended at once`);
    } finally {
      cancel();
      this.#watching = undefined;
      this.#stop.signal.removeEventListener("abort", end);
      if (this.#clock.now() - started >= LASTING_MS) this.#failures = 0;
    }
  }

  #heard(): void {
    this.#heardAt = this.#clock.now();
    this.#options.outage?.over();
    if (this.#problem === "") return;
    this.#problem = "";
    this.#options.log.info({ resource: this.#options.resource.plural }, "list and watch work again");
  }

  #apply({ type, object }: WatchEvent): void {
    this.#heard();
    this.#version = object.metadata.resourceVersion!;
    if (type === "BOOKMARK") return;
    const key = keyOf(object);
    if (type === "DELETED") this.#remove(key);
    else this.#put(object as T);
    const deletedAt = type === "DELETED" ? object.metadata.resourceVersion : undefined;
    for (const comparison of this.#comparisons) comparison.changed(key, deletedAt);
  }

  /** Stores an object and reports the change. False if the store had this version. */
  #put(object: T): boolean {
    const key = keyOf(object);
    const held = this.store.get(key);
    if (held?.metadata.resourceVersion === object.metadata.resourceVersion) return false;
    // Deleted and created again between two lists: listeners have to see the deletion.
    if (held !== undefined && held.metadata.uid !== object.metadata.uid) this.#remove(key);
    const kept = this.#options.transform?.(object) ?? object;
    const before = this.store.set(kept);
    this.#tell(before === undefined ? "added" : "updated", kept, before);
    return true;
  }

  #remove(key: string): void {
    const before = this.store.delete(key);
    if (before !== undefined) this.#tell("deleted", before, before);
  }

  #tell(change: Change, object: T, before: T | undefined): void {
    const { resource, metrics, log } = this.#options;
    try {
      this.#options.onChange(change, object, before);
    } catch (error) {
      metrics?.handlerErrors.inc({ resource: resource.plural });
      log.error({ err: error, resource: resource.plural, key: keyOf(object), change }, "change handler failed");
    }
  }

  /**
   * Resolves when the store has everything that the API server had at the time of the call: by the watch, or else by
   * another list. Returns the number of objects that differed then. Retries until it succeeds or the reflector stops.
   */
  async catchUp(doubt: Doubt): Promise<number> {
    const { resource, log, outage } = this.#options;
    for (let failures = 1; ; failures++) {
      try {
        return await this.#compare(doubt);
      } catch (error) {
        if (this.#stop.signal.aborted) return 0;
        const failure = error instanceof ApiError ? error : new ApiError(0, "Bug", String(error), { cause: error });
        const level = failures > 1 || outage?.covers(failure) ? "debug" : "warn";
        log[level]({ reason: failure.message }, `cannot compare the cache of ${resource.plural}, retrying`);
        const wait = backOff(failures, FIRST_WATCH_RETRY_MS, MAX_COMPARE_RETRY_MS, this.#random);
        await sleep(this.#clock, failure.retryAfterMs ?? wait, this.#stop.signal);
      }
    }
  }

  /** Catches up in the background: a live read has contradicted the store. */
  doubt(): void {
    this.#doubted ??= this.catchUp("doubt").then(() => {
      this.#doubted = undefined;
    });
  }

  /** Compares the store with a list of metadata at intervals. */
  async #auditPeriodically(): Promise<void> {
    const { resource, log, relistMs = AUDIT_MS } = this.#options;
    const signal = this.#stop.signal;
    while (!signal.aborted) {
      await sleep(this.#clock, relistMs * (0.8 + 0.2 * this.#random()), signal);
      if (signal.aborted || this.#version === undefined) continue;
      try {
        await this.#compare("audit");
      } catch (error) {
        log.debug({ err: error, resource: resource.plural }, "comparison skipped: the list failed");
      }
    }
  }

  /** Compares the store with a list of metadata. @throws ApiError if the list fails */
  async #compare(doubt: Doubt): Promise<number> {
    const { client, resource, metrics, log } = this.#options;
    const comparison = new Comparison(this.store);
    this.#comparisons.add(comparison);
    try {
      // The whole list is consistent: no resourceVersion means the newest state, not that of a cache of the server.
      const scope = { ...this.#scope(), metadataOnly: true, signal: this.#stop.signal };
      for await (const page of client.pages(resource, scope)) {
        comparison.add(page.items);
        if (page.continue === undefined) comparison.complete(page.resourceVersion);
      }
      await sleep(this.#clock, PATIENCE_MS[doubt], comparison.over);
      const { differences } = comparison;
      if (comparison.over.aborted) return 0;
      metrics?.missed.inc({ resource: resource.plural, cause: doubt }, differences);
      const text = `watch of ${resource.plural}: ${differences} objects differ from a list`;
      log.warn({ cause: doubt }, `${text}, listing again`);
      this.#listAgain(doubt, text);
      await aborted(comparison.over);
      return differences;
    } finally {
      this.#comparisons.delete(comparison);
    }
  }

  /** Replaces the store by a list that is requested from now on. */
  #listAgain(cause: Cause, text: string): void {
    this.#cause = cause;
    this.#failures = 0;
    this.#isRequested = true;
    this.#version = undefined;
    this.#watching?.abort(new ApiError(0, "Missed", text));
    this.#waiting?.abort();
  }
}
