import { setTimeout as sleep } from "node:timers/promises";
import type { FaultProxy } from "../../cluster/fault-proxy.ts";
import { Baselines, converge } from "./baseline.ts";
import { Lane, type LaneSlot } from "./lane.ts";
import type { Run } from "./run.ts";
import { play, STORIES, type Story } from "./stories.ts";
import type { World } from "./world.ts";

/** Kinds whose events are perturbed, as their watches name them. */
const WATCHED = ["egresspolicies", "deployments", "pods", "services", "configmaps"] as const;

/** A perturbed view of the second replica: from the n-th event of a kind on, or of this event alone. */
interface Perturbation {
  kind: (typeof WATCHED)[number];
  /** From 1. */
  nth: number;
  /** `hold`: this event and all later ones arrive after the handover. `swallow`: this event never arrives. */
  how: "hold" | "swallow";
  /** The first replica ends this long after the last step; undefined: when nothing changes any more. */
  afterMs: number | undefined;
}

const EVENTS = [1, 2, 3, 5, 8];
const AFTER_MS = [200, 1500, undefined];
/** Held events arrive this long after the second replica leads. */
const HELD_MS = 3000;
const STANDBY_MS = 60_000;
const LOOK_MS = 50;
/** A swallowed event heals with the next list. */
const RESYNC = ["--resync-seconds=5"];

/** Perturbs the watches through a proxy. The returned function releases what is held. */
function perturb(
  faults: FaultProxy,
  { kind, nth, how }: Perturbation,
): { release: () => void; reached: () => boolean } {
  /** Events so far by watch: two caches may watch one kind. */
  const seen = new Map<string, number>();
  const scopeOf = (path: string) => path.replace(/resourceVersion=\d+/, "");
  const isWatched = (path: string) => path.includes(`/${kind}?`) && path.includes("watch=");
  const before = (path: string) => seen.get(scopeOf(path)) ?? 0;
  let released = how === "swallow";
  faults.holds = (path) => !released && isWatched(path) && before(path) >= nth - 1;
  faults.swallow = (path, event) => {
    if (!isWatched(path) || event.includes('"BOOKMARK"')) return false;
    seen.set(scopeOf(path), before(path) + 1);
    return how === "swallow" && before(path) === nth;
  };
  return {
    release: () => {
      released = true;
    },
    reached: () => [...seen.values()].some((number) => number >= nth),
  };
}

async function until(what: string, wanted: () => boolean): Promise<void> {
  for (const began = Date.now(); !wanted(); await sleep(LOOK_MS)) {
    if (Date.now() - began > STANDBY_MS) throw new Error(`${what}: not within ${STANDBY_MS} ms`);
  }
}

/** Plays a story to the first replica, and hands over to the second one, whose view is perturbed. */
async function handOver(lane: Lane, story: Story, perturbation: Perturbation): Promise<boolean> {
  const first = await lane.start({ leads: false, server: lane.world.plane.url });
  await first.untilLeading(STANDBY_MS);
  await play(lane, story.before);
  const args = perturbation.how === "swallow" ? RESYNC : [];
  const second = await lane.start({ leads: false, args });
  await until("the second replica lists all", () => second.log().includes("all objects are listed"));
  const { release, reached } = perturb(lane.faults, perturbation);
  try {
    await play(lane, story.steps.slice(0, -1));
    await story.steps.at(-1)!(lane, lane.namespaces);
    if (perturbation.afterMs === undefined) await lane.settle();
    else await sleep(perturbation.afterMs);
    await first.stop("SIGKILL");
    await lane.freeLease();
    await sleep(HELD_MS);
  } finally {
    release();
  }
  await second.untilLeading(STANDBY_MS);
  await lane.settle();
  return reached();
}

interface Case {
  story: Story;
  perturbation: Perturbation;
}

function nameOf({ story, perturbation: { how, nth, kind, afterMs } }: Case): string {
  const when = afterMs === undefined ? "settled" : `after ${afterMs} ms`;
  return `${story.name}, ${how} event ${nth} of ${kind}, handover ${when}`;
}

async function staleCase(world: World, slot: LaneSlot, one: Case, known: Baselines, run: Run) {
  const { story, perturbation } = one;
  const expected = await known.of(slot, story);
  const lane = await Lane.open(world, slot);
  let reached = false;
  try {
    reached = await handOver(lane, story, perturbation);
    const left = await converge(lane, expected.state);
    if (left.length > 0) lane.report({ invariant: "end state", text: left.join("\n    ") });
  } finally {
    run.add(nameOf(one), await lane.close());
    run.count(reached ? `handovers, ${perturbation.how}` : "handovers without such an event");
  }
}

/** Hands over to a replica that lacks events: the end state is that of a run without a fault. */
export async function stale(world: World, slots: readonly LaneSlot[], run: Run): Promise<void> {
  const baselines = Baselines.ofRun(world, run);
  const cases = STORIES.flatMap((story) =>
    WATCHED.flatMap((kind) =>
      EVENTS.flatMap((nth) =>
        (["hold", "swallow"] as const).flatMap((how) =>
          AFTER_MS.map((afterMs): Case => ({ story, perturbation: { kind, nth, how, afterMs } })),
        ),
      ),
    ),
  );
  const chosen = run.shuffled(run.pick(cases, nameOf));
  await run.share(slots, chosen, (slot, one) => staleCase(world, slot, one, baselines, run));
}
