import { countBound } from "../outcome/bounds.ts";
import type { ClientLimits } from "../policy/clients.ts";

/** Limit of the buckets. A client without a bucket has all its tokens. */
const MAX_BUCKETS = 65_536;

/** A token bucket. Times are monotonic, in milliseconds. */
interface Bucket {
  /** Tokens that were left when the last one was taken. */
  tokens: number;
  at: number;
  /** When it is full again. */
  full: number;
}

/**
 * Token buckets of clients. A bucket has at most `burst` tokens, and gets `requestsPerSecond` of them each second. A full
 * bucket is not kept. New limits apply to the tokens that a bucket has left, so that a reload does not fill it.
 */
export class Rates {
  /**
   * The oldest first. A key is not inserted again at each use: V8 keeps deleted entries in the chain of their hash until
   * the map grows, so that each use of one key would take longer than the one before.
   */
  readonly #buckets = new Map<string, Bucket>();
  /** Continues behind the last dropped bucket. All buckets before it are removed. */
  readonly #oldest = this.#buckets.keys();

  /** Number of buckets that are not full. */
  get size(): number {
    return this.#buckets.size;
  }

  /** Takes a token from the bucket of a key, if it has one. The next token comes within a second. `now`: monotonic ms. */
  take(key: string, { requestsPerSecond, burst }: ClientLimits, now: number): boolean {
    if (requestsPerSecond === undefined) return true;
    const perMs = requestsPerSecond / 1000;
    const most = burst ?? 2 * requestsPerSecond;
    const bucket = this.#buckets.get(key) ?? { tokens: most, at: now, full: now };
    const tokens = Math.min(most, bucket.tokens + (now - bucket.at) * perMs);
    if (tokens < 1) return false;
    bucket.tokens = tokens - 1;
    bucket.at = now;
    bucket.full = now + (most - bucket.tokens) / perMs;
    if (!this.#buckets.has(key)) this.#add(key, bucket);
    return true;
  }

  #add(key: string, bucket: Bucket): void {
    if (this.#buckets.size >= MAX_BUCKETS) {
      this.#buckets.delete(this.#oldest.next().value!);
      countBound("client-buckets");
    }
    this.#buckets.set(key, bucket);
  }

  /** Removes the buckets that are full again. */
  sweep(now: number): void {
    for (const [key, { full }] of this.#buckets) if (full <= now) this.#buckets.delete(key);
  }
}
