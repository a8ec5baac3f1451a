import assert from "node:assert/strict";
import { before, test } from "node:test";
import { isReady, type Pod } from "../../operator/api/objects.ts";
import { BOOT, controlPlaneMissing } from "../cluster/control-plane.ts";
import type { FleetProgram } from "../cluster/fleet.ts";
import { applyPolicy, makeNamespace, makePasswords, untilCondition } from "./operator.ts";
import { type Stage, startStage } from "./stage.ts";

/** Evictions of proxies and drains of nodes. The PodDisruptionBudget is computed by a real kube-controller-manager. */

const NODES = 4;
const skip = controlPlaneMissing({ kwokNodes: NODES }) ?? false;
const IPS = ["203.0.113.20", "203.0.113.21"];
let plane: Stage["plane"];
/** Namespaces whose new proxies do not become ready. */
const held = new Set<string>();

/** A proxy that is ready at once, or when its namespace is no longer held, and ends at SIGTERM. */
function play({ metadata }: Pod): FleetProgram {
  let running = false;
  let ready = false;
  return {
    name: metadata.name,
    exitCode: null,
    tail: "",
    get running() {
      return running;
    },
    get ready() {
      ready ||= !held.has(metadata.namespace!);
      return ready;
    },
    start: () => {
      running = true;
    },
    signal: () => {
      running = false;
    },
    stop: async () => {
      running = false;
    },
  };
}

before(async () => {
  if (skip) return;
  ({ plane } = await startStage({
    plane: { kwokNodes: NODES, realProxies: true },
    grants: `grants: [{namespaces: ["*"], providers: [NodeAddress], staticIPs: [203.0.113.0/24]}]\n`,
    operator: () => ({}),
    fleet: { play },
  }));
}, BOOT);

const podsPath = (ns: string) => `/api/v1/namespaces/${ns}/pods?labelSelector=egress.outrider.dev/fleet%3Dwebhooks`;
interface List {
  items: Pod[];
}
const serves = (pod: Pod) => pod.metadata.deletionTimestamp === undefined && isReady(pod);
const pods = async (ns: string): Promise<Pod[]> => (await plane.get<List>(podsPath(ns)))!.items;
const untilPods = (ns: string, wanted: (items: Pod[]) => boolean, what: string) =>
  plane.until<List>(podsPath(ns), (list) => wanted(list?.items ?? []), what);
const allServe = (count: number) => (items: Pod[]) => items.length === count && items.every(serves);

interface Budget {
  metadata: { generation?: number };
  status?: { observedGeneration?: number; disruptionsAllowed: number; expectedPods: number; currentHealthy: number };
}
const untilBudget = (ns: string, wanted: Partial<NonNullable<Budget["status"]>>) =>
  plane.until<Budget>(
    `/apis/policy/v1/namespaces/${ns}/poddisruptionbudgets/webhooks-egress`,
    (budget) => {
      const { metadata, status = {} } = budget ?? { metadata: { generation: 0 } };
      const given = { ...status, current: (status as { observedGeneration?: number }).observedGeneration };
      return Object.entries({ ...wanted, current: metadata.generation }).every(
        ([key, value]) => (given as Record<string, unknown>)[key] === value,
      );
    },
    `the budget has ${JSON.stringify(wanted)}`,
  );

/** Starts a fleet, and waits until the budget has counted all of its proxies. */
async function startFleet(ns: string, count: number, spec: object): Promise<Pod[]> {
  await makeNamespace(plane, ns);
  await makePasswords(plane, ns);
  await applyPolicy(plane, ns, "webhooks", spec);
  await untilPods(ns, allServe(count), `${count} proxies of ${ns}`);
  await untilBudget(ns, { expectedPods: count, currentHealthy: count, disruptionsAllowed: 1 });
  return pods(ns);
}

/** Status of the answer to an eviction: 201, or 429 if the budget does not allow it. */
async function evict({ metadata: { name, namespace } }: Pod): Promise<number> {
  const eviction = { apiVersion: "policy/v1", kind: "Eviction", metadata: { name, namespace } };
  const path = `/api/v1/namespaces/${namespace}/pods/${name}/eviction`;
  return (await plane.request("POST", path, eviction)).status;
}

/** Drains a node of the proxies of a namespace. */
async function drain(node: string, ns: string, timeout: string) {
  const selector = "--pod-selector=egress.outrider.dev/fleet";
  const { status, stderr } = await plane.kubectl(["drain", node, selector, `--timeout=${timeout}`]);
  const left = (await pods(ns)).filter(({ spec }) => spec?.nodeName === node);
  return { status, stderr, left: left.map(({ metadata }) => metadata.name) };
}
const uncordon = async (node: string) => assert.equal((await plane.kubectl(["uncordon", node])).status, 0);

for (const nat of [{ provider: "External" }, { provider: "PodIP", podIP: { annotations: { pool: "egress" } } }]) {
  const ns = nat.provider.toLowerCase();
  test(`${nat.provider}: evictions take one proxy at a time`, { skip, timeout: 120_000 }, async () => {
    const fleet = await startFleet(ns, 2, { nat, proxy: { replicas: 2 } });
    held.add(ns);
    // Two nodes are drained at the same time.
    const answers = await Promise.all(fleet.map(evict));
    assert.deepEqual(answers.sort(), [201, 429]);
    await untilPods(
      ns,
      (items) => items.length === 2 && items.filter(serves).length === 1,
      "the evicted one is replaced",
    );
    const [last] = (await pods(ns)).filter(serves) as [Pod];
    await untilBudget(ns, { currentHealthy: 1, disruptionsAllowed: 0 });
    assert.equal(await evict(last), 429, "the other proxy is not ready yet");
    // An unready proxy serves no sender.
    const [unready] = (await pods(ns)).filter((pod) => !serves(pod)) as [Pod];
    assert.equal(await evict(unready), 201);
    held.delete(ns);
    await untilPods(ns, allServe(2), "two proxies serve");
    await untilBudget(ns, { currentHealthy: 2, disruptionsAllowed: 1 });
    assert.equal(await evict(last), 201);
  });
}

test("evictions do not wait for a fleet without a ready proxy", { skip, timeout: 120_000 }, async () => {
  const ns = "unready";
  held.add(ns);
  await makeNamespace(plane, ns);
  await applyPolicy(plane, ns, "webhooks", { proxy: { replicas: 2 } });
  const runs = ({ status }: Pod) => status?.phase === "Running";
  await untilPods(ns, (items) => items.length === 2 && items.every(runs), "two proxies");
  await untilBudget(ns, { expectedPods: 2, currentHealthy: 0, disruptionsAllowed: 0 });
  for (const pod of await pods(ns)) assert.equal(await evict(pod), 201);
});

test("a drain does not wait for a fleet of one proxy", { skip, timeout: 120_000 }, async () => {
  const ns = "single";
  const [only] = (await startFleet(ns, 1, { proxy: { replicas: 1 } })) as [Pod];
  const node = only.spec!.nodeName!;
  assert.deepEqual(await drain(node, ns, "30s").then(({ status, left }) => ({ status, left })), {
    status: 0,
    left: [],
  });
  await untilPods(ns, allServe(1), "a proxy on another node");
  await uncordon(node);
});

test("a restart moves the only proxy from a cordoned node without a gap", { skip, timeout: 120_000 }, async () => {
  const ns = "moved";
  const [only] = (await startFleet(ns, 1, { proxy: { replicas: 1 } })) as [Pod];
  const node = only.spec!.nodeName!;
  held.add(ns);
  assert.equal((await plane.kubectl(["cordon", node])).status, 0);
  const restart = ["rollout", "restart", "deployment/webhooks-egress", "-n", ns];
  assert.equal((await plane.kubectl(restart)).status, 0);
  await untilPods(ns, (items) => items.length === 2, "a second proxy");
  const names = (items: Pod[]) => items.filter(serves).map(({ metadata }) => metadata.name);
  assert.deepEqual(names(await pods(ns)), [only.metadata.name], "the old proxy serves while the new one is not ready");
  held.delete(ns);
  await untilPods(ns, allServe(1), "only the new proxy");
  assert.deepEqual((await drain(node, ns, "30s")).status, 0);
  const [moved] = (await pods(ns)) as [Pod];
  assert.notEqual(moved.spec!.nodeName, node);
  await untilPods(ns, allServe(1), "the drain left the new proxy alone");
  assert.equal((await pods(ns))[0]!.metadata.name, moved.metadata.name);
  await uncordon(node);
});

test("a drain does not wait for a fleet that is scaled to 0", { skip, timeout: 120_000 }, async () => {
  const ns = "stopped";
  const [first] = (await startFleet(ns, 2, { proxy: { replicas: 2 } })) as [Pod];
  held.add(ns);
  const scale = ["scale", "deployment/webhooks-egress", "-n", ns, "--replicas=0"];
  assert.equal((await plane.kubectl(scale)).status, 0);
  await untilPods(ns, (items) => items.length === 0, "no proxy");
  await untilBudget(ns, { expectedPods: 0 });
  const node = first.spec!.nodeName!;
  assert.equal((await drain(node, ns, "30s")).status, 0);
  await uncordon(node);
});

test("slots: the drain of a second node waits for the first one", { skip, timeout: 180_000 }, async () => {
  const ns = "slots";
  const nodes = ["node-0", "node-1"] as const;
  for (const [i, node] of nodes.entries()) {
    const annotations = { "egress.outrider.dev/addresses": IPS[i] };
    await plane.patch(`/api/v1/nodes/${node}`, { metadata: { annotations } });
  }
  const spec = {
    nat: { provider: "NodeAddress" },
    authentication: { mode: "Basic", secretRef: { name: "proxy-passwords" } },
  };
  await startFleet(ns, 2, { ...spec, staticIPs: IPS.map((address) => ({ address })) });
  const first = await drain("node-0", ns, "30s");
  assert.equal(first.status, 0, first.stderr);
  await untilPods(ns, (items) => items.some(({ spec }) => spec?.nodeName === undefined), "a proxy without a node");
  await untilBudget(ns, { currentHealthy: 1, disruptionsAllowed: 0 });
  const second = await drain("node-1", ns, "3s");
  assert.notEqual(second.status, 0, "it would take the last proxy");
  assert.match(second.stderr, /Cannot evict pod as it would violate the pod's disruption budget/);
  assert.equal(second.left.length, 1);
  // A node that does not come back: without its address the drain continues.
  await applyPolicy(plane, ns, "webhooks", { ...spec, staticIPs: [{ address: IPS[1] }] });
  await untilBudget(ns, { expectedPods: 1, currentHealthy: 1, disruptionsAllowed: 1 });
  assert.equal((await drain("node-1", ns, "30s")).status, 0);
  for (const node of nodes) await uncordon(node);
  await untilPods(ns, allServe(1), "the proxy is back on its node");
  await untilCondition(plane, ns, "webhooks", "ProxyAvailable", "True");
});
