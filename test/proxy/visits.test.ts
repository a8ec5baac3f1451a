import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Visited, Visits } from "../../proxy/connections/visits.ts";

const ALL = Number.MAX_SAFE_INTEGER;

/** A connection with one time limit. */
class Limited implements Visited {
  due = -1;
  duePlace = null;
  end: number;
  readonly visits: number[] = [];
  constructor(end: number) {
    this.end = end;
  }
  visit(now: number): number {
    this.visits.push(now);
    return this.end;
  }
}

test("a sweep visits only connections that are due", () => {
  const visits = new Visits<Limited>(0);
  const idle = Array.from({ length: 5000 }, () => new Limited(300_000));
  for (const one of idle) visits.add(one, 10_000);
  for (let now = 1000; now < 10_000; now += 1000) assert.equal(visits.sweep(now, ALL), false);
  assert.equal(idle.filter((one) => one.visits.length > 0).length, 0);
  visits.sweep(10_000, ALL);
  assert.ok(idle.every((one) => one.visits.length === 1));
  for (let now = 11_000; now < 25_000; now += 1000) visits.sweep(now, ALL);
  assert.ok(idle.every((one) => one.visits.length === 1));
  assert.equal(visits.size, idle.length);
});

test("a sweep visits a limited number of connections in one turn", () => {
  const visits = new Visits<Limited>(0);
  const all = Array.from({ length: 600 }, () => new Limited(60_000));
  for (const one of all) visits.add(one, 1000);
  const visited = () => all.filter((one) => one.visits.length > 0).length;
  assert.equal(visits.sweep(1000, 256), true);
  assert.equal(visited(), 256);
  assert.equal(visits.sweep(1000, 256), true);
  assert.equal(visits.sweep(1000, 256), false);
  assert.equal(visited(), 600);
});

test("an earlier time limit brings the visit forward, a later one does not delay it", () => {
  const visits = new Visits<Limited>(0);
  const one = new Limited(2500);
  visits.add(one, 10_000);
  visits.advance(one, 20_000);
  visits.advance(one, 2500);
  assert.equal(visits.size, 1);
  for (let now = 500; now < 4000; now += 1000) visits.sweep(now, ALL);
  assert.equal(one.visits[0], 2500);
});

test("a connection without a time limit is visited from time to time", () => {
  const visits = new Visits<Limited>(0);
  const one = new Limited(Number.POSITIVE_INFINITY);
  visits.add(one, Number.POSITIVE_INFINITY);
  for (let now = 1000; now <= 60_000; now += 1000) visits.sweep(now, ALL);
  assert.ok(one.visits.length >= 3, `${one.visits}`);
});

test("any order of calls loses no connection, and visits none more than a second late", () => {
  const at = fc.nat(40_000);
  const step = fc.oneof(
    fc.record({ do: fc.constant("add" as const), at }),
    fc.record({ do: fc.constantFrom("delete" as const, "advance" as const), at, which: fc.nat() }),
    fc.record({ do: fc.constant("sweep" as const), most: fc.nat(4) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), fc.nat(999), (steps, start) => {
      let now = start;
      const visits = new Visits<Limited>(now);
      const open: Limited[] = [];
      const sweep = (most: number) => {
        while (visits.sweep(now, most + 1));
        for (const one of open) {
          if (one.end > now) continue;
          assert.ok(one.visits.includes(now) || one.end > now - 1000, `${one.end} not visited at ${now}`);
          if (one.visits.includes(now)) one.end = now + 3000;
        }
      };
      for (const s of steps) {
        if (s.do === "sweep") {
          now += 1000;
          sweep(s.most);
          continue;
        }
        if (s.do === "add") {
          const one = new Limited(now + s.at);
          open.push(one);
          visits.add(one, one.end);
          continue;
        }
        const [one] = open.slice(s.which % Math.max(1, open.length));
        if (one === undefined) continue;
        if (s.do === "delete") {
          open.splice(open.indexOf(one), 1);
          visits.delete(one);
          visits.delete(one);
          one.visits.length = 0;
        } else if (now + s.at < one.end) {
          one.end = now + s.at;
          visits.advance(one, one.end);
        }
      }
      assert.deepEqual(new Set(visits), new Set(open));
      assert.equal(visits.size, open.length);
    }),
    { numRuns: 500 },
  );
});

test("a visit may delete the connection or bring another visit forward", () => {
  const visits = new Visits<Limited>(0);
  const first = new Limited(1000);
  const second = new Limited(30_000);
  first.visit = () => {
    visits.delete(first);
    visits.advance(second, 1000);
    return 0;
  };
  visits.add(first, 1000);
  visits.add(second, 14_000);
  visits.sweep(1000, ALL);
  assert.deepEqual([...visits], [second]);
  assert.equal(visits.size, 1);
  visits.sweep(2000, ALL);
  assert.deepEqual(second.visits, [2000]);
});
