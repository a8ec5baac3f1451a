import { randomBytes } from "node:crypto";
import type { Logger } from "pino";
import { ApiError, type Client } from "./client.ts";
import { type Clock, systemClock } from "./clock.ts";
import type { KubeMetrics } from "./metrics.ts";
import { type KubeObject, keyOf, type Resource } from "./resource.ts";

/**
 * Limit of events of one object and type: 25, then one every 5 minutes (client-go's spam filter, which has one limit
 * for both types).
 */
const BURST = 25;
const REFILL_MS = 5 * 60 * 1000;
/** Size of the LRU caches of events and of objects (as in client-go). */
const MAX_REMEMBERED = 4096;
/** Events that wait to be written. More are lost. */
const MAX_WAITING = 1000;
/** Characters of a message (API limit: 1024 bytes). */
const MAX_EVENT_MESSAGE = 1000;
/** Characters of the object's name in the name of an event, which has at most 253. */
const MAX_NAME = 230;

/** Events of core/v1. */
export const EVENTS: Resource = { group: "", version: "v1", kind: "Event", plural: "events", namespaced: true };

/** One event, with a count of its repetitions. */
interface EventRecord {
  object: KubeObject;
  type: "Normal" | "Warning";
  reason: string;
  message: string;
  /** Number of occurrences. */
  count: number;
  first: string;
  last: string;
  /** Name of the written Event. */
  name: string | undefined;
  waiting: boolean;
}

interface EventRecorderOptions {
  client: Client;
  /** Reporting program: `source.component`. */
  component: string;
  /** Reporting process. */
  instance: string;
  log: Logger;
  metrics?: KubeMetrics | undefined;
  clock?: Clock | undefined;
}

/** LRU cache. */
class Recent<V> {
  readonly #entries = new Map<string, V>();

  use(key: string, make: () => V): V {
    const value = this.#entries.get(key) ?? make();
    this.#entries.delete(key);
    this.#entries.set(key, value);
    if (this.#entries.size > MAX_REMEMBERED) this.#entries.delete(this.#entries.keys().next().value!);
    return value;
  }
}

/** Writes core/v1 Events, one after the other. An event that cannot be written is counted as lost. */
export class EventRecorder {
  /** Number of events that the API server rejected, or that exceeded the queue. */
  lost = 0;
  /** Number of events above the limit of their object. */
  limited = 0;
  readonly #options: EventRecorderOptions;
  readonly #clock: Clock;
  readonly #records = new Recent<EventRecord>();
  readonly #buckets = new Recent<{ tokens: number; at: number }>();
  readonly #stop = new AbortController();
  #waiting = 0;
  /** Whether the API server did not answer an event in time. Callers then wait for no event until it answers one. */
  #isStuck = false;
  #written: Promise<void> = Promise.resolve();

  constructor(options: EventRecorderOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  /** Queues an event. Never throws and never waits. `reason`: a CamelCase word. `message`: a sentence. */
  event(object: KubeObject, type: "Normal" | "Warning", reason: string, message: string): void {
    if (!this.#mayTell(object, type)) {
      this.limited++;
      this.#options.metrics?.events.inc({ result: "limited" });
      return;
    }
    if (this.#stop.signal.aborted || this.#waiting >= MAX_WAITING) {
      this.#lose();
      return;
    }
    const now = new Date().toISOString();
    const text = message.length > MAX_EVENT_MESSAGE ? `${message.slice(0, MAX_EVENT_MESSAGE)}…` : message;
    const key = JSON.stringify([object.kind, keyOf(object), object.metadata.uid, type, reason, text]);
    const fresh = { object, type, reason, message: text, count: 0, first: now, last: now, name: undefined };
    const record = this.#records.use(key, () => ({ ...fresh, waiting: false }));
    record.count++;
    record.last = now;
    if (record.waiting) return;
    record.waiting = true;
    this.#waiting++;
    this.#written = this.#written.then(() => this.#write(record));
  }

  /**
   * Resolves when all events so far are written or lost, or after `ms`. After such a time-out it resolves immediately until
   * the API server answers an event again, so that an API that hangs delays each caller only once.
   */
  async flush(ms?: number): Promise<void> {
    if (ms === undefined) return this.#written;
    if (this.#isStuck) return;
    const over = Promise.withResolvers<void>();
    const cancel = this.#clock.after(ms, () => {
      this.#isStuck = true;
      over.resolve();
    });
    await Promise.race([this.#written, over.promise]);
    cancel();
  }

  /** Writes waiting events for at most `ms`, then drops the others. */
  async stop(ms = 2000): Promise<void> {
    const cancel = this.#clock.after(ms, () => this.#stop.abort());
    await this.flush();
    cancel();
    this.#stop.abort();
  }

  #mayTell(object: KubeObject, type: string): boolean {
    const now = this.#clock.now();
    // A limit for each type, so that frequent normal events do not suppress warnings.
    const key = `${type} ${object.kind} ${keyOf(object)} ${object.metadata.uid}`;
    const bucket = this.#buckets.use(key, () => ({ tokens: BURST, at: now }));
    bucket.tokens = Math.min(BURST, bucket.tokens + (now - bucket.at) / REFILL_MS);
    bucket.at = now;
    if (bucket.tokens < 1) return false;
    bucket.tokens--;
    return true;
  }

  #lose(): void {
    this.lost++;
    this.#options.metrics?.events.inc({ result: "lost" });
  }

  async #write(record: EventRecord): Promise<void> {
    record.waiting = false;
    this.#waiting--;
    if (this.#stop.signal.aborted) {
      this.#lose();
      return;
    }
    try {
      if (record.name === undefined || !(await this.#bump(record, record.name))) await this.#create(record);
      this.#isStuck = false;
      this.#options.metrics?.events.inc({ result: "written" });
    } catch (error) {
      if (error instanceof ApiError && error.code > 0) this.#isStuck = false;
      this.#lose();
      this.#options.log.debug({ err: error, reason: record.reason, key: keyOf(record.object) }, "event lost");
    }
  }

  /** Updates the count of a written Event. False if the Event has expired (after an hour). */
  async #bump(record: EventRecord, name: string): Promise<boolean> {
    const { client } = this.#options;
    const patch = { count: record.count, lastTimestamp: record.last };
    try {
      const options = { type: "merge" as const, signal: this.#stop.signal };
      await client.patch(EVENTS, name, namespaceOf(record.object), patch, options);
      return true;
    } catch (error) {
      if (!(error instanceof ApiError) || error.code !== 404) throw error;
      record.name = undefined;
      return false;
    }
  }

  async #create(record: EventRecord): Promise<void> {
    const { client, component, instance } = this.#options;
    const { object, type, reason, message, count } = record;
    const { name, uid, resourceVersion } = object.metadata;
    const eventName = `${name.slice(0, MAX_NAME)}.${randomBytes(8).toString("hex")}`;
    const namespace = namespaceOf(object);
    const { apiVersion, kind } = object;
    const event = {
      metadata: { name: eventName, namespace },
      involvedObject: { apiVersion, kind, name, namespace: object.metadata.namespace, uid, resourceVersion },
      ...{ type, reason, message, count, firstTimestamp: record.first, lastTimestamp: record.last },
      source: { component },
      reportingComponent: component,
      reportingInstance: instance,
    };
    await client.create(EVENTS, event, { signal: this.#stop.signal });
    record.name = eventName;
  }
}

/** Namespace of an object's Events; `default` for cluster-scoped objects. */
function namespaceOf(object: KubeObject): string {
  return object.metadata.namespace ?? "default";
}
