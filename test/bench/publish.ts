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
  latencyMs: number[];
  broken?: string;
  ratio?: Spread | null;
  target?: number | null;
  p99Ratio?: Spread | null;
  p999Ratio?: Spread | null;
  tailTarget?: number | null;
}

export interface Run {
  about: About;
  figures: Figure[];
}

/** Reads the JSON lines of `make bench`. @throws Error if they are not those of a whole run */
export function readRun(text: string): Run {
  const lines = text.split("\n").filter((line) => line !== "");
  const objects = lines.map((line) => JSON.parse(line) as { about?: About } & Partial<Figure>);
  const about = objects.find((one) => one.about !== undefined)?.about;
  const figures = objects.filter((one): one is Figure => one.cpuUs !== undefined && one.proxy !== undefined);
  if (about === undefined || figures.length === 0) throw new Error("no figures; use a file of make bench ARGS=--json");
  return { about, figures };
}

const names = (run: Run, pick: (figure: Figure) => string): string[] => [...new Set(run.figures.map(pick))];

/** One ratio in a cell: median and quartiles, bold if its aim is missed. */
function cell(figure: Figure | undefined): string {
  if (figure?.broken !== undefined) return "broken";
  if (!figure?.ratio) return "–";
  const { median, q1, q3 } = figure.ratio;
  const text = `${short(median)} [${short(q1)}-${short(q3)}]`;
  return figure.target != null && median > figure.target ? `**${text}**` : text;
}

/** Missed aims, one line each. */
function losses(run: Run): string[] {
  return run.figures.flatMap(({ workload, proxy, ratio, target, p99Ratio, p999Ratio, tailTarget }) => {
    const lines: string[] = [];
    const check = (what: string, value: number | undefined, aim: number | null | undefined) => {
      if (value !== undefined && aim != null && value > aim) {
        lines.push(`- ${workload}: ${what} is ${short(value)} times that of ${proxy}. The aim is at most ${aim}.`);
      }
    };
    check("CPU time", ratio?.median, target);
    check("p99", p99Ratio?.median, tailTarget);
    check("p99.9", p999Ratio?.median, tailTarget);
    return lines;
  });
}

/** The part of the page between the marks. */
export function markdown(run: Run): string {
  const { about } = run;
  const peers = names(run, (figure) => figure.proxy).filter((name) => name !== "outrider");
  const find = (workload: string, proxy: string) =>
    run.figures.find((figure) => figure.workload === workload && figure.proxy === proxy);
  const rows = names(run, (figure) => figure.workload).flatMap((workload) => {
    const ours = find(workload, "outrider");
    if (ours === undefined || ours.broken !== undefined) return [];
    const ratios = peers.map((peer) => cell(find(workload, peer)));
    return [`| ${workload} | ${short(ours.cpuUs.median)} µs/${ours.unit} | ${ratios.join(" | ")} |`];
  });
  const versions = Object.entries(about.versions).map(([name, version]) => `${name}: ${version}`);
  const lost = losses(run);
  return [
    `${about.date}, ${about.machine}, ${about.cores} cores, load ${about.load} at the start, ${about.rounds} rounds. ${versions.join("; ")}.`,
    "",
    "CPU time of outrider, and its ratio to each peer: median and quartiles. Below 1, outrider is cheaper. Bold: the aim is missed.",
    "",
    `| workload | outrider | ${peers.map((peer) => `/ ${peer}`).join(" | ")} |`,
    `|${"---|".repeat(peers.length + 2)}`,
    ...rows,
    "",
    ...(lost.length === 0 ? ["Every aim is met."] : ["Missed aims:", "", ...lost]),
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
  for (const line of losses(run)) console.log(line);
}
