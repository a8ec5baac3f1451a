import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { barPlot, linePlot } from "./plot.ts";
import type { Spread } from "./ratios.ts";
import { short } from "./report.ts";
import { LATENCY_SHARES } from "./wire.ts";

/** `make bench-report`: writes the figures of a run into docs/performance.md, with two plots beside it. */

const DOCS = new URL("../../docs/", import.meta.url).pathname;
const PAGE = "performance.md";
const BEGIN = "<!-- figures:begin -->";
const END = "<!-- figures:end -->";
/** The workload that the plots show. */
const PLOTTED = "tunnel";

/** The machine and the programs of a run. */
interface About {
  machine: string;
  cores: number;
  date: string;
  load: number;
  rounds: number;
  versions: Record<string, string>;
}

/** The figures of one proxy and workload that a report uses. */
export interface Figure {
  workload: string;
  proxy: string;
  unit: string;
  cpuUs: Spread;
  p99Ms: Spread;
  latencyMs: number[];
  broken?: string;
  ratio?: Spread | null;
  target?: number | null;
  p99Ratio?: Spread | null;
  tailTarget?: number | null;
}

/** Memory of one proxy, KiB. */
interface Idle {
  workload: "idle";
  proxy: string;
  tunnels: number;
  kibPerTunnel: number;
  emptyKiB: number;
}

/** Latency of one proxy at a fixed rate a second. */
interface Rate {
  workload: "latency";
  proxy: string;
  rate: number;
  p50Ms: Spread;
  p99Ms: Spread;
}

/** A line of the file: a figure of any kind. */
type Line = Partial<Figure> & { about?: About; workload?: string; missed?: string[] };

export interface Run {
  about: About;
  figures: Figure[];
  idle: Idle[];
  rates: Rate[];
  /** Missed aims, each with its workload. */
  missed: string[];
}

/** Missed aims of these figures, each with its workload. */
export function missedOf(lines: readonly Line[]): string[] {
  return lines.flatMap(({ workload, missed = [] }) => missed.map((text) => `- ${workload}: ${text}`));
}

/** Reads the JSON lines of `make bench`. @throws Error if they are not those of a whole run */
export function readRun(text: string): Run {
  const lines = text.split("\n").flatMap((line) => (line === "" ? [] : [JSON.parse(line) as Line]));
  const about = lines.find((one) => one.about !== undefined)?.about;
  const figures = lines.filter((one): one is Figure => one.cpuUs !== undefined && one.proxy !== undefined);
  if (about === undefined || figures.length === 0) throw new Error("no figures; use a file of make bench ARGS=--json");
  if (!figures.every((one) => "missed" in one)) throw new Error("no list of missed aims; measure again");
  const idle = (lines as unknown[] as Idle[]).filter((one) => one.workload === "idle");
  const rates = (lines as unknown[] as Rate[]).filter((one) => one.workload === "latency");
  return { about, figures, idle, rates, missed: missedOf(lines) };
}

const unique = <T>(list: readonly T[]): T[] => [...new Set(list)];

/** A ratio in a cell: median and quartiles, bold if its aim is missed. */
function cell(ratio: Spread | null | undefined, aim: number | null | undefined): string {
  if (!ratio) return "–";
  const text = `${short(ratio.median)} [${short(ratio.q1)}-${short(ratio.q3)}]`;
  return aim != null && ratio.median > aim ? `**${text}**` : text;
}

const row = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;

/** Rows of a table in Markdown; the first one is its head. */
const tableOf = (head: readonly string[], rows: readonly (readonly string[])[]): string[] => [
  row(head),
  `|${"---|".repeat(head.length)}`,
  ...rows.map(row),
];

/** Workloads for which outrider has a figure, each with the figure of each peer. */
function compared({ figures }: Run) {
  const peers = unique(figures.map((figure) => figure.proxy)).filter((name) => name !== "outrider");
  const workloads = unique(figures.map((figure) => figure.workload)).flatMap((workload) => {
    const find = (proxy: string) => figures.find((figure) => figure.workload === workload && figure.proxy === proxy);
    const ours = find("outrider");
    return ours === undefined || ours.broken !== undefined ? [] : [{ ours, theirs: peers.map(find) }];
  });
  return { peers, workloads };
}

/** For each peer, the workloads in which this ratio is above 1 with its quartiles, and the medians. */
function above(run: Run, pick: (figure: Figure) => Spread | null | undefined): string[] {
  const { peers, workloads } = compared(run);
  return peers.flatMap((peer, at) => {
    const lost = workloads.flatMap(({ ours, theirs }) => {
      const ratio = theirs[at] && pick(theirs[at]);
      return ratio && ratio.q1 > 1 ? [`${ours.workload} ${short(ratio.median)}`] : [];
    });
    return lost.length === 0 ? [] : [`- ${peer}: ${lost.join(", ")}`];
  });
}

/** Peers of which this figure is below that of outrider, with outrider's divided by it. */
function lower<T extends { proxy: string }>(figures: readonly T[], pick: (figure: T) => number): string {
  const ours = figures.find((one) => one.proxy === "outrider");
  if (ours === undefined) return "not measured";
  const lost = figures.filter((one) => pick(one) < pick(ours));
  return lost.map((one) => `${one.proxy} ${short(pick(ours) / pick(one))}`).join(", ") || "none";
}

/** Where memory, and latency at fixed rates, are above those of peers. */
function lostSingles({ idle, rates }: Run): string[] {
  const memory = [
    `Resident memory of a fresh process: ${lower(idle, (one) => one.emptyKiB)}`,
    `Resident memory of an idle tunnel: ${lower(idle, (one) => one.kibPerTunnel)}`,
  ];
  const latency = unique(rates.map((one) => one.rate)).map((rate) => {
    const figures = rates.filter((one) => one.rate === rate);
    return `p99 at ${short(rate)}/s: ${lower(figures, (one) => one.p99Ms.median)}`;
  });
  return [...(idle.length === 0 ? [] : memory), ...latency].flatMap((line) => ["", line]);
}

const listed = (title: string, list: readonly string[]) => (list.length === 0 ? [] : ["", title, "", ...list]);

/** Tables of memory and of latency at fixed rates, of those that the run has. */
function singles({ idle, rates }: Run): string[] {
  const memory = tableOf(
    ["proxy", "fresh process", "idle tunnel"],
    idle.map((one) => [one.proxy, `${short(one.emptyKiB / 1024)} MiB`, `${short(one.kibPerTunnel)} KiB`]),
  );
  const each = unique(rates.map((one) => one.rate));
  const latency = tableOf(
    ["proxy", ...each.map((rate) => `p50, p99 at ${short(rate)}/s`)],
    unique(rates.map((one) => one.proxy)).map((proxy) => [
      proxy,
      ...each.map((rate) => {
        const one = rates.find((other) => other.proxy === proxy && other.rate === rate);
        return one === undefined ? "–" : `${short(one.p50Ms.median)}, ${short(one.p99Ms.median)} ms`;
      }),
    ]),
  );
  return [
    ...(idle.length === 0 ? [] : ["", `Resident memory, with ${short(idle[0]!.tunnels)} idle tunnels.`, "", ...memory]),
    ...(rates.length === 0
      ? []
      : ["", "Latency of short tunnels at a fixed rate, beside idle tunnels.", "", ...latency]),
  ];
}

/** The part of the page between the marks. */
export function markdown(run: Run): string {
  const { about, missed } = run;
  const { peers, workloads } = compared(run);
  const head = (figure: string) => ["workload", figure, ...peers.map((peer) => `/ ${peer}`)];
  const cpu = workloads.map(({ ours, theirs }) => [
    ours.workload,
    `${short(ours.cpuUs.median)} µs/${ours.unit}`,
    ...theirs.map((one) => (one?.broken === undefined ? cell(one?.ratio, one?.target) : "broken")),
  ]);
  const tail = workloads
    .filter(({ theirs }) => theirs.some((one) => one?.tailTarget != null))
    .map(({ ours, theirs }) => [
      ours.workload,
      `${short(ours.p99Ms.median)} ms`,
      ...theirs.map((one) => cell(one?.p99Ratio, one?.tailTarget)),
    ]);
  const versions = Object.entries(about.versions).map(([name, version]) => `${name}: ${version}`);
  return [
    `${about.date}, ${about.machine}, ${about.cores} cores, load ${about.load} at the start, ${about.rounds} rounds. ${versions.join("; ")}.`,
    "",
    "CPU time of outrider, and its ratio to each peer: median and quartiles. Below 1, outrider is cheaper. Bold: the aim is missed.",
    "",
    ...tableOf(head("outrider"), cpu),
    ...(tail.length === 0 ? [] : ["", "The same for p99.", "", ...tableOf(head("outrider, p99"), tail)]),
    ...singles(run),
    ...listed(
      "**Where outrider loses.** CPU time, ratios of which both quartiles are above 1:",
      above(run, (figure) => figure.ratio),
    ),
    ...listed(
      "p99 of closed loops, in the same way:",
      above(run, (figure) => figure.p99Ratio),
    ),
    ...lostSingles(run),
    ...(missed.length === 0 ? ["", "Every aim is met."] : listed("**Missed aims.**", missed)),
    "",
    "![CPU time of a short tunnel for each proxy](performance-cpu.svg)",
    "",
    "![Latency distribution of short tunnels for each proxy](performance-latency.svg)",
  ].join("\n");
}

/** The two plots: CPU time of a tunnel, and the distribution of its latency. */
export function plots(run: Run): { cpu: string; latency: string } {
  const shown = run.figures.filter(({ workload, broken }) => workload === PLOTTED && broken === undefined);
  return {
    cpu: barPlot({
      title: "CPU time of a short tunnel (µs)",
      bars: shown.map(({ proxy, cpuUs }) => ({ name: proxy, value: cpuUs.median })),
    }),
    latency: linePlot({
      title: "Latency of short tunnels, 32 at once (ms, logarithmic)",
      ticks: LATENCY_SHARES.map((share) => `p${Math.round(share * 1000) / 10}`),
      lines: shown.map(({ proxy, latencyMs }) => ({ name: proxy, values: latencyMs })),
    }),
  };
}

/** The page with new figures. @throws Error without the marks */
export function replaced(page: string, figures: string): string {
  const begin = page.indexOf(BEGIN);
  const end = page.indexOf(END);
  if (begin < 0 || end < begin) throw new Error(`${PAGE}: needs ${BEGIN} and ${END}`);
  return `${page.slice(0, begin + BEGIN.length)}\n${figures}\n${page.slice(end)}`;
}

if (import.meta.main) {
  const file = process.argv[2];
  if (file === undefined) {
    console.error("Usage: node test/bench/publish.ts FILE   (of make bench ARGS='--json FILE')");
    process.exit(2);
  }
  const run = readRun(readFileSync(file, "utf8"));
  const { cpu, latency } = plots(run);
  writeFileSync(join(DOCS, "performance-cpu.svg"), cpu);
  writeFileSync(join(DOCS, "performance-latency.svg"), latency);
  const page = join(DOCS, PAGE);
  writeFileSync(page, replaced(readFileSync(page, "utf8"), markdown(run)));
  for (const line of run.missed) console.log(line);
}
