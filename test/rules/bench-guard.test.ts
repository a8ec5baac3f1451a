import assert from "node:assert/strict";
import { test } from "node:test";
import { parseReference, referenceText, verdictLine } from "../bench/reference.ts";
import { interval, judge, widthOf } from "../bench/verdict.ts";

/** The decision of the benchmark's guard, without a measurement. */

const of = (...ratios: number[]) => interval(ratios);
const spreadOver = (count: number) => interval(Array.from({ length: count }, (_, i) => i + 1))!;

test("the interval of five rounds is from the lowest to the highest", () => {
  assert.deepEqual(of(3, 1, 2, 5, 4), { median: 3, low: 1, high: 5, rounds: 5 });
  assert.equal(of(1, 2, 3, 4), null);
});

test("more rounds leave out outliers, at a confidence of 93 %", () => {
  // From tables of the sign test: the number of values outside on each side.
  for (const [count, outside] of [
    [6, 0],
    [8, 0],
    [9, 1],
    [12, 2],
    [15, 3],
    [20, 5],
    [25, 7],
  ] as const) {
    const { low, high } = spreadOver(count);
    assert.deepEqual([low, high], [outside + 1, count - outside], `${count} rounds`);
  }
});

test("a ratio within the margin is ok, and one beyond it is worse", () => {
  assert.equal(judge(of(1.0, 1.02, 1.05, 1.1, 1.14), 1), "ok");
  assert.equal(judge(of(0.5, 0.6, 0.5, 0.4, 0.5), 1), "ok");
  assert.equal(judge(of(1.16, 1.18, 1.2, 1.21, 1.2), 1), "worse");
  // A wide interval decides if it is on one side of the bound.
  assert.equal(judge(of(1.5, 2, 3, 2.5, 2), 1), "worse");
  assert.equal(judge(of(0.2, 0.9, 0.5, 1.1, 0.4), 1), "ok");
});

test("the median decides between the sides if the interval is narrow", () => {
  assert.equal(judge(of(1.1, 1.12, 1.14, 1.16, 1.17), 1), "ok");
  assert.equal(judge(of(1.12, 1.14, 1.16, 1.17, 1.18), 1), "worse");
});

test("noise and missing rounds are not decided", () => {
  assert.equal(judge(of(0.9, 1, 1.3, 1.4, 1.2), 1), "not decided");
  assert.equal(judge(of(1.3, 1.3, 1.3, 1.3), 1), "not decided");
  // One outlier of five does not decide; of nine it does not count.
  assert.equal(judge(of(1, 1, 1, 1, 4), 1), "not decided");
  assert.equal(judge(of(1, 1, 1, 1, 4, 1, 1, 1, 1), 1), "ok");
});

test("the width of an interval is a share of its median", () => {
  assert.equal(widthOf(of(0.9, 1, 1, 1, 1.15)).toFixed(3), "0.250");
  assert.equal(widthOf(null), Number.POSITIVE_INFINITY);
});

test("a verdict is one line with ratio, interval, reference and bound", () => {
  const line = verdictLine("tunnel", of(1.16, 1.18, 1.2, 1.21, 1.2), 1);
  assert.match(line, /^WORSE +tunnel: 1\.20 \[1\.16-1\.21\] after 5 rounds, reference 1\.00, at most 1\.15$/);
  assert.match(verdictLine("tls", of(1, 1, 1, 1, 1), 1), /^ok +tls: /);
  assert.match(verdictLine("tls", of(1, 1, 1, 1, 4), 1), /^NOT DECIDED +tls: .*the interval is wider than 15 %/);
  assert.match(verdictLine("tls", null, 1), /^NOT DECIDED +tls: fewer than 5 rounds have a figure/);
});

const about = { machine: "CPU", cores: 2, node: "v24.0.0", yardstick: "nginx 1", date: "2026-01-02", reason: "first" };

test("a reference is read as it was written", () => {
  const reference = { ...about, ratios: { tunnel: of(1, 1.05, 1.1, 1.1, 1.12)! } };
  const text = referenceText(reference);
  assert.deepEqual(parseReference(text), reference);
  assert.ok(text.endsWith("}\n"));
});

test("a damaged reference is an error that names the field", () => {
  const ratios = { tunnel: { median: 1, low: 1, high: 1, rounds: 5 } };
  assert.throws(() => parseReference("{"), /not JSON/);
  assert.throws(() => parseReference(JSON.stringify({ ...about, ratios, reason: undefined })), /^Error: reason: /);
  assert.throws(() => parseReference(JSON.stringify({ ...about, ratios: {} })), /^Error: ratios: /);
  const zero = { tunnel: { ...ratios.tunnel, median: 0 } };
  assert.throws(() => parseReference(JSON.stringify({ ...about, ratios: zero })), /^Error: ratios\.tunnel\.median: /);
});
