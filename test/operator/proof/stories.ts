import { setTimeout as sleep } from "node:timers/promises";
import type { Lane } from "./lane.ts";
import {
  external,
  inPhase,
  invalid,
  kubeVIP,
  nodeAddress,
  notGranted,
  own,
  podIP,
  type StaticIP,
  vips,
} from "./specs.ts";

/** One action of a user. Every step that is not the last one settles before the next one. */
type Step = (lane: Lane, namespaces: readonly string[]) => Promise<void>;

/** A story of one or two policies. The operator is perturbed during `steps`. */
export interface Story {
  name: string;
  /** Before the operator is perturbed. */
  before: readonly Step[];
  steps: readonly Step[];
}

const NAME = "web";
const OTHER = "api";
const LOOK_MS = 50;

const apply =
  (spec: (lane: Lane) => object, name = NAME): Step =>
  (lane, [first]) =>
    lane.apply(first!, name, spec(lane));

const PAUSE_MS = 500;

/** Applies specs one after the other: nothing settles between them. */
const applyAtOnce =
  (specs: (lane: Lane) => object[]): Step =>
  async (lane, [first]) => {
    for (const spec of specs(lane)) {
      await lane.apply(first!, NAME, spec);
      await sleep(PAUSE_MS);
    }
  };

const remove =
  (name = NAME): Step =>
  (lane, [first]) =>
    lane.delete(first!, name);

const outside = (...last: number[]): StaticIP[] => last.map((i) => ({ address: `203.0.113.${i}` }));
const two = external(outside(40, 41));

/** Time for a proxy to load a document. A crash of the operator may delay it for longer. */
const LOAD_MS = 5000;
/** Longer than {@link Published} tolerates. */
const SEEN_MS = 1500;

/** Adds an address, and removes it when a proxy has it. The status of the proxies cannot be read until after that. */
const addAndRemove: Step = async (lane, [first]) => {
  const { proxies, silent } = lane.world;
  const [added] = outside(42);
  const isUsed = () =>
    [...proxies.values()].some(({ pod, sends }) => pod.metadata.namespace === first && sends.includes(added!.address));
  silent.add(first!);
  try {
    await lane.apply(first!, NAME, external(outside(40, 41, 42)));
    for (const began = Date.now(); !isUsed() && Date.now() - began < LOAD_MS; ) await sleep(LOOK_MS);
    await lane.apply(first!, NAME, two);
    await sleep(SEEN_MS);
  } finally {
    silent.delete(first!);
  }
};

export const STORIES: readonly Story[] = [
  { name: "create External", before: [], steps: [apply(() => two)] },
  { name: "create KubeVIP", before: [], steps: [apply((lane) => kubeVIP(vips(0, 1), lane.ports(0)))] },
  {
    name: "edit of the document of External",
    before: [apply(() => two)],
    steps: [apply(() => ({ ...two, deny: [{ hosts: ["second.example"] }] }))],
  },
  {
    name: "an address of External added and removed at once",
    before: [apply(() => two)],
    steps: [addAndRemove],
  },
  {
    name: "External edited while its proxies start",
    before: [],
    steps: [applyAtOnce(() => [40, 41, 42].map((last) => external(outside(last))))],
  },
  {
    name: "PodIP to KubeVIP to External at once",
    before: [],
    steps: [
      applyAtOnce((lane) => [podIP(), kubeVIP(vips(0), lane.ports(0), { label: "second" }), external(vips(0, 1))]),
    ],
  },
  {
    name: "External to KubeVIP and back",
    before: [apply(() => external(vips(0, 1)))],
    steps: [apply((lane) => kubeVIP(vips(0, 1), lane.ports(0))), apply(() => external(vips(0, 1)))],
  },
  {
    name: "External to KubeVIP with other addresses",
    before: [apply(() => two)],
    steps: [apply((lane) => kubeVIP(vips(0, 1), lane.ports(0)))],
  },
  {
    name: "NodeAddress to External to PodIP",
    before: [apply((lane) => nodeAddress(own(0, 1), lane.ports(0)))],
    steps: [apply(() => two), apply(() => podIP())],
  },
  {
    name: "NodeAddress slots added, retired, removed",
    before: [apply((lane) => nodeAddress(own(0, 1), lane.ports(0)))],
    steps: [
      apply((lane) => nodeAddress(own(0, 1, 2), lane.ports(0))),
      apply((lane) => nodeAddress([...inPhase("Retiring", own(0)), ...own(1, 2)], lane.ports(0))),
      apply((lane) => nodeAddress(own(1, 2), lane.ports(0))),
    ],
  },
  {
    name: "edit of the pods of three KubeVIP slots",
    before: [apply((lane) => kubeVIP(vips(0, 1, 2), lane.ports(0)))],
    steps: [apply((lane) => kubeVIP(vips(0, 1, 2), lane.ports(0), { label: "second" }))],
  },
  {
    name: "edit of the pods of three NodeAddress slots",
    before: [apply((lane) => nodeAddress(own(0, 1, 2), lane.ports(0)))],
    steps: [apply((lane) => nodeAddress(own(0, 1, 2), lane.ports(0), { label: "second" }))],
  },
  {
    name: "a slot removed and the pods edited at once",
    before: [apply((lane) => kubeVIP(vips(0, 1), lane.ports(0)))],
    steps: [apply((lane) => kubeVIP(vips(1), lane.ports(0), { label: "second" }))],
  },
  {
    name: "edit of the pods while an address retires",
    before: [apply((lane) => nodeAddress([...inPhase("Retiring", own(0)), ...own(1)], lane.ports(0)))],
    steps: [
      apply((lane) => nodeAddress([...inPhase("Retiring", own(0)), ...own(1)], lane.ports(0), { label: "second" })),
    ],
  },
  {
    name: "all addresses replaced",
    before: [apply((lane) => kubeVIP(vips(0, 1), lane.ports(0)))],
    steps: [apply((lane) => kubeVIP(vips(2, 3), lane.ports(0)))],
  },
  {
    name: "two policies exchange their addresses",
    before: [apply((lane) => kubeVIP(vips(0), lane.ports(0))), apply((lane) => kubeVIP(vips(1), lane.ports(1)), OTHER)],
    steps: [
      apply((lane) => kubeVIP(vips(2), lane.ports(0))),
      apply((lane) => kubeVIP(vips(0), lane.ports(1)), OTHER),
      apply((lane) => kubeVIP(vips(1), lane.ports(0))),
    ],
  },
  {
    name: "deletion while pods use the policy",
    before: [apply(() => two), (lane, [first]) => lane.addSender(first!, NAME)],
    steps: [remove(), (lane, [first]) => lane.removeSender(first!, NAME)],
  },
  {
    name: "deletion of KubeVIP, and creation again",
    before: [apply((lane) => kubeVIP(vips(0), lane.ports(0)))],
    steps: [remove(), apply((lane) => kubeVIP(vips(0), lane.ports(0), { edit: "second" }))],
  },
  {
    name: "the newest spec is rejected, then accepted",
    before: [apply((lane) => kubeVIP(vips(0, 1), lane.ports(0)))],
    steps: [
      apply((lane) => invalid(kubeVIP(vips(2, 3), lane.ports(0)))),
      apply((lane) => notGranted(lane.ports(0))),
      apply((lane) => kubeVIP(vips(1, 2), lane.ports(0))),
    ],
  },
  {
    name: "all addresses Pending, then Active",
    before: [apply((lane) => kubeVIP(vips(0, 1), lane.ports(0), { verified: false }))],
    steps: [
      apply((lane) => kubeVIP(inPhase("Pending", vips(0, 1)), lane.ports(0), { verified: false })),
      apply((lane) => kubeVIP(vips(0, 1), lane.ports(0), { verified: false })),
    ],
  },
  {
    name: "all addresses Retiring, with a new one",
    before: [apply((lane) => nodeAddress(own(0, 1), lane.ports(0)))],
    steps: [apply((lane) => nodeAddress([...inPhase("Retiring", own(0, 1)), ...own(2)], lane.ports(0)))],
  },
  {
    name: "all addresses Retiring",
    before: [apply((lane) => kubeVIP(vips(0, 1), lane.ports(0)))],
    steps: [apply((lane) => kubeVIP(inPhase("Retiring", vips(0, 1)), lane.ports(0)))],
  },
];

/** Does steps, and waits after each until nothing changes. */
export async function play(lane: Lane, steps: readonly Step[]): Promise<void> {
  for (const step of steps) {
    await step(lane, lane.namespaces);
    await lane.settle();
  }
}
