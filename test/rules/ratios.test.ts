import assert from "node:assert/strict";
import { test } from "node:test";
import { pairedRatio, quantile, rotated, spread } from "../bench/ratios.ts";

test("interpolates quartiles in any order", () => {
  assert.deepEqual(spread([4, 1, 3, 2]), { median: 2.5, q1: 1.75, q3: 3.25 });
  assert.equal(quantile([5], 0.99), 5);
  assert.throws(() => spread([]), RangeError);
});

test("computes ratios per round and skips missing figures", () => {
  assert.deepEqual(pairedRatio([2, 9, 4], [1, Number.NaN, 2]), { median: 2, q1: 2, q3: 2 });
  assert.equal(pairedRatio([1], [0]), null);
});

test("every proxy gets every position", () => {
  assert.deepEqual(
    [0, 1, 2, 3].map((round) => rotated(["a", "b", "c"], round).join("")),
    ["abc", "bca", "cab", "abc"],
  );
  assert.deepEqual(rotated([], 3), []);
});
