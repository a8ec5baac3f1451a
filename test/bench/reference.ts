import { short } from "./report.ts";
import { type Interval, judge, MARGIN, MIN_ROUNDS } from "./verdict.ts";

/** The committed reference of `make bench-guard`, and its lines of output. */

/** CPU time of outrider divided by that of the yardstick, by workload, and where they were measured. */
export interface Reference {
  machine: string;
  cores: number;
  node: string;
  yardstick: string;
  /** Date and reason of the last update. */
  date: string;
  reason: string;
  ratios: Record<string, Interval>;
}

const TEXTS = ["machine", "node", "yardstick", "date", "reason"] as const;

/** @throws Error with the field and the reason */
export function parseReference(text: string): Reference {
  let value: Partial<Reference>;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Error(`not JSON: ${(error as Error).message}`);
  }
  for (const key of TEXTS) {
    if (typeof value[key] !== "string" || value[key] === "") throw new Error(`${key}: missing`);
  }
  const ratios = Object.entries(value.ratios ?? {});
  if (ratios.length === 0) throw new Error("ratios: missing");
  for (const [workload, { median }] of ratios) {
    if (!(median > 0)) throw new Error(`ratios.${workload}.median: ${median} is not a positive number`);
  }
  return value as Reference;
}

/** The file of a reference. Ratios have three decimals. */
export function referenceText(reference: Reference): string {
  const rounded = (_key: string, value: unknown) =>
    typeof value === "number" ? Math.round(value * 1000) / 1000 : value;
  return `${JSON.stringify(reference, rounded, 2)}\n`;
}

const LABELS = { ok: "ok", worse: "WORSE", "not decided": "NOT DECIDED" } as const;

/** The result of one workload. */
export function verdictLine(workload: string, found: Interval | null, reference: number): string {
  const verdict = judge(found, reference);
  const label = LABELS[verdict].padEnd(LABELS["not decided"].length);
  if (found === null) return `${label}  ${workload}: fewer than ${MIN_ROUNDS} rounds have a figure`;
  const measured = `${short(found.median)} [${short(found.low)}-${short(found.high)}] after ${found.rounds} rounds`;
  const bound = `reference ${short(reference)}, at most ${short(reference * (1 + MARGIN))}`;
  const noise =
    verdict === "not decided" ? `; the interval is wider than ${MARGIN * 100} %: use a quieter machine` : "";
  return `${label}  ${workload}: ${measured}, ${bound}${noise}`;
}
