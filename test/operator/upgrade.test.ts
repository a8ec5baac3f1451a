import assert from "node:assert/strict";
import { test } from "node:test";
import type { EgressPolicySpec } from "../../operator/api/egresspolicy.ts";
import { ANNOTATION, LABEL } from "../../operator/api/names.ts";
import { type Deployment, isSeen } from "../../operator/api/objects.ts";
import { slotsOf } from "../../operator/fleet/slots.ts";
import { keyOf } from "../../operator/kube/resource.ts";
import { decide } from "../../operator/reconcile/decision/decide.ts";
import { writesUpgrade } from "../../operator/reconcile/decision/desire.ts";
import { templateFingerprint } from "../../operator/reconcile/decision/units.ts";
import type { Caches } from "../../operator/reconcile/facts/caches.ts";
import type { OtherUpgrades } from "../../operator/reconcile/facts/facts.ts";
import { FleetUpgrades } from "../../operator/reconcile/facts/fleet-upgrades.ts";
import { ownerSettings, upgradeOf } from "../../operator/reconcile/objects/upgrade-marks.ts";
import { withDefaults } from "../harness/defaults.ts";
import { randomFrom } from "./random.ts";
import {
  A,
  apply,
  at,
  B,
  edited,
  factsOf,
  MINUTE,
  NO_UPGRADES,
  NOW,
  OPTIONS,
  rolledOut,
  settled,
  specOf,
  stampOf,
  unpolled,
  type World,
  withProxies,
} from "./worlds.ts";

/** Which changes of pod templates wait for the upgrades of other fleets, and how many fleets change at a time. */

const NEXT = { ...OPTIONS, image: "outrider:2" };
const FULL: OtherUpgrades = { ...NO_UPGRADES, progressing: 5 };
const PAUSED: OtherUpgrades = { ...NO_UPGRADES, progressing: 1, failed: ["convoy/other"] };
const EXTERNAL = specOf("External", [A]);
const SLOTS = specOf("NodeAddress", [A, B]);

interface Case {
  world: World;
  spec?: EgressPolicySpec;
  others?: OtherUpgrades;
  /** Generation of the policy. The Deployments of a world are from generation 2. */
  generation?: number;
  observedGeneration?: number;
  options?: typeof OPTIONS;
}

function planned({ world, spec = EXTERNAL, others = FULL, options = NEXT, ...more }: Case) {
  const facts = { ...factsOf(world, spec), upgrades: () => others };
  const { generation = 2, observedGeneration = generation } = more;
  const metadata = { ...facts.policy.metadata, generation };
  const policy = { ...facts.policy, metadata, status: { observedGeneration } };
  const { desired } = decide({ ...facts, policy }, () => undefined, options);
  const written = desired!.objects.filter(
    (object) =>
      object.kind === "Deployment" && stampOf(object) !== stampOf(world.deployments.get(object.metadata.name)),
  ) as Deployment[];
  return { desired: desired!, written, waits: desired!.upgrade.waiting.length };
}

/** Changes every Deployment of a world. */
function withDeployments(world: World, change: (deployment: Deployment) => Deployment): World {
  const deployments = new Map([...world.deployments].map(([name, one]) => [name, change(structuredClone(one))]));
  return { ...world, deployments };
}
const withoutMarks = (world: World) =>
  withDeployments(world, (one) => {
    delete one.metadata.labels![LABEL.operatorSettings];
    delete one.metadata.labels![LABEL.ownerSettings];
    return one;
  });
const upgrading = (world: World, since = at(NOW)) =>
  withDeployments(world, (one) => {
    one.metadata.labels![LABEL.upgrade] = "progressing";
    one.metadata.annotations![ANNOTATION.upgradedAt] = since;
    return one;
  });
const markOf = (deployment: Deployment | undefined) => deployment?.metadata.labels?.[LABEL.upgrade];

test("an upgrade waits while as many fleets as allowed are upgraded", () => {
  const { written, waits, desired } = planned({ world: settled(EXTERNAL) });
  assert.deepEqual([written.length, waits, desired.round.waiting], [0, 1, []]);
  assert.ok(!writesUpgrade(desired));
});

test("an upgrade begins while fewer fleets are upgraded, and marks the Deployment", () => {
  const { written, waits, desired } = planned({ world: settled(EXTERNAL), others: { ...FULL, progressing: 4 } });
  assert.deepEqual([written.length, waits, markOf(written[0])], [1, 0, "progressing"]);
  assert.equal(written[0]!.metadata.annotations![ANNOTATION.upgradedAt], "2026-03-01T12:00:00Z");
  assert.ok(writesUpgrade(desired));
});

test("a reserved upgrade does not wait", () => {
  assert.equal(planned({ world: settled(EXTERNAL), others: { ...FULL, reserved: true } }).waits, 0);
});

test("without a limit nothing waits and nothing is marked", () => {
  const { written, waits } = planned({ world: settled(EXTERNAL), others: { ...PAUSED, limit: 0 } });
  assert.deepEqual([written.length, waits, markOf(written[0])], [1, 0, undefined]);
});

test("a failed fleet pauses upgrades below the limit", () => {
  assert.equal(planned({ world: settled(EXTERNAL), others: PAUSED }).waits, 1);
});

test("a fleet that is not ready does not wait and does not count", () => {
  const unready = planned({ world: withProxies(settled(EXTERNAL), () => ({ ready: false })) });
  assert.deepEqual([unready.written.length, unready.waits, markOf(unready.written[0])], [1, 0, undefined]);
  const behind = withDeployments(settled(EXTERNAL), (one) => ({
    ...one,
    status: { ...one.status, updatedReplicas: 0 },
  }));
  assert.equal(planned({ world: behind }).written.length, 1);
});

test("a fleet whose proxies were not polled yet counts as ready", () => {
  assert.deepEqual(planned({ world: unpolled(settled(EXTERNAL)) }).waits, 1);
});

test("an edit of the owner never waits", () => {
  const spec = specOf("External", [A], edited);
  const { written, waits } = planned({ world: settled(EXTERNAL), spec, generation: 3, others: PAUSED });
  assert.deepEqual([written.length, waits, markOf(written[0])], [1, 0, undefined]);
});

test("an edit of the owner ends the upgrade of its fleet", () => {
  const spec = specOf("External", [A], edited);
  const { written } = planned({ world: upgrading(settled(EXTERNAL)), spec, generation: 3 });
  assert.equal(markOf(written[0]), "complete");
});

test("an edit that does not concern the pod template does not end the wait", () => {
  const spec = { ...EXTERNAL, deny: [{ hosts: ["other.example"] }] };
  const { desired, written, waits } = planned({ world: settled(EXTERNAL), spec, generation: 3 });
  assert.deepEqual([written.length, waits], [0, 1]);
  assert.ok(desired.objects.some(({ kind, metadata }) => kind === "ConfigMap" && metadata.name.endsWith("-policy")));
});

test("a new default of the CRD is no edit of the owner", () => {
  const spec = { ...EXTERNAL, proxy: { ...EXTERNAL.proxy, podLabels: { added: "by-the-crd" } } } as EgressPolicySpec;
  assert.equal(planned({ world: settled(EXTERNAL), spec }).waits, 1);
});

test("the first upgrade from a version without marks waits, edits do not", () => {
  const world = withoutMarks(settled(EXTERNAL));
  assert.equal(planned({ world }).waits, 1);
  assert.equal(planned({ world, generation: 3, observedGeneration: 2 }).waits, 0);
});

test("an edit by others is repaired at once, an addition by others waits", () => {
  const managed = (fields: object) =>
    withDeployments(settled(EXTERNAL), (one) => {
      one.metadata.managedFields = [{ manager: "kubectl-edit", fieldsV1: { "f:spec": fields } }];
      return one;
    });
  const container = (fields: object) => ({
    "f:template": { "f:spec": { "f:containers": { 'k:{"name":"proxy"}': { ".": {}, ...fields } } } },
  });
  const restart = {
    "f:template": { "f:metadata": { "f:annotations": { "f:kubectl.kubernetes.io/restartedAt": {} } } },
  };
  for (const [about, fields, waits] of [
    ["image", container({ "f:image": {} }), 0],
    ["strategy", { "f:strategy": { "f:type": {} } }, 0],
    ["arguments", container({ "f:args": {} }), 0],
    ["restart", restart, 1],
    ["deadline", { "f:progressDeadlineSeconds": {} }, 1],
    ["replicas of an HPA", { "f:replicas": {} }, 1],
    [
      "another container",
      { "f:template": { "f:spec": { "f:containers": { 'k:{"name":"x"}': { "f:image": {} } } } } },
      1,
    ],
    ["a field of the container", container({ "f:terminationMessagePath": {} }), 1],
  ] as const) {
    assert.equal(planned({ world: managed(fields) }).waits, waits, about);
  }
});

test("a fleet of slots counts as one and continues at the limit", () => {
  const first = planned({ world: settled(SLOTS), spec: SLOTS, others: NO_UPGRADES });
  assert.deepEqual([first.written.length, first.waits], [1, 0]);
  const world = settled(SLOTS);
  const name = first.written[0]!.metadata.name;
  world.deployments.set(name, rolledOut(first.written[0]!));
  const second = planned({ world, spec: SLOTS, others: PAUSED });
  assert.deepEqual([second.written.length, second.waits], [1, 0]);
  assert.notEqual(second.written[0]!.metadata.name, name);
  // Until every slot serves, the mark of the first one stays.
  const marks = second.desired.objects
    .filter(({ kind }) => kind === "Deployment")
    .map((one) => markOf(one as Deployment));
  assert.deepEqual(marks, ["progressing", "progressing"]);
});

test("all slots of a fleet wait together, and a new slot is created", () => {
  const { written, waits, desired } = planned({ world: settled(SLOTS), spec: SLOTS });
  assert.deepEqual([written.length, waits, desired.removals.length], [0, 2, 0]);
  const three = specOf("NodeAddress", [A, B, "203.0.113.22"]);
  const more = planned({ world: settled(SLOTS), spec: three, generation: 3 });
  assert.deepEqual([more.written.length, more.waits], [1, 2]);
});

test("the mark ends when the fleet is complete", () => {
  const same = { options: OPTIONS };
  const complete = planned({ world: upgrading(settled(EXTERNAL)), ...same });
  assert.equal(markOf(complete.desired.objects.find(({ kind }) => kind === "Deployment") as Deployment), "complete");
  const unready = withProxies(upgrading(settled(EXTERNAL)), () => ({ ready: false }));
  const open = planned({ world: unready, ...same });
  assert.equal(markOf(open.desired.objects.find(({ kind }) => kind === "Deployment") as Deployment), "progressing");
});

test("a fleet in an upgrade gets the next image at once", () => {
  const { written, waits } = planned({ world: upgrading(settled(EXTERNAL), at(NOW - MINUTE)), others: PAUSED });
  assert.deepEqual([written.length, waits], [1, 0]);
  assert.equal(written[0]!.metadata.annotations![ANNOTATION.upgradedAt], "2026-03-01T12:00:00Z");
});

test("an upgrade fails at the deadline, and not by the state of an older template", () => {
  const operator = templateFingerprint(OPTIONS);
  const state = (world: World, now = NOW, own = operator) => upgradeOf([...world.deployments.values()], own, now);
  const world = upgrading(settled(EXTERNAL));
  assert.equal(state(settled(EXTERNAL)), undefined);
  assert.deepEqual(state(world), { failed: false, deadline: NOW + 10 * MINUTE });
  assert.equal(state(world, NOW + 10 * MINUTE)!.failed, true);
  assert.equal(state(world, NOW + 10 * MINUTE, "another")!.failed, false);
  const short = withDeployments(world, (one) => ({ ...one, spec: { ...one.spec, progressDeadlineSeconds: 60 } }));
  assert.equal(state(short)!.deadline, NOW + MINUTE);
  const conditions = [{ type: "Progressing", status: "False", reason: "ProgressDeadlineExceeded" }];
  const exceeded = withDeployments(world, (one) => ({ ...one, status: { ...one.status, conditions } }));
  assert.equal(state(exceeded)!.failed, true);
  const unseen = withDeployments(exceeded, (one) => ({ ...one, metadata: { ...one.metadata, generation: 4 } }));
  assert.equal(state(unseen)!.failed, false);
  // The last change of all slots counts.
  const slots = upgrading(settled(SLOTS), at(NOW - 20 * MINUTE));
  const [, second] = [...slots.deployments.values()];
  second!.metadata.annotations![ANNOTATION.upgradedAt] = at(NOW);
  assert.equal(state(slots)!.failed, false);
});

test("every field that changes a Deployment is one of the owner's settings", () => {
  const changes: Record<string, object>[] = [
    { proxy: { image: "outrider:3" } },
    { proxy: { replicas: 3 } },
    { proxy: edited },
    { proxy: { timeouts: { drainSeconds: 60 } } },
    { proxy: { priorityClassName: "high" } },
    { nat: { provider: "PodIP", podIP: { annotations: { pool: "static" } } } },
    { nat: { provider: "NodeAddress", nodeAddress: { nodeSelector: { egress: "yes" } } } },
    { authentication: { mode: "Basic", secretRef: { name: "other" } } },
    { staticIPs: [{ address: B }] },
    { staticIPs: [{ address: A, sourceAddress: B }] },
    { deny: [{ hosts: ["a.example"] }] },
    { allow: [{ hosts: ["a.example"] }] },
    { mode: "Report" },
    { ports: [8443] },
    { verification: { urls: ["https://echo.example/"] } },
    { networkPolicy: { proxy: "Disabled" } },
    { injection: { mode: "None" } },
  ] as never;
  let count = 0;
  for (const base of [EXTERNAL, SLOTS]) {
    const settings = (spec: EgressPolicySpec) =>
      ownerSettings(factsOf(settled(base), spec).policy, spec, slotsOf(spec)[base === SLOTS ? 0 : 9]);
    for (const change of changes) {
      const spec = withDefaults({ ...base, ...change } as never);
      const { desired } = decide(factsOf(settled(base), spec), () => undefined, OPTIONS);
      const before = settled(base).deployments;
      const changed = desired?.objects.some(
        (one) =>
          before.has(one.metadata.name) &&
          one.kind === "Deployment" &&
          stampOf(one) !== stampOf(before.get(one.metadata.name)),
      );
      if (changed) assert.notEqual(settings(spec), settings(base), JSON.stringify(change));
      count += changed ? 1 : 0;
    }
  }
  assert.ok(count > 10, `${count} changes`);
});

test("the fingerprint depends on the options that enter pod templates", () => {
  const of = (options: object) => templateFingerprint({ ...OPTIONS, ...options });
  assert.equal(of({}), templateFingerprint(OPTIONS));
  assert.equal(of({ adminFrom: ["monitoring"] }), of({}));
  for (const one of [{ image: "outrider:2" }, { imagePullPolicy: "Always" }, { imagePullSecrets: ["registry"] }]) {
    assert.notEqual(of(one), of({}), JSON.stringify(one));
  }
});

test("an image of another repository is rejected", () => {
  const verdict = (image: string) => {
    const spec = specOf("External", [A], { image });
    return decide({ ...factsOf(settled(EXTERNAL), spec) }, () => undefined, OPTIONS).rejection;
  };
  for (const image of ["outrider", "outrider:2", `outrider@sha256:${"0".repeat(64)}`])
    assert.equal(verdict(image), undefined);
  for (const image of ["evil:1", "registry.example:5000/outrider:1", "outrider/outrider"]) {
    assert.equal(verdict(image)?.reason, "NotGranted", image);
  }
});

/** Fleets in a cluster that reports late. */
class Cluster {
  readonly limit: number;
  readonly fleets: SimulatedFleet[];
  options: typeof OPTIONS;
  upgrades: FleetUpgrades;

  constructor(count: number, limit: number) {
    this.limit = limit;
    this.fleets = Array.from({ length: count }, (_, i) => new SimulatedFleet(i));
    this.options = OPTIONS;
    this.upgrades = this.#upgrades();
  }

  #upgrades(): FleetUpgrades {
    const list = () => this.fleets.flatMap(({ cached }) => [...cached.values()]);
    const caches = { deployments: { list } } as unknown as Caches;
    return new FleetUpgrades(caches, { operator: templateFingerprint(this.options), limit: this.limit });
  }

  /** Another operator starts. It lists all objects first. */
  restart(image: string): void {
    this.options = { ...OPTIONS, image };
    for (const fleet of this.fleets) fleet.see();
    this.upgrades = this.#upgrades();
  }

  /** Names of the fleets that are not ready because of an upgrade. */
  get unready(): SimulatedFleet[] {
    return this.fleets.filter(({ byUpgrade }) => byUpgrade);
  }

  /** One reconcile. Returns whether the Deployments have the settings of owner and operator afterwards. */
  reconcile(fleet: SimulatedFleet): void {
    const { key } = fleet;
    const facts = fleet.facts(this.upgrades);
    const { desired } = decide(facts, () => undefined, this.options);
    this.upgrades.reserve(key, writesUpgrade(desired!));
    this.upgrades.wait(key, desired!.upgrade.others && desired!.upgrade.others.failed.length > 0);
    for (const object of desired!.objects) if (object.kind === "Deployment") fleet.write(object as Deployment);
  }
}

class SimulatedFleet {
  readonly key: string;
  readonly #namespace: string;
  spec = EXTERNAL;
  generation = 1;
  /** Whether the owner has changed the settings since the last write. */
  ownerEdited = false;
  byUpgrade = false;
  #stored: World;
  cached: ReadonlyMap<string, Deployment> = new Map();

  constructor(index: number) {
    this.#namespace = `ns-${String(index).padStart(2, "0")}`;
    this.key = `${this.#namespace}/webhooks`;
    if (index % 3 === 0) this.spec = SLOTS;
    this.#stored = { ...settled(this.spec), deployments: new Map() };
    const { desired } = decide(this.facts(undefined), () => undefined, OPTIONS);
    for (const object of desired!.objects) {
      if (object.kind !== "Deployment") continue;
      assert.equal(keyOf({ metadata: { ...object.metadata, name: "webhooks" } }), this.key);
      this.#stored.deployments.set(object.metadata.name, rolledOut(object as Deployment));
    }
    this.see();
  }

  facts(upgrades: FleetUpgrades | undefined) {
    const facts = factsOf({ ...this.#stored, deployments: new Map(this.cached) }, this.spec);
    const metadata = { ...facts.policy.metadata, namespace: this.#namespace, generation: this.generation };
    const status = { observedGeneration: this.generation } as never;
    const others = () => upgrades?.others(this.key, facts.now) ?? NO_UPGRADES;
    return { ...facts, policy: { ...facts.policy, metadata, status }, upgrades: others };
  }

  /** The cache gets the newest state. */
  see(): void {
    this.cached = new Map(this.#stored.deployments);
  }

  edit(edition: string): void {
    const ips = this.spec === SLOTS || this.spec.nat.provider === "NodeAddress" ? [A, B] : [A];
    this.spec = specOf(ips.length === 2 ? "NodeAddress" : "External", ips, { podAnnotations: { edition } });
    this.generation++;
    this.ownerEdited = true;
  }

  write(object: Deployment): void {
    const before = this.#stored.deployments.get(object.metadata.name)!;
    const { generation = 0 } = before.metadata;
    const changed = stampOf(before) !== stampOf(object);
    const after = {
      ...before,
      ...object,
      metadata: { ...object.metadata, generation: generation + (changed ? 1 : 0) },
    };
    this.#stored.deployments.set(object.metadata.name, after);
    if (!changed) return;
    // As far as the operator could see, the fleet was ready.
    const wasReady = [...this.cached.values()].every(isSeen);
    this.byUpgrade = !this.ownerEdited && (this.byUpgrade || wasReady);
  }

  /** The new proxies serve, unless the image is broken. */
  roll(): void {
    for (const [name, one] of this.#stored.deployments) {
      const broken = JSON.stringify(one).includes("broken");
      if (broken || one.status?.observedGeneration === one.metadata.generation) continue;
      const { generation = 0 } = one.metadata;
      this.#stored.deployments.set(name, { ...one, status: { ...one.status!, observedGeneration: generation } });
    }
    if (this.isRolledOut) this.byUpgrade = false;
    if (this.isRolledOut && this.hasSpec("every")) this.ownerEdited = false;
  }

  get isRolledOut(): boolean {
    return [...this.#stored.deployments.values()].every(isSeen);
  }

  hasImage(image: string): boolean {
    return [...this.#stored.deployments.values()].every((one) => JSON.stringify(one).includes(`"${image}"`));
  }

  /** Whether some or every Deployment has the edition of the spec. */
  hasSpec(quantifier: "some" | "every"): boolean {
    const edition = this.spec.proxy?.podAnnotations?.edition ?? "none";
    return [...this.#stored.deployments.values()][quantifier]((one) =>
      JSON.stringify(one).includes(`"edition":"${edition}"`),
    );
  }
}

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));

test(`never more fleets than the limit are unready by upgrades (SEED=${seed})`, () => {
  const random = randomFrom(seed);
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;
  for (let run = 0; run < 3; run++) {
    const limit = 1 + Math.floor(random() * 4);
    const cluster = new Cluster(9, limit);
    let image = OPTIONS.image;
    for (let step = 0; step < 120; step++) {
      const fleet = pick(cluster.fleets);
      const what = random();
      if (what < 0.03) cluster.restart(image);
      else if (what < 0.06) {
        image = `outrider:${run}-${step}${random() < 0.3 ? "-broken" : ""}`;
        cluster.restart(image);
      } else if (what < 0.1) {
        fleet.edit(`${step}`);
        fleet.see();
        cluster.reconcile(fleet);
        assert.ok(fleet.hasSpec("some"), `an edit waits, seed ${seed}, run ${run}, step ${step}`);
      } else if (what < 0.4) fleet.see();
      else if (what < 0.6) fleet.roll();
      else cluster.reconcile(fleet);
      const unready = cluster.unready.map(({ key }) => key);
      assert.ok(unready.length <= limit, `${unready} with limit ${limit}, seed ${seed}, run ${run}, step ${step}`);
    }
    cluster.restart("outrider:last");
    for (let round = 0; round < 40 && !cluster.fleets.every((one) => one.hasImage("outrider:last")); round++) {
      for (const fleet of cluster.fleets) {
        fleet.see();
        cluster.reconcile(fleet);
        fleet.roll();
      }
      assert.ok(cluster.unready.length <= limit);
    }
    for (const fleet of cluster.fleets) assert.ok(fleet.hasImage("outrider:last"), `${fleet.key}, seed ${seed}`);
  }
});

test("the next policies are reconciled when an upgrade ends, and all when the pause begins", () => {
  const cluster = new Cluster(9, 2);
  cluster.restart("outrider:broken");
  for (const fleet of cluster.fleets) cluster.reconcile(fleet);
  assert.equal(cluster.upgrades.counts(NOW).waiting, 7);
  assert.deepEqual(cluster.upgrades.due(NOW), ["ns-02/webhooks", "ns-03/webhooks"]);
  for (const fleet of cluster.fleets) fleet.see();
  assert.deepEqual(cluster.upgrades.counts(NOW), { waiting: 7, progressing: 2, failed: 0 });
  const later = NOW + 11 * MINUTE;
  assert.equal(cluster.upgrades.counts(later).failed, 2);
  assert.equal(cluster.upgrades.due(later).length, 7);
  cluster.upgrades.forget("ns-02/webhooks");
  assert.equal(cluster.upgrades.counts(later).waiting, 6);
});

test("settled worlds keep their Deployments", () => {
  const world = apply(settled(EXTERNAL), EXTERNAL);
  assert.equal(planned({ world, options: OPTIONS }).written.length, 0);
});
