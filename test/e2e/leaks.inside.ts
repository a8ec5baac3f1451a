import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import type { Pod } from "../../operator/api/objects.ts";
import { CHART, helmDone } from "../chart/helm.ts";
import { STATIC_IPS } from "../cluster/node/addresses.ts";
import type { Cluster } from "../cluster/node/cluster.ts";
import { IMAGE } from "../cluster/node/images.ts";
import type { Received } from "../cluster/node/internet.ts";
import { applyPolicy, conditionOf, policyPath, untilCondition } from "../operator/operator.ts";
import { PublishedHistory } from "./published.ts";
import {
  type Delivery,
  deploySender,
  loopLog,
  NS,
  runningPods,
  SPEC,
  SYSTEM,
  startStage,
  untilEnded,
  untilPods,
} from "./stage.ts";

/**
 * Zero leaks: two senders post every 50 ms, from before the policy exists until after its deletion, during all kinds of
 * faults. One never retries, the other retries as Convoy does. The requests at the receiver decide.
 */

const [FIRST, SECOND] = STATIC_IPS;
const FLEET = "egress.outrider.dev/fleet=webhooks";
const PROXY = "http://webhooks-egress.convoy.svc.cluster.local:4750";
const READY_MS = 90_000;
/** verification of {@link SPEC}: a NAT change of proven proxies is detected after interval + timeout at most. */
const WINDOW_MS = 2000;
const DEPLOYMENT = `/apis/apps/v1/namespaces/${NS}/deployments/webhooks-egress`;

let cluster: Cluster;
let published: PublishedHistory;
let once: Pod;
let stubborn: Pod;
/** Time of the first delivery: from then on no delivery is lost. */
let served: number;
/** Time when the NAT rule of proven proxies was deleted: no proxy can know before the next check. */
const vanished: number[] = [];
const isExcused = ({ at }: Received) => vanished.some((off) => at >= off && at <= off + WINDOW_MS);

const senderPod = async (name: string) => (await untilPods(cluster, `app=${name}`, 1))[0]!;
const received = () => cluster.internet.received();
const apply = (spec: object = {}) => applyPolicy(cluster.plane, NS, "webhooks", { ...SPEC, ...spec });
const ready = () => untilCondition(cluster.plane, NS, "webhooks", "Ready", "True", undefined, READY_MS);

before(async () => {
  cluster = await startStage();
  published = new PublishedHistory(cluster.plane, "webhooks");
  const loop = (path: string, attempts: number) => ({
    ...{ HTTP_PROXY: PROXY, http_proxy: PROXY, LOOP_MS: "50" },
    ...{ LOOP_URL: `http://hooks.example/${path}`, LOOP_ATTEMPTS: `${attempts}` },
  });
  await deploySender(cluster, "once", { env: loop("once", 1) });
  await deploySender(cluster, "stubborn", { env: loop("stubborn", 7) });
  once = await senderPod("once");
  stubborn = await senderPod("stubborn");
});
after(async () => {
  await published?.stop();
  await cluster?.stop();
});

/** Deliveries that began in a time. */
async function begun(pod: Pod, from: number, to = Date.now()): Promise<Delivery[]> {
  return (await loopLog(pod)).filter(({ began }) => began >= from && began <= to);
}

/** The longest time without an arrival at the receiver. */
function gap(path: string, from: number, to: number): number {
  const times = [
    from,
    ...received()
      .filter((request) => request.path === path && request.at >= from && request.at <= to)
      .map(({ at }) => at),
    to,
  ];
  return Math.max(...times.slice(1).map((at, i) => at - times[i]!));
}

/** Runs a fault on a serving fleet: no request uses a wrong address, and the sender with retries loses nothing. */
async function through(what: string, happening: () => Promise<void>): Promise<void> {
  const from = Date.now();
  await happening();
  await sleep(1500);
  const to = Date.now();
  assert.deepEqual(await published.wrong(received().filter(({ at }) => at >= from)), []);
  await untilEnded(once, to);
  const tried = await begun(once, from, to);
  const failed = tried.filter(({ status }) => status !== 200);
  console.log(
    `${what}: ${tried.length} requests, ${failed.length} failed, longest pause at the receiver ${gap("/once", from, to)} ms`,
  );
  for (const error of new Set(failed.map(({ error, status, body }) => error ?? `${status} ${body}`)))
    console.log(`  ${error}`);
  assert.ok(tried.length > 10);
  await lostNothing(from, to);
}

/** Asserts that the sender with retries lost none of the deliveries that began in this time. */
async function lostNothing(from: number, to: number): Promise<void> {
  await untilEnded(stubborn, to, READY_MS);
  const tried = await begun(stubborn, from, to);
  assert.ok(tried.length > 10);
  assert.deepEqual(
    tried.filter(({ status }) => status !== 200),
    [],
  );
}

test("no delivery arrives before the policy exists", async () => {
  await sleep(1000);
  const tried = await loopLog(once);
  assert.ok(tried.length > 5);
  assert.deepEqual(
    tried.filter(({ error }) => error === undefined),
    [],
  );
  assert.deepEqual(received(), []);
});

test("no request arrives before the NAT rule exists", async () => {
  cluster.network.snat(undefined);
  await apply();
  await cluster.plane.until<{ status?: { replicas?: number } }>(
    DEPLOYMENT,
    (found) => found?.status?.replicas === 2,
    "two proxies",
  );
  const path = `/api/v1/namespaces/${NS}/pods?labelSelector=${encodeURIComponent(FLEET)}`;
  const running = (found: { items: Pod[] } | undefined) =>
    found?.items.length === 2 && found.items.every(({ status }) => status?.phase === "Running");
  await cluster.plane.until<{ items: Pod[] }>(path, running, "two proxies run", READY_MS);
  await sleep(10_000);
  assert.deepEqual(received(), []);
  const policy = await cluster.plane.get<EgressPolicy>(policyPath(NS, "webhooks"));
  assert.notEqual(conditionOf(policy, "Ready")?.status, "True");
  const on = Date.now();
  cluster.network.snat(FIRST);
  await ready();
  while (received().length === 0) await sleep(20);
  console.log(`first delivery ${received()[0]!.at - on} ms after the NAT rule`);
  served = Date.now();
});

test("a rolling update", () =>
  through("roll-out", async () => {
    await apply({ proxy: { podAnnotations: { rolled: "out" } } });
    await rolledOut();
  }));

/** Waits until the fleet's Deployment is rolled out with this many proxies. */
async function rolledOut(replicas = 2): Promise<void> {
  await ready();
  await cluster.plane.until<{ metadata: { generation: number }; status?: Record<string, number> }>(
    DEPLOYMENT,
    (found) =>
      found?.status?.observedGeneration === found?.metadata.generation &&
      found?.status?.updatedReplicas === replicas &&
      found?.status?.availableReplicas === replicas &&
      found?.status?.replicas === replicas,
    `${replicas} proxies of the newest template`,
    READY_MS,
  );
}

test("a proxy is killed", () =>
  through("death of a proxy", async () => {
    const [proxy] = await runningPods(cluster, FLEET);
    const { containerStatuses } = proxy!.status as { containerStatuses: { containerID: string }[] };
    await cluster.nodes[0]!.ctr("tasks", "kill", "--signal", "SIGKILL", containerStatuses[0]!.containerID.slice(13));
    await sleep(2000);
    await rolledOut();
  }));

test("the node's address changes", () =>
  through("another address of the node", async () => {
    cluster.nodes[0]!.leaveAs("10.0.0.7");
    await sleep(4000);
  }));

test("the operator is killed", () =>
  through("death of both operators", async () => {
    const path = `/api/v1/namespaces/${SYSTEM}/pods`;
    const { items } = (await cluster.plane.get<{ items: Pod[] }>(path))!;
    for (const { metadata } of items) await cluster.plane.delete(`${path}/${metadata.name}?gracePeriodSeconds=0`);
    await sleep(3000);
  }));

test("the image is updated", () =>
  through("roll-out of another image", async () => {
    await cluster.nodes[0]!.ctr("images", "tag", `docker.io/library/${IMAGE}`, "docker.io/library/outrider:test-2");
    const args = ["upgrade", "outrider", CHART, `--namespace=${SYSTEM}`, "--reuse-values", "--set=image.tag=test-2"];
    await helmDone([...args, "--wait", "--timeout=120s"], cluster.plane.userConfig());
    await cluster.plane.until<{ spec: { template: { spec: { containers: { image: string }[] } } } }>(
      DEPLOYMENT,
      (found) => found?.spec.template.spec.containers[0]?.image.endsWith(":test-2") ?? false,
      "the fleet has the new image",
      READY_MS,
    );
    await rolledOut();
  }));

test("1, 4 and 2 proxies", () =>
  through("1, 4 and 2 proxies", async () => {
    for (const replicas of [1, 4, 2]) {
      await apply({ proxy: { replicas } });
      await rolledOut(replicas);
    }
  }));

test("the address is replaced: Pending, Active, Retiring", () =>
  through("exchange of the address", async () => {
    const ips = (...staticIPs: object[]) => apply({ staticIPs });
    const [old, other] = [{ address: FIRST }, { address: SECOND }];
    await ips(old, { ...other, phase: "Pending" });
    await sleep(1000);
    await ips(old, other);
    await untilCondition(cluster.plane, NS, "webhooks", "PolicyDistributed", "True");
    cluster.network.snat(SECOND);
    await sleep(2000);
    await ips({ ...old, phase: "Retiring" }, other);
    await ready();
    await ips(other);
    await ready();
    const from = Date.now();
    await sleep(1000);
    const later = received().filter(({ at }) => at >= from);
    assert.ok(later.length > 0);
    assert.deepEqual(
      later.filter(({ address }) => address !== SECOND),
      [],
    );
  }));

/** Deletes the NAT rule; returns the time. */
function vanish(): number {
  const off = Date.now();
  vanished.push(off);
  cluster.network.snat(undefined);
  return off;
}

test("without its NAT rule, a proven proxy leaks for interval + timeout at most", async () => {
  const off = vanish();
  await sleep(6000);
  const on = Date.now();
  cluster.network.snat(SECOND);
  const leaked = await published.wrong(received().filter(({ at }) => at >= off));
  const window = leaked.length === 0 ? 0 : leaked.at(-1)!.at - off;
  console.log(`the rule vanished: ${leaked.length} requests from a wrong address, for ${window} ms`);
  assert.ok(window <= WINDOW_MS, `${window} ms`);
  for (const { address } of leaked) assert.match(address, /^10\.0\.0\./);
  await ready();
  while (!received().some(({ at }) => at > on)) await sleep(20);
  console.log(`delivers again ${received().find(({ at }) => at > on)!.at - on} ms after the rule is back`);
  await lostNothing(served, Date.now());
});

test("a full restart of the cluster recovers with a closed gate", async () => {
  vanish();
  await sleep(WINDOW_MS + 1000);
  await cluster.halt();
  const from = Date.now();
  await cluster.resume();
  await sleep(8000);
  assert.deepEqual(
    received().filter(({ at }) => at >= from),
    [],
  );
  cluster.network.snat(SECOND);
  await ready();
  while (!received().some(({ at }) => at >= from)) await sleep(50);
  console.log(
    `delivers ${received().find(({ at }) => at >= from)!.at - from} ms after the power came back, 8 s of them without NAT`,
  );
});

test("no delivery arrives after the policy is deleted", async () => {
  await cluster.plane.delete(policyPath(NS, "webhooks"));
  await untilPods(cluster, FLEET, 0);
  const path = `/api/v1/namespaces/${NS}/pods?labelSelector=${encodeURIComponent(FLEET)}`;
  const gone = (found: { items: Pod[] } | undefined) => found?.items.length === 0;
  await cluster.plane.until<{ items: Pod[] }>(path, gone, "the proxies are gone", READY_MS);
  const from = Date.now();
  await sleep(2000);
  assert.deepEqual(
    received().filter(({ at }) => at >= from),
    [],
  );
});

test("every request came from a published address", async () => {
  const wrong = await published.wrong(received());
  const excused = wrong.filter(isExcused);
  console.log(`${received().length} requests, ${excused.length} of them while nothing could know`);
  assert.deepEqual(
    wrong.filter((request) => !isExcused(request)),
    [],
  );
});

test("the test detects a leak when the gate is off", async () => {
  cluster.network.snat(undefined);
  const { verification } = SPEC;
  const from = Date.now();
  await apply({ verification: { ...verification, onUnverified: "Allow" } });
  for (const began = Date.now(); !received().some(({ at }) => at >= from); await sleep(50)) {
    assert.ok(Date.now() - began < READY_MS, "nothing arrived");
  }
  assert.notEqual((await published.wrong(received().filter(({ at }) => at >= from))).length, 0);
});
