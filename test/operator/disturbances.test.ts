import assert from "node:assert/strict";
import { test } from "node:test";
import type { EgressPolicySpec } from "../../operator/api/egresspolicy.ts";
import { childName, LABEL } from "../../operator/api/names.ts";
import type { Service } from "../../operator/api/objects.ts";
import type { ProxyFacts } from "../../operator/fleet/proxy-status.ts";
import { SHARED, slotId } from "../../operator/fleet/slots.ts";
import { statusOf } from "../../operator/reconcile/status/status.ts";
import {
  A,
  apply,
  at,
  B,
  C,
  edited,
  empty,
  factsOf,
  LONG_AGO,
  MINUTE,
  NAME,
  NOW,
  open,
  pending,
  plan,
  podOf,
  retiring,
  settled,
  specOf,
  stampOf,
  unpolled,
  VERIFIED,
  type World,
  withProxies,
} from "./worlds.ts";

/**
 * Disturbances of a fleet: which writes that can take a serving proxy away happen in one reconcile. A fleet is what the
 * operator itself would have created for a spec, with pods that run the templates.
 */

const ERROR = "connect ECONNREFUSED 10.0.0.1:9750";
const silent = (world: World) => withProxies(world, () => ({ status: undefined, error: ERROR }));
const of = (address: string) => (proxy: ProxyFacts) => proxy.slot === slotId(address);

/** A proxy that lost its readiness. */
function downAt(world: World, address: string, since: string, more: Partial<ProxyFacts> = {}): World {
  return withProxies(world, (proxy) => {
    if (!of(address)(proxy)) return {};
    const conditions = [{ type: "Ready", status: "False", lastTransitionTime: since }];
    return { ready: false, pod: { ...proxy.pod, status: { phase: "Running", conditions } }, ...more };
  });
}

const slotName = (address: string) => childName.slot(NAME, slotId(address));

/** Deployments that a plan changes, without those that it creates. */
function changed(world: World, spec: EgressPolicySpec): string[] {
  const objects = plan(world, spec).desired!.objects.filter(({ kind }) => kind === "Deployment");
  return objects
    .filter((object) => {
      const before = world.deployments.get(object.metadata.name);
      return before !== undefined && stampOf(before) !== stampOf(object);
    })
    .map(({ metadata }) => metadata.name);
}
const removed = (world: World, spec: EgressPolicySpec): string[] =>
  plan(world, spec).desired!.round.remove.map(({ metadata }) => metadata.name);
const selectorIn = (world: World, spec: EgressPolicySpec) =>
  (
    plan(world, spec).desired!.objects.find(
      ({ kind, metadata }) => kind === "Service" && metadata.name === childName.fleet(NAME),
    ) as Service
  ).spec!.selector!;
const selectorKeys = (world: World, spec: EgressPolicySpec) => Object.keys(selectorIn(world, spec)).slice(1).join();
const waitsOf = (world: World, spec: EgressPolicySpec) =>
  Object.fromEntries(plan(world, spec).desired!.round.waiting.map(({ unit, why }) => [unit.slot?.address, why]));
/** A selected pod has the labels of all providers. */
const labelled = (world: World) =>
  withProxies(world, ({ pod }) => {
    const labels = { ...pod.metadata.labels, [VERIFIED]: "true", [LABEL.phase]: "Active" };
    return { pod: { ...pod, metadata: { ...pod.metadata, labels } } };
  });
const programmed = (world: World, spec: EgressPolicySpec): string => {
  const applied = { problem: undefined, networkPolicy: undefined };
  const status = statusOf(factsOf(world, spec), {
    plan: plan(world, spec),
    applied,
    recorded: false,
    clusterDomain: "cluster.local",
  });
  return status.conditions!.find(({ type }) => type === "Programmed")!.message!;
};

for (const provider of ["KubeVIP", "NodeAddress"] as const) {
  test(`${provider}: an edit changes one slot, and the next one after it serves`, () => {
    const spec = specOf(provider, [A, B, C], edited);
    let world = settled(specOf(provider, [A, B, C]));
    for (const address of [A, B, C]) {
      assert.deepEqual(changed(world, spec), [slotName(address)]);
      const between = apply(world, spec, () => false);
      assert.deepEqual(changed(between, spec), [], "while it does not run");
      world = apply(world, spec);
    }
    assert.deepEqual(changed(world, spec), []);
  });

  test(`${provider}: an operator that starts disturbs nothing before its first polls`, () => {
    const world = unpolled(settled(specOf(provider, [A, B, C])));
    assert.deepEqual(changed(world, specOf(provider, [A, B, C], edited)), []);
    assert.deepEqual(removed(world, specOf(provider, [A])), []);
    const one = withProxies(settled(specOf(provider, [A, B, C])), (proxy) =>
      of(B)(proxy) ? { polled: false, status: undefined } : {},
    );
    assert.deepEqual(changed(one, specOf(provider, [A, B, C], edited)), []);
  });

  test(`${provider}: a fleet that does not answer changes one slot`, () => {
    const spec = specOf(provider, [A, B, C], edited);
    const world = silent(settled(specOf(provider, [A, B, C])));
    assert.deepEqual(changed(world, spec), [slotName(A)]);
  });

  test(`${provider}: removing a slot and changing pods are two steps`, () => {
    const spec = specOf(provider, [A], edited);
    const world = settled(specOf(provider, [A, B]));
    assert.deepEqual([changed(world, spec), removed(world, spec)], [[slotName(A)], []]);
    assert.deepEqual(
      removed(
        apply(world, spec, () => false),
        spec,
      ),
      [],
    );
    assert.deepEqual(removed(apply(world, spec), spec), [slotName(B)]);
  });

  test(`${provider}: slots serve until an Active address does`, () => {
    const world = settled(specOf(provider, [A, B]));
    const announced = specOf(provider, [pending(A), pending(B)]);
    assert.deepEqual(removed(world, announced), []);
    assert.match(programmed(world, announced), /no address in phase Active; the old proxies serve until an Active/);
    const other = specOf(provider, [retiring(C)]);
    const created = apply(world, other, () => false);
    assert.deepEqual(removed(created, other), []);
    assert.deepEqual(removed(apply(world, other), other), [slotName(A), slotName(B)]);
  });

  test(`${provider}: a slot without its address holds others for a limited time`, () => {
    const spec = specOf(provider, [A, B, C], edited);
    const lost = (since: string) =>
      downAt(settled(specOf(provider, [A, B, C])), C, since, {
        status: { ...open(undefined), ready: false, sources: [{ address: C, assigned: false }] },
      });
    assert.deepEqual(changed(lost(at(NOW - MINUTE)), spec), [slotName(C)]);
    assert.match(programmed(lost(at(NOW - MINUTE)), spec), new RegExp(`it waits for slot .*${C}.* does not have ${C}`));
    assert.equal(plan(lost(at(NOW - MINUTE)), spec).desired!.round.recheckAt, NOW + 4 * MINUTE);
    assert.deepEqual(changed(lost(at(NOW - 6 * MINUTE)), spec), [slotName(A), slotName(C)]);
  });

  test(`${provider}: settings that do not run stop the others without limit`, () => {
    const spec = specOf(provider, [A, B], edited);
    const broken = downAt(settled(specOf(provider, [A, B])), A, LONG_AGO, { status: undefined });
    const current = apply(broken, spec, () => false);
    assert.deepEqual(changed({ ...current, now: NOW + 60 * MINUTE }, spec), []);
  });

  test(`${provider}: a slot that never served holds no others`, () => {
    const spec = specOf(provider, [A, B, C], edited);
    const world = downAt(settled(specOf(provider, [A, B, C])), C, at(NOW - MINUTE), { status: undefined });
    const deployment = world.deployments.get(slotName(C))!;
    world.deployments.set(slotName(C), {
      ...deployment,
      metadata: { ...deployment.metadata, generation: 1 },
      status: { observedGeneration: 1, replicas: 1, updatedReplicas: 1, availableReplicas: 0 },
    });
    assert.deepEqual(changed(world, spec), [slotName(A), slotName(C)]);
  });

  test(`${provider}: slots that do not serve for a moment do not restart together`, () => {
    const spec = specOf(provider, [A, B], edited);
    const since = at(NOW - 5000);
    const closed = (address: string) => ({
      status: { ...open(undefined), ready: false, sources: [{ address, assigned: false }] },
    });
    for (const more of [closed, () => ({})]) {
      const one = downAt(settled(specOf(provider, [A, B])), A, since, more(A));
      assert.deepEqual(changed(one, spec), [slotName(A)]);
      const both = downAt(one, B, since, more(B));
      assert.deepEqual(changed(both, spec), []);
      assert.equal(plan(both, spec).desired!.round.recheckAt, NOW + 25_000);
      assert.deepEqual(changed({ ...both, now: NOW + MINUTE }, spec), [slotName(A), slotName(B)]);
    }
  });

  test(`${provider}: the last serving slot waits for one that lost its address`, () => {
    const spec = specOf(provider, [A, B], edited);
    const lost = { status: { ...open(undefined), ready: false, sources: [{ address: B, assigned: false }] } };
    const world = { ...downAt(settled(specOf(provider, [A, B])), B, LONG_AGO, lost), now: NOW + 600 * MINUTE };
    assert.deepEqual(changed(world, spec), [slotName(B)]);
    const deployment = world.deployments.get(slotName(B))!;
    const neverServed = {
      ...deployment,
      metadata: { ...deployment.metadata, generation: 1 },
      status: { observedGeneration: 1, replicas: 1, updatedReplicas: 1, availableReplicas: 0 },
    };
    const fresh = { ...world, deployments: new Map(world.deployments).set(slotName(B), neverServed) };
    assert.deepEqual(changed(fresh, spec), [slotName(A), slotName(B)]);
  });

  test(`${provider}: the only slot restarts`, () => {
    assert.deepEqual(changed(settled(specOf(provider, [A])), specOf(provider, [A], edited)), [slotName(A)]);
  });
}

test("a young slot that restarts served before, one that never had its address did not", () => {
  const spec = specOf("KubeVIP", [A, B, C], edited);
  const lost = { status: { ...open(undefined), ready: false, sources: [{ address: C, assigned: false }] } };
  const world = downAt(settled(specOf("KubeVIP", [A, B, C])), C, at(NOW - 40_000), lost);
  const deployment = world.deployments.get(slotName(C))!;
  const creationTimestamp = at(NOW - 60_000);
  world.deployments.set(slotName(C), { ...deployment, metadata: { ...deployment.metadata, creationTimestamp } });
  const unassigned = (since: number): World => {
    const state = { address: C, state: "Unassigned" as const, lastTransitionTime: at(since) };
    return { ...world, status: { staticIPs: [state] } };
  };
  assert.deepEqual(changed(unassigned(NOW - 40_000), spec), [slotName(C)]);
  assert.deepEqual(changed(unassigned(NOW - 60_000), spec), [slotName(A), slotName(C)]);
});

test("the last serving slot restarts if no node has the address of the others", () => {
  const D = "203.0.113.29";
  const lost = { status: { ...open(undefined), ready: false, sources: [{ address: D, assigned: false }] } };
  for (const [provider, result] of [
    ["NodeAddress", [slotName(A), slotName(D)]],
    ["KubeVIP", [slotName(D)]],
  ] as const) {
    const world = downAt(settled(specOf(provider, [A, D])), D, LONG_AGO, lost);
    assert.deepEqual(
      changed({ ...world, now: NOW + 600 * MINUTE }, specOf(provider, [A, D], edited)),
      result,
      provider,
    );
  }
});

test("a KubeVIP slot waits while a restarted proxy does not answer", () => {
  const spec = specOf("KubeVIP", [A, B, C], edited);
  const world = apply(silent(settled(specOf("KubeVIP", [A, B, C]))), spec);
  const restarted = withProxies(world, (proxy) => {
    if (!of(A)(proxy)) return {};
    const { [VERIFIED]: _, ...labels } = proxy.pod.metadata.labels!;
    return { status: undefined, error: ERROR, pod: { ...proxy.pod, metadata: { ...proxy.pod.metadata, labels } } };
  });
  assert.deepEqual(changed({ ...restarted, now: NOW + 600 * MINUTE }, spec), []);
  assert.match(programmed(restarted, spec), /cannot read \/status of webhooks-egress-\w+-1.*ECONNREFUSED/);
});

test("the only KubeVIP slot waits while it does not answer", () => {
  const world = silent(settled(specOf("KubeVIP", [A])));
  const spec = specOf("KubeVIP", [A], edited);
  assert.deepEqual(changed(world, spec), []);
  assert.match(
    programmed(world, spec),
    new RegExp(`cannot read /status of ${slotName(A)}-1 \\(${ERROR}\\); .*port 9750`),
  );
  // The edit may be the cure.
  assert.deepEqual(changed(world, specOf("KubeVIP", [A], { adminPort: 9751 })), [slotName(A)]);
});

test("the only NodeAddress slot restarts although it does not answer", () => {
  const world = silent(settled(specOf("NodeAddress", [A])));
  assert.deepEqual(changed(world, specOf("NodeAddress", [A], edited)), [slotName(A)]);
});

test("a retiring slot that serves does not restart with the only other one", () => {
  const before = specOf("NodeAddress", [A, B]);
  const spec = specOf("NodeAddress", [retiring(A), B], edited);
  const settledWorld = settled(before);
  // The lasting one is down, so the retiring one serves.
  const fallback = downAt(settledWorld, B, at(NOW - MINUTE), { status: undefined });
  assert.deepEqual(changed(fallback, spec), [slotName(B)]);
  // Both serve: one after the other.
  assert.equal(changed(settledWorld, spec).length, 1);
});

test("the only lasting slot waits for a retiring one whose old proxy still serves", () => {
  const before = specOf("NodeAddress", [retiring(A), B]);
  const spec = specOf("NodeAddress", [retiring(A), B], edited);
  const serves = ({ pod }: ProxyFacts) => ({
    pod: { ...pod, metadata: { ...pod.metadata, labels: { ...pod.metadata.labels, [LABEL.phase]: "Active" } } },
  });
  const start = withProxies(settled(before), serves);
  assert.deepEqual(changed(start, spec), [slotName(A)]);
  // The Deployment has changed, and its controller has not replaced the proxy yet.
  const next = apply(start, spec);
  const deployment = next.deployments.get(slotName(A))!;
  const written = { ...deployment, metadata: { ...deployment.metadata, generation: 9 } };
  const deployments = new Map(next.deployments).set(slotName(A), written);
  assert.deepEqual(changed({ ...next, deployments, proxies: start.proxies }, spec), []);
});

test("a retiring slot stays in service while the only lasting one is being replaced", () => {
  const before = specOf("NodeAddress", [retiring(A), B]);
  const spec = specOf("NodeAddress", [retiring(A), B], edited);
  const serves = ({ pod }: ProxyFacts) => ({
    pod: { ...pod, metadata: { ...pod.metadata, labels: { ...pod.metadata.labels, [LABEL.phase]: "Active" } } },
  });
  // Both Deployments have the new settings. The proxy of the lasting slot still serves, and is about to end.
  const world = withProxies(apply(apply(settled(before), spec), spec), serves);
  const deployment = world.deployments.get(slotName(B))!;
  const written = { ...deployment, metadata: { ...deployment.metadata, generation: 9 } };
  const replaced = { ...world, deployments: new Map(world.deployments).set(slotName(B), written) };
  assert.deepEqual(changed(replaced, spec), []);
  assert.deepEqual(plan(replaced, spec).desired!.round.labels.retire, []);
  assert.equal(plan(settled(spec), spec).desired!.round.labels.retire.length, 1);
});

test("External to KubeVIP: the Service keeps its selector while proxies do not answer", () => {
  const shared = specOf("External", [A]);
  const spec = specOf("KubeVIP", [B]);
  for (const world of [unpolled(settled(shared)), silent(settled(shared))]) {
    assert.equal(
      selectorKeys(world, spec),
      Object.keys(selectorIn(settled(shared), shared))
        .slice(1)
        .join(),
    );
    assert.deepEqual(removed(world, spec), []);
  }
  assert.match(programmed(silent(settled(shared)), spec), /Service webhooks-egress keeps its selector, .*ECONNREFUSED/);
});

test("External to KubeVIP: the Service keeps its selector while old proxies start", () => {
  const spec = specOf("KubeVIP", [B]);
  const starting = withProxies(settled(specOf("External", [A])), () => ({ ready: false }));
  assert.equal(selectorKeys(starting, spec), LABEL.slot);
  const ending = withProxies(starting, () => ({ terminating: true }));
  assert.equal(selectorKeys(ending, spec), VERIFIED);

  const created = apply(starting, spec, () => false);
  const slot = podOf(created.deployments.get(slotName(B))!);
  const withSlot = (pod: Partial<ProxyFacts>) => ({ ...created, proxies: [...created.proxies, { ...slot, ...pod }] });
  assert.equal(selectorKeys(withSlot({ ready: false }), spec), LABEL.slot);
  assert.equal(selectorKeys(withSlot({}), spec), VERIFIED);
  const conditions = [{ type: "PodScheduled", status: "False", reason: "Unschedulable", message: "0/1 nodes" }];
  const stuck = { ready: false, node: undefined, pod: { ...slot.pod, status: { phase: "Pending", conditions } } };
  assert.equal(selectorKeys(withSlot(stuck), spec), VERIFIED);
});

test("KubeVIP to External: the Service keeps its selector while old slots start", () => {
  const spec = specOf("External", [A], { replicas: 1 });
  const starting = withProxies(settled(specOf("KubeVIP", [B])), ({ pod }) => {
    const { [VERIFIED]: _, ...labels } = pod.metadata.labels!;
    return { pod: { ...pod, metadata: { ...pod.metadata, labels } } };
  });
  assert.equal(selectorKeys(starting, spec), VERIFIED);
  assert.equal(selectorKeys(apply(starting, spec), spec), LABEL.slot);
});

test("External to KubeVIP: the Service changes after the labels, and then the fleet", () => {
  const spec = specOf("KubeVIP", [B]);
  let world = settled(specOf("External", [A]));
  assert.equal(selectorKeys(world, spec), LABEL.slot);
  const label = ({ pod }: ProxyFacts) => ({
    pod: { ...pod, metadata: { ...pod.metadata, labels: { ...pod.metadata.labels, [VERIFIED]: "true" } } },
  });
  world = withProxies(
    apply(world, spec, () => false),
    label,
  );
  assert.equal(selectorKeys(world, spec), VERIFIED);
  world = apply(world, spec);
  assert.deepEqual(removed(world, spec), []);
  world.proxies.push(podOf(world.deployments.get(slotName(B))!));
  assert.deepEqual(removed(world, spec), [childName.fleet(NAME)]);
});

test("KubeVIP to External: the Service selects slots until the fleet serves", () => {
  const spec = specOf("External", [A], { replicas: 1 });
  const start = settled(specOf("KubeVIP", [A, B]));
  assert.equal(selectorKeys(start, spec), VERIFIED);
  const starting = apply(start, spec, () => false);
  assert.equal(selectorKeys(starting, spec), VERIFIED);
  const label = (world: World) =>
    withProxies(world, ({ pod }) => ({
      pod: { ...pod, metadata: { ...pod.metadata, labels: { ...pod.metadata.labels, [VERIFIED]: "true" } } },
    }));
  const ready = label(apply(start, spec));
  assert.deepEqual(removed(ready, spec), []);
  assert.equal(selectorKeys(ready, spec), LABEL.slot);
  const labels = plan(ready, spec).desired!.round.labels;
  assert.deepEqual([labels.retire, labels.clean], [[], []]);
  const moved = apply(ready, spec);
  assert.equal(moved.services.get(childName.fleet(NAME))!.spec!.selector![LABEL.slot], SHARED);
  assert.deepEqual(removed(moved, spec).sort(), [slotName(A), slotName(B)].sort());
});

test("KubeVIP to External: an edit changes the new fleet while slots serve", () => {
  const settings = { replicas: 1 };
  const label = (world: World) =>
    withProxies(world, ({ pod }) => ({
      pod: { ...pod, metadata: { ...pod.metadata, labels: { ...pod.metadata.labels, [VERIFIED]: "true" } } },
    }));
  const ready = label(apply(settled(specOf("KubeVIP", [A, B])), specOf("External", [A], settings)));
  const spec = specOf("External", [A], { ...settings, ...edited });
  assert.deepEqual([changed(ready, spec), removed(ready, spec)], [[childName.fleet(NAME)], []]);
  assert.equal(selectorKeys(ready, spec), VERIFIED);
});

test("KubeVIP to NodeAddress: a slot keeps its gateway Service until its turn", () => {
  const spec = specOf("NodeAddress", [A, B]);
  const gone = (world: World) =>
    plan(world, spec)
      .desired!.removals.filter(({ kind }) => kind === "Service")
      .map(({ metadata }) => metadata.name);
  const label = (world: World) =>
    withProxies(world, ({ pod }) => ({
      pod: { ...pod, metadata: { ...pod.metadata, labels: { ...pod.metadata.labels, [LABEL.phase]: "Active" } } },
    }));
  const start = settled(specOf("KubeVIP", [A, B]));
  assert.deepEqual([gone(start), changed(start, spec), selectorKeys(start, spec)], [[], [], VERIFIED]);
  const labelled = label(start);
  assert.deepEqual([gone(labelled), changed(labelled, spec), selectorKeys(labelled, spec)], [[], [], LABEL.phase]);
  const moved = apply(labelled, spec);
  assert.deepEqual([gone(moved), changed(moved, spec)], [[slotName(A)], [slotName(A)]]);
});

test("a selector of an older version is replaced at once", () => {
  const spec = specOf("External", [A]);
  const world = unpolled(settled(spec));
  const service = world.services.get(childName.fleet(NAME))!;
  world.services.set(childName.fleet(NAME), { ...service, spec: { selector: { [LABEL.fleet]: NAME } } });
  assert.equal(selectorKeys(world, spec), LABEL.slot);
  world.services.set(childName.fleet(NAME), { ...service, spec: { selector: { app: "mine" } } });
  assert.equal(selectorKeys(world, spec), LABEL.slot);
});

test("old slots leave the nodes of new ones one after the other", () => {
  const spec = specOf("KubeVIP", ["203.0.113.30", "203.0.113.31"]);
  const [first, second] = ["203.0.113.30", "203.0.113.31"] as const;
  const stuck = (address: string): ProxyFacts => ({
    ...podOf(plan(empty(), spec).desired!.objects.find(({ metadata }) => metadata.name === slotName(address))!),
    ready: false,
    node: undefined,
    status: undefined,
  });
  const unscheduled = (address: string) => {
    const proxy = stuck(address);
    const conditions = [{ type: "PodScheduled", status: "False", message: "0/2 nodes are available" }];
    return { ...proxy, pod: { ...proxy.pod, status: { phase: "Pending", conditions } } };
  };
  const start = apply(settled(specOf("KubeVIP", [A, B])), spec, () => false);
  const full = { ...start, proxies: [...start.proxies, unscheduled(first), unscheduled(second)] };
  assert.deepEqual(removed(full, spec), [slotName(A)]);
  const half = apply(full, spec);
  const running = { ...stuck(first), pod: { ...stuck(first).pod, status: { phase: "Running" } } };
  const starting = { ...half, proxies: [...half.proxies.filter((one) => !of(first)(one)), running] };
  assert.deepEqual(removed({ ...starting, now: NOW + 600 * MINUTE }, spec), []);
  const pod = podOf(half.deployments.get(slotName(first))!);
  const serving = { ...half, proxies: [...half.proxies.filter((one) => !of(first)(one)), pod] };
  assert.deepEqual(removed(serving, spec), [slotName(B)]);
});

test("a slot whose change waits keeps its source in the document", () => {
  const specFrom = (first: number): EgressPolicySpec => {
    const ips = [A, B, C].map((address, i) => ({ address, sourceAddress: `203.0.113.${first + i}`, phase: "Active" }));
    return specOf("KubeVIP", ips);
  };
  const { desired } = plan(settled(specFrom(100)), specFrom(110));
  assert.equal(desired!.round.waiting.length, 2);
  const document = desired!.objects.find(({ metadata }) => metadata.name === childName.document(NAME)) as unknown as {
    data: Record<string, string>;
  };
  const { staticIPs } = JSON.parse(document.data["policy.json"]!) as { staticIPs: { sourceAddress: string }[] };
  assert.deepEqual(
    staticIPs.map(({ sourceAddress }) => sourceAddress),
    ["203.0.113.110", "203.0.113.101", "203.0.113.102"],
  );
});

const closed = (address: string) => ({
  status: { ...open(undefined), ready: false, sources: [{ address, assigned: false }] },
});

test("a wait has ended at the time of its recheck", () => {
  const spec = specOf("KubeVIP", [A, B], edited);
  const lost = downAt(settled(specOf("KubeVIP", [A, B])), B, at(NOW - MINUTE), closed(B));
  const third = specOf("KubeVIP", [A, B, C], edited);
  const one = downAt(settled(specOf("KubeVIP", [A, B, C])), C, at(NOW - MINUTE), closed(C));
  const until = plan(one, third).desired!.round.recheckAt!;
  assert.equal(until, NOW + 4 * MINUTE);
  assert.deepEqual(changed({ ...one, now: until - 1 }, third), [slotName(C)]);
  assert.deepEqual(changed({ ...one, now: until }, third), [slotName(A), slotName(C)]);
  // The last serving slot waits for a retiring one that lost its address.
  const leaving = specOf("KubeVIP", [A, retiring(B)], edited);
  const last = downAt(settled(specOf("KubeVIP", [A, retiring(B)])), B, at(NOW - MINUTE), closed(B));
  const end = plan(last, leaving).desired!.round.recheckAt!;
  assert.equal(end, NOW + 4 * MINUTE);
  assert.deepEqual(changed({ ...last, now: end - 1 }, leaving), [slotName(B)]);
  assert.deepEqual(changed({ ...last, now: end }, leaving), [slotName(A), slotName(B)]);
  const both = downAt(lost, A, at(NOW - 5000), closed(A));
  const again = downAt(both, B, at(NOW - 10_000), closed(B));
  // The first of two waits.
  assert.equal(plan(again, spec).desired!.round.recheckAt, NOW + 20_000);
  assert.deepEqual(changed({ ...again, now: NOW + 20_000 }, spec), [slotName(B)]);
  assert.deepEqual(changed({ ...again, now: NOW + 19_999 }, spec), []);
});

test("an endless wait has no recheck", () => {
  const spec = specOf("KubeVIP", [A, B], edited);
  const current = apply(
    downAt(settled(specOf("KubeVIP", [A, B])), A, LONG_AGO, { status: undefined }),
    spec,
    () => false,
  );
  assert.equal(plan(current, spec).desired!.round.recheckAt, undefined);
});

test("a silent slot restarts only while all others serve", () => {
  const silence =
    (...addresses: string[]) =>
    (world: World) =>
      withProxies(world, (proxy) =>
        addresses.some((one) => of(one)(proxy)) ? { status: undefined, error: ERROR } : {},
      );
  const two = specOf("KubeVIP", [A, B], edited);
  const halfway = apply(settled(specOf("KubeVIP", [A, B])), two);
  const current = labelled(withProxies(halfway, (proxy) => (of(A)(proxy) ? { status: open(A) } : {})));
  assert.deepEqual(changed(silence(B)(current), two), [slotName(B)]);
  const three = specOf("KubeVIP", [A, B, C], edited);
  const first = labelled(apply(settled(specOf("KubeVIP", [A, B, C])), three));
  const world = silence(B, C)(first);
  assert.deepEqual(changed(world, three), []);
  assert.match(
    waitsOf(world, three)[B]!,
    /cannot read \/status of .*; until then a restarted proxy would get no requests$/,
  );
  // One of two pods of the slot answers.
  const more = { ...world, proxies: [...world.proxies, ...first.proxies.filter(of(B))] };
  assert.deepEqual(changed(more, three), [slotName(B)]);
});

test("an edit of a shared fleet waits for no poll", () => {
  const world = unpolled(settled(specOf("External", [A])));
  assert.deepEqual(changed(world, specOf("External", [A], edited)), [childName.fleet(NAME)]);
});

test("KubeVIP to External: an edit changes a new fleet that does not answer", () => {
  const settings = { replicas: 1 };
  const ready = labelled(apply(settled(specOf("KubeVIP", [A, B])), specOf("External", [A], settings)));
  const world = withProxies(ready, (proxy) => (proxy.slot === SHARED ? { status: undefined, error: ERROR } : {}));
  const spec = specOf("External", [A], { ...settings, ...edited });
  assert.deepEqual(changed(world, spec), [childName.fleet(NAME)]);
  const only = [A, B].reduce((one, address) => downAt(one, address, LONG_AGO, { status: undefined }), world);
  assert.deepEqual(changed(only, spec), [childName.fleet(NAME)]);
});

test("an older selector is kept while it selects proxies that the new one does not", () => {
  const world = settled(specOf("KubeVIP", [A, B]));
  const name = childName.fleet(NAME);
  world.services.set(name, { ...world.services.get(name)!, spec: { selector: { [LABEL.fleet]: NAME } } });
  const spec = specOf("External", [A], { replicas: 1 });
  assert.deepEqual(selectorIn(world, spec), { [LABEL.fleet]: NAME });
  assert.match(
    programmed(world, spec),
    /; the operator keeps old proxies until webhooks-egress serves; .*: its proxy does not run yet$/,
  );
});

test("an answering or unpolled proxy is not called silent", () => {
  const spec = specOf("KubeVIP", [B]);
  const world = settled(specOf("External", [A]));
  for (const one of [world, unpolled(world)]) assert.doesNotMatch(programmed(one, spec), /cannot read/);
  const mixed = silent(world);
  mixed.proxies.unshift({ ...world.proxies[0]!, polled: true });
  assert.match(programmed(mixed, spec), /keeps its selector, .*ECONNREFUSED/);
});

test("retiring slots leave the Service in a reconcile without another disturbance", () => {
  const before = settled(specOf("NodeAddress", [A, B, C]));
  const roundOf = (world: World, spec: EgressPolicySpec) => plan(world, spec).desired!.round;
  const retired = (world: World, spec: EgressPolicySpec) =>
    roundOf(world, spec).labels.retire.map(({ pod }) => pod.metadata.name);
  const spec = specOf("NodeAddress", [retiring(A), B, C]);
  assert.deepEqual(retired(before, spec), [`${slotName(A)}-1`]);
  assert.deepEqual(retired(settled(specOf("NodeAddress", [A, B])), specOf("NodeAddress", [retiring(A), B])), [
    `${slotName(A)}-1`,
  ]);
  const both = specOf("NodeAddress", [retiring(A), B, C], edited);
  assert.deepEqual([retired(before, both), changed(before, both)], [[`${slotName(A)}-1`], []]);
  const starting = withProxies(before, (proxy) => (of(C)(proxy) ? { polled: false, status: undefined } : {}));
  assert.deepEqual(retired(starting, spec), []);
  assert.deepEqual(Object.keys(roundOf(starting, spec).labels), ["correct", "retire", "clean"]);
});

test("old slots that do not serve are deleted without a wait", () => {
  const spec = specOf("KubeVIP", [A]);
  const world = settled(specOf("KubeVIP", [A, B, C]));
  const poll = (world: World) => withProxies(world, (proxy) => (of(A)(proxy) ? { status: open(A) } : {}));
  const down = (...addresses: string[]) =>
    addresses.reduce((one, address) => downAt(one, address, LONG_AGO, { status: undefined }), poll(world));
  assert.deepEqual(removed(down(B, C), spec), [slotName(B), slotName(C)]);
  // A proxy that was not polled yet may serve: nothing is disturbed, and only what serves nothing is deleted.
  const pod = { ...world.proxies.find(of(A))!, polled: false, status: undefined };
  const starting = (one: World) => ({ ...one, proxies: [...one.proxies, pod] });
  assert.deepEqual(removed(starting(down(B, C)), spec), [slotName(B), slotName(C)]);
  assert.deepEqual(removed(starting(down(B)), spec), []);
  assert.deepEqual(removed(starting(poll(world)), spec), []);
});

for (const provider of ["KubeVIP", "NodeAddress"] as const) {
  test(`${provider}: old slots serve until every lasting slot does`, () => {
    const spec = specOf(provider, [A, B]);
    const world = settled(specOf(provider, [A, B, C]));
    assert.deepEqual(removed(world, spec), [slotName(C)]);
    assert.deepEqual(removed(downAt(world, B, at(NOW), { status: undefined }), spec), []);
    assert.match(
      programmed(downAt(world, B, at(NOW), { status: undefined }), spec),
      new RegExp(`keeps old proxies until slot \\w+ \\(${B}\\) serves; `),
    );
    // A retiring slot is not needed.
    const leaving = specOf(provider, [A, retiring(B)]);
    const base = settled(specOf(provider, [A, retiring(B), C]));
    assert.deepEqual(removed(downAt(base, B, at(NOW), { status: undefined }), leaving), [slotName(C)]);
  });

  test(`${provider}: one of the retiring slots is enough if there are no others`, () => {
    const spec = specOf(provider, [retiring(A), retiring(B)]);
    const world = settled(specOf(provider, [retiring(A), retiring(B), C]));
    assert.deepEqual(removed(downAt(world, B, at(NOW), { status: undefined }), spec), [slotName(C)]);
    const none = downAt(downAt(world, A, at(NOW), { status: undefined }), B, at(NOW), { status: undefined });
    assert.deepEqual(removed(none, spec), []);
  });
}

/** The new slot D of a fleet whose old slots are A and B: its Deployment, and a pod that found no node. */
function blockedBy(
  provider: "KubeVIP" | "NodeAddress",
  nodes: Record<string, string[]>,
  more: Partial<ProxyFacts>[] = [],
) {
  const spec = specOf(provider, [C]);
  const start = apply(settled(specOf(provider, [A, B])), spec, () => false);
  const conditions = [{ type: "PodScheduled", status: "False", message: "0/2 nodes are available" }];
  const pod = podOf(start.deployments.get(slotName(C))!);
  const stuck: ProxyFacts = {
    ...pod,
    ...{ ready: false, node: undefined, status: undefined },
    pod: { ...pod.pod, status: { phase: "Pending", conditions } },
  };
  const old = start.proxies.flatMap((proxy) => {
    const on = Object.entries(nodes).filter(([address]) => of(address)(proxy))[0]?.[1] ?? ["z"];
    return on.map((node) => ({ ...proxy, node }));
  });
  return { spec, world: { ...start, proxies: [...old, stuck, ...more.map((one) => ({ ...pod, ...one }))] }, stuck };
}

test("an old slot leaves the node of a new one, on whichever node it has a proxy", () => {
  const { spec, world } = blockedBy("NodeAddress", { [A]: ["z"], [B]: ["z", "c"] });
  assert.deepEqual(removed(world, spec), [slotName(B)]);
  const none = blockedBy("NodeAddress", { [A]: ["z"], [B]: ["y"] });
  assert.deepEqual(removed(none.world, none.spec), []);
});

test("an old slot that is deleted does not serve until others do", () => {
  const { spec, world } = blockedBy("KubeVIP", {});
  const deployments = new Map(world.deployments);
  deployments.delete(slotName(B));
  const one = { ...world, deployments, proxies: world.proxies.filter((proxy) => !of(B)(proxy)) };
  assert.deepEqual(removed(one, spec), [slotName(A)]);
  assert.doesNotMatch(programmed(one, spec), /keeps old proxies until/);
  assert.match(programmed(world, spec), /keeps old proxies until/);
});

test("an old slot stays while a proxy of the new one still ends", () => {
  const { spec, world } = blockedBy("KubeVIP", {}, [{ terminating: true, ready: false, status: undefined }]);
  assert.deepEqual(removed(world, spec), []);
  // A proxy of another slot ends: the new one still needs a node.
  const other = blockedBy("KubeVIP", {}, [{ slot: slotId(A), terminating: true, ready: false, status: undefined }]);
  assert.deepEqual(removed(other.world, other.spec), [slotName(A)]);
});

test("a proxy without a node that no slot needs takes no node from an old slot", () => {
  const { spec, world, stuck } = blockedBy("KubeVIP", {});
  const proxies = [...world.proxies.filter((proxy) => !of(C)(proxy)), { ...stuck, slot: slotId("203.0.113.99") }];
  assert.deepEqual(removed({ ...world, proxies }, spec), []);
});

test("the last old slot keeps its node until a slot that never served does", () => {
  const spec = specOf("KubeVIP", ["203.0.113.30", "203.0.113.31"]);
  const [first, second] = ["203.0.113.30", "203.0.113.31"] as const;
  const start = apply(settled(specOf("KubeVIP", [A])), spec, () => false);
  const young = start.deployments.get(slotName(first))!;
  start.deployments.set(slotName(first), {
    ...young,
    metadata: { ...young.metadata, generation: 1 },
    status: { observedGeneration: 1, replicas: 1, updatedReplicas: 1, availableReplicas: 0 },
  });
  const pod = podOf(start.deployments.get(slotName(second))!);
  const conditions = [{ type: "PodScheduled", status: "False", message: "0/2 nodes are available" }];
  const stuck: ProxyFacts = {
    ...pod,
    ...{ ready: false, node: undefined, status: undefined },
    pod: { ...pod.pod, status: { phase: "Pending", conditions } },
  };
  const running = podOf(young);
  const lost = { ...running, ready: false, ...closed(first), pod: { ...running.pod, status: { phase: "Running" } } };
  const world = { ...start, now: NOW + 600 * MINUTE, proxies: [...start.proxies, stuck, lost] };
  assert.deepEqual(removed(world, spec), []);
  assert.match(
    programmed(world, spec),
    new RegExp(`keeps old proxies until slot \\w+ \\(${first}\\) serves; .* does not have`),
  );
});
