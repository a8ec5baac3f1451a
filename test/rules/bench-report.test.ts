import assert from "node:assert/strict";
import { test } from "node:test";
import { type Figure, markdown, plots, readRun, replaced } from "../bench/publish.ts";
import { missedAim, missedAims } from "../bench/report.ts";

/** The report of the benchmark: table, missed aims, and plots of a run. */

const spread = (median: number) => ({ median, q1: median * 0.9, q3: median * 1.1 });
const about = {
  machine: "CPU <x>",
  cores: 2,
  date: "2026-01-02",
  load: 0.1,
  rounds: 7,
  versions: { outrider: "1", squid: "5" },
};
const base = { unit: "tunnel", missed: [], p99Ms: spread(20), latencyMs: [1, 2, 3, 4, 5, 6, 7, 8, 9] };
const figures: (Figure & { missed?: string[] })[] = [
  { ...base, workload: "tunnel", proxy: "outrider", cpuUs: spread(100) },
  {
    ...{ ...base, workload: "tunnel", proxy: "squid", cpuUs: spread(80), ratio: spread(1.25), target: 0.9 },
    ...{ p99Ratio: spread(1.2), tailTarget: 1.3, missed: ["CPU time / squid: 1.25. The aim is at most 0.90."] },
  },
  { ...base, workload: "tunnel", proxy: "nginx <a>", cpuUs: spread(70), ratio: spread(0.5), target: 1 },
  {
    ...base,
    workload: "tunnel",
    proxy: "smokescreen",
    cpuUs: spread(Number.NaN),
    broken: "100 % of the operations fail",
  },
];
const others = [
  { workload: "idle", proxy: "outrider", tunnels: 5000, kibPerTunnel: 6, emptyKiB: 61_440 },
  { workload: "idle", proxy: "squid", tunnels: 5000, kibPerTunnel: 30, emptyKiB: 20_480 },
  { workload: "latency", proxy: "squid", rate: 500, p50Ms: spread(0.3), p99Ms: spread(1) },
  {
    workload: "latency",
    proxy: "outrider",
    rate: 500,
    p50Ms: spread(0.4),
    p99Ms: spread(1.5),
    missed: ["p99 ms: 1.50."],
  },
  { workload: "latency", proxy: "outrider", rate: 2000, p50Ms: spread(0.5), p99Ms: spread(3) },
  { workload: "policy", loadMs: 600, missed: ["load ms: 600. The aim is at most 500."] },
];
const run = readRun([{ about }, ...figures, ...others].map((one) => JSON.stringify(one)).join("\n"));

test("the report shows ratios, marks missed aims, and gives broken peers no ratio", () => {
  const text = markdown(run);
  assert.match(
    text,
    /^\| tunnel \| 100 µs\/tunnel \| \*\*1\.25 \[1\.13-1\.38\]\*\* \| 0\.50 \[0\.45-0\.55\] \| broken \|$/m,
  );
  assert.match(text, /^\| tunnel \| 20\.0 ms \| 1\.20 \[1\.08-1\.32\] \| – \| – \|$/m);
});

test("the report lists missed aims, and every ratio above 1", () => {
  const text = markdown(run);
  assert.match(text, /Missed aims.*\n\n- tunnel: CPU time .*\n- latency: p99 ms: 1\.50\.\n- policy: load ms: 600\. /);
  assert.match(text, /outrider loses.* CPU time.*\n\n- squid: tunnel 1\.25\n\np99.*\n\n- squid: tunnel 1\.20\n/);
  assert.match(text, /^Resident memory of a fresh process: squid 3\.00$/m);
  assert.match(text, /^Resident memory of an idle tunnel: none$/m);
  assert.match(text, /^p99 at 500\/s: squid 1\.50$/m);
  assert.match(text, /^p99 at 2,000\/s: none$/m);
  const met = readRun([{ about }, figures[0]].map((one) => JSON.stringify(one)).join("\n"));
  assert.match(markdown(met), /Every aim is met\./);
  assert.doesNotMatch(markdown(met), /loses|Missed|The same for p99|Resident|fixed rate/);
});

test("the report has memory, and latency at each rate", () => {
  assert.match(markdown(run), /^\| outrider \| 60\.0 MiB \| 6\.00 KiB \|$/m);
  assert.match(markdown(run), /^\| proxy \| p50, p99 at 500\/s \| p50, p99 at 2,000\/s \|$/m);
  assert.match(markdown(run), /^\| outrider \| 0\.40, 1\.50 ms \| 0\.50, 3\.00 ms \|$/m);
});

test("an aim is missed if its median is above the bound", () => {
  const aims = {
    proxy: "squid",
    ratio: spread(0.91),
    target: 0.9,
    p99Ratio: spread(1.3),
    p999Ratio: spread(2),
    tailTarget: 1.3,
  };
  assert.deepEqual(missedAims(aims), [
    "CPU time / squid: 0.91. The aim is at most 0.90.",
    "p99.9 / squid: 2.00. The aim is at most 1.30.",
  ]);
  assert.deepEqual(missedAim("ms:", 150.08, 150), ["ms: 150.08. The aim is at most 150."]);
  assert.deepEqual(missedAims({ proxy: "outrider" }), []);
  assert.deepEqual(missedAims({ proxy: "envoy", ratio: spread(9), target: null, p99Ratio: null }), []);
});

test("the plots show each proxy that is not broken, and escape names", () => {
  const { cpu, latency } = plots(run);
  for (const text of [cpu, latency]) {
    assert.match(text, /^<svg [^>]*aria-label=/);
    assert.match(text, /nginx &#60;a&#62;/);
    assert.doesNotMatch(text, /NaN|Infinity|smokescreen|<a>/);
  }
  assert.equal(cpu.match(/<rect /g)?.length, 3);
  assert.equal(latency.match(/<polyline /g)?.length, 3);
});

test("the report replaces only the part between its marks", () => {
  const page = "a\n<!-- figures:begin -->\nold\n<!-- figures:end -->\nb\n";
  assert.equal(replaced(page, "new"), "a\n<!-- figures:begin -->\nnew\n<!-- figures:end -->\nb\n");
  assert.throws(() => replaced("a", "new"), /needs <!-- figures:begin -->/);
});

test("the report needs a whole file of this version", () => {
  assert.throws(() => readRun('{"workload":"policy"}\n'), /no figures/);
  const { missed: _, ...older } = figures[0]!;
  assert.throws(
    () => readRun(`${JSON.stringify({ about })}\n${JSON.stringify(older)}`),
    /no list of missed aims; measure again/,
  );
});
