import { type Part, type Progress, startProgress } from "../../proxy/cli/progress.ts";

/** Numbered steps of a program that takes minutes, with progress on a terminal. */
export class Steps {
  readonly #parts: readonly Part[];
  readonly #began: number;
  #step: number;
  /** Undefined: not started, or {@link end}. */
  #progress: Progress | undefined;

  /** `state`: the steps of another process, which this one continues. */
  constructor(parts: readonly Part[], state = `0 ${Date.now()}`) {
    this.#parts = parts;
    [this.#step, this.#began] = state.split(" ").map(Number) as [number, number];
  }

  /** Begins the next step, and prints its number and the seconds since the first one. */
  next(what: string): void {
    const seconds = Math.round((Date.now() - this.#began) / 1000);
    this.clear();
    console.log(`\nstep ${this.#step + 1} of ${this.#parts.length}, ${seconds} s: ${what}`);
    // Steps before its start took another time.
    this.#progress ??= startProgress(this.#parts.map((part, i) => (i < this.#step ? { ...part, seconds: 0 } : part)));
    this.#progress.show(this.#parts[this.#step++]!.name);
  }

  /** Removes the progress before other output. */
  clear(): void {
    this.#progress?.clear();
  }

  /** Removes the progress until the next step: at the end, or before other work that shows its own. */
  end(): void {
    this.#progress?.end();
    this.#progress = undefined;
  }

  /** Steps so far and the start in milliseconds since the epoch, for a process that continues them. */
  get state(): string {
    return `${this.#step} ${this.#began}`;
  }
}
