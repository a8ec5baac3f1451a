/**
 * A repeatable source of random numbers (splitmix32). Each connection of a run has its own source, made of the seed of the run and
 * the number of the connection, so that its plan does not depend on other processes.
 */
export class Rng {
  #state: number;

  /** `parts`: whole numbers. Other numbers give another sequence. */
  constructor(...parts: number[]) {
    this.#state = 0x9e3779b9;
    for (const part of parts) {
      this.#state = (this.#state ^ (part | 0)) | 0;
      this.#next();
    }
  }

  #next(): number {
    this.#state = (this.#state + 0x9e3779b9) | 0;
    let t = this.#state ^ (this.#state >>> 16);
    t = Math.imul(t, 0x21f0aaad);
    t ^= t >>> 15;
    t = Math.imul(t, 0x735a2d97);
    t ^= t >>> 15;
    return t >>> 0;
  }

  /** A whole number from `low` to `high`, both included. */
  int(low: number, high: number): number {
    return low + (this.#next() % (high - low + 1));
  }

  /** True once in `n` times. */
  oneIn(n: number): boolean {
    return this.#next() % n === 0;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.#next() % list.length]!;
  }

  /** One of the keys of a table of weights. The table must have at least one positive weight. */
  weighted<K extends string>(weights: Partial<Record<K, number>>): K {
    const entries = Object.entries(weights) as [K, number][];
    const total = entries.reduce((sum, [, weight]) => sum + weight, 0);
    let at = this.#next() % total;
    for (const [key, weight] of entries) {
      if (at < weight) return key;
      at -= weight;
    }
    return entries[0]![0];
  }

  /** A number from 1 to `max`, each power of two equally often. */
  size(max: number): number {
    const bits = this.int(0, Math.ceil(Math.log2(max)));
    return Math.min(max, this.int(1, 2 ** bits));
  }
}
