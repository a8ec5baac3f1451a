import { setTimeout as sleep } from "node:timers/promises";
import fc from "fast-check";
import { converge } from "./baseline.ts";
import { isFleetWrite, Lane, type LaneSlot, laneSlots } from "./lane.ts";
import type { Run } from "./run.ts";
import {
  type Choice,
  isPlain,
  isRejected,
  POLICIES,
  shown,
  specOf,
  type Transition,
  transitions,
} from "./transitions.ts";
import type { World } from "./world.ts";

/** Changes between two comparisons. */
const BLOCK = 32;
const QUIET_MS = 20_000;

/** The last changes of a policy that its state depends on: the accepted one, then a rejected one. */
type Last = readonly Transition[];

async function make(lane: Lane, transition: Transition): Promise<void> {
  const { name, namespace } = POLICIES[transition.policy]!;
  const where = lane.namespaces[namespace]!;
  if (transition.kind === "delete") await lane.delete(where, name);
  else await lane.apply(where, name, specOf(transition, lane));
}

/** A long history of one lane. */
class History {
  readonly #lane: Lane;
  readonly #last = new Map<number, Last>();
  /** Changes since the last comparison. */
  #recent: Transition[] = [];

  constructor(lane: Lane) {
    this.#lane = lane;
  }

  get text(): string {
    return this.#recent.map(shown).join("\n    ");
  }

  forget(): void {
    this.#recent = [];
  }

  async add(transition: Transition): Promise<void> {
    const before = this.#last.get(transition.policy);
    if (transition.kind === "delete") this.#last.delete(transition.policy);
    else if (isRejected(transition)) {
      // Whether the spec before was accepted must not depend on time.
      const { name, namespace } = POLICIES[transition.policy]!;
      await this.#lane.untilJudged(this.#lane.namespaces[namespace]!, name);
      this.#last.set(transition.policy, [...(before ?? []).filter((one) => !isRejected(one)), transition]);
    } else this.#last.set(transition.policy, [transition]);
    this.#recent.push(transition);
    await make(this.#lane, transition);
    if (transition.pause === "settle") await this.#lane.settle();
    if (transition.pause === "short") await sleep(300);
  }

  /** Ends what cannot be satisfied, and waits until nothing changes. */
  async settle(choice: Choice): Promise<void> {
    for (const [policy, last] of [...this.#last]) {
      if (last.some((one) => !isPlain(one) && !isRejected(one))) {
        await this.add({ policy, kind: "spec", choice, pause: "none" });
      }
    }
    await this.#lane.settle();
  }

  /** Compares with a state that has no history. */
  async compare(fresh: Lane): Promise<string[]> {
    await fresh.start();
    const rejected: Transition[] = [];
    for (const [first, second] of this.#last.values()) {
      await make(fresh, first!);
      if (second !== undefined) rejected.push(second);
    }
    await fresh.settle();
    for (const one of rejected) await make(fresh, one);
    if (rejected.length > 0) await fresh.settle();
    return converge(this.#lane, await fresh.snapshot());
  }
}

/** Comparisons in a row of one lane, and then no write for a while. */
async function sequence(
  world: World,
  slot: LaneSlot,
  scratch: LaneSlot,
  list: readonly Transition[],
  quietMs: number,
  run: Run,
) {
  const lane = await Lane.open(world, slot, 2);
  const history = new History(lane);
  try {
    await lane.start();
    for (let i = 0; i < list.length && !run.isOver; i += BLOCK) {
      for (const transition of list.slice(i, i + BLOCK)) {
        if (run.isOver) break;
        await history.add(transition);
        run.count("transitions");
      }
      await history.settle(list[i]!.choice);
      const fresh = await Lane.open(world, scratch, 2);
      try {
        const left = await history.compare(fresh);
        run.count("comparisons");
        if (left.length > 0) lane.report({ invariant: "end state", text: left.join("\n    ") });
        run.add(`changes:\n    ${history.text}\n   `, lane.take());
        if (left.length > 0) return;
      } finally {
        run.add(`the state from scratch after changes:\n    ${history.text}\n   `, await fresh.close());
      }
      history.forget();
    }
    const before = lane.faults.seen.length;
    if (run.isOver) return;
    await sleep(quietMs);
    const writes = lane.faults.seen.slice(before).filter(({ method, path }) => isFleetWrite(method, path));
    for (const { method, path } of writes)
      lane.report({ invariant: "settling", text: `a write after settling: ${method} ${path}` });
  } finally {
    run.add(`changes:\n    ${history.text}\n   `, await lane.close());
  }
}

/** Changes of one lane before it is replaced. */
const LENGTH = 96;
/** More than a run has time for. */
const LISTS = 200;
/** Numbers of the lanes without a history, after all others. */
const SCRATCH = 50;

/**
 * Random changes of three policies: the state does not depend on the history. `length`: changes of one lane before it
 * is replaced. `quietMs`: time at its end in which the operator may write nothing.
 */
export async function sequences(
  world: World,
  slots: readonly LaneSlot[],
  run: Run,
  { length, quietMs } = { length: LENGTH, quietMs: QUIET_MS },
): Promise<void> {
  const scratch = new Map<LaneSlot, LaneSlot>();
  for (const slot of slots) {
    const [one] = await laneSlots(world, slot.command, 1, slot.number + SCRATCH);
    scratch.set(slot, one!);
  }
  const lists = Array.from(
    { length: LISTS },
    (_, i) =>
      fc.sample(fc.array(transitions, { minLength: length, maxLength: length }), {
        numRuns: 1,
        seed: run.seed + i,
      })[0]!,
  );
  await run.share(slots, run.shuffled(lists), (slot, list) =>
    sequence(world, slot, scratch.get(slot)!, list, quietMs, run),
  );
  for (const { faults } of scratch.values()) await faults.close();
}
