import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import pino from "pino";
import { Registry } from "prom-client";
import { ApiError, Client } from "../../../operator/kube/client.ts";
import { type Clock, systemClock } from "../../../operator/kube/clock.ts";
import { EventRecorder } from "../../../operator/kube/events.ts";
import { LeaseElection } from "../../../operator/kube/lease.ts";
import { KubeMetrics } from "../../../operator/kube/metrics.ts";
import type { KubeObject } from "../../../operator/kube/resource.ts";
import { BOOT, type ControlPlane, controlPlaneMissing, startControlPlane } from "../../cluster/control-plane.ts";
import { type FaultProxy, startFaultProxy } from "../../cluster/fault-proxy.ts";
import { fastClock, ManualClock } from "./clocks.ts";
import { CONFIG_MAPS, type ConfigMap, configFrom, EVENTS, LEASES, NAMESPACES, until } from "./shared.ts";

/** How much faster the elections' clocks run: leases of 15 s end after 1.5 s. */
const SPEED = 10;

const skip = controlPlaneMissing() ?? false;
const onPlane = (name: string, run: () => Promise<void>) => test(name, { skip }, run);
let plane: ControlPlane;
let direct: Client;

before(async () => {
  if (skip) return;
  plane = await startControlPlane();
  direct = new Client(configFrom(plane.userConfig()));
}, BOOT);
after(async () => {
  if (skip) return;
  direct.close();
  await plane.stop();
});
const log = pino({ level: "silent" });

interface Operator {
  election: LeaseElection;
  client: Client;
  proxy: FaultProxy;
  lost: boolean;
  metrics: Registry;
}

/** An elector and a writer that is bound to it, both through a fault proxy of their own. */
async function operator(name: string, identity: string, clock: Clock = fastClock(SPEED)): Promise<Operator> {
  const proxy = await startFaultProxy(plane);
  const config = configFrom(proxy.config());
  const leaseClient = new Client(config);
  const metrics = new Registry();
  const made = { lost: false, proxy, metrics };
  const election = new LeaseElection({
    client: leaseClient,
    namespace: "default",
    name,
    identity,
    log,
    clock,
    metrics: new KubeMetrics(metrics),
    onLost: () => {
      operator.lost = true;
    },
  });
  const client = new Client(config, { mayWrite: () => election.isLeader, timeoutMs: 5000 });
  const operator: Operator = { ...made, election, client };
  after(async () => {
    await election.stop();
    for (const each of [leaseClient, client]) each.close();
    await proxy.close();
  });
  return operator;
}
type Lease = KubeObject & { spec: { holderIdentity: string; leaseTransitions: number; renewTime: string } };
const leaseOf = async (name: string) => (await direct.get<Lease>(LEASES, name, "default")).spec;

/** Writes its name and round as fast as possible, until it is stopped. */
function writeOn(who: Operator, name: string, identity: string, journal: string[]): { stop(): Promise<void> } {
  let on = true;
  const work = (async () => {
    while (on) {
      if (!who.election.isLeader) {
        await new Promise((resolve) => setTimeout(resolve, 5));
        continue;
      }
      const object = { metadata: { name, namespace: "default" }, data: { by: identity } };
      await who.client.apply(CONFIG_MAPS, object, { fieldManager: "test", force: true }).then(
        () => journal.push(identity),
        (error: unknown) => assert.ok(error instanceof ApiError),
      );
    }
  })();
  return {
    stop: () => {
      on = false;
      return work;
    },
  };
}

onPlane("one of two processes leads, and the other takes over", async () => {
  const [one, two] = [await operator("pair", "one"), await operator("pair", "two")];
  const journal: string[] = [];
  const writers = [writeOn(one, "pair", "one", journal), writeOn(two, "pair", "two", journal)];
  await one.election.start();
  let twoLeads = false;
  const second = two.election.start().then(() => {
    twoLeads = true;
  });
  const first = await leaseOf("pair");
  await until(
    "some renewals",
    async () => (await leaseOf("pair")).renewTime !== first.renewTime && journal.length > 20,
  );
  assert.equal(twoLeads, false);
  assert.equal(new Set(journal).size, 1);
  assert.match(first.renewTime, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
  // The first loses its way to the API server.
  one.proxy.refuse = () => ({ status: 503, body: "" });
  await until("the first knows it", () => !one.election.isLeader);
  assert.equal(twoLeads, false, "no second leader before the first has given up");
  await second;
  await until("the second writes", () => journal.at(-1) === "two");
  assert.equal(one.lost, false, "it cannot know of the second");
  one.proxy.refuse = undefined;
  await until("the first hears of the second", () => one.lost);
  const taken = journal.indexOf("two");
  const count = journal.length;
  await until("the second continues to write", () => journal.length > count + 20);
  assert.ok(journal.slice(taken).every((who) => who === "two"));
  const object = { metadata: { name: "pair", namespace: "default" } };
  const late = one.client.apply(CONFIG_MAPS, object, { fieldManager: "test" });
  await assert.rejects(late, (error: unknown) => error instanceof ApiError && error.reason === "NotAllowedToWrite");
  assert.equal((await direct.get<ConfigMap>(CONFIG_MAPS, "pair", "default")).data?.by, "two");
  const spec = await leaseOf("pair");
  assert.deepEqual([spec.holderIdentity, spec.leaseTransitions], ["two", 1]);
  for (const writer of writers) await writer.stop();
});

onPlane("a stopped leader releases the lease", async () => {
  // Its clock does not advance, so it could never see a lease expire.
  const frozen = new ManualClock();
  const [one, two] = [await operator("handed", "one"), await operator("handed", "two", frozen)];
  await one.election.start();
  const second = two.election.start();
  await until("the second waits", () => frozen.next !== undefined && frozen.next < 5000);
  await one.election.stop();
  assert.equal((await leaseOf("handed")).holderIdentity, "");
  assert.equal(one.lost, false);
  frozen.advance(5000);
  await second;
  assert.equal((await leaseOf("handed")).holderIdentity, "two");
  const leads = async ({ metrics }: Operator) =>
    (await metrics.getSingleMetric("leader_election_master_status")!.get()).values[0]?.value;
  assert.deepEqual([await leads(one), await leads(two)], [0, 1]);
});

onPlane("a process that slept past its deadline does not lead", async () => {
  let skipped = 0;
  const jumping: Clock = { now: () => systemClock.now() + skipped, after: systemClock.after };
  const one = await operator("sleeper", "one", jumping);
  await one.election.start();
  assert.equal(one.election.isLeader, true);
  skipped = 60_000;
  assert.equal(one.election.isLeader, false);
  const object = { metadata: { name: "sleeper", namespace: "default" } };
  const late = one.client.apply(CONFIG_MAPS, object, { fieldManager: "test" });
  await assert.rejects(late, (error: unknown) => error instanceof ApiError && error.reason === "NotAllowedToWrite");
  await until("no other process led meanwhile, so it leads again", () => one.election.isLeader);
  assert.equal(one.lost, false);
  skipped = 120_000;
  await direct.delete(LEASES, "sleeper", "default");
  await until("another process may have led and deleted the lease: it gives up", () => one.lost);
});

onPlane("a leader pauses during an outage and leads again", async () => {
  const one = await operator("paused", "one");
  await one.election.start();
  one.proxy.refuse = () => ({ status: 500 });
  await until("it pauses", () => !one.election.isLeader);
  // More than a lease, by its clock.
  await new Promise((resolve) => setTimeout(resolve, 20_000 / SPEED));
  assert.deepEqual([one.election.isLeader, one.lost], [false, false]);
  one.proxy.refuse = undefined;
  await until("it leads again", () => one.election.isLeader);
  const spec = await leaseOf("paused");
  assert.deepEqual([spec.holderIdentity, spec.leaseTransitions, one.lost], ["one", 0, false]);
});

onPlane("a lease that another process took is lost at once", async () => {
  const one = await operator("taken", "one");
  await one.election.start();
  const spec = { holderIdentity: "thief", renewTime: "2001-01-01T00:00:00.000000Z", leaseDurationSeconds: 15 };
  await direct.patch(LEASES, "taken", "default", { spec }, { type: "merge" });
  await until("it is lost", () => one.lost);
  // By its own words the thief's lease ended long ago. By the local clock it has just begun.
  const frozen = new ManualClock();
  const two = await operator("taken", "two", frozen);
  let leads = false;
  const start = two.election.start().then(() => {
    leads = true;
  });
  await until("the first look", () => frozen.next !== undefined && frozen.next < 5000);
  frozen.advance(14_000);
  await until("another look", () => frozen.next !== undefined && frozen.next < 5000);
  assert.equal(leads, false);
  assert.equal((await leaseOf("taken")).holderIdentity, "thief");
  frozen.advance(5000);
  await start;
  assert.equal((await leaseOf("taken")).holderIdentity, "two");
});

onPlane("a lease that its holder renews is never taken", async () => {
  const spec = { holderIdentity: "one", leaseDurationSeconds: 15, renewTime: "2001-01-01T00:00:00.000000Z" };
  await direct.create(LEASES, { metadata: { name: "renewed", namespace: "default" }, spec });
  const clock = new ManualClock();
  const two = await operator("renewed", "two", clock);
  let leads = false;
  const start = two.election.start().then(() => {
    leads = true;
  });
  for (let renewal = 1; renewal <= 4; renewal++) {
    const reads = two.proxy.count("GET");
    await until("the candidate waits", () => clock.next !== undefined && clock.next < 5000);
    clock.advance(10_000);
    await until("it has read the lease", () => two.proxy.count("GET") > reads);
    await until("it waits again", () => clock.next !== undefined && clock.next < 5000);
    const renewTime = `2001-01-01T00:00:0${renewal}.000000Z`;
    await direct.patch(LEASES, "renewed", "default", { spec: { renewTime } }, { type: "merge" });
  }
  assert.deepEqual([leads, (await leaseOf("renewed")).holderIdentity], [false, "one"]);
  // Without renewals it expires.
  while (!leads) {
    await until("the candidate waits, or leads", () => leads || (clock.next !== undefined && clock.next < 5000));
    clock.advance(5000);
    await new Promise((resolve) => setImmediate(resolve));
  }
  await start;
  assert.equal((await leaseOf("renewed")).holderIdentity, "two");
});

onPlane("a leader counts from the time at which it sent a renewal", async () => {
  const clock = new ManualClock();
  const one = await operator("late", "one", clock);
  await one.election.start();
  // Other processes may see the renewal long before its answer arrives here.
  let answers = 0;
  one.proxy.answered = (method) => {
    if (method !== "PUT") return false;
    clock.advance(7000);
    answers++;
    one.proxy.refuse = () => "silence";
    return false;
  };
  await until("it waits for its next renewal", () => clock.next !== undefined && clock.next <= 2000);
  clock.advance(2000);
  await until("the answer has arrived", () => answers > 0 && clock.next !== undefined && clock.next <= 2000);
  assert.equal(one.election.isLeader, true);
  // The renewal was sent at 2 s, so it is valid until 12 s. It is 9 s now.
  clock.advance(3001);
  assert.equal(one.election.isLeader, false);
});

onPlane("of two processes that see an expired lease, one leads", async () => {
  const spec = { holderIdentity: "", leaseDurationSeconds: 1, renewTime: "2001-01-01T00:00:00.000000Z" };
  await direct.create(LEASES, { metadata: { name: "race", namespace: "default" }, spec });
  const [one, two] = [await operator("race", "one"), await operator("race", "two")];
  // The second process reads the lease, and gets the answer after the first one has it.
  let passes = 0;
  let isHeld = true;
  two.proxy.holds = () => passes++ > 0 && isHeld;
  let leads = false;
  void two.election.start().then(() => {
    leads = true;
  });
  await until("the API server has answered", () => passes > 1);
  await one.election.start();
  isHeld = false;
  await until("the second process has tried", () => two.proxy.count("PUT") > 0);
  const reads = two.proxy.count("GET");
  await until("it has read the lease again", () => two.proxy.count("GET") > reads + 1);
  assert.deepEqual([leads, one.lost, (await leaseOf("race")).holderIdentity], [false, false, "one"]);
});

test("steps of the wall clock change no leader", { skip }, async (t) => {
  const [one, two] = [await operator("steps", "one"), await operator("steps", "two")];
  await one.election.start();
  let leads = false;
  void two.election.start().then(() => {
    leads = true;
  });
  const HOUR = 3_600_000;
  t.mock.timers.enable({ apis: ["Date"], now: Date.now() });
  for (const step of [HOUR, -HOUR]) {
    t.mock.timers.setTime(Date.now() + step);
    assert.equal(one.election.isLeader, true);
    const renewals = one.proxy.count("PUT");
    await until("it has renewed the lease", () => one.proxy.count("PUT") > renewals + 2, 10 * HOUR);
    assert.deepEqual([one.election.isLeader, one.lost, leads], [true, false, false]);
  }
  const { holderIdentity, leaseTransitions } = await leaseOf("steps");
  assert.deepEqual([holderIdentity, leaseTransitions], ["one", 0]);
});

type Event = KubeObject & { count: number; message: string; reason: string; involvedObject: { uid?: string } };
const eventsOf = async (namespace: string, uid: string | undefined) =>
  (await direct.listAll<Event>(EVENTS, { namespace })).items.filter(({ involvedObject }) => involvedObject.uid === uid);
async function subject(name: string): Promise<ConfigMap> {
  return direct.create<ConfigMap>(CONFIG_MAPS, { metadata: { name, namespace: "default" } });
}

onPlane("counts repeated events and limits those of one object", async () => {
  const object = await subject("eventful");
  const clock = new ManualClock();
  const recorder = new EventRecorder({ client: direct, component: "test", instance: "i", log, clock });
  for (let index = 0; index < 10; index++) {
    recorder.event(object, "Normal", "Applied", "everything is there");
    if (index % 3 === 0) await recorder.flush();
  }
  recorder.event(object, "Warning", "Conflicted", "an address is held by another policy");
  await recorder.flush();
  const events = await eventsOf("default", object.metadata.uid);
  assert.deepEqual(events.map(({ reason, count }) => [reason, count]).sort(), [
    ["Applied", 10],
    ["Conflicted", 1],
  ]);
  for (let index = 0; index < 100; index++) recorder.event(object, "Normal", "Flood", `number ${index}`);
  await recorder.flush();
  assert.equal((await eventsOf("default", object.metadata.uid)).length, 2 + 25 - 10, "warnings count apart");
  assert.deepEqual([recorder.limited, recorder.lost], [100 - 15, 0]);
  clock.advance(5 * 60 * 1000);
  recorder.event(object, "Normal", "Later", "one more after five minutes");
  await recorder.flush();
  assert.ok((await eventsOf("default", object.metadata.uid)).some(({ reason }) => reason === "Later"));
  await recorder.stop();
});

onPlane("recreates expired events and counts lost ones", async () => {
  const object = await subject("forgotten");
  const recorder = new EventRecorder({ client: direct, component: "test", instance: "i", log });
  recorder.event(object, "Normal", "Applied", "x");
  await recorder.flush();
  for (const { metadata } of await eventsOf("default", object.metadata.uid))
    await direct.delete(EVENTS, metadata.name, "default");
  recorder.event(object, "Normal", "Applied", "x");
  const namespace = await direct.get(NAMESPACES, "kube-system");
  recorder.event(namespace, "Normal", "Applied", "x");
  recorder.event({ ...object, metadata: { name: "lost", namespace: "no-such-namespace" } }, "Normal", "Applied", "x");
  await recorder.stop();
  assert.equal((await eventsOf("default", object.metadata.uid)).length, 1);
  assert.equal((await eventsOf("default", namespace.metadata.uid)).length, 1);
  assert.equal(recorder.lost, 1);
  recorder.event(object, "Normal", "TooLate", "x");
  assert.equal(recorder.lost, 2);
});

onPlane("an Events API that hangs delays callers once", async () => {
  const object = await subject("hanging");
  const proxy = await startFaultProxy(plane);
  const client = new Client(configFrom(proxy.config()), { timeoutMs: 2000 });
  const recorder = new EventRecorder({ client, component: "test", instance: "i", log });
  const written = async () => (await eventsOf("default", object.metadata.uid)).map(({ reason }) => reason).sort();
  try {
    proxy.refuse = () => "silence";
    recorder.event(object, "Normal", "First", "x");
    await recorder.flush(200);
    let isOver = false;
    // Without the limit it would wait for the event, which ends with the time-out of the client.
    recorder.event(object, "Normal", "Second", "x");
    void recorder.flush(60_000).then(() => {
      isOver = true;
    });
    await new Promise((resolve) => setImmediate(resolve));
    assert.ok(isOver);
    proxy.refuse = undefined;
    await until("the API answers", async () => (await written()).includes("Second"));
    // The Event exists before the recorder has its answer.
    await recorder.flush();
    recorder.event(object, "Normal", "Third", "x");
    await recorder.flush(60_000);
    assert.deepEqual(await written(), ["Second", "Third"]);
  } finally {
    await recorder.stop();
    client.close();
    await proxy.close();
  }
});
