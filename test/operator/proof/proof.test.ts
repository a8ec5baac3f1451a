import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { BOOT, controlPlaneMissing } from "../../cluster/control-plane.ts";
import { bundledOperator } from "./build.ts";
import { contention } from "./contention.ts";
import { crashPoints } from "./crash-points.ts";
import { type LaneSlot, laneSlots } from "./lane.ts";
import { restarts } from "./restarts.ts";
import { Run } from "./run.ts";
import { sequences } from "./sequences.ts";
import { stale } from "./stale.ts";
import { PLANE, startWorld, type World } from "./world.ts";

/**
 * A small part of `make prove`: a fixed choice of stories, and the same cases of them in each run (`SEED` chooses others).
 * All methods run beside each other, each in lanes of its own. One sequence and one fight are among them.
 */

const seed = Number(process.env.SEED ?? 1);
const skip = controlPlaneMissing(PLANE) ?? false;
const timeout = 180_000;
const STORIES = [
  "create KubeVIP",
  "edit of the pods of three NodeAddress slots",
  "a slot removed and the pods edited at once",
  "an address of External added and removed at once",
  "edit of the pods while an address retires",
];
/** One sequence. */
const SHORT = { length: 6, quietMs: 3000 };
const RESTARTS = ["restart with another image of the proxies"];

let world: World;
const slots: LaneSlot[] = [];
const ends: (() => void)[] = [];
/** One run for each method, started together. */
const runs = new Map<string, Promise<Run>>();

function start(name: string, cases: number, only: readonly string[], method: (run: Run) => Promise<void>): void {
  const run = new Run({
    seed,
    ms: timeout,
    cases,
    only: (text) => only.some((part) => text.startsWith(part)),
    quiet: true,
  });
  const done = method(run).then(() => run);
  done.catch(() => undefined);
  runs.set(name, done);
}

before(async () => {
  if (skip !== false) return;
  const { command, clear } = await bundledOperator();
  ends.push(clear);
  world = await startWorld();
  slots.push(...(await laneSlots(world, command, 7)));
  start("crash points", 4, STORIES, (run) => crashPoints(world, slots.slice(0, 3), run));
  start("handovers", 1, STORIES, (run) => stale(world, slots.slice(3, 4), run));
  start("restarts", 1, RESTARTS, (run) => restarts(world, slots.slice(4, 5), run));
  start("sequences", 1, [], (run) => sequences(world, slots.slice(5, 6), run, SHORT));
  start("fights", 1, [], (run) => contention(world, slots.slice(6, 7), run));
}, BOOT);
after(async () => {
  await Promise.allSettled(runs.values());
  for (const { faults } of slots) await faults.close();
  await world?.stop();
  for (const end of ends) end();
});

async function expectNone(name: string): Promise<void> {
  const run = await runs.get(name)!;
  const found = run.violations.map(({ what, violation }) => `${violation.invariant} (${what}): ${violation.text}`);
  assert.deepEqual(found, []);
  assert.ok(run.counts.size > 0, "nothing was done");
}

test(`ends as without a crash, wherever the operator crashes (SEED=${seed})`, { skip, timeout }, () =>
  expectNone("crash points"),
);
test(`ends as without a fault after a handover with a stale view (SEED=${seed})`, { skip, timeout }, () =>
  expectNone("handovers"),
);
test(`reaches a state that does not depend on the history (SEED=${seed})`, { skip, timeout }, () =>
  expectNone("sequences"),
);
test(`gives an address to one of two policies, and to the other later (SEED=${seed})`, { skip, timeout }, () =>
  expectNone("fights"),
);
test("restarts one slot after the other for a new image", { skip, timeout }, () => expectNone("restarts"));
