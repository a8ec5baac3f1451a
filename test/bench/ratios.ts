/** Median and quartiles. */
export interface Spread {
  median: number;
  q1: number;
  q3: number;
}

/** The value of a quantile of the sorted values, interpolated. @throws RangeError without values */
export function quantile(sorted: readonly number[], share: number): number {
  if (sorted.length === 0) throw new RangeError("no values");
  const at = (sorted.length - 1) * share;
  const low = Math.floor(at);
  const high = Math.ceil(at);
  return sorted[low]! + (sorted[high]! - sorted[low]!) * (at - low);
}

/** @throws RangeError without values */
export function spread(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  return { median: quantile(sorted, 0.5), q1: quantile(sorted, 0.25), q3: quantile(sorted, 0.75) };
}

/**
 * Ours divided by theirs, round by round, since a disturbance of a round affects both. Skips rounds where one has no
 * figure (NaN, 0, infinite: no operation succeeded); null when none is left.
 */
export function pairedRatio(ours: readonly number[], theirs: readonly number[]): Spread | null {
  const ratios: number[] = [];
  for (let i = 0; i < Math.min(ours.length, theirs.length); i++) {
    const ratio = ours[i]! / theirs[i]!;
    if (ratio > 0 && Number.isFinite(ratio)) ratios.push(ratio);
  }
  return ratios.length === 0 ? null : spread(ratios);
}

/** The order of a round: every proxy gets every position. */
export function rotated<T>(list: readonly T[], round: number): T[] {
  const by = list.length === 0 ? 0 : round % list.length;
  return [...list.slice(by), ...list.slice(0, by)];
}
