import { quantile } from "./ratios.ts";

/** The decision of `make bench-guard`: whether a ratio is worse than its reference, with the noise of the run in mind. */

/** Share by which a ratio may be worse than its reference. */
export const MARGIN = 0.15;
/**
 * Widest interval that may become a reference. On a machine where new processes of one program differ by more than the
 * margin, no number of rounds makes it narrower.
 */
export const REFERENCE_WIDTH = 2 * MARGIN;
/** Fewest rounds: the lowest and the highest of five values enclose the median with 93.75 %. */
export const MIN_ROUNDS = 5;
/** Share of runs whose interval may miss the median. */
const MISS = 0.07;

/** A median with its confidence interval, of this number of rounds. */
export interface Interval {
  median: number;
  low: number;
  high: number;
  rounds: number;
}

export type Verdict = "ok" | "worse" | "not decided";

/**
 * How many of the sorted values on each side are outside of the interval. The probability that the median is outside
 * is that of so many heads or fewer in a row of fair coins, twice (sign test).
 */
function outside(count: number): number {
  let ways = 1;
  let tail = 1;
  let k = 0;
  // Adds the ways to get k + 1 heads.
  while (k < count / 2) {
    ways = (ways * (count - k)) / (k + 1);
    if ((2 * (tail + ways)) / 2 ** count > MISS) break;
    tail += ways;
    k++;
  }
  return k;
}

/** The median and its confidence interval of at least 93 %, without a model of the noise. Null: too few values. */
export function interval(ratios: readonly number[]): Interval | null {
  if (ratios.length < MIN_ROUNDS) return null;
  const sorted = [...ratios].sort((a, b) => a - b);
  const k = outside(sorted.length);
  return { median: quantile(sorted, 0.5), low: sorted[k]!, high: sorted.at(-1 - k)!, rounds: sorted.length };
}

/**
 * Compares with the reference plus the margin. The whole interval decides if it is on one side. Otherwise the median
 * decides, unless the interval is wider than the margin: then the run is too noisy.
 */
export function judge(found: Interval | null, reference: number): Verdict {
  if (found === null) return "not decided";
  const bound = reference * (1 + MARGIN);
  if (found.high <= bound) return "ok";
  if (found.low > bound) return "worse";
  if (found.high - found.low > reference * MARGIN) return "not decided";
  return found.median > bound ? "worse" : "ok";
}

/** Width of an interval as a share of its median; infinite without an interval. */
export const widthOf = (found: Interval | null): number =>
  found === null ? Number.POSITIVE_INFINITY : (found.high - found.low) / found.median;
