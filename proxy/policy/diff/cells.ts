import type { Address, CidrSet } from "../cidr.ts";
import { EMBEDDING, GLOBALLY_REACHABLE, isIsatap, NOT_PUBLIC } from "../special.ts";
import type { Budget } from "./budget.ts";
import { addressOf, byValue, isWithin, lastOf, meets, type Span, spanOf, spansOf } from "./spans.ts";

/**
 * The address space, cut into cells whose addresses every given set treats alike. Most cells are intervals. The last 32 bits
 * of ISATAP, Teredo and local-use NAT64 addresses embed an IPv4 address in very many networks, so these are planes: a range of
 * networks, and an interval of the last 32 bits.
 */
export interface Cells {
  lines: Record<4 | 6, Cell[]>;
  planes: Plane[];
}

interface Cell extends Span {
  /** An address of the cell. */
  ask: Address;
}

/** Forms of an address whose last 32 bits embed an IPv4 address. */
export type Layout = "ISATAP" | "Teredo" | "Teredo and ISATAP" | "local-use NAT64";

/** Addresses of one layout in a range of networks: those with the given last 32 bits. */
export interface Plane {
  layout: Layout;
  /** The range of networks, as addresses. Of these the plane has the addresses of its layout. */
  span: Span;
  /** A network /96 in it, with the last 32 bits zero. */
  block: bigint;
  /** Intervals of the last 32 bits. */
  lasts: readonly Span[];
}

/** The sets that the decisions depend on. */
export interface Sets {
  /** Sets of all rules and options. */
  all: Iterable<CidrSet>;
  /** Those that can open a special-purpose range. */
  opening: Iterable<CidrSet>;
}

const BLOCK = 1n << 32n;
const LAST_BITS = BLOCK - 1n;
const TEREDO = spanOf(EMBEDDING.TEREDO);
const LOCAL = spanOf(EMBEDDING.LOCAL_NAT64);
const MAPPED = spanOf(EMBEDDING.MAPPED);
/** Networks that embed an IPv4 address in consecutive bits: how far it is shifted. Special-purpose but for the first. */
const SHIFTED: readonly [network: Span, shift: bigint][] = [
  [spanOf(EMBEDDING.NAT64), 0n],
  [spanOf(EMBEDDING.COMPATIBLE), 0n],
  [spanOf(EMBEDDING.TRANSLATED), 0n],
  [spanOf(EMBEDDING.SIX_TO_FOUR), 80n],
  [TEREDO, 64n],
];
const FIXED = [...NOT_PUBLIC, ...GLOBALLY_REACHABLE, ...Object.values(EMBEDDING)];
/** An address of the layouts of RFC 6052 that begin before the last 32 bits has one byte of the IPv4 address there. */
const STEP = 1n << 24n;

const ascending = (starts: Iterable<bigint>): bigint[] => [...new Set(starts)].sort(byValue);

/** The intervals between the starts, up to `last`. The first start is 0. */
function between(starts: readonly bigint[], last: bigint): Span[] {
  return starts.filter((low) => low <= last).map((low, i) => ({ low, high: (starts[i + 1] ?? last + 1n) - 1n }));
}

function startsOf(family: 4 | 6, sets: readonly CidrSet[]): Set<bigint> {
  const spans = [
    ...FIXED.filter((network) => network.family === family).map(spanOf),
    ...sets.flatMap((set) => spansOf(set, family)),
  ];
  return new Set([0n, ...spans.flatMap(({ low, high }) => [low, high + 1n])]);
}

const isIsatapBlock = (block: bigint): boolean => isIsatap(Number((block >> 32n) & LAST_BITS));

/** The layout whose plane has the addresses of a network /96; null: none. */
function layoutOf(block: bigint): Layout | null {
  if (isWithin(block, LOCAL)) return "local-use NAT64";
  if (isWithin(block, TEREDO)) return isIsatapBlock(block) ? "Teredo and ISATAP" : "Teredo";
  return isIsatapBlock(block) ? "ISATAP" : null;
}

/** Where the intervals of the last 32 bits begin. Teredo inverts them. */
function lastStarts(layout: Layout, starts4: readonly bigint[]): bigint[] {
  const inverted = () => starts4.map((start) => (start === 0n ? 0n : BLOCK - start));
  const steps = () => Array.from({ length: 256 }, (_, i) => BigInt(i) * STEP);
  const all = { ISATAP: [], Teredo: inverted(), "Teredo and ISATAP": inverted(), "local-use NAT64": steps() };
  return ascending([...starts4, ...all[layout]].filter((start) => start < BLOCK));
}

/** The first network /96 from `low` on that is an ISATAP network, or that is none. */
function firstBlock(low: bigint, isatap: boolean): bigint {
  const aligned = ((low + LAST_BITS) >> 32n) << 32n;
  if (!isatap) return isIsatapBlock(aligned) ? aligned + BLOCK : aligned;
  const subnet = (aligned >> 64n) << 64n;
  const candidates = [0n, 1n].flatMap((next) =>
    [0x5efen, 0x02005efen].map((word) => subnet + (next << 64n) + (word << 32n)),
  );
  return candidates.find((block) => block >= aligned)!;
}

/** The planes of an interval that has no part of a network /96 with a plane. */
function planesOf(span: Span, lasts: (layout: Layout) => readonly Span[]): Plane[] {
  const plane = (layout: Layout, block: bigint): Plane[] =>
    block + LAST_BITS <= span.high ? [{ layout, span, block, lasts: lasts(layout) }] : [];
  if (isWithin(span.low, LOCAL)) return plane("local-use NAT64", firstBlock(span.low, false));
  if (!isWithin(span.low, TEREDO)) return plane("ISATAP", firstBlock(span.low, true));
  return [...plane("Teredo", firstBlock(span.low, false)), ...plane("Teredo and ISATAP", firstBlock(span.low, true))];
}

/** Adds the limits of each network /96 that has a plane and in which an interval begins, and those of its last 32 bits. */
function cutBlocks(starts: Set<bigint>, lasts: (layout: Layout) => readonly Span[], budget: Budget): void {
  const done = new Set<bigint>();
  for (const start of [...starts]) {
    const block = (start >> 32n) << 32n;
    const layout = start === block || done.has(block) ? null : layoutOf(block);
    if (layout === null) continue;
    done.add(block);
    budget.spend(lasts(layout).length);
    for (const { low } of lasts(layout)) starts.add(block + low);
    starts.add(block + BLOCK);
  }
}

/** Cuts the address space. Linear in the intervals of the sets, except where sets have parts of a network /96 with a plane. */
export function cellsOf({ all, opening }: Sets, budget: Budget): Cells {
  const sets = [...all];
  const starts4 = ascending(startsOf(4, sets)).filter((start) => start <= lastOf(4));
  const opened = [...opening].flatMap((set) => spansOf(set, 6));
  const known = new Map<Layout, Span[]>();
  const lasts = (layout: Layout): readonly Span[] => {
    // Without a rule that opens them, all of their addresses are refused.
    const closed =
      layout !== "ISATAP" && !opened.some((span) => meets(span, layout === "local-use NAT64" ? LOCAL : TEREDO));
    const found = known.get(layout) ?? between(closed ? [0n] : lastStarts(layout, starts4), LAST_BITS);
    known.set(layout, found);
    return found;
  };
  const starts = startsOf(6, sets);
  // Of ::/96 only addresses from ::2 on embed one.
  starts.add(2n);
  for (const [network, shift] of SHIFTED) {
    if (network.low !== SHIFTED[0]![0].low && !opened.some((span) => meets(span, network))) continue;
    for (const start of starts4) starts.add(network.low + (start << shift));
  }
  cutBlocks(starts, lasts, budget);
  const cells: Cells = { lines: { 4: [], 6: [] }, planes: [] };
  for (const span of between(starts4, lastOf(4))) cells.lines[4].push({ ...span, ask: addressOf(4, span.low) });
  for (const span of between(ascending(starts), lastOf(6))) {
    // Such an address is an IPv4 address everywhere.
    if (isWithin(span.low, MAPPED)) continue;
    const block = (span.low >> 32n) << 32n;
    const layout = layoutOf(block);
    if (layout !== null && span.high < block + LAST_BITS + 1n) {
      const part = span.high - span.low < LAST_BITS;
      const last = { low: span.low - block, high: span.high - block };
      cells.planes.push({
        layout,
        span: { low: block, high: block + LAST_BITS },
        block,
        lasts: part ? [last] : lasts(layout),
      });
      continue;
    }
    cells.planes.push(...planesOf(span, lasts));
    if (isWithin(span.low, LOCAL) || isWithin(span.low, TEREDO)) continue;
    const low = layout === null ? span.low : block + BLOCK;
    if (low <= span.high) cells.lines[6].push({ ...span, ask: addressOf(6, low) });
  }
  return cells;
}
