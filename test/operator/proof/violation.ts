/** One breach of a live invariant. */
export interface Violation {
  invariant: "I1" | "I2" | "I3" | "I4" | "I5" | "end state" | "settling" | "deadlock";
  text: string;
}

/** Reports a violation. */
export type Report = (violation: Violation) => void;

/** A rule that is checked again and again. `lagMs`: time for which this process was too busy to look. */
export interface Rule {
  look(now: number, lagMs: number): void;
}
