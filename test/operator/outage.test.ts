import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { BOOT, controlPlaneMissing } from "../cluster/control-plane.ts";
import { type FaultProxy, isWrite, startFaultProxy } from "../cluster/fault-proxy.ts";
import { listen, RawClient } from "../harness/raw.ts";
import { applyPolicy, untilCondition } from "./operator.ts";
import { type Stage, startStage } from "./stage.ts";

/** Faults of API servers and networks. The proxies keep serving. The operator recovers by itself, without a flood. */

/** Longer than a Lease, and than the patience of most clients. */
const API_DOWN_MS = 60_000;
const ETCD_DOWN_MS = 12_000;
/** How long each fault lasts. */
const FAULT_MS = 4000;
const ERRORS_MS = 10_000;

const skip = controlPlaneMissing({ kwokNodes: 2 }) ?? false;
/** A fault, and the time until every proxy runs the newest spec again. */
const LIMITS = { skip, timeout: 240_000 };
let { plane, operator, fleet } = {} as Stage;
let faults: FaultProxy;
let receiver: Awaited<ReturnType<typeof listen>>;
let edits = 0;
const NS = "convoy";

before(async () => {
  if (skip) return;
  receiver = await listen((socket) => socket.pipe(socket));
  ({ plane, operator, fleet } = await startStage({
    // Unlike kubelets, simulated nodes do not repair the status of their pods after an outage.
    plane: { kwokNodes: 2, controllerFlags: ["--node-monitor-grace-period=10m"] },
    namespaces: [NS],
    operator: async (plane) => {
      faults = await startFaultProxy(plane);
      return { args: ["--scrape-seconds=1"], server: faults.url };
    },
    fleet: { args: () => ["--allow-cidr=127.0.0.0/8"] },
  }));
  await edit();
}, BOOT);
/** A test that fails halfway leaves no fault to the next test. */
afterEach(async () => {
  if (skip) return;
  faults.endFaults();
  for (const name of ["etcd", "kube-apiserver"] as const) if (!plane.program(name).running) await plane.revive(name);
});
after(async () => {
  await receiver?.close();
  await faults?.close();
});

/** Applies another policy. */
const ask = () => applyPolicy(plane, NS, "webhooks", { deny: [{ hosts: [`edit-${edits++}.example`] }] });
/** Waits until every proxy runs the newest spec. */
const distributed = () => untilCondition(plane, NS, "webhooks", "PolicyDistributed", "True", undefined, 60_000);
async function edit(): Promise<void> {
  await ask();
  await distributed();
}

/** A tunnel through a proxy to the receiver. */
async function tunnel(host: string): Promise<RawClient> {
  const client = await RawClient.open(4750, host);
  await client.connect(`127.0.0.1:${receiver.port}`);
  return client;
}
async function echoes(client: RawClient, text: string): Promise<void> {
  client.socket.write(text);
  await client.untilText(text);
}

/** Uses old and new tunnels through every proxy for so long. */
async function serves(ms: number): Promise<void> {
  const hosts = fleet.pods.map((pod) => pod.status!.podIP!);
  assert.equal(hosts.length, 2);
  const old = await Promise.all(hosts.map(tunnel));
  let rounds = 0;
  for (const began = Date.now(); Date.now() - began < ms; await sleep(500)) {
    for (const client of old) await echoes(client, `<round ${rounds}>`);
    for (const host of hosts) {
      const fresh = await tunnel(host);
      await echoes(fresh, "new");
      fresh.socket.destroy();
    }
    rounds++;
  }
  for (const { socket } of old) socket.destroy();
  assert.ok(rounds > 5);
}

/** The very process that was started first. */
function lives(pid: number): void {
  assert.equal(operator.program.running, true, operator.program.tail);
  assert.equal(operator.program.pid, pid);
}

test("survives an outage of the API server", LIMITS, async () => {
  const { pid } = operator.program;
  await plane.kill("kube-apiserver");
  await serves(API_DOWN_MS);
  lives(pid);
  await plane.revive("kube-apiserver");
  const began = Date.now();
  await edit();
  console.log(`an edit was distributed ${Date.now() - began} ms after the API server was ready again`);
  lives(pid);
});

test("survives an outage of etcd", LIMITS, async () => {
  const { pid } = operator.program;
  await plane.kill("etcd");
  await serves(ETCD_DOWN_MS);
  lives(pid);
  await plane.revive("etcd");
  await plane.untilReady();
  const began = Date.now();
  await edit();
  console.log(`an edit was distributed ${Date.now() - began} ms after etcd was there again`);
  lives(pid);
});

test("converges while connections are reset every second", LIMITS, async () => {
  const resets = setInterval(() => faults.reset(), 1000);
  try {
    for (const began = Date.now(); Date.now() - began < FAULT_MS; ) await edit();
  } finally {
    clearInterval(resets);
  }
});

test("respects Retry-After of a 429, then converges", LIMITS, async () => {
  await edit();
  faults.seen.length = 0;
  faults.refuse = (method, path) =>
    isWrite({ method, path, user: "" }) ? { status: 429, headers: { "retry-after": "1" } } : undefined;
  await ask();
  await sleep(FAULT_MS);
  const refused = faults.seen.filter(isWrite).length;
  faults.refuse = undefined;
  console.log(`${refused} writes in ${FAULT_MS} ms of 429`);
  assert.ok(refused >= 2 && refused <= (3 * FAULT_MS) / 1000, `${refused} writes in ${FAULT_MS} ms of 429`);
  await distributed();
});

test("sends few requests during 10 s of status 500, then converges", LIMITS, async () => {
  const { pid } = operator.program;
  await edit();
  faults.refuse = () => ({ status: 500 });
  faults.reset();
  faults.seen.length = 0;
  await ask();
  await sleep(ERRORS_MS);
  const asked = faults.seen.length;
  console.log(`${asked} requests in ${ERRORS_MS} ms of 500`);
  assert.ok(asked <= 200, `${asked} requests: ${summary()}`);
  lives(pid);
  faults.refuse = undefined;
  await distributed();
  lives(pid);
});

test("converges after stalled and broken connections", LIMITS, async () => {
  faults.stalled = true;
  await ask();
  await sleep(FAULT_MS / 2);
  faults.stalled = false;
  faults.reset();
  await distributed();
});

test("converges after a watch that ends within an event", LIMITS, async () => {
  for (let i = 0; i < 2; i++) {
    faults.cutNextEvent = true;
    await edit();
  }
});

test("converges with a latency of 300 ms", LIMITS, async () => {
  faults.delayMs = 300;
  await edit();
  faults.delayMs = 0;
});

/** Lists that the operator compares with its caches every 40 s. */
const COMPARED = ["/apis/apps/v1/deployments", "/apis/egress.outrider.dev/v1alpha1/egresspolicies"];

test("a settled operator only renews its Lease and compares caches", LIMITS, async () => {
  await edit();
  await sleep(2000);
  faults.seen.length = 0;
  await sleep(FAULT_MS);
  const compared = faults.seen.filter(({ method, path }) => method === "GET" && COMPARED.includes(path.split("?")[0]!));
  const others = faults.seen.filter((one) => !one.path.includes("/leases/") && !compared.includes(one));
  console.log(`${faults.seen.length} requests in ${FAULT_MS} ms when settled`);
  assert.deepEqual(others, [], summary());
  assert.ok(compared.length <= COMPARED.length, summary());
  assert.ok(faults.seen.length <= 10, summary());
});

/** Which requests came how often. */
function summary(): string {
  const counts = new Map<string, number>();
  for (const { method, path } of faults.seen) {
    const name = `${method} ${path.split("?")[0]}`;
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  return [...counts].map(([name, count]) => `${count} ${name}`).join("; ");
}
