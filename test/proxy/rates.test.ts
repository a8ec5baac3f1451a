import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Rates } from "../../proxy/connections/rates.ts";
import { boundCounts } from "../../proxy/outcome/bounds.ts";
import { runs } from "../harness/runs.ts";

/** Number of tokens that a key gets at one moment. */
function drained(rates: Rates, key: string, limits: { requestsPerSecond: number; burst?: number }, now: number) {
  let taken = 0;
  while (taken < 10_000 && rates.take(key, limits, now)) taken++;
  return taken;
}

test("a bucket begins with its burst and gets tokens with time", () => {
  const rates = new Rates();
  const limits = { requestsPerSecond: 10, burst: 3 };
  assert.equal(drained(rates, "a", limits, 5_000), 3);
  assert.equal(drained(rates, "a", limits, 5_099), 0);
  assert.equal(drained(rates, "a", limits, 5_100), 1);
  assert.equal(drained(rates, "a", limits, 5_350), 2);
  assert.equal(drained(rates, "a", limits, 60_000), 3);
});

test("the burst is twice the rate by default", () => {
  assert.equal(drained(new Rates(), "a", { requestsPerSecond: 7 }, 0), 14);
});

test("a client without requestsPerSecond has no bucket", () => {
  const rates = new Rates();
  for (let i = 0; i < 100; i++) assert.ok(rates.take("a", { maxTunnels: 1 }, 0));
  assert.equal(rates.size, 0);
});

test("a request is refused if and only if it would exceed burst and rate of its key", () => {
  const step = fc.record({ wait: fc.nat(700), key: fc.constantFrom("a", "b", "__proto__"), sweep: fc.boolean() });
  const limits = fc.record({
    requestsPerSecond: fc.integer({ min: 1, max: 50 }),
    burst: fc.integer({ min: 1, max: 9 }),
  });
  let refusals = 0;
  fc.assert(
    fc.property(limits, fc.array(step, { minLength: 1, maxLength: 60 }), fc.nat(2 ** 31), (limit, steps, start) => {
      const { requestsPerSecond, burst } = limit;
      const rates = new Rates();
      const taken = new Map<string, number[]>();
      let now = start;
      for (const { wait, key, sweep } of steps) {
        // Most requests come at once, as in a burst.
        now += wait > 500 ? wait : 0;
        if (sweep) rates.sweep(now);
        const times = taken.get(key) ?? [];
        taken.set(key, times);
        // With this request, the tokens that the time from each earlier one up to now has used, beyond those it gave.
        const used = [...times, now].map((at, i) => times.length + 1 - i - ((now - at) * requestsPerSecond) / 1000);
        const most = Math.max(...used);
        const allowed = rates.take(key, limit, now);
        if (allowed) {
          assert.ok(most <= burst + 1e-6, `${most} of ${burst} tokens`);
          times.push(now);
          continue;
        }
        refusals++;
        assert.ok(most > burst - 1e-6, `refused with ${most} of ${burst} tokens`);
      }
      for (const key of taken.keys()) assert.ok(rates.take(key, limit, now + 1001), "no token within a second");
    }),
    { numRuns: runs(2000) },
  );
  assert.ok(refusals > 0);
});

test("reloads that change the limits give no tokens", () => {
  const rates = new Rates();
  const high = { requestsPerSecond: 1, burst: 10 };
  const low = { requestsPerSecond: 1, burst: 4 };
  assert.ok(rates.take("a", high, 0));
  let taken = 0;
  for (let i = 0; i < 100; i++) if (rates.take("a", i % 2 === 0 ? low : high, 0)) taken++;
  // The lower burst took the others away.
  assert.equal(taken, 4);
  assert.equal(drained(rates, "a", high, 3_000), 3);
});

test("full buckets are removed, others are kept", () => {
  const rates = new Rates();
  assert.ok(rates.take("slow", { requestsPerSecond: 1, burst: 5 }, 0));
  assert.ok(rates.take("fast", { requestsPerSecond: 10, burst: 5 }, 0));
  rates.sweep(99);
  assert.equal(rates.size, 2);
  rates.sweep(100);
  assert.equal(rates.size, 1);
  assert.equal(drained(rates, "slow", { requestsPerSecond: 1, burst: 5 }, 100), 4);
});

test("of too many buckets the oldest one is dropped", () => {
  const { "client-buckets": before } = boundCounts();
  const dropped = () => boundCounts()["client-buckets"] - before;
  const rates = new Rates();
  const limits = { requestsPerSecond: 1, burst: 2 };
  for (let i = 0; i < 65_536; i++) assert.ok(rates.take(`client ${i}`, limits, 0));
  assert.ok(rates.take("client 5", limits, 0));
  assert.equal(dropped(), 0);
  for (let i = 0; i < 3; i++) assert.ok(rates.take(`another ${i}`, limits, 0));
  assert.equal(rates.size, 65_536);
  assert.equal(dropped(), 3);
  assert.equal(drained(rates, "client 5", limits, 0), 0);
  assert.equal(drained(rates, "client 3", limits, 0), 1);
  assert.equal(drained(rates, "client 0", limits, 0), 2);
  // It took the place of client 3.
  assert.equal(drained(rates, "client 3", limits, 0), 2);
  // Removed buckets are no longer among the oldest.
  rates.sweep(1_000_000);
  assert.equal(rates.size, 0);
  for (let i = 0; i < 65_537; i++) assert.ok(rates.take(`client ${i}`, limits, 1_000_000));
  assert.equal(rates.size, 65_536);
  assert.equal(drained(rates, "client 0", limits, 1_000_000), 2);
});

test("many buckets do not slow down a request", () => {
  const limits = { requestsPerSecond: 1_000_000, burst: 1_000_000 };
  const costOf = (buckets: number): number => {
    const rates = new Rates();
    for (let i = 0; i < buckets; i++) rates.take(`client ${i}`, { requestsPerSecond: 1, burst: 2 }, 0);
    const since = process.cpuUsage();
    for (let i = 0; i < 20_000; i++) assert.ok(rates.take("busy", limits, 0));
    return process.cpuUsage(since).user;
  };
  costOf(10);
  const [few, many] = [costOf(10), costOf(60_000)];
  assert.ok(many < 20 * few + 20_000, `${many} us beside 60,000 buckets, ${few} us beside 10`);
});
