import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Registry } from "prom-client";
import { KubeMetrics } from "../../../operator/kube/metrics.ts";
import { WorkQueue } from "../../../operator/kube/workqueue.ts";
import { ManualClock } from "./clocks.ts";

function makeQueue() {
  const clock = new ManualClock();
  const registry = new Registry();
  const metrics = new KubeMetrics(registry);
  const queue = new WorkQueue({ name: "q", clock, metrics, random: () => 0.5 });
  const value = async (name: string) => {
    const { values } = await registry.getSingleMetric(name)!.get();
    return values.find(({ labels }) => labels.name === "q")?.value;
  };
  return { clock, queue, value };
}

test("a key waits once, and keys keep their order", async () => {
  const { queue, value } = makeQueue();
  for (const key of ["a", "b", "a", "c", "b"]) queue.add(key);
  assert.equal(queue.length, 3);
  assert.equal(await value("workqueue_depth"), 3);
  assert.deepEqual([await queue.next(), await queue.next(), await queue.next()], ["a", "b", "c"]);
  assert.equal(await value("workqueue_depth"), 0);
  assert.equal(await value("workqueue_adds_total"), 3);
});

test("delivers a key again that was added while a worker had it", async () => {
  const { queue } = makeQueue();
  queue.add("a");
  assert.equal(await queue.next(), "a");
  queue.add("a");
  queue.add("a");
  queue.add("b");
  assert.equal(await queue.next(), "b");
  assert.equal(queue.length, 0);
  const next = queue.next();
  queue.done("a");
  assert.equal(await next, "a");
  queue.done("a");
  assert.equal(queue.length, 0);
});

test("uses the earliest of several delays", async () => {
  const { queue, clock } = makeQueue();
  queue.addAfter("a", 1000);
  queue.addAfter("a", 300);
  queue.addAfter("a", 5000);
  clock.advance(299);
  assert.equal(queue.length, 0);
  clock.advance(1);
  assert.equal(queue.length, 1);
  queue.done((await queue.next())!);
  clock.advance(10_000);
  assert.equal(queue.length, 0);
});

test("doubles the back-off from 5 ms to 1000 s until forget", async () => {
  const { queue, clock, value } = makeQueue();
  const delays: number[] = [];
  for (let failure = 0; failure < 25; failure++) {
    queue.addRateLimited("a");
    delays.push(clock.next!);
    clock.advance(clock.next!);
    queue.done((await queue.next())!);
  }
  assert.deepEqual(delays.slice(0, 4), [5, 10, 20, 40]);
  assert.equal(delays[17], 5 * 2 ** 17);
  assert.equal(delays[18], 1_000_000);
  assert.equal(delays[24], 1_000_000);
  queue.forget("a");
  queue.addRateLimited("a");
  assert.equal(clock.next, 5);
  assert.equal(await value("workqueue_retries_total"), 26);
});

test("limits all retries to 100 at once, then 10 per second", () => {
  const { queue, clock } = makeQueue();
  for (let key = 0; key < 150; key++) queue.addRateLimited(String(key));
  clock.advance(10);
  assert.equal(queue.length, 100);
  clock.advance(1000);
  assert.equal(queue.length, 110);
  clock.advance(4000);
  assert.equal(queue.length, 150);
});

test("shutdown releases waiting workers and drops delayed keys", async () => {
  const { queue, clock } = makeQueue();
  const next = [queue.next(), queue.next()];
  queue.addAfter("late", 10);
  queue.shutDown();
  assert.deepEqual(await Promise.all(next), [undefined, undefined]);
  clock.advance(100);
  queue.add("b");
  assert.equal(queue.length, 0);
  assert.equal(await queue.next(), undefined);
});

test("property: one worker for each key, and no lost keys", async () => {
  const step = fc.oneof(
    fc.record({ act: fc.constant("add" as const), key: fc.nat(4) }),
    fc.record({ act: fc.constant("after" as const), key: fc.nat(4), ms: fc.nat(50) }),
    fc.record({ act: fc.constant("take" as const) }),
    fc.record({ act: fc.constant("done" as const), which: fc.nat(4) }),
    fc.record({ act: fc.constant("pass" as const), ms: fc.nat(30) }),
  );
  const property = fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
    const { queue, clock } = makeQueue();
    const held: string[] = [];
    const owed = new Set<string>();
    const take = async () => {
      const key = (await queue.next())!;
      assert.ok(!held.includes(key), `${key} twice`);
      held.push(key);
      owed.delete(key);
    };
    for (const at of steps) {
      if (at.act === "add") queue.add(String(at.key));
      if (at.act === "after") queue.addAfter(String(at.key), at.ms);
      if (at.act === "add" || at.act === "after") owed.add(String(at.key));
      if (at.act === "take" && queue.length > 0) await take();
      if (at.act === "done" && held.length > 0) queue.done(held.splice(at.which % held.length, 1)[0]!);
      if (at.act === "pass") clock.advance(at.ms);
    }
    // A plan may have been owed to a key that was taken early: what is due is due now.
    clock.advance(100);
    for (const key of held.splice(0)) queue.done(key);
    while (queue.length > 0) await take();
    assert.deepEqual([...owed], []);
  });
  await fc.assert(property, { numRuns: 300 });
});
