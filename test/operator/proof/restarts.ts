import { setTimeout as sleep } from "node:timers/promises";
import type { Operator } from "../operator.ts";
import { Lane, type LaneSlot } from "./lane.ts";
import type { Run } from "./run.ts";
import { type Change, external, kubeVIP, nodeAddress, own, podIP, vips } from "./specs.ts";
import type { World } from "./world.ts";

/** An operator that starts over standing fleets, or cannot ask them. The invariants hold, and the fleets end up ready. */

/** Longer than three failed requests of a proxy's status. */
const SILENCE_MS = 8000;

export const NEXT_IMAGE = "outrider:next";
const LABEL = "second";

/** A fleet of each provider. */
export async function makeFleets(lane: Lane, change: Change = {}): Promise<void> {
  const [namespace] = lane.namespaces;
  await lane.apply(namespace!, "outside", external([{ address: "203.0.113.40" }], change));
  await lane.apply(namespace!, "pods", podIP(change));
  await lane.apply(namespace!, "nodes", nodeAddress(own(0, 1, 2), lane.ports(0), change));
  await lane.apply(namespace!, "vips", kubeVIP(vips(0, 1, 2), lane.ports(1), change));
}

/** While `during` runs, the status of no proxy of a lane can be read. */
async function inSilence(lane: Lane, during: () => Promise<void>): Promise<void> {
  lane.world.silent.add(lane.namespaces[0]!);
  try {
    await sleep(SILENCE_MS);
    await during();
    await sleep(SILENCE_MS);
  } finally {
    lane.world.silent.delete(lane.namespaces[0]!);
  }
}

interface Scenario {
  name: string;
  /** A text in the template of all pods at the end. */
  ends: string;
  play(lane: Lane, operator: Operator): Promise<void>;
}

export const RESTARTS: readonly Scenario[] = [
  {
    name: "restart with another image of the proxies",
    ends: NEXT_IMAGE,
    play: async (lane, operator) => {
      await operator.stop("SIGKILL");
      await lane.start({ image: NEXT_IMAGE });
    },
  },
  {
    name: "edit of the pods while the operator is down",
    ends: LABEL,
    play: async (lane, operator) => {
      await operator.stop();
      await makeFleets(lane, { label: LABEL });
      await lane.start();
    },
  },
  {
    name: "edit of the pods while no status can be read",
    ends: LABEL,
    play: (lane) => inSilence(lane, () => makeFleets(lane, { label: LABEL })),
  },
  {
    name: "External to KubeVIP while no status can be read",
    ends: "",
    play: (lane) =>
      inSilence(lane, () => lane.apply(lane.namespaces[0]!, "outside", kubeVIP(vips(4, 5), lane.ports(2)))),
  },
  {
    name: "start while no status can be read",
    ends: NEXT_IMAGE,
    play: (lane, operator) =>
      inSilence(lane, async () => {
        await operator.stop("SIGKILL");
        await lane.start({ image: NEXT_IMAGE });
      }),
  },
];

/** Waits for a few rounds of requests: a restart of one slot after the other has pauses. */
const CALM_MS = 5000;

async function restart(world: World, slot: LaneSlot, { name, ends, play }: Scenario, run: Run): Promise<void> {
  const lane = await Lane.open(world, slot);
  try {
    const operator = await lane.start();
    await makeFleets(lane);
    await lane.settle();
    await lane.untilReady();
    await play(lane, operator);
    await lane.untilRolledOut(ends);
    await lane.settle(CALM_MS);
    for (const text of lane.unready()) lane.report({ invariant: "end state", text });
  } finally {
    run.add(name, await lane.close());
    run.count("restarts");
  }
}

/** Starts operators over standing fleets of every provider. */
export async function restarts(world: World, slots: readonly LaneSlot[], run: Run): Promise<void> {
  await run.share(
    slots,
    run.pick(RESTARTS, ({ name }) => name),
    (slot, scenario) => restart(world, slot, scenario, run),
  );
}
