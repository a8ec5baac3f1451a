import { type Address, type Cidr, type CidrSet, formatAddress } from "../cidr.ts";

/** An inclusive interval of the addresses of one family, as numbers. */
export interface Span {
  readonly low: bigint;
  readonly high: bigint;
}

const BITS = { 4: 32n, 6: 128n } as const;

/** The last address of a family. */
export const lastOf = (family: 4 | 6): bigint => (1n << BITS[family]) - 1n;

/** An address as a number of 32 or 128 bits. */
export function numberOf({ family, words: [a, b, c, d] }: Address): bigint {
  if (family === 4) return BigInt(d);
  return (BigInt(a) << 96n) | (BigInt(b) << 64n) | (BigInt(c) << 32n) | BigInt(d);
}

/** The address of such a number. */
export function addressOf(family: 4 | 6, value: bigint): Address {
  const word = (shift: bigint): number => Number((value >> shift) & 0xffffffffn);
  if (family === 4) return { family, words: [0, 0, 0, word(0n)] };
  return { family, words: [word(96n), word(64n), word(32n), word(0n)] };
}

/** All addresses of a network. */
export function spanOf(network: Cidr): Span {
  const low = numberOf(network);
  return { low, high: low + (1n << (BITS[network.family] - BigInt(network.prefix))) - 1n };
}

/** The intervals of a compiled set. */
export function spansOf(set: CidrSet, family: 4 | 6): Span[] {
  return [...set.intervals(family)].map(([low, high]) => ({ low: numberOf(low), high: numberOf(high) }));
}

/** Whether an interval has this address. */
export const isWithin = (value: bigint, { low, high }: Span): boolean => low <= value && value <= high;

/** Whether two intervals have an address in common. */
export const meets = (a: Span, b: Span): boolean => a.low <= b.high && b.low <= a.high;

/** Ascending order of numbers, for `sort`. */
export const byValue = (a: bigint, b: bigint): number => (a < b ? -1 : a > b ? 1 : 0);

/** Sorted disjoint intervals of the same addresses. */
export function joinSpans(spans: readonly Span[]): Span[] {
  const joined: { low: bigint; high: bigint }[] = [];
  for (const { low, high } of spans.toSorted((a, b) => byValue(a.low, b.low))) {
    const last = joined.at(-1);
    if (last === undefined || low > last.high + 1n) joined.push({ low, high });
    else if (high > last.high) last.high = high;
  }
  return joined;
}

/** The addresses of `spans` that `others` does not have. Both are sorted and disjoint. */
export function without(spans: readonly Span[], others: readonly Span[]): Span[] {
  const rest: Span[] = [];
  let first = 0;
  for (const { low, high } of spans) {
    while (first < others.length && others[first]!.high < low) first++;
    let from = low;
    for (let i = first; i < others.length && others[i]!.low <= high; i++) {
      if (others[i]!.low > from) rest.push({ low: from, high: others[i]!.low - 1n });
      from = others[i]!.high + 1n;
    }
    if (from <= high) rest.push({ low: from, high });
  }
  return rest;
}

/** A network such as `10.0.0.0/8`, or `first-last` where the interval is no network. */
export function formatSpan(family: 4 | 6, { low, high }: Span): string {
  const size = high - low + 1n;
  const first = formatAddress(addressOf(family, low));
  const isNetwork = (size & (size - 1n)) === 0n && low % size === 0n;
  if (!isNetwork) return `${first}-${formatAddress(addressOf(family, high))}`;
  return `${first}/${BITS[family] - BigInt(size.toString(2).length - 1)}`;
}

/** The same of several intervals. */
export const formatSpans = (family: 4 | 6, spans: readonly Span[]): string[] =>
  spans.map((span) => formatSpan(family, span));
