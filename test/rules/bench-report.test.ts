import assert from "node:assert/strict";
import { test } from "node:test";
import { type Figure, markdown, plots, readRun, replaced } from "../bench/publish.ts";

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
const base = { unit: "tunnel", latencyMs: [1, 2, 3, 4, 5, 6, 7, 8, 9] };
const figures: Figure[] = [
  { ...base, workload: "tunnel", proxy: "outrider", cpuUs: spread(100) },
  {
    ...{ ...base, workload: "tunnel", proxy: "squid", cpuUs: spread(80), ratio: spread(1.25), target: 0.9 },
    ...{ p99Ratio: spread(1.1), p999Ratio: spread(2), tailTarget: 1.3 },
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
const run = readRun([{ about }, ...figures].map((one) => JSON.stringify(one)).join("\n"));

test("the report shows ratios, marks missed aims, and gives broken peers no ratio", () => {
  const text = markdown(run);
  assert.match(
    text,
    /^\| tunnel \| 100 µs\/tunnel \| \*\*1\.25 \[1\.13-1\.38\]\*\* \| 0\.50 \[0\.45-0\.55\] \| broken \|$/m,
  );
  assert.match(text, /^- tunnel: CPU time is 1\.25 times that of squid\. The aim is at most 0\.9\.$/m);
  assert.match(text, /^- tunnel: p99\.9 is 2\.00 times that of squid\. The aim is at most 1\.3\.$/m);
  assert.doesNotMatch(text, /p99 is|that of nginx/);
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
  assert.throws(() => readRun('{"workload":"policy"}\n'), /no figures/);
});
