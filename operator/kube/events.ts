import { randomBytes } from "node:crypto";
import type { Logger } from "pino";
import { ApiError, type Client } from "./client.ts";
import { type Clock, systemClock } from "./clock.ts";
import type { KubeMetrics } from "./metrics.ts";
import { type KubeObject, keyOf, type Resource } from "./resource.ts";

/** Events of one object and type: 25 at once, then one every 5 minutes (client-go's spam filter, which counts both types together). */
const BURST = 25;
const REFILL_MS = 5 * 60 * 1000;
/** Events and objects that are remembered, the latest (client-go's LRU). */
const MAX_REMEMBERED = 4096;
/** Events that wait to be written; more are lost. */
const MAX_WAITING = 1000;
/** Characters of a message (API limit: 1024 bytes). */
const MAX_MESSAGE = 1000;
/** Letters of the object's name within the event's, of 253 in all. */
const MAX_NAME = 230;

const EVENTS: Resource = { group: "", version: "v1", kind: "Event", plural: "events", namespaced: true };

/** One event, counted up while it repeats. */
interface Record {
  object: KubeObject;
  type: "Normal" | "Warning";
  reason: string;
  message: string;
  /** How often it happened. */
  count: number;
  first: string;
  last: string;
  /** Its name, once it is written. */
  name: string | undefined;
  waiting: boolean;
}

export interface EventRecorderOptions {
  client: Client;
  /** Who says it: `source.component`. */
  component: string;
  /** Which process of it. */
  instance: string;
  log: Logger;
  metrics?: KubeMetrics | undefined;
  clock?: Clock | undefined;
}

/** A map that forgets what was used longest ago. */
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

/** Writes core/v1 Events, one after the other. An event that cannot be written is counted and no reason to fail. */
export class EventRecorder {
  /** Refused by the API server, or too many at once. */
  lost = 0;
  /** Left out because one object had too many. */
  limited = 0;
  readonly #options: EventRecorderOptions;
  readonly #clock: Clock;
  readonly #records = new Recent<Record>();
  readonly #buckets = new Recent<{ tokens: number; at: number }>();
  readonly #stop = new AbortController();
  #waiting = 0;
  #written: Promise<void> = Promise.resolve();

  constructor(options: EventRecorderOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  /** Never throws, never waits. The reason is a CamelCase word, the message a sentence. */
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
    const text = message.length > MAX_MESSAGE ? `${message.slice(0, MAX_MESSAGE)}…` : message;
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

  /** Resolves once everything told so far is written or lost. */
  flush(): Promise<void> {
    return this.#written;
  }

  /** Gives what waits that many milliseconds, then drops it. */
  async stop(ms = 2000): Promise<void> {
    const cancel = this.#clock.after(ms, () => this.#stop.abort());
    await this.flush();
    cancel();
    this.#stop.abort();
  }

  #mayTell(object: KubeObject, type: string): boolean {
    const now = this.#clock.now();
    // Apart: what goes well often must not use up what a warning needs.
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

  async #write(record: Record): Promise<void> {
    record.waiting = false;
    this.#waiting--;
    if (this.#stop.signal.aborted) {
      this.#lose();
      return;
    }
    try {
      if (record.name === undefined || !(await this.#bump(record, record.name))) await this.#create(record);
      this.#options.metrics?.events.inc({ result: "written" });
    } catch (error) {
      this.#lose();
      this.#options.log.debug({ err: error, reason: record.reason, key: keyOf(record.object) }, "event lost");
    }
  }

  /** False: it is gone, since events live for an hour. */
  async #bump(record: Record, name: string): Promise<boolean> {
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

  async #create(record: Record): Promise<void> {
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

/** Events are in the namespace of their object, those of cluster-scoped objects in `default`. */
function namespaceOf(object: KubeObject): string {
  return object.metadata.namespace ?? "default";
}
