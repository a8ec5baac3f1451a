import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { LinkedList, type Place } from "../../proxy/connections/linked-list.ts";

test("has the values of a Set after any additions and removals, in the same order", () => {
  fc.assert(
    fc.property(fc.array(fc.nat(20)), (steps) => {
      const list = new LinkedList<number>();
      const places = new Map<number, Place<number>>();
      for (const value of steps) {
        const place = places.get(value);
        if (place === undefined) places.set(value, list.add(value));
        else {
          list.remove(place);
          places.delete(value);
        }
        assert.deepEqual([...list], [...places.keys()]);
        assert.deepEqual([list.size, list.first], [places.size, places.keys().next().value]);
      }
    }),
  );
});

test("an iteration leaves out values that are removed during it, and misses no other", () => {
  const list = new LinkedList<string>();
  const places = ["a", "b", "c", "d"].map((value) => list.add(value));
  const seen: string[] = [];
  for (const value of list) {
    seen.push(value);
    if (value !== "b") continue;
    for (const i of [0, 1, 2]) list.remove(places[i]!);
    list.add("later");
  }
  assert.deepEqual(seen, ["a", "b", "d"]);
  assert.deepEqual([...list], ["d", "later"]);
});

test("a removed place refers to no other, so that it keeps none in memory", () => {
  const list = new LinkedList<string>();
  const [before, place, after] = ["a", "b", "c"].map((value) => list.add(value));
  list.remove(place!);
  assert.deepEqual([place!.value, place!.before, place!.after], [null, place, place]);
  assert.deepEqual([before!.after, after!.before], [after, before]);
});
