/** A comparison that would take too long. */
export class TooComplexError extends Error {
  constructor() {
    super("the policies have too many combinations of rules to compare");
  }
}

/** Limits a comparison. A unit is about one question to the engine about few rules, up to 10 µs of CPU. */
export class Budget {
  #left: number;

  constructor(units: number) {
    this.#left = units;
  }

  /** @throws TooComplexError */
  spend(units: number): void {
    this.#left -= units;
    if (this.#left < 0) throw new TooComplexError();
  }
}

/** The units of one question about so many rules. */
export const unitsFor = (rules: number): number => 1 + (rules >> 4);
