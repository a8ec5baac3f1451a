import assert from "node:assert/strict";
import { test } from "node:test";
import type { EgressPolicy, EgressPolicySpec } from "../../operator/api/egresspolicy.ts";
import { childName } from "../../operator/api/names.ts";
import type { Deployment, Pod } from "../../operator/api/objects.ts";
import type { ProxyFacts, ProxyStatus } from "../../operator/fleet/proxy-status.ts";
import { slotId } from "../../operator/fleet/slots.ts";
import { providerOf } from "../../operator/providers/index.ts";
import { type Down, downOf } from "../../operator/reconcile/decision/down-slots.ts";
import { resolveSpec } from "../../operator/reconcile/decision/resolved-spec.ts";
import { servingOf } from "../../operator/reconcile/decision/serving.ts";
import { unitsOf } from "../../operator/reconcile/decision/units.ts";
import type { Facts } from "../../operator/reconcile/facts/facts.ts";
import {
  A,
  at,
  B,
  factsOf,
  LONG_AGO,
  MINUTE,
  NAME,
  NOW,
  OPTIONS,
  open,
  type Provider,
  podOf,
  settled,
  specOf,
  type World,
} from "./worlds.ts";

/** Slots that do not surely serve: since when, why, and whether others wait for them. The slot of B is down. */

const DEPLOYMENT = childName.slot(NAME, slotId(B));
const verified = { echoURLs: ["https://echo.example.net/ip"] };

interface Given {
  provider?: Provider;
  spec?: EgressPolicySpec;
  /** Facts of the pods of the slot. Default: one that serves. */
  pods?: Partial<ProxyFacts>[];
  /** The same for the slot of A, which serves by default. */
  others?: Partial<ProxyFacts>[];
  deployment?: (one: Deployment) => Deployment | undefined;
  status?: EgressPolicy["status"];
  nodes?: Facts["nodes"];
}

function downIn(given: Given): Omit<Down, "unit"> | undefined {
  const spec = given.spec ?? specOf(given.provider ?? "KubeVIP", [A, B]);
  const world: World = { ...settled(spec), ...(given.status === undefined ? {} : { status: given.status }) };
  const { deployment: change = (one: Deployment) => one, pods = [{}], others = [{}] } = given;
  const before = world.deployments.get(DEPLOYMENT)!;
  const changed = change(before);
  world.deployments.delete(DEPLOYMENT);
  if (changed !== undefined) world.deployments.set(DEPLOYMENT, changed);
  const [first] = world.proxies;
  world.proxies = [
    ...others.map((one) => ({ ...first!, ...one })),
    ...pods.map((one) => ({ ...podOf(before), ...one })),
  ];
  const facts = { ...factsOf(world, spec), ...("nodes" in given ? { nodes: given.nodes } : {}) };
  const resolved = resolveSpec(facts, spec, providerOf(spec)!);
  const unit = unitsOf(facts, resolved, OPTIONS).find(({ label }) => label === slotId(B))!;
  const found = downOf(facts, resolved, servingOf(facts, spec), unit);
  if (found === undefined) return undefined;
  const { unit: _, ...down } = found;
  return down;
}

const podWith = (status: Pod["status"], metadata: object = {}) => {
  const { pod } = podOf(settled(specOf("KubeVIP", [A, B])).deployments.get(DEPLOYMENT)!);
  return { ...pod, metadata: { ...pod.metadata, ...metadata }, status: status! };
};
const conditions = (type: string, status: string, since: string) => [
  { type: "PodScheduled", status: "True", lastTransitionTime: LONG_AGO },
  { type, status, lastTransitionTime: since },
];
const unreadySince = (since: string) => ({
  ready: false,
  pod: podWith({ phase: "Running", conditions: conditions("Ready", "False", since) }),
});
const closed = (more: Partial<ProxyStatus> = {}) => ({
  status: { ...open(B), sources: [{ address: B, assigned: false }], ...more },
});
const silent = { status: undefined, error: "connect ECONNREFUSED 10.0.0.1:9750" };
const MINUTE_AGO = at(NOW - MINUTE);
const newer = (deployment: Deployment): Deployment => ({
  ...deployment,
  status: { ...deployment.status, updatedReplicas: 0 },
});

test("a slot that surely serves is not down", () => {
  assert.equal(downIn({}), undefined);
  assert.equal(downIn({ pods: [{}, { terminating: true, ready: false, ...closed() }] }), undefined);
});

test("others do not wait for a slot without a Deployment", () => {
  assert.deepEqual(downIn({ pods: [], deployment: () => undefined }), {
    why: "its proxy does not run yet",
    served: false,
    since: NOW,
    endless: false,
    endlessForLast: false,
    returnsUntil: 0,
  });
});

test("a slot is down since its newest change", () => {
  const since = (given: Given) => downIn(given)!.since;
  assert.equal(since({ pods: [{ ...unreadySince(MINUTE_AGO), ...closed() }] }), NOW - MINUTE);
  const created = { pod: podWith({ phase: "Pending" }, { creationTimestamp: MINUTE_AGO }), ready: false, ...silent };
  assert.equal(since({ pods: [created] }), NOW - MINUTE);
  const deleted = { ...unreadySince(LONG_AGO), terminating: true };
  deleted.pod.metadata.deletionTimestamp = MINUTE_AGO;
  assert.equal(since({ pods: [deleted] }), NOW - MINUTE);
  const young = (one: Deployment) => ({ ...one, metadata: { ...one.metadata, creationTimestamp: MINUTE_AGO } });
  assert.equal(since({ pods: [], deployment: young }), NOW - MINUTE);
  const progress = { type: "Progressing", status: "True", lastUpdateTime: MINUTE_AGO };
  const available = { type: "Available", status: "False", lastUpdateTime: at(NOW - 1) };
  const progressing = (one: Deployment) => ({ ...one, status: { ...one.status, conditions: [available, progress] } });
  assert.equal(since({ pods: [], deployment: progressing }), NOW - MINUTE);
  // Changes of other slots do not count.
  const others = [{ ...unreadySince(MINUTE_AGO), ...closed() }];
  assert.equal(since({ pods: [], others }), Date.parse(LONG_AGO));
});

test("a slot is down since now while objects are too new to have a time", () => {
  const unseen = (one: Deployment) => ({ ...one, metadata: { ...one.metadata, generation: 4 } });
  assert.equal(downIn({ deployment: unseen })!.since, NOW);
  const bare = ({ apiVersion, kind, metadata: { name, labels } }: Deployment) =>
    ({ apiVersion, kind, metadata: { name, labels } }) as Deployment;
  assert.equal(downIn({ pods: [], deployment: bare })!.since, NOW);
  const { status: _, ...pod } = podWith({});
  const created = { ...pod, metadata: { name: "new", labels: pod.metadata.labels ?? {} } };
  assert.equal(downIn({ pods: [{ pod: created, ready: false, ...silent }], deployment: bare })!.since, NOW);
});

type State = NonNullable<NonNullable<EgressPolicy["status"]>["staticIPs"]>[number];
const stateOf = (state: string, address: string = B): EgressPolicy["status"] => ({
  staticIPs: [
    { address: A, state: address === A ? state : "Verified", lastTransitionTime: MINUTE_AGO } as State,
    { address: B, state: address === B ? state : "Pending", lastTransitionTime: MINUTE_AGO } as State,
  ],
});

test("a slot that lost its address is down since the loss", () => {
  const since = (state: string, pods: Partial<ProxyFacts>[], more: Given = {}) =>
    downIn({ pods, status: stateOf(state), ...more })!.since - NOW;
  for (const state of ["Unassigned", "Mismatch"]) assert.equal(since(state, [closed()]), -MINUTE, state);
  assert.equal(since("Unverified", [closed()]), Date.parse(LONG_AGO) - NOW);
  const ofA = { status: stateOf("Unassigned", A) };
  assert.equal(since("", [closed()], ofA), Date.parse(LONG_AGO) - NOW);
  const empty = { status: { conditions: [] } as EgressPolicy["status"] };
  assert.equal(since("", [closed()], empty), Date.parse(LONG_AGO) - NOW);
});

test("a shared fleet has no address whose state counts", () => {
  const spec = specOf("External", [A, B]);
  const world: World = { ...settled(spec), ...{ status: stateOf("Unassigned") } };
  const facts = { ...factsOf(world, spec), proxies: [] };
  const resolved = resolveSpec(facts, spec, providerOf(spec)!);
  const [unit] = unitsOf(facts, resolved, OPTIONS);
  const down = downOf(facts, resolved, servingOf(facts, spec), unit!)!;
  assert.deepEqual([down.since, down.served], [Date.parse(LONG_AGO), true]);
});

test("a loss that the status does not show yet is new", () => {
  const basic = { mode: "Basic", secretRef: { name: "passwords" } };
  const spec = { ...specOf("KubeVIP", [A, B]), verification: verified, authentication: basic } as EgressPolicySpec;
  const since = (state: string, pods: Partial<ProxyFacts>[], more: Given = {}) =>
    downIn({ pods, status: stateOf(state), ...more })!.since - NOW;
  const long = Date.parse(LONG_AGO) - NOW;
  assert.equal(since("Verified", [closed()]), 0);
  assert.equal(since("Assigned", [closed()]), 0);
  assert.equal(since("Verified", [closed()], { spec }), 0);
  assert.equal(since("Assigned", [closed()], { spec }), long, "its proof is missing");
  // No loss: another proxy is closed, it has no policy yet, it does not answer, or it is open and not rolled out.
  assert.equal(since("Verified", [silent], { others: [{}, closed()] }), long);
  assert.equal(since("Verified", [closed({ hash: null })]), long);
  assert.equal(since("Verified", [silent]), long);
  assert.equal(since("Verified", [{}], { deployment: newer }), long);
  const unscheduled = podWith({ phase: "Pending", conditions: conditions("PodScheduled", "False", LONG_AGO).slice(1) });
  const ending = { terminating: true, ready: false, ...closed() };
  assert.equal(since("Verified", [ending, { ready: false, ...silent, pod: unscheduled }]), long);
});

test("others wait without limit for a proxy that does not run with the newest settings", () => {
  const waits = (pods: Partial<ProxyFacts>[], more: Given = {}) => {
    const { endless, endlessForLast } = downIn({ pods, ...more })!;
    return [endless, endlessForLast];
  };
  const crashed = { ...unreadySince(LONG_AGO), status: undefined };
  assert.deepEqual(waits([crashed]), [true, true]);
  assert.deepEqual(waits([]), [true, true]);
  // It may serve, and the operator cannot read its status.
  assert.deepEqual(waits([silent]), [false, false]);
  // Its address is the problem, not its settings.
  assert.deepEqual(waits([closed()]), [false, true]);
  const unscheduled = podWith({ phase: "Pending", conditions: conditions("PodScheduled", "False", LONG_AGO).slice(1) });
  assert.deepEqual(waits([{ ready: false, status: undefined, pod: unscheduled }]), [false, true]);
});

test("a slot whose address no node lists does not hold others without limit", () => {
  const waits = (nodes: Facts["nodes"], pods: Partial<ProxyFacts>[]) => {
    const { endless, endlessForLast } = downIn({ provider: "NodeAddress", pods, nodes })!;
    return [endless, endlessForLast];
  };
  const [first, second] = factsOf(settled(specOf("NodeAddress", [A, B])), specOf("NodeAddress", [A, B])).nodes!;
  assert.deepEqual(waits([first!], []), [false, false]);
  assert.deepEqual(waits([first!, second!], []), [true, true]);
  const lost = { ready: false, ...closed() };
  assert.deepEqual(waits([first!], [lost]), [false, false]);
  assert.deepEqual(waits([first!, second!], [lost]), [false, true]);
  // Without a list of nodes, a node may have it.
  assert.deepEqual(waits(undefined, []), [true, true]);
  assert.deepEqual(waits(undefined, [lost]), [false, true]);
});

const first =
  (completed: boolean, generation = 1) =>
  (one: Deployment): Deployment => {
    const reason = completed ? "NewReplicaSetAvailable" : "ReplicaSetUpdated";
    const conditions = [
      { type: "Available", status: "True", reason: "MinimumReplicasAvailable", lastUpdateTime: LONG_AGO },
      { type: "Progressing", status: "True", reason, lastUpdateTime: LONG_AGO },
    ];
    return {
      ...one,
      metadata: { ...one.metadata, generation },
      status: { ...one.status, observedGeneration: generation, conditions },
    };
  };

test("a slot served if its first rollout completed", () => {
  const served = (deployment: (one: Deployment) => Deployment, status?: EgressPolicy["status"]) =>
    downIn({ pods: [closed()], deployment, ...(status === undefined ? {} : { status }) })!.served;
  assert.equal(served(first(false)), false);
  assert.equal(served(first(true)), true);
  assert.equal(served(first(false, 2)), true);
  assert.equal(served(first(true), { conditions: [] } as EgressPolicy["status"]), true);
});

test("a slot that was Unassigned since its first status never served", () => {
  const created = (time: number) => (one: Deployment) => ({
    ...first(true)(one),
    metadata: { ...one.metadata, creationTimestamp: at(time) },
  });
  const served = (time: number, status = stateOf("Unassigned")) =>
    downIn({ pods: [closed()], deployment: created(time), status })!.served;
  assert.equal(served(NOW - MINUTE), false);
  assert.equal(served(NOW - MINUTE - 5000), false);
  assert.equal(served(NOW - MINUTE - 5001), true);
  assert.equal(served(NOW - MINUTE, stateOf("Verified")), true);
  assert.equal(served(NOW - MINUTE, stateOf("Unassigned", A)), true);
});

test("only a running proxy that served may return by itself for a moment", () => {
  const returns = (pods: Partial<ProxyFacts>[], more: Given = {}) => {
    const { returnsUntil, since } = downIn({ pods, ...more })!;
    return returnsUntil === 0 ? 0 : returnsUntil - since;
  };
  const running = { ...unreadySince(MINUTE_AGO), ...closed() };
  assert.equal(returns([running]), 30_000);
  assert.equal(returns([running], { deployment: first(false, 2) }), 0);
  assert.equal(returns([running], { deployment: first(false) }), 0);
  const starts = { pod: podWith({ phase: "Pending" }), ready: false, ...silent };
  assert.equal(returns([starts]), 0);
  assert.equal(returns([]), 0);
  assert.equal(returns([starts, running]), 30_000);
  const { status: _, ...created } = podWith({});
  assert.equal(returns([{ ...starts, pod: created }]), 0);
  const young = (one: Deployment) => ({ ...one, metadata: { ...one.metadata, creationTimestamp: MINUTE_AGO } });
  assert.equal(returns([running], { deployment: young, status: stateOf("Unassigned") }), 0);
});

test("explains why a slot does not serve", () => {
  const why = (pods: Partial<ProxyFacts>[], more: Given = {}) => downIn({ pods, ...more })!.why;
  const pod = `${DEPLOYMENT}-1`;
  const fix = "; make port 9750 of the proxy reachable for the operator";
  assert.equal(why([]), "its proxy does not run yet");
  assert.equal(why([silent]), `the operator cannot read /status of ${pod} (${silent.error})${fix}`);
  assert.equal(why([{ status: undefined, error: undefined }]), `the operator cannot read /status of ${pod}${fix}`);
  assert.equal(why([closed()]), `${pod} does not have ${B}`);
  const proof = { way: B, expected: [B], observed: [], provenAt: null, checkedAt: null };
  const proofs = (error: string | null) => [
    { ...proof, verified: true, error: null },
    { ...proof, verified: false, error },
  ];
  const unproven = (error: string | null) => ({ status: { ...open(B), proofs: proofs(error) } });
  assert.equal(why([unproven(null)]), `${pod} is not verified`);
  assert.equal(why([unproven("timeout")]), `${pod} is not verified: timeout`);
  assert.equal(why([{}], { deployment: newer }), "its Deployment is not rolled out");
  assert.equal(why([{ ...unreadySince(LONG_AGO) }]), `${pod} does not serve yet`);
  const containerStatuses = [{ state: { waiting: { reason: "ImagePullBackOff" } } }];
  const waiting = { ready: false, status: undefined, pod: podWith({ phase: "Pending", containerStatuses }) };
  assert.equal(why([waiting]), `${pod} does not run: ImagePullBackOff`);
});
