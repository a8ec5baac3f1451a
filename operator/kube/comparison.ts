import { type KubeObject, keyOf } from "./resource.ts";

/** Store that is compared. */
interface Held {
  get(key: string): KubeObject | undefined;
  keys(): string[];
}

/**
 * Comparison of a store with a consistent list that was requested while the watch was running. The store has caught up
 * when it has every listed object at its version or later, and no object that the list lacks, except newer ones. Only
 * versions of objects are compared: the version of a list is that of the whole storage, and a quiet watch reports it only
 * once a minute (bookmark).
 */
export class Comparison {
  readonly #store: Held;
  /** Listed versions by key. */
  readonly #listed = new Map<string, string>();
  /** Versions of the deletions since the list was requested, by key. */
  readonly #deleted = new Map<string, string>();
  readonly #over = new AbortController();
  /** Keys of objects that differ; undefined until the list is complete. */
  #different: Set<string> | undefined;
  #moment = "";

  constructor(store: Held) {
    this.#store = store;
  }

  /** Adds a page of the list. */
  add(items: readonly KubeObject[]): void {
    for (const item of items) this.#listed.set(keyOf(item), item.metadata.resourceVersion!);
  }

  /** Compares all objects. `moment`: version of the list. */
  complete(moment: string): void {
    if (this.over.aborted) return;
    this.#moment = moment;
    this.#different = new Set();
    for (const key of [...this.#listed.keys(), ...this.#store.keys()]) this.#check(key);
    this.#settle();
  }

  /** Compares one object again, after the watch has reported a change of it. `deletedAt`: version of its deletion. */
  changed(key: string, deletedAt?: string): void {
    if (deletedAt !== undefined) this.#deleted.set(key, deletedAt);
    this.#check(key);
    this.#settle();
  }

  /** Ends the comparison: the store was replaced by a list that was requested later. */
  end(): void {
    this.#different = undefined;
    this.#over.abort();
  }

  /** Aborted when the store has caught up. */
  get over(): AbortSignal {
    return this.#over.signal;
  }

  /** Number of objects that differ. */
  get differences(): number {
    return this.#different?.size ?? 0;
  }

  #check(key: string): void {
    if (this.#isCurrent(key)) this.#different?.delete(key);
    else this.#different?.add(key);
  }

  #isCurrent(key: string): boolean {
    const listed = this.#listed.get(key);
    const held = this.#store.get(key)?.metadata.resourceVersion;
    if (listed === undefined) return held === undefined || compareVersions(held, this.#moment) > 0;
    // An older deletion is that of a former object of this name.
    const latest = held ?? this.#deleted.get(key);
    return latest !== undefined && compareVersions(latest, listed) >= 0;
  }

  #settle(): void {
    if (this.#different?.size === 0) this.end();
  }
}

/** Compares resource versions: within one resource they are increasing decimal numbers (KEP-5504). */
export function compareVersions(a: string, b: string): number {
  if (a.length !== b.length) return a.length - b.length;
  return a < b ? -1 : a > b ? 1 : 0;
}
