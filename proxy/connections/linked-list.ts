/** The place of a value in a {@link LinkedList}. After its removal it refers to nothing. */
export interface Place<T> {
  value: T | null;
  before: Place<T>;
  after: Place<T>;
}

function makePlace<T>(value: T | null): Place<T> {
  const place = { value } as Place<T>;
  place.before = place;
  place.after = place;
  return place;
}

/**
 * Values that come and go, the oldest first. For connections, instead of a Set or a Map: V8 copies the table of a Set about
 * once for as many changes as it has members, and the old table refers to the new one. After a major collection, dead tables
 * of the old generation keep all later ones, with the connections in them, until the next major collection: each connection
 * is then copied out of the young generation, and major collections follow each other (docs/performance.md).
 */
export class LinkedList<T> implements Iterable<T> {
  readonly #root: Place<T> = makePlace<T>(null);
  #size = 0;

  get size(): number {
    return this.#size;
  }

  get first(): T | undefined {
    return this.#root.after.value ?? undefined;
  }

  /** Adds a value at the end. The caller keeps its place, to remove it. */
  add(value: T): Place<T> {
    const place = makePlace<T>(value);
    const last = this.#root.before;
    place.before = last;
    place.after = this.#root;
    last.after = place;
    this.#root.before = place;
    this.#size++;
    return place;
  }

  /** Removes a value of this list. */
  remove(place: Place<T>): void {
    place.before.after = place.after;
    place.after.before = place.before;
    place.before = place;
    place.after = place;
    place.value = null;
    this.#size--;
  }

  /** The values of now, without those that are removed during the iteration. */
  *[Symbol.iterator](): Iterator<T> {
    const places: Place<T>[] = [];
    for (let place = this.#root.after; place !== this.#root; place = place.after) places.push(place);
    for (const place of places) if (place.value !== null) yield place.value;
  }
}
