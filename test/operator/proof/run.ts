import { randomFrom } from "../random.ts";
import type { LaneSlot } from "./lane.ts";
import type { Violation } from "./violation.ts";

const PROGRESS_MS = 15_000;

export interface RunOptions {
  seed: number;
  /** Limit of the whole run, in milliseconds. */
  ms: number;
  /** Selects stories and cases by their name. Default: all. */
  only?: (name: string) => boolean;
  /** Limit of the cases of one method. Default: as many as there is time for. */
  cases?: number;
  /** Prints nothing but violations. */
  quiet?: boolean;
}

/** One run of the proofs: its random numbers, its time, its counts and what it found. */
export class Run {
  readonly seed: number;
  readonly random: () => number;
  readonly #options: RunOptions;
  readonly violations: { what: string; violation: Violation }[] = [];
  readonly counts = new Map<string, number>();
  #until: number;
  #progressAt = Date.now();

  constructor(options: RunOptions) {
    this.#options = options;
    this.seed = options.seed;
    this.random = randomFrom(options.seed);
    this.#until = Date.now() + options.ms;
  }

  /** Limits the time of what follows. */
  limit(ms: number): void {
    this.#until = Date.now() + ms;
  }

  get isOver(): boolean {
    return Date.now() > this.#until;
  }

  /** Counts what was done, and prints it from time to time. */
  count(what: string, by = 1): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + by);
    if (this.#options.quiet === true || Date.now() - this.#progressAt < PROGRESS_MS) return;
    this.#progressAt = Date.now();
    console.log(`  ${this.figures()}`);
  }

  figures(): string {
    const done = [...this.counts].map(([name, number]) => `${number} ${name}`);
    return [...done, `${this.violations.length} violations`].join(", ");
  }

  /** Kinds of violations, with their number: places without the case. */
  summary(): string[] {
    const kinds = new Map<string, number>();
    for (const { what, violation } of this.violations) {
      const kind = `${violation.invariant}: ${what.split(/[,:\n]/)[0]}`;
      kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
    }
    return [...kinds].sort().map(([kind, number]) => `${number} × ${kind}`);
  }

  /** Records and prints violations. */
  add(what: string, violations: readonly Violation[]): void {
    for (const violation of violations) {
      this.violations.push({ what, violation });
      console.log(`VIOLATION ${violation.invariant} (SEED=${this.seed}; ${what}):\n    ${violation.text}`);
    }
  }

  /** The items that `only` selects. */
  pick<T>(items: readonly T[], name: (item: T) => string): readonly T[] {
    const { only } = this.#options;
    return only === undefined ? items : items.filter((item) => only(name(item)));
  }

  /** Cases in random order, as many as the run may have. */
  shuffled<T>(items: readonly T[]): T[] {
    const all = items
      .map((item) => ({ item, at: this.random() }))
      .sort((a, b) => a.at - b.at)
      .map(({ item }) => item);
    return all.slice(0, this.#options.cases ?? all.length);
  }

  /** Does something with each item, in as many lanes as there are, until the time is over. */
  async share<T>(
    slots: readonly LaneSlot[],
    items: readonly T[],
    each: (slot: LaneSlot, item: T) => Promise<void>,
  ): Promise<void> {
    const left = [...items];
    await Promise.all(
      slots.map(async (slot) => {
        while (!this.isOver) {
          const item = left.shift();
          if (item === undefined) return;
          await each(slot, item).catch((error: Error) => {
            this.add(String(error.message).split("\n")[0]!, [{ invariant: "settling", text: `${error.stack}` }]);
          });
        }
      }),
    );
    if (left.length > 0) this.count("cases without time", left.length);
  }
}
