import { countBound } from "../outcome/bounds.ts";
import type { ClientLimits } from "../policy/clients.ts";

/** Limit of the buckets. A client without a bucket has all its tokens. */
const MAX_BUCKETS = 65_536;

/** State of a token bucket after its last token was taken. Times are monotonic, in milliseconds. */
interface Bucket {
  readonly tokens: number;
  readonly at: number;
  /** When it is full again. */
  readonly full: number;
}

/**
 * Token buckets of clients. A bucket has at most `burst` tokens, and gets `requestsPerSecond` of them each second. A full
 * bucket is not kept. New limits apply to the tokens that a bucket has left, so that a reload does not fill it.
 */
export class Rates {
  /** The longest unused first. */
  readonly #buckets = new Map<string, Bucket>();

  /** Number of buckets that are not full. */
  get size(): number {
    return this.#buckets.size;
  }

  /** Takes a token from the bucket of a key, if it has one. The next token comes within a second. `now`: monotonic ms. */
  take(key: string, { requestsPerSecond, burst }: ClientLimits, now: number): boolean {
    if (requestsPerSecond === undefined) return true;
    const perMs = requestsPerSecond / 1000;
    const most = burst ?? 2 * requestsPerSecond;
    const bucket = this.#buckets.get(key);
    const tokens = bucket === undefined ? most : Math.min(most, bucket.tokens + (now - bucket.at) * perMs);
    if (tokens < 1) return false;
    this.#buckets.delete(key);
    if (this.#buckets.size >= MAX_BUCKETS) this.#dropOldest();
    const left = tokens - 1;
    this.#buckets.set(key, { tokens: left, at: now, full: now + (most - left) / perMs });
    return true;
  }

  #dropOldest(): void {
    const [oldest] = this.#buckets.keys();
    this.#buckets.delete(oldest!);
    countBound("client-buckets");
  }

  /** Removes the buckets that are full again. */
  sweep(now: number): void {
    for (const [key, { full }] of this.#buckets) if (full <= now) this.#buckets.delete(key);
  }
}
