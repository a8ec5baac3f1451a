import { setTimeout as sleep } from "node:timers/promises";
import type { EgressPolicy } from "../../../operator/api/egresspolicy.ts";
import { childName, REASON } from "../../../operator/api/names.ts";
import type { ConfigMap } from "../../../operator/api/objects.ts";
import { slotsOf } from "../../../operator/fleet/slots.ts";
import { keyOf } from "../../../operator/kube/resource.ts";
import { providerOf } from "../../../operator/providers/index.ts";
import { randomFrom } from "../random.ts";
import { Lane, type LaneSlot } from "./lane.ts";
import { ownersOf } from "./owners.ts";
import type { Run } from "./run.ts";
import { external, kubeVIP, type StaticIP } from "./specs.ts";
import { ALL_GRANTED, VIPS, type World } from "./world.ts";

/** Changes of one fight. */
const STEPS = 8;
const RUNS = 500;
/** A free address is given to a policy that waits for it within this time. */
const FREE_MS = 20_000;
const LOOK_MS = 200;
const NAME = "web";
const ADDRESSES = VIPS.slice(0, 4);

type Random = () => number;
const pick = <T>(random: Random, list: readonly T[]): T => list[Math.floor(random() * list.length)]!;

/** One to three of the four addresses, each as static IP, as source, or both. */
function someIPs(random: Random): StaticIP[] {
  const count = 1 + Math.floor(random() * 3);
  const left = [...ADDRESSES].sort(() => random() - 0.5).slice(0, count);
  return left.map((address) => {
    const roll = random();
    const phase = roll < 0.15 ? { phase: "Pending" as const } : roll < 0.3 ? { phase: "Retiring" as const } : {};
    return { address, ...(random() < 0.25 ? { sourceAddress: pick(random, ADDRESSES) } : {}), ...phase };
  });
}

const grantOnly = (namespace: string) =>
  `grants: [{namespaces: [${namespace}], providers: [KubeVIP], staticIPs: [203.0.113.0/24]}]\n`;

/** Addresses that the newest spec of a policy asks for alone. */
function asked({ spec }: EgressPolicy): string[] {
  if (providerOf(spec)?.shape.kind !== "Slots") return [];
  // Pending addresses are asked for as well.
  const active = (spec.staticIPs ?? []).map((ip) => ({ ...ip, phase: "Active" as const }));
  return slotsOf({ ...spec, staticIPs: active }).flatMap(({ address, source }) => [address, source]);
}

const accepted = ({ metadata, status }: EgressPolicy) => {
  const found = status?.conditions?.find(({ type }) => type === "Accepted");
  return found?.observedGeneration === metadata.generation ? found : undefined;
};

/** Policies that are Conflicted although no other policy has one of their addresses, or may have it. */
function deadlocked(lane: Lane): string[] {
  const { observer } = lane.world;
  const policies = observer.list<EgressPolicy>("policy", lane.namespaces);
  const owners = ownersOf(lane.world, lane.namespaces);
  return policies.flatMap((policy) => {
    if (accepted(policy)?.reason !== REASON.conflicted) return [];
    const others = policies.filter((other) => other !== policy);
    const taken = asked(policy).some((address) => {
      if ([...(owners.get(address) ?? [])].some((owner) => owner !== keyOf(policy))) return true;
      return others.some((other) => {
        if (accepted(other)?.status === "True" && asked(other).includes(address)) return true;
        const published = observer.get<ConfigMap>(
          "configMap",
          `${other.metadata.namespace}/${childName.published(other.metadata.name)}`,
        );
        return (published?.data?.["ips.txt"] ?? "").split("\n").includes(address);
      });
    });
    return taken ? [] : [`${keyOf(policy)}: ${accepted(policy)!.message}`];
  });
}

async function untilFree(lane: Lane, history: readonly string[]): Promise<void> {
  let locked = deadlocked(lane);
  for (const began = Date.now(); locked.length > 0 && Date.now() - began < FREE_MS; await sleep(LOOK_MS))
    locked = deadlocked(lane);
  for (const text of locked) lane.report({ invariant: "deadlock", text: `${text}; after ${history.join("; ")}` });
}

/** One random change. Returns what it was. */
async function fight(lane: Lane, random: Random): Promise<string> {
  const [roll, side] = [random(), Math.floor(random() * lane.namespaces.length)];
  const namespace = lane.namespaces[side]!;
  if (roll < 0.15) {
    await lane.delete(namespace, NAME);
    return `delete ${side}`;
  }
  if (roll < 0.25) {
    const ips = someIPs(random).map(({ address }) => ({ address }));
    await lane.apply(namespace, NAME, external(ips));
    return `External ${side}`;
  }
  const ips = someIPs(random);
  await lane.apply(namespace, NAME, kubeVIP(ips, lane.ports(side), { verified: false }));
  return `KubeVIP ${side} ${JSON.stringify(ips)}`;
}

async function fightOnce(world: World, slot: LaneSlot, number: number, random: Random, run: Run) {
  const lane = await Lane.open(world, slot, 2);
  const history: string[] = [];
  try {
    let operator = await lane.start();
    for (let i = 0; i < STEPS; i++) {
      if (random() < 0.1) {
        // A changed grant restarts the operator.
        const text = random() < 0.5 ? ALL_GRANTED : grantOnly(pick(random, lane.namespaces));
        lane.setGrants(text);
        await operator.stop();
        operator = await lane.start();
        history.push(text === ALL_GRANTED ? "all granted" : "one granted");
      }
      history.push(await fight(lane, random));
      run.count("steps of fights");
      if (random() < 0.5) await sleep(random() * 2000);
      else await lane.settle();
    }
    await lane.settle();
    await untilFree(lane, history);
  } finally {
    run.add(`fight ${number}: ${history.join("; ")}`, await lane.close());
    run.count("fights");
  }
}

/** Two policies of two namespaces that want the same addresses: never two owners, never a deadlock. */
export async function contention(world: World, slots: readonly LaneSlot[], run: Run): Promise<void> {
  const fights = Array.from({ length: RUNS }, (_, number) => ({ number, seed: run.random() }));
  await run.share(slots, run.shuffled(fights), (slot, { number, seed }) =>
    fightOnce(world, slot, number, randomFrom(seed * 2 ** 32), run),
  );
}
