import type { Operator } from "../operator.ts";
import { Baselines, converge } from "./baseline.ts";
import { isFleetWrite, Lane, type LaneSlot } from "./lane.ts";
import type { Run } from "./run.ts";
import type { Snapshot } from "./snapshot.ts";
import { play, STORIES, type Story } from "./stories.ts";
import type { World } from "./world.ts";

/**
 * A fault at one write of an operator. `before`, `after`: the operator ends, and the request or its answer does not
 * arrive. `refused`: the API server refuses this write once, and the operator lives.
 */
interface Crash {
  /** From 1. */
  write: number;
  when: (typeof WHEN)[number];
}

const WHEN = ["before", "after", "refused"] as const;
const FORBIDDEN = {
  kind: "Status",
  apiVersion: "v1",
  status: "Failure",
  reason: "Forbidden",
  message: "refused by the test",
  code: 403,
};

/** Counts the writes of a lane's operators; at the one of `crash` it ends the operator and starts another one. */
class Crasher {
  writes = 0;
  /** The write of the crash, once it has happened. */
  where: string | undefined;
  operator: Operator;
  readonly #lane: Lane;
  #again: Promise<void> = Promise.resolve();

  constructor(lane: Lane, operator: Operator, crash: Crash) {
    this.#lane = lane;
    this.operator = operator;
    const { faults } = lane;
    faults.refuse = (method, path) => {
      if (!isFleetWrite(method, path)) return undefined;
      this.writes++;
      if (this.writes !== crash.write) return undefined;
      this.where = `${method} ${path.replace(/\?.*/, "")}`;
      if (crash.when === "after") return undefined;
      if (crash.when === "refused") {
        return { status: 403, headers: { "content-type": "application/json" }, body: JSON.stringify(FORBIDDEN) };
      }
      this.#end();
      return "silence";
    };
    let answers = 0;
    faults.answered = (method, path) => {
      // Writes of one operator overlap only between policies: the count is near enough, and the crash is still one.
      if (crash.when !== "after" || !isFleetWrite(method, path) || ++answers !== crash.write) return false;
      this.#end();
      return true;
    };
  }

  #end(): void {
    this.#again = this.operator
      .stop("SIGKILL")
      .then(() => this.#lane.start())
      .then((operator) => {
        this.operator = operator;
      });
    this.#again.catch(() => undefined);
  }

  /** Waits for the operator after the crash. @throws if it did not start */
  async ready(): Promise<void> {
    await this.#again;
  }
}

/** Plays a story with one crash. Returns the write of the crash, if there were so many. */
async function playWith(lane: Lane, story: Story, crash: Crash): Promise<string | undefined> {
  const operator = await lane.start();
  await play(lane, story.before);
  const crasher = new Crasher(lane, operator, crash);
  await play(lane, story.steps);
  await crasher.ready();
  return crasher.where;
}

async function crashPoint(world: World, slot: LaneSlot, story: Story, expected: Snapshot, crash: Crash, run: Run) {
  const lane = await Lane.open(world, slot);
  let where: string | undefined;
  try {
    where = await playWith(lane, story, crash);
    const left = await converge(lane, expected);
    if (left.length > 0) lane.report({ invariant: "end state", text: left.join("\n    ") });
  } finally {
    const what = `${story.name}, ${crash.when} write ${crash.write} (${where ?? "not reached"})`;
    run.add(what, await lane.close());
    run.count(where === undefined ? "crash points that were not reached" : "crash points");
  }
}

/** Ends the operator before and after each write of each story: the end state is that of a run without a crash. */
export async function crashPoints(world: World, slots: readonly LaneSlot[], run: Run): Promise<void> {
  const chosen = run.pick(STORIES, ({ name }) => name);
  const baselines = Baselines.ofRun(world, run);
  await run.share(slots, chosen, async (slot, story) => {
    await baselines.of(slot, story);
  });
  const points = chosen.flatMap((story) => {
    const writes = baselines.known(story)?.writes ?? 0;
    const numbers = Array.from({ length: writes }, (_, i) => i + 1);
    return numbers.flatMap((write) => WHEN.map((when) => ({ story, crash: { write, when } })));
  });
  run.count("crash points of the stories", points.length);
  await run.share(slots, run.shuffled(points), (slot, { story, crash }) =>
    crashPoint(world, slot, story, baselines.known(story)!.state, crash, run),
  );
}
