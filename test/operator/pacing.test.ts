import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import { type Deployment, isRolledOut } from "../../operator/api/objects.ts";
import type { KubeObject } from "../../operator/kube/resource.ts";
import { BOOT, controlPlaneMissing } from "../cluster/control-plane.ts";
import type { FleetPod } from "../cluster/fleet.ts";
import { FleetWatch } from "./fleet-watch.ts";
import { applyPolicy, conditionOf, type Operator, policyPath, untilCondition } from "./operator.ts";
import { type Behaviour, PlayedProxy } from "./proof/played-proxy.ts";
import { type Stage, startStage } from "./stage.ts";

/** Upgrades of the operator and of the proxy image on a real API server: how many fleets are not ready at a time. */

const PLANE = { kwokNodes: 3, realProxies: true };
const skip = controlPlaneMissing(PLANE) ?? false;
const NS = "convoy";
const NAMES = Array.from({ length: 12 }, (_, i) => `fleet-${String(i + 1).padStart(2, "0")}`);
/** The default of the option. */
const LIMIT = 5;
/** Progress deadline of the Deployments, in seconds. */
const DEADLINE = 8;
/** Proxies of such an image never become ready. */
const BROKEN = "outrider:broken";
/** Time from the start of a proxy to its readiness. */
const START_MS = 1500;
const ARGS = ["--scrape-seconds=1", "--workers=8", "--resync-seconds=600"];

const behaviour: Behaviour = {
  ...{ drainMs: 100, proofMs: 0, moveMs: 0, statusMs: 0 },
  silent: () => false,
  has: () => false,
};

/** A proxy whose readiness depends on its image. */
class PacedProxy extends PlayedProxy {
  readonly #readyAt = Date.now() + START_MS;

  override get ready(): boolean {
    return imageOf(this.pod) !== BROKEN && Date.now() > this.#readyAt && super.ready;
  }
}

const imageOf = (pod: FleetPod) => (pod.spec.containers[0] as { image?: string }).image;

let { plane, operator, again } = {} as Stage;
let watch: FleetWatch;

const specOf = (proxy: object = {}) => ({ deny: [{ hosts: ["*.example"] }], proxy: { replicas: 1, ...proxy } });
const deploymentPath = (name: string) => `/apis/apps/v1/namespaces/${NS}/deployments/${name}-egress`;
type Templated = Deployment & { spec: { template: { spec: { containers: { image: string }[] } } } };
const read = async (name: string) => (await plane.get<Templated>(deploymentPath(name)))!;
const templateImage = ({ spec }: Templated) => spec.template.spec.containers[0]!.image;

/** Names of the fleets whose Deployment has an image. */
async function withImage(image: string): Promise<string[]> {
  const found = await Promise.all(NAMES.map(read));
  return NAMES.filter((_, i) => templateImage(found[i]!) === image);
}

async function until<T>(what: string, find: () => Promise<T | undefined | false>, ms = 60_000): Promise<T> {
  for (const began = Date.now(); ; ) {
    const found = await find();
    if (found !== undefined && found !== false) return found;
    if (Date.now() - began > ms) throw new Error(`not within ${ms} ms: ${what}\n${operator.log().slice(-2000)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Waits until every fleet runs an image and is complete. */
const untilAll = (image: string) =>
  until(`all fleets run ${image}`, async () => {
    const found = await Promise.all(NAMES.map(read));
    return found.every((one) => templateImage(one) === image && isRolledOut(one));
  });

/** Stops the operator and starts another one. */
async function restart(image: string, ...args: string[]): Promise<void> {
  await operator.stop();
  operator = await again({ image, args: [...ARGS, ...args] });
}

/** Most fleets that were not ready at the same time, since a position of the watch. */
const most = (since: number) => Math.max(0, ...watch.unready(since).map((names) => names.length));

const readPolicy = async (name: string) => (await plane.get<EgressPolicy>(policyPath(NS, name)))!;

/** Names of the policies whose condition Programmed has a reason. */
async function programmed(reason: string): Promise<string[]> {
  const found = await Promise.all(NAMES.map(readPolicy));
  return NAMES.filter((_, i) => conditionOf(found[i], "Programmed")?.reason === reason);
}

/** Value of the metric for a state; undefined before the operator reports it. */
async function fleetsIn(operator: Operator, state: string): Promise<number | undefined> {
  const { text } = await operator.page(`${operator.metrics}/metrics`);
  const found = new RegExp(`^outrider_operator_upgrade_fleets\\{state="${state}"\\} (\\d+)$`, "m").exec(text);
  return found === null ? undefined : Number(found[1]);
}

before(async () => {
  if (skip) return;
  ({ plane, operator, again } = await startStage({
    plane: PLANE,
    namespaces: [NS],
    operator: () => ({ image: "outrider:1", args: ARGS }),
    fleet: { play: (pod, args) => new PacedProxy(pod, args, behaviour) },
  }));
  for (const name of NAMES) await applyPolicy(plane, NS, name, specOf());
  for (const name of NAMES) await untilCondition(plane, NS, name, "Ready", "True", undefined, 90_000);
  const patch = { spec: { progressDeadlineSeconds: DEADLINE } };
  const type = { "content-type": "application/merge-patch+json" };
  for (const name of NAMES) await plane.request("PATCH", deploymentPath(name), patch, type);
  watch = new FleetWatch(plane);
  await watch.start(NS);
}, BOOT);

after(() => watch?.stop());

test("an upgrade keeps the number of fleets that are not ready within the limit", { skip }, async () => {
  const since = watch.length;
  const began = Date.now();
  await restart("outrider:2");
  let waiting: EgressPolicy | undefined;
  await until("all fleets are upgraded", async () => {
    const found = await Promise.all(NAMES.map(readPolicy));
    waiting ??= found.find((policy) => conditionOf(policy, "Programmed")?.reason === "UpgradeWaiting");
    return (await withImage("outrider:2")).length === NAMES.length;
  });
  await untilAll("outrider:2");
  console.log(`12 fleets upgraded in ${Date.now() - began} ms, at most ${most(since)} not ready at a time`);
  assert.ok(most(since) <= LIMIT, `${most(since)} fleets were not ready at a time`);
  assert.ok(most(since) > 1, "one fleet after the other");
  // A waiting fleet serves, so its policy is ready.
  assert.equal(conditionOf(waiting, "Ready")?.status, "True");
});

test("a restart in the middle of an upgrade keeps the limit", { skip }, async () => {
  const since = watch.length;
  await restart("outrider:3");
  for (const [signal, upgraded] of [
    ["SIGTERM", 0],
    ["SIGKILL", 4],
    ["SIGTERM", 8],
  ] as const) {
    await until("another fleet", async () => (await withImage("outrider:3")).length > upgraded);
    await operator.stop(signal);
    operator = await again({ image: "outrider:3", args: ARGS });
  }
  await untilAll("outrider:3");
  assert.ok(most(since) <= LIMIT, `${most(since)} fleets were not ready at a time`);
});

test("an edit of an owner does not wait for the upgrade", { skip }, async () => {
  const since = watch.length;
  await restart(BROKEN);
  await until("the limit is reached", async () => (await withImage(BROKEN)).length >= LIMIT);
  const waiting = NAMES.filter((name) => !watch.unready(since).at(-1)!.includes(`${name}-egress`));
  const [edited, pinned, listed] = waiting as [string, string, string];
  const annotation = { podAnnotations: { edition: "2" } };
  await applyPolicy(plane, NS, edited, specOf({ ...annotation, image: "outrider:3" }));
  await until("the edit is written", async () => {
    const { spec } = await read(edited);
    return (spec.template as { metadata?: KubeObject["metadata"] }).metadata?.annotations?.edition === "2";
  });
  await applyPolicy(plane, NS, pinned, specOf({ image: "outrider:pinned" }));
  await until("the pin is written", async () => templateImage(await read(pinned)) === "outrider:pinned");
  // An edit that changes no pod template restarts no proxy.
  await applyPolicy(plane, NS, listed, { ...specOf(), deny: [{ hosts: ["other.example"] }] });
  await untilCondition(plane, NS, listed, "PolicyDistributed", "True");
  assert.equal(templateImage(await read(listed)), "outrider:3");
  await Promise.all([edited, pinned].map((name) => untilCondition(plane, NS, name, "Ready", "True")));
  assert.equal((await withImage(BROKEN)).length, LIMIT);
});

test("an edit by others is repaired although the fleet waits", { skip }, async () => {
  const [waiting] = [...(await programmed("UpgradeWaiting")), ...(await programmed("UpgradePaused"))];
  const path = deploymentPath(waiting!);
  const type = { "content-type": "application/json-patch+json" };
  const container = "/spec/template/spec/containers/0/image";
  await plane.request("PATCH", path, [{ op: "replace", path: container, value: "attacker:1" }], type);
  await until("the image is repaired", async () => templateImage(await read(waiting!)) !== "attacker:1");
});

test("a fleet that is not ready within its deadline pauses the upgrade", { skip }, async () => {
  await until("policies report the pause", async () => (await programmed("UpgradePaused")).length > 0);
  const paused = await programmed("UpgradePaused");
  const { message, status } = conditionOf(await readPolicy(paused[0]!), "Programmed")!;
  assert.equal(status, "True");
  assert.match(message, /convoy\/fleet-\d\d/);
  const events = await until("an event", async () => {
    const found = await plane.get<{ items: { reason: string; type: string }[] }>(`/api/v1/namespaces/${NS}/events`);
    const own = found!.items.filter(({ reason }) => reason === "UpgradePaused");
    return own.length >= paused.length && own;
  });
  assert.ok(events.every(({ type }) => type === "Warning"));
  await until("the metric of failed fleets", async () => (await fleetsIn(operator, "failed"))! > 0);
  assert.ok((await fleetsIn(operator, "waiting"))! > 0);
  const before = (await withImage(BROKEN)).length;
  // A new leader does not forget the pause.
  await restart(BROKEN);
  await until("the metric of the new leader", async () => (await fleetsIn(operator, "waiting"))! > 0);
  assert.equal((await withImage(BROKEN)).length, before);
});

test("another image resumes a paused upgrade within the limit", { skip }, async () => {
  const since = watch.length;
  for (const name of NAMES) await applyPolicy(plane, NS, name, specOf());
  await restart("outrider:4");
  await untilAll("outrider:4");
  // Three fleets were changed by their owners, or repaired, while the image was broken.
  assert.ok(most(since) <= LIMIT + 3, `${most(since)} fleets were not ready at a time`);
  await until("no pause", async () => (await programmed("Programmed")).length === NAMES.length);
  await until("the metric", async () => (await fleetsIn(operator, "failed")) === 0);
});

test("without a limit all fleets change at once, also during a pause", { skip }, async () => {
  const since = watch.length;
  await restart("outrider:5", "--max-upgrading-fleets=0");
  await untilAll("outrider:5");
  assert.ok(most(since) > LIMIT, `at most ${most(since)} fleets were not ready at a time`);
});
