import { setTimeout as sleep } from "node:timers/promises";
import { isFleetWrite, Lane, type LaneSlot } from "./lane.ts";
import type { Run } from "./run.ts";
import { differences, type Snapshot } from "./snapshot.ts";
import { play, type Story } from "./stories.ts";
import type { World } from "./world.ts";

const CONVERGE_MS = 60_000;
const LOOK_MS = 200;

/** A story without faults. */
interface Baseline {
  /** Its end state. */
  state: Snapshot;
  /** Number of writes of the operator during its steps. */
  writes: number;
}

const runs = new WeakMap<Run, Baselines>();

/** Plays each story once without faults. */
export class Baselines {
  readonly #world: World;
  readonly #run: Run;
  readonly #known = new Map<Story, Baseline>();

  constructor(world: World, run: Run) {
    this.#world = world;
    this.#run = run;
  }

  /** The baselines of a run: its methods share them. */
  static ofRun(world: World, run: Run): Baselines {
    const known = runs.get(run) ?? new Baselines(world, run);
    runs.set(run, known);
    return known;
  }

  known(story: Story): Baseline | undefined {
    return this.#known.get(story);
  }

  async of(slot: LaneSlot, story: Story): Promise<Baseline> {
    return this.#known.get(story) ?? this.#play(slot, story);
  }

  async #play(slot: LaneSlot, story: Story): Promise<Baseline> {
    const lane = await Lane.open(this.#world, slot);
    try {
      await lane.start();
      await play(lane, story.before);
      const writes = () => lane.faults.seen.filter(({ method, path }) => isFleetWrite(method, path)).length;
      const before = writes();
      await play(lane, story.steps);
      const baseline = { state: await lane.snapshot(), writes: writes() - before };
      this.#known.set(story, baseline);
      this.#run.count("stories");
      return baseline;
    } finally {
      this.#run.add(`${story.name}, without a fault`, await lane.close());
    }
  }
}

/** Polls the state of a lane until it is as expected. Returns the last differences. */
export async function converge(lane: Lane, expected: Snapshot, ms = CONVERGE_MS): Promise<string[]> {
  for (const began = Date.now(); ; await sleep(LOOK_MS)) {
    const found = differences(await lane.snapshot(), expected);
    if (found.length === 0 || Date.now() - began > ms) return found;
  }
}
