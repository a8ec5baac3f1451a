/** Numbered steps of a program that takes minutes. */
export class Steps {
  readonly #total: number;
  readonly #began: number;
  #step: number;

  /** `state`: the steps of another process, which this one continues. */
  constructor(total: number, state = `0 ${Date.now()}`) {
    this.#total = total;
    [this.#step, this.#began] = state.split(" ").map(Number) as [number, number];
  }

  /** Begins the next step, and prints its number and the seconds since the first one. */
  next(what: string): void {
    this.#step++;
    const seconds = Math.round((Date.now() - this.#began) / 1000);
    console.log(`\nstep ${this.#step} of ${this.#total}, ${seconds} s: ${what}`);
  }

  /** Steps so far and the start in milliseconds since the epoch, for a process that continues them. */
  get state(): string {
    return `${this.#step} ${this.#began}`;
  }
}
