import assert from "node:assert/strict";
import { test } from "node:test";
import pino from "pino";
import { Registry } from "prom-client";
import { Controller, type Outcome } from "../../../operator/kube/controller.ts";
import { ApiError } from "../../../operator/kube/error.ts";
import { KubeMetrics } from "../../../operator/kube/metrics.ts";
import { ManualClock } from "./clocks.ts";
import { until } from "./shared.ts";

function makeController(reconcile: (key: string, signal: AbortSignal) => Promise<Outcome>, workers = 1) {
  const clock = new ManualClock();
  const registry = new Registry();
  const lines: { level: number; msg: string }[] = [];
  const log = pino({ level: "info" }, { write: (line) => lines.push(JSON.parse(line)) });
  const metrics = new KubeMetrics(registry);
  const controller = new Controller({ name: "c", workers, reconcile, log, metrics, clock, random: () => 0.5 });
  const results = async () => {
    const { values } = await registry.getSingleMetric("controller_runtime_reconcile_total")!.get();
    return Object.fromEntries(
      values.filter(({ value }) => value > 0).map(({ labels, value }) => [labels.result, value]),
    );
  };
  return { clock, controller, lines, results };
}
const conflict = () => new ApiError(409, "Conflict", "another client was faster");

test("handles each outcome of a reconcile", async () => {
  const outcomes: (() => Outcome)[] = [
    () => ({ result: "requeue", afterMs: 7000 }),
    () => assert.fail("a bug"),
    () => {
      throw new ApiError(429, "TooManyRequests", "busy", { retryAfterMs: 3000 });
    },
    () => {
      throw conflict();
    },
    () => ({ result: "user-error" }),
  ];
  let rounds = 0;
  const { clock, controller, lines, results } = makeController(async () => outcomes[rounds++]!());
  controller.start();
  controller.enqueue("a");
  const delays: (number | undefined)[] = [];
  for (let round = 1; round <= outcomes.length; round++) {
    await until(`round ${round}`, () => rounds === round);
    await new Promise((resolve) => setImmediate(resolve));
    delays.push(clock.next);
    clock.advance(clock.next ?? 0);
  }
  // The 429 is no failure of the key: the back-off of the first error continues with the second.
  assert.deepEqual(delays, [7000, 5, 3000, 10, undefined]);
  assert.deepEqual(await results(), { requeue_after: 1, error: 2, requeue: 1, user_error: 1 });
  assert.deepEqual(
    lines.map(({ level }) => level),
    [50, 50, 30],
  );
  await controller.stop();
});

test("runs all workers, and one worker for each key", async () => {
  let [active, most] = [0, 0];
  const keys = new Set<string>();
  const { controller, results } = makeController(async (key) => {
    assert.ok(!keys.has(key));
    keys.add(key);
    most = Math.max(most, ++active);
    await new Promise((resolve) => setImmediate(resolve));
    active--;
    keys.delete(key);
    return { result: "success" };
  }, 3);
  controller.start();
  for (let round = 0; round < 200; round++) {
    controller.enqueue(String(round % 7));
    if (round % 5 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  await until("all is done", () => controller.waiting === 0 && active === 0);
  assert.equal(most, 3);
  assert.ok((await results()).success! > 7);
  await controller.stop();
});

test("stop aborts the workers and waits for them", async () => {
  const log: string[] = [];
  const { controller } = makeController(async (key, signal) => {
    log.push(`begin ${key}`);
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    await new Promise((resolve) => setTimeout(resolve, 20));
    log.push(`end ${key}`);
    return { result: "success" };
  });
  controller.start();
  controller.enqueue("a");
  controller.enqueue("b");
  await until("it has begun", () => log.length === 1);
  await controller.stop();
  controller.enqueue("c");
  assert.deepEqual(log, ["begin a", "end a"]);
  assert.throws(() => controller.start(), /started twice/);
});
