import { LinkedList, type Place } from "./linked-list.ts";

/** Longest time until the next visit, in seconds, whatever the time limits of a connection are. */
const MAX_WAIT = 15;

/** A connection whose time limits are enforced by visits. */
export interface Visited {
  /** The second of its next visit. Only {@link Visits} writes it. */
  due: number;
  /** Its place among those of this second. Only {@link Visits} writes it. */
  duePlace: Place<Visited> | null;
  /** Enforces the time limits; returns when the next one ends. Times are monotonic, in milliseconds. */
  visit(now: number): number;
}

const secondOf = (ms: number): number => Math.floor(ms / 1000);

/**
 * All connections, in buckets by the second of their next visit. A sweep visits only those that are due, so that thousands
 * of idle connections cost nothing. Times are monotonic, in milliseconds.
 */
export class Visits<T extends Visited> implements Iterable<T> {
  readonly #buckets = new Map<number, LinkedList<Visited>>();
  #size = 0;
  /** The second of the last sweep, and the first second whose bucket is not visited yet. */
  #current: number;
  #next: number;

  constructor(now: number) {
    this.#current = secondOf(now);
    this.#next = this.#current;
  }

  get size(): number {
    return this.#size;
  }

  /** One that gets an earlier visit during the iteration may be returned twice. */
  *[Symbol.iterator](): Iterator<T> {
    for (const bucket of this.#buckets.values()) yield* bucket as LinkedList<T>;
  }

  /** Adds a connection with its first time limit. */
  add(one: T, at: number): void {
    this.#put(one, at);
    this.#size++;
  }

  delete(one: T): void {
    if (this.#take(one)) this.#size--;
    one.due = -1;
  }

  /** Adds a time limit, which may end before the next visit. */
  advance(one: T, at: number): void {
    if (secondOf(at) < one.due && this.#take(one)) this.#put(one, at);
  }

  /** False: it is in no bucket. */
  #take(one: T): boolean {
    if (one.duePlace === null) return false;
    this.#buckets.get(one.due)!.remove(one.duePlace);
    one.duePlace = null;
    return true;
  }

  #put(one: T, at: number): void {
    one.due = Math.min(Math.max(secondOf(at), this.#current + 1), this.#current + MAX_WAIT);
    let bucket = this.#buckets.get(one.due);
    if (bucket === undefined) {
      bucket = new LinkedList();
      this.#buckets.set(one.due, bucket);
    }
    one.duePlace = bucket.add(one);
  }

  /** Visits connections that are due, at most `most`. True: others are still due. */
  sweep(now: number, most: number): boolean {
    this.#current = secondOf(now);
    let left = most;
    for (; this.#next <= this.#current; this.#next++) {
      const bucket = this.#buckets.get(this.#next);
      for (let one = bucket?.first; one !== undefined; one = bucket?.first) {
        if (left === 0) return true;
        left--;
        this.#visit(one as T, now);
      }
      this.#buckets.delete(this.#next);
    }
    return false;
  }

  #visit(one: T, now: number): void {
    const { due } = one;
    const at = one.visit(now);
    // It has ended, or has a new time limit.
    if (one.due !== due) return;
    this.#take(one);
    this.#put(one, at);
  }
}
