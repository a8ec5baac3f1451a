import { type KubeObject, keyOf } from "./resource.ts";

/** Functions that return the index values of an object, by index name. They must depend on the object alone. */
export type Indexes<T> = Record<string, (object: T) => readonly string[]>;

/** Last known objects of one resource, by key and by index. Objects are shared and must not be changed. */
export class Store<T extends KubeObject> {
  readonly #objects = new Map<string, T>();
  readonly #indexers: Indexes<T>;
  /** Keys by index name, then by value. */
  readonly #indexes = new Map<string, Map<string, Set<string>>>();

  constructor(indexes: Indexes<T> = {}) {
    this.#indexers = indexes;
    for (const name of Object.keys(indexes)) this.#indexes.set(name, new Map());
  }

  get size(): number {
    return this.#objects.size;
  }

  get(key: string): T | undefined {
    return this.#objects.get(key);
  }

  list(): T[] {
    return [...this.#objects.values()];
  }

  keys(): string[] {
    return [...this.#objects.keys()];
  }

  /** Objects with a value of an index. */
  by(index: string, value: string): T[] {
    const values = this.#indexes.get(index);
    if (values === undefined) throw new Error(`no index "${index}"`);
    return Array.from(values.get(value) ?? [], (key) => this.#objects.get(key)!);
  }

  /** Returns the previous object. */
  set(object: T): T | undefined {
    const key = keyOf(object);
    const before = this.delete(key);
    this.#objects.set(key, object);
    for (const [name, values] of this.#indexes) {
      for (const value of this.#indexers[name]!(object)) {
        const keys = values.get(value);
        if (keys === undefined) values.set(value, new Set([key]));
        else keys.add(key);
      }
    }
    return before;
  }

  /** Returns the deleted object. */
  delete(key: string): T | undefined {
    const before = this.#objects.get(key);
    if (before === undefined) return undefined;
    this.#objects.delete(key);
    for (const [name, values] of this.#indexes) {
      for (const value of this.#indexers[name]!(before)) {
        const keys = values.get(value);
        keys?.delete(key);
        if (keys?.size === 0) values.delete(value);
      }
    }
    return before;
  }
}
