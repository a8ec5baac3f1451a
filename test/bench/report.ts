import { pairedRatio, type Spread, spread } from "./ratios.ts";
import type { Series, Slice } from "./slices.ts";
import { LATENCY_SHARES } from "./wire.ts";

/** Figures as tables for people and as JSON lines for programs. */

/** One row of a table: the first cell names it. */
export type Row = readonly string[];

/** A table for people and figures for programs. */
export interface Single {
  text: string;
  figures: object[];
  /** Proxies that could not be measured, with the reason. */
  failures?: string[];
}

/** Text in columns; the first is left-aligned. */
export function table(head: Row, rows: readonly Row[]): string {
  const widths = head.map((_, i) => Math.max(...[head, ...rows].map((row) => (row[i] ?? "").length)));
  const line = (row: Row) =>
    row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join("  ");
  return [line(head), ...rows.map(line)].map((text) => `  ${text.trimEnd()}`).join("\n");
}

/** A number with about three figures. */
export function short(value: number): string {
  if (!Number.isFinite(value)) return "-";
  if (value >= 1000) return Math.round(value).toLocaleString("en");
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** Median followed by the quartiles. */
export function shortSpread({ median, q1, q3 }: Spread): string {
  return `${short(median)} [${short(q1)}-${short(q3)}]`;
}

/** Over the slices that have this figure; NaN when none has. */
function of(series: Series, pick: (slice: Slice) => number): Spread {
  const values = series.slices.map(pick).filter(Number.isFinite);
  return spread(values.length > 0 ? values : [Number.NaN]);
}

/** "met" or "MISSED" with the bound; empty without a bound. */
export function judged(value: number | undefined, bound: number | undefined): string {
  if (value === undefined || bound === undefined) return "";
  return `${value <= bound ? "met" : "MISSED"} (<= ${short(bound)})`;
}

/** A missed aim as a sentence, in a list; empty if the aim is met, or one of the two is missing. */
export function missedAim(what: string, value: number | undefined, bound: number | null | undefined): string[] {
  if (value === undefined || bound == null || value <= bound) return [];
  // More digits where a few show the same value.
  const shown = short(value) === short(bound) ? value.toPrecision(5) : short(value);
  return [`${what} ${shown}. The aim is at most ${short(bound)}.`];
}

/** Missed aims of outrider compared with one proxy. */
export function missedAims(figure: {
  proxy: string;
  ratio?: Spread | null;
  target?: number | null;
  p99Ratio?: Spread | null;
  p999Ratio?: Spread | null;
  tailTarget?: number | null;
}): string[] {
  const { proxy, ratio, target, p99Ratio, p999Ratio, tailTarget } = figure;
  return [
    ...missedAim(`CPU time / ${proxy}:`, ratio?.median, target),
    ...missedAim(`p99 / ${proxy}:`, p99Ratio?.median, tailTarget),
    ...missedAim(`p99.9 / ${proxy}:`, p999Ratio?.median, tailTarget),
  ];
}

/** The higher median of two ratios. */
const worse = (a?: Spread | null, b?: Spread | null): number | undefined =>
  a && b ? Math.max(a.median, b.median) : undefined;

/** Sum of errors; a slice with errors is counted, since its figure is less reliable. */
function errorsOf(slices: readonly Slice[]): string {
  const marked = slices.filter((slice) => slice.errors > 0);
  if (marked.length === 0) return "0";
  return `${marked.reduce((sum, slice) => sum + slice.errors, 0)} in ${marked.length} slices!`;
}

/** One JSON object per proxy: all figures of a workload measured in slices. */
export function seriesFigures(all: readonly Series[]) {
  const ours = all.find((series) => series.proxy === "outrider");
  return all.map((series) => {
    const { workload, slices, proxy } = series;
    const error = slices.find((slice) => slice.error !== undefined)?.error;
    const comparable = ours?.broken === undefined && series.broken === undefined;
    const isPeer = ours !== undefined && series !== ours && comparable;
    const times = (one: Series, figure: "p99Ms" | "p999Ms") => one.slices.map((slice) => slice[figure]);
    const cpu = (one: Series) => one.slices.map((slice) => slice.cpuUs);
    const compared = isPeer
      ? {
          ratio: pairedRatio(cpu(ours), cpu(series)),
          target: workload.targets[proxy] ?? null,
          p99Ratio: pairedRatio(times(ours, "p99Ms"), times(series, "p99Ms")),
          p999Ratio: pairedRatio(times(ours, "p999Ms"), times(series, "p999Ms")),
          tailTarget: proxy === "squid" ? (workload.tail ?? null) : null,
        }
      : {};
    return {
      workload: workload.name,
      proxy,
      rounds: slices.length,
      unit: workload.unit,
      cpuUs: of(series, (slice) => slice.cpuUs),
      perSecond: of(series, (slice) => slice.unitsPerSecond),
      p50Ms: of(series, (slice) => slice.p50Ms),
      p99Ms: of(series, (slice) => slice.p99Ms),
      p999Ms: of(series, (slice) => slice.p999Ms),
      latencyMs: LATENCY_SHARES.map((_, i) => of(series, (slice) => slice.latencyMs[i] ?? Number.NaN).median),
      ops: slices.reduce((sum, slice) => sum + slice.ops, 0),
      errors: slices.reduce((sum, slice) => sum + slice.errors, 0),
      slicesWithErrors: slices.filter((slice) => slice.errors > 0).length,
      ...(series.broken === undefined ? {} : { broken: series.broken }),
      ...(error === undefined ? {} : { error }),
      foreign: of(series, (slice) => slice.foreign).median,
      queriesPer1000: of(series, (slice) => (slice.queries * 1000) / slice.ops).median,
      connectionsPer1000: of(series, (slice) => (slice.connections * 1000) / slice.ops).median,
      ...compared,
      missed: missedAims({ proxy, ...compared }),
    };
  });
}

/** The table of a workload measured in slices. */
export function seriesTable(all: readonly Series[]): string {
  const { workload } = all[0]!;
  const figures = seriesFigures(all);
  const head = [
    "proxy",
    `CPU us/${workload.unit}`,
    `${workload.unit}/s`,
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "others on core",
    "DNS/1,000",
    "targets/1,000",
    "errors",
    "outrider / it",
    "target",
    "p99, p99.9",
    "target",
  ];
  const rows = figures.map((f, i) => [
    f.proxy,
    f.broken === undefined ? shortSpread(f.cpuUs) : "broken",
    short(f.perSecond.median),
    short(f.p50Ms.median),
    short(f.p99Ms.median),
    short(f.p999Ms.median),
    `${Math.round(f.foreign * 100)} %`,
    short(f.queriesPer1000),
    short(f.connectionsPer1000),
    errorsOf(all[i]!.slices),
    f.ratio ? shortSpread(f.ratio) : "",
    judged(f.ratio?.median, f.target ?? undefined),
    f.p99Ratio && f.p999Ratio ? `${short(f.p99Ratio.median)}, ${short(f.p999Ratio.median)}` : "",
    judged(worse(f.p99Ratio, f.p999Ratio), f.tailTarget ?? undefined),
  ]);
  const notes = figures.flatMap(({ proxy, broken, error }) => {
    if (broken !== undefined) return [`\n  ${proxy} is broken: ${broken}`];
    return error === undefined ? [] : [`\n  ${proxy}, first error: ${error}`];
  });
  return `${workload.name}: ${workload.title}\n${table(head, rows)}${notes.join("")}`;
}
