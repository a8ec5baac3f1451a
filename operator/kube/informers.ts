import type { Logger } from "pino";
import type { Client } from "./client.ts";
import type { KubeMetrics } from "./metrics.ts";
import { Outage } from "./outage.ts";
import { Reflector, type ReflectorOptions } from "./reflector.ts";
import type { KubeObject, Resource } from "./resource.ts";

/** Read access to the cached objects of one kind. */
export interface Cache<T extends KubeObject> {
  /** `key`: see `keyOf`. */
  get(key: string): T | undefined;
  by(index: string, value: string): T[];
  list(): T[];
  /** Compares the cache with the API server in the background: a live read has contradicted it. */
  doubt(): void;
}

/** Handler of a change of a cached object. */
export type OnChange<T extends KubeObject> = ReflectorOptions<T>["onChange"];

interface InformerOptions {
  client: Client;
  log: Logger;
  metrics: KubeMetrics;
  /** Namespaces to watch; empty: all. */
  namespaces: readonly string[];
  /** Interval of comparing caches with the API server. */
  resyncMs: number;
}

/** Selection and indexes of one cache. */
interface CacheOptions<T extends KubeObject> {
  labelSelector?: string;
  fieldSelector?: string;
  /** Watches this namespace alone. */
  namespace?: string;
  metadataOnly?: boolean;
  /** Longest interval of comparing this cache with the API server. For kinds with few objects. */
  compareMs?: number;
  indexes?: Record<string, (object: T) => readonly string[]>;
  /** Drops what is not needed. Default: managedFields. */
  transform?: (object: T) => T;
}

/** Drops `managedFields`, which often is the largest part of an object. */
export function withoutManagedFields<T extends KubeObject>(object: T): T {
  const { managedFields: _, ...metadata } = object.metadata;
  return { ...object, metadata };
}

/** The caches of a program, each kept up to date by reflectors. */
export class Informers {
  readonly #options: InformerOptions;
  readonly #outage: Outage;
  readonly #reflectors: {
    resource: Resource;
    reflector: Pick<Reflector<KubeObject>, "synced" | "start" | "retry" | "stop" | "hasSynced" | "catchUp">;
  }[] = [];

  constructor(options: InformerOptions) {
    this.#options = options;
    this.#outage = new Outage(options.log);
  }

  /** Adds the cache of a kind: one watch for all namespaces, or one for each configured namespace. */
  add<T extends KubeObject>(resource: Resource, onChange: OnChange<T>, options: CacheOptions<T> = {}): Cache<T> {
    const { client, log, metrics, resyncMs } = this.#options;
    const { namespace, transform = withoutManagedFields, compareMs = resyncMs, ...rest } = options;
    const reflectors = this.#scopes(resource, namespace).map(
      (scope) =>
        new Reflector<T>({
          ...{ client, resource, log, metrics, onChange, transform },
          outage: this.#outage,
          relistMs: Math.min(compareMs, resyncMs),
          namespace: scope,
          ...rest,
        }),
    );
    this.#reflectors.push(...reflectors.map((reflector) => ({ resource, reflector })));
    const stores = reflectors.map((reflector) => reflector.store);
    return {
      get: (key) => stores.map((store) => store.get(key)).find((object) => object !== undefined),
      by: (index, value) => stores.flatMap((store) => store.by(index, value)),
      list: () => stores.flatMap((store) => store.list()),
      doubt: () => {
        for (const reflector of reflectors) reflector.doubt();
      },
    };
  }

  /** Namespaces to watch; undefined stands for all of them. */
  #scopes({ namespaced }: Resource, namespace: string | undefined): (string | undefined)[] {
    if (namespace !== undefined) return [namespace];
    const { namespaces } = this.#options;
    return namespaced && namespaces.length > 0 ? [...namespaces] : [undefined];
  }

  start(): void {
    for (const { reflector } of this.#reflectors) reflector.start();
  }

  /** Ends every back-off: the next attempts start now. */
  retry(): void {
    for (const { reflector } of this.#reflectors) reflector.retry();
  }

  /** Resolves when every cache has its first complete list. */
  async synced(): Promise<void> {
    await Promise.all(this.#reflectors.map(({ reflector }) => reflector.synced()));
  }

  /**
   * Resolves when every cache has everything that the API server had at the time of the call. A process that begins to
   * lead needs it: its watches may lag behind the writes of the former leader.
   */
  async catchUp(): Promise<void> {
    const began = performance.now();
    const found = await Promise.all(
      this.#reflectors.map(async ({ resource, reflector }) => {
        const differences = await reflector.catchUp("takeover");
        return differences > 0 ? [resource.plural] : [];
      }),
    );
    const ms = Math.round(performance.now() - began);
    this.#options.log.info({ relisted: [...new Set(found.flat())], ms }, "all caches have caught up");
  }

  get hasSynced(): boolean {
    return this.#reflectors.every(({ reflector }) => reflector.hasSynced);
  }

  async stop(): Promise<void> {
    await Promise.all(this.#reflectors.map(({ reflector }) => reflector.stop()));
  }
}
