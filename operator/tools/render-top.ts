import type { ProxyCounts, Rates } from "./proxy-metrics.ts";
import { type Cell, type Paint, safe, table } from "./text.ts";

/** One proxy in `top`; without counts while it does not answer. */
export interface TopRow {
  pod: string;
  node: string | null;
  counts: ProxyCounts | null;
  rates: Rates | null;
  error: string | null;
}

const rate = (value: number | undefined): string => (value === undefined ? "-" : value.toFixed(1));

const UNITS = ["B", "KiB", "MiB", "GiB"];

function bytes(value: number | undefined): string {
  if (value === undefined) return "-";
  const power = Math.min(UNITS.length - 1, value < 1 ? 0 : Math.floor(Math.log2(value) / 10));
  return `${(value / 1024 ** power).toFixed(power === 0 ? 0 : 1)} ${UNITS[power]}`;
}

/** Proxies with a column of their own in the table of reasons. More columns do not fit on a terminal. */
const MAX_COLUMNS = 4;

/** A line for each proxy, then the refusals by reason. */
export function renderTop(rows: readonly TopRow[], paint: Paint): string {
  const head = ["POD", "NODE", "TUNNELS", "CONNECTIONS", "REQUESTS/S", "REFUSED/S", "BYTES/S", "REQUESTS", "REFUSED"];
  const refused = ({ refusals }: ProxyCounts) => [...refusals.values()].reduce((sum, count) => sum + count, 0);
  const list = rows.map(({ pod, node, counts, rates }): Cell[] => [
    pod,
    node ?? "-",
    ...(counts === null ? ["-", "-"] : [String(counts.tunnels), String(counts.connections)]),
    rate(rates?.requests),
    rate(rates?.refusals),
    bytes(rates?.bytes),
    ...(counts === null ? ["-", "-"] : [String(counts.requests), String(refused(counts))]),
  ]);
  const reasons = new Map<string, number[]>();
  for (const [i, { counts }] of rows.entries()) {
    for (const [code, count] of counts?.refusals ?? []) {
      const by = reasons.get(code) ?? rows.map(() => 0);
      by[i] = count;
      reasons.set(code, by);
    }
  }
  const total = (by: readonly number[]) => by.reduce((sum, count) => sum + count, 0);
  const sorted = [...reasons].sort(([a, x], [b, y]) => total(y) - total(x) || (a < b ? -1 : 1));
  const columns = rows.length > MAX_COLUMNS ? [] : rows.map(({ pod }) => pod);
  const refusals = sorted.map(([code, by]): Cell[] => [
    code,
    String(total(by)),
    ...columns.map((_, i) => String(by[i])),
  ]);
  const errors = rows.flatMap(({ pod, error }) => (error === null ? [] : [`${safe(pod)}: no answer: ${safe(error)}`]));
  return [
    ...table([head, ...list], paint),
    ...errors,
    "",
    ...(refusals.length === 0
      ? ["no refusals since the proxies started"]
      : table([["REFUSED BECAUSE", "ALL", ...columns], ...refusals], paint)),
    ...(refusals.length > 0 && columns.length < rows.length ? ["-o json has the counts of each proxy"] : []),
  ].join("\n");
}
