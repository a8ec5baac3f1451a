/** One breach of a live invariant. */
export interface Violation {
  invariant: "I1" | "I2" | "I3" | "I4" | "I5" | "end state" | "settling" | "deadlock";
  text: string;
}

/** Reports a violation. */
export type Report = (violation: Violation) => void;

/** Times for which faults lasted, so that only lasting ones are reported: watches may be later than the proxies. */
export class Lasting {
  readonly #toleratedMs: number;
  /** Milliseconds, by fault. */
  readonly #times = new Map<string, number>();
  #last = Date.now();
  #elapsed = 0;

  constructor(toleratedMs: number) {
    this.#toleratedMs = toleratedMs;
  }

  /** Starts a look. */
  begin(now: number, lagMs: number): void {
    this.#elapsed = Math.max(0, now - this.#last - lagMs);
    this.#last = now;
  }

  /** Notes whether a fault is present in this look. Returns whether it lasted for longer than tolerated. */
  note(fault: string, isPresent: boolean): boolean {
    const time = isPresent ? (this.#times.get(fault) ?? 0) + this.#elapsed : 0;
    this.#times.set(fault, time);
    return time > this.#toleratedMs;
  }
}

/** A rule that is checked again and again. `lagMs`: time for which this process was too busy to look. */
export interface Rule {
  look(now: number, lagMs: number): void;
}
