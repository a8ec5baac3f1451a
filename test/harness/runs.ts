import fc from "fast-check";

/** Share of the random inputs of a property test, 0 to 1. `make mutants` sets it, since it repeats each test many times. */
export const SHARE = Number(process.env.RUNS_SHARE ?? 1);
// A mutant must not be killed by an unlucky input. The smallest failing input does not matter.
if (SHARE < 1) fc.configureGlobal({ seed: 1, endOnFailure: true });

/** Fewer inputs find too little. */
const MIN_RUNS = 20;

/** Number of random inputs of a property test that has `full` of them in a normal run. */
export const runs = (full: number): number => Math.max(Math.min(MIN_RUNS, full), Math.ceil(full * SHARE));
