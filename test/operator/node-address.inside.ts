import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { createServer, request } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import { isReady, type Node, type Pod } from "../../operator/api/objects.ts";
import { slotId } from "../../operator/fleet/slots.ts";
import type { KubeObject } from "../../operator/kube/resource.ts";
import { BOOT } from "../cluster/control-plane.ts";
import { applyPolicy, conditionOf, makePasswords, policyPath, untilCondition } from "./operator.ts";
import { type Stage, startStage } from "./stage.ts";

/**
 * Nodes list their addresses, and real proxies bind them. The test adds the addresses to the loopback interface of
 * this test's network namespace, which all nodes share, and taken away. The second one is seen by the world as another one.
 */

const NS = "convoy";
const IPS = ["203.0.113.20", "203.0.113.21", "203.0.113.22", "203.0.113.23"] as const;
const SOURCES = ["203.0.113.20", "10.0.4.21", "203.0.113.22", "203.0.113.23"] as const;
const ADDRESSES = "egress.outrider.dev/addresses";
const PHASE = "egress.outrider.dev/phase";
const WAIT_MS = 30_000;
let plane: Stage["plane"];
let target: string;
/** Every address that a request came from. */
const callers = new Set<string>();
/** Answers of the echo server: the address that it reports, by source address. */
const seen = new Map<string, string>(SOURCES.map((source, i) => [source, IPS[i]!]));

const put = (i: number) => execFileSync("ip", ["addr", "add", `${SOURCES[i]}/32`, "dev", "lo"]);
const take = (i: number) => execFileSync("ip", ["addr", "del", `${SOURCES[i]}/32`, "dev", "lo"]);

const echo = createServer((incoming, response) => {
  const from = incoming.socket.remoteAddress!.replace("::ffff:", "");
  callers.add(from);
  response.end(seen.get(from) ?? from);
});

type StaticIP = { address: string; sourceAddress?: string; phase?: string };
const ip = (i: number, phase?: string): StaticIP => ({
  address: IPS[i]!,
  ...(SOURCES[i] === IPS[i] ? {} : { sourceAddress: SOURCES[i]! }),
  ...(phase === undefined ? {} : { phase }),
});
const spec = (staticIPs: readonly StaticIP[], proxy: object = {}) => ({
  nat: { provider: "NodeAddress" },
  staticIPs,
  verification: { echoURLs: [target], intervalSeconds: 1, timeoutSeconds: 1 },
  authentication: { mode: "Basic", secretRef: { name: "proxy-passwords" } },
  proxy: { timeouts: { drainSeconds: 1 }, ...proxy },
});

before(async () => {
  echo.listen(0, "127.0.0.1");
  await once(echo, "listening");
  target = `http://127.0.0.1:${(echo.address() as AddressInfo).port}/ip`;
  const ranges = "[203.0.113.16/28, 10.0.4.0/24]";
  ({ plane } = await startStage({
    plane: { kwokNodes: 4, realProxies: true },
    namespaces: [NS],
    grants: `grants: [{namespaces: [${NS}], providers: [NodeAddress], staticIPs: ${ranges}}]\n`,
    operator: () => ({ args: ["--scrape-seconds=1"] }),
    fleet: { args: () => ["--allow-cidr=127.0.0.0/8"] },
  }));
  await makePasswords(plane, NS);
}, BOOT);
after(() => echo.close());

/** Listed addresses of a node, besides its internal one. */
async function nodeLists(node: string, ...more: { type: string; address: string }[]): Promise<void> {
  const path = `/api/v1/nodes/${node}`;
  const { status } = (await plane.get<Node>(path))!;
  const [internal] = status!.addresses!.filter(({ type }) => type === "InternalIP");
  const hostname = { type: "Hostname", address: node };
  await plane.patch(`${path}/status`, { status: { addresses: [internal, ...more, hostname] } });
}
const external = (address: string) => ({ type: "ExternalIP", address });
const annotate = (node: string, addresses: string | null) =>
  plane.patch(`/api/v1/nodes/${node}`, { metadata: { annotations: { [ADDRESSES]: addresses } } });

const podsOf = async (i: number): Promise<Pod[]> => {
  const selector = `egress.outrider.dev/slot=${slotId(IPS[i]!)}`;
  const { items } = (await plane.get<{ items: Pod[] }>(`/api/v1/namespaces/${NS}/pods?labelSelector=${selector}`))!;
  return items.filter(({ metadata }) => metadata.deletionTimestamp === undefined);
};

/** Waits for the one pod of a slot to be as wanted. */
async function untilPod(i: number, what: string, wanted: (pod: Pod) => boolean): Promise<Pod> {
  for (const began = Date.now(); ; await sleep(50)) {
    const found = await podsOf(i);
    if (found.length === 1 && wanted(found[0]!)) return found[0]!;
    if (Date.now() - began > WAIT_MS) throw new Error(`${IPS[i]}: not ${what}: ${JSON.stringify(found)}`);
  }
}

/** One request through a proxy: the status, and the address that the target saw or the reason of the refusal. */
function send(pod: Pod): Promise<{ status: number; text: string }> {
  const authorization = `Basic ${Buffer.from(":s3cret").toString("base64")}`;
  const options = { host: pod.status!.podIP!, port: 4750, path: target, agent: false };
  return new Promise((resolve, reject) => {
    const outgoing = request({ ...options, headers: { "proxy-authorization": authorization } }, async (response) => {
      let text = "";
      for await (const chunk of response) text += chunk;
      resolve({ status: response.statusCode!, text: response.statusCode === 200 ? text : response.statusMessage! });
    });
    outgoing.once("error", reject);
    outgoing.end();
  });
}

const shown = (policy: EgressPolicy | undefined) =>
  policy?.status?.staticIPs?.map(({ state, node }) => (node === undefined ? state : `${state} ${node}`)).join();
const untilShown = (wanted: string) =>
  plane.until<EgressPolicy>(policyPath(NS, "webhooks"), (policy) => shown(policy) === wanted, wanted, WAIT_MS);

/** Waits until the operator has reconciled the policy with its current facts. */
async function untilLooked(mark: string, staticIPs: readonly StaticIP[]): Promise<void> {
  await applyPolicy(plane, NS, "webhooks", spec(staticIPs, { serviceAnnotations: { mark } }));
  const path = `/api/v1/namespaces/${NS}/services/webhooks-egress`;
  await plane.until<KubeObject>(path, (found) => found?.metadata.annotations?.mark === mark, `the mark ${mark}`);
}

test("each proxy runs on the node of its address and sends from it", async () => {
  put(0);
  put(1);
  await nodeLists("node-0", external(IPS[0]));
  await nodeLists("node-2", { type: "InternalIP", address: SOURCES[1] }, external(IPS[1]));
  await applyPolicy(plane, NS, "webhooks", spec([ip(0), ip(1)]));
  await untilCondition(plane, NS, "webhooks", "Ready", "True");
  const policy = await untilShown("Verified node-0,Verified node-2");
  assert.equal(policy!.status!.summary!.verified, "2/2");
  assert.equal(conditionOf(policy, "IPsAssigned")!.reason, "Assigned");
  for (const i of [0, 1]) {
    const [pod] = await podsOf(i);
    assert.deepEqual(await send(pod!), { status: 200, text: IPS[i]! });
  }
  type Service = KubeObject & { spec: { type: string; selector: object } };
  const services = (await plane.get<{ items: Service[] }>(`/api/v1/namespaces/${NS}/services`))!.items;
  assert.deepEqual(
    services.map(({ metadata, spec: { selector } }) => [metadata.name, selector]),
    [["webhooks-egress", { "egress.outrider.dev/fleet": "webhooks", [PHASE]: "Active" }]],
  );
});

test("a proxy that lost its address answers 503 and is not ready", async () => {
  const [pod] = await podsOf(0);
  const answers = new Set<string>();
  const asked: Promise<void>[] = [];
  // Without a wait: requests in progress when the address is removed wait until it is back.
  const asking = setInterval(() => {
    asked.push(send(pod!).then(({ status, text }) => void answers.add(status === 200 ? text : `${status}`)));
  }, 20);
  take(0);
  await untilShown("Unassigned,Verified node-2");
  const unready = await untilPod(0, "unready", (found) => !isReady(found));
  assert.equal(unready.metadata.uid, pod!.metadata.uid);
  assert.match((await send(pod!)).text, /source address 203\.0\.113\.20 is not assigned to this machine/);
  const policy = await untilCondition(plane, NS, "webhooks", "Ready", "False", "Unassigned");
  assert.match(
    conditionOf(policy, "Ready")!.message,
    /^IPsAssigned: 1 of 2 static IPs are not assigned to a proxy: 203\.0\.113\.20; the proxy on node node-0 cannot bind 203\.0\.113\.20, .*; add the address to an interface/,
  );
  assert.deepEqual(await send((await podsOf(1))[0]!), { status: 200, text: IPS[1] });
  put(0);
  await untilCondition(plane, NS, "webhooks", "Ready", "True");
  await untilShown("Verified node-0,Verified node-2");
  clearInterval(asking);
  await Promise.all(asked);
  assert.equal((await podsOf(0))[0]!.metadata.uid, pod!.metadata.uid);
  // 502: the kernel rejected the bind before the proxy checked its address again.
  assert.ok(answers.has(IPS[0]) && answers.has("503"), [...answers].join());
  assert.deepEqual(
    [...answers].filter((answer) => ![IPS[0], "503", "502"].includes(answer)),
    [],
  );
});

test("a slot moves only after its proxy lost the address", async () => {
  const [before] = await podsOf(0);
  await nodeLists("node-0");
  await untilLooked("unlisted", [ip(0), ip(1)]);
  await nodeLists("node-1", external(IPS[0]));
  await untilLooked("listed elsewhere", [ip(0), ip(1)]);
  const [after] = await podsOf(0);
  assert.equal(after!.metadata.uid, before!.metadata.uid);
  assert.ok(isReady(after!));
  // As on a lost node: its pod never ends.
  const hold = (finalizers: string[]) =>
    plane.patch(`/api/v1/namespaces/${NS}/pods/${before!.metadata.name}`, { metadata: { finalizers } });
  await hold(["example.com/gone"]);
  take(0);
  const isThere = (pod: Pod) => pod.spec?.nodeName === "node-1";
  await untilPod(0, "on node-1", isThere);
  put(0);
  const moved = await untilPod(0, "on node-1 and ready", (pod) => isThere(pod) && isReady(pod));
  assert.deepEqual(await send(moved), { status: 200, text: IPS[0] });
  const held = await plane.get<Pod>(`/api/v1/namespaces/${NS}/pods/${before!.metadata.name}`);
  assert.notEqual(held!.metadata.deletionTimestamp, undefined);
  await hold([]);
  await untilShown("Verified node-1,Verified node-2");
  await untilCondition(plane, NS, "webhooks", "Ready", "True");
});

test("a wrong source address blocks requests and shows in the status", async () => {
  seen.set(SOURCES[1], "198.51.100.7");
  const policy = await untilCondition(plane, NS, "webhooks", "Ready", "False", "Mismatch");
  assert.match(
    conditionOf(policy, "Ready")!.message,
    /^EgressIPVerified: proxy .* sends from 198\.51\.100\.7; expected 203\.0\.113\.21; correct/,
  );
  assert.equal(policy.status!.staticIPs![1]!.observedAddress, "198.51.100.7");
  assert.equal(shown(policy), "Verified node-1,Mismatch node-2");
  const pod = await untilPod(1, "unready", (found) => !isReady(found));
  assert.equal((await send(pod)).status, 503);
  seen.set(SOURCES[1], IPS[1]);
  await untilCondition(plane, NS, "webhooks", "Ready", "True");
});

test("publishes a pending address and uses the annotation of a node", async () => {
  await applyPolicy(plane, NS, "webhooks", spec([ip(0), ip(1), ip(2, "Pending")]));
  await untilShown("Verified node-1,Verified node-2,Unassigned");
  assert.deepEqual(await podsOf(2), []);
  const published = await plane.get<{ data: Record<string, string> }>(
    `/api/v1/namespaces/${NS}/configmaps/webhooks-egress-ips`,
  );
  assert.equal(published!.data["ips.txt"], `${IPS.slice(0, 3).join("\n")}\n`);
  await applyPolicy(plane, NS, "webhooks", spec([ip(0), ip(1), ip(2)]));
  // The nodes of the other two are theirs.
  const guess = await untilPod(2, "somewhere", (pod) => pod.spec?.nodeName !== undefined);
  assert.match(guess.spec!.nodeName!, /^node-[03]$/);
  const policy = await untilCondition(plane, NS, "webhooks", "IPsAssigned", "False", "Unassigned");
  assert.equal(
    conditionOf(policy, "IPsAssigned")!.message,
    `1 of 3 static IPs are not assigned to a proxy: 203.0.113.22; no node lists 203.0.113.22; annotate the node that has it (kubectl annotate node NODE ${ADDRESSES}=203.0.113.22)`,
  );
  const there = guess.spec!.nodeName === "node-0" ? "node-3" : "node-0";
  await annotate(there, `198.51.100.1, ${IPS[2]}`);
  await untilPod(2, `on ${there}`, (pod) => pod.spec?.nodeName === there);
  put(2);
  await untilCondition(plane, NS, "webhooks", "Ready", "True");
  await untilShown(`Verified node-1,Verified node-2,Verified ${there}`);
  // Once the proxy has the address, the annotation no longer matters.
  const [pod] = await podsOf(2);
  await annotate(there, null);
  await untilLooked("no annotation", [ip(0), ip(1), ip(2)]);
  assert.equal((await podsOf(2))[0]!.metadata.uid, pod!.metadata.uid);
});

test("a retiring address gets no new requests and keeps its proxy", async () => {
  const [pod] = await podsOf(0);
  await applyPolicy(plane, NS, "webhooks", spec([ip(0, "Retiring"), ip(1), ip(2)]));
  const retiring = await untilPod(0, "retiring", ({ metadata }) => metadata.labels?.[PHASE] === "Retiring");
  assert.equal(retiring.metadata.uid, pod!.metadata.uid);
  const policy = await untilCondition(plane, NS, "webhooks", "Ready", "True");
  assert.match(shown(policy)!, /^Retiring node-1,Verified node-2,Verified/);
  assert.deepEqual(await send(retiring), { status: 200, text: IPS[0] });
  // Nothing else serves: then an address on its way out is better than none.
  take(1);
  take(2);
  await untilPod(0, "back", ({ metadata }) => metadata.labels?.[PHASE] === "Active");
  put(1);
  put(2);
  await untilPod(0, "retiring again", ({ metadata }) => metadata.labels?.[PHASE] === "Retiring");
  await applyPolicy(plane, NS, "webhooks", spec([ip(1), ip(2)]));
  const deployment = `/apis/apps/v1/namespaces/${NS}/deployments/webhooks-egress-${slotId(IPS[0])}`;
  await plane.until(deployment, (found) => found === undefined, "its slot goes", WAIT_MS);
  await untilCondition(plane, NS, "webhooks", "Ready", "True");
});

test("an address belongs to one policy with a grant", async () => {
  await applyPolicy(plane, NS, "younger", spec([ip(2)], { port: 5750, adminPort: 5751 }));
  const loser = await untilCondition(plane, NS, "younger", "Accepted", "False", "Conflicted");
  assert.equal(
    conditionOf(loser, "Accepted")!.message,
    "spec.staticIPs[0].address: 203.0.113.22 is held by policy convoy/webhooks; use another address, or remove it there",
  );
  await applyPolicy(plane, "default", "stranger", spec([ip(0)]));
  const stranger = await untilCondition(plane, "default", "stranger", "Accepted", "False", "NotGranted");
  assert.match(conditionOf(stranger, "Accepted")!.message, /namespace default has no grant for NodeAddress/);
  const ungranted = { address: "198.51.100.9" };
  await applyPolicy(plane, NS, "greedy", spec([ungranted]));
  const greedy = await untilCondition(plane, NS, "greedy", "Accepted", "False", "NotGranted");
  assert.match(conditionOf(greedy, "Accepted")!.message, /namespace convoy has no grant for 198\.51\.100\.9; ask/);
});

test("reports two policies with the same ports on a node", async () => {
  await annotate("node-2", IPS[3]);
  put(3);
  await applyPolicy(plane, NS, "neighbour", spec([ip(3)]));
  const stuck = await untilCondition(plane, NS, "neighbour", "Ready", "False", "Unassigned");
  assert.match(
    conditionOf(stuck, "Ready")!.message,
    /node node-2 has 203\.0\.113\.23, but its proxy does not run there yet: .*1 node\(s\) didn't have free ports/,
  );
  await applyPolicy(plane, NS, "neighbour", spec([ip(3)], { port: 5750, adminPort: 5751 }));
  const policy = await untilCondition(plane, NS, "neighbour", "Ready", "True");
  assert.equal(shown(policy), "Verified node-2");
});

test("migrates from a shared fleet to slots and back", async () => {
  type Service = KubeObject & { spec: { selector: Record<string, string> } };
  // From a pod's own address the world sees a static IP, as behind a NAT gateway.
  const shared = { ...spec([{ address: IPS[0] }]), nat: { provider: "External" } };
  seen.set("127.0.0.1", IPS[0]);
  const ports = { port: 6750, adminPort: 6751 };
  // On the node that has the address: slot and fleet share it.
  const nodeSelector = { "kubernetes.io/hostname": "node-1" };
  const old = { ...shared, proxy: { ...shared.proxy, ...ports, replicas: 1, nodeSelector } };
  await applyPolicy(plane, NS, "switched", old);
  await untilCondition(plane, NS, "switched", "Ready", "True");
  const path = `/api/v1/namespaces/${NS}/services/switched-egress`;
  const selector = async () => (await plane.get<Service>(path))!.spec.selector;
  const behind = async (): Promise<string> => {
    const wanted = await selector();
    const { items } = (await plane.get<{ items: Pod[] }>(`/api/v1/namespaces/${NS}/pods`))!;
    // Read twice, since a selector that changed in between belongs to other labels.
    if (JSON.stringify(await selector()) !== JSON.stringify(wanted)) return behind();
    const selected = items.filter(
      (pod) => isReady(pod) && Object.entries(wanted).every(([key, value]) => pod.metadata.labels?.[key] === value),
    );
    return [...new Set(selected.map(({ metadata }) => metadata.labels!["egress.outrider.dev/slot"]!))].sort().join("+");
  };
  const looks: string[] = [];
  let watching = true;
  const watch = (async () => {
    for (; watching; await sleep(10)) {
      const now = await behind();
      if (looks.at(-1) !== now) looks.push(now);
    }
  })();
  const deployments = `/apis/apps/v1/namespaces/${NS}/deployments`;
  const slot = slotId(IPS[0]);
  await applyPolicy(plane, NS, "switched", spec([ip(0)], ports));
  await plane.until(`${deployments}/switched-egress`, (found) => found === undefined, "the old fleet goes", WAIT_MS);
  await untilCondition(plane, NS, "switched", "Ready", "True");
  await applyPolicy(plane, NS, "switched", old);
  await plane.until(`${deployments}/switched-egress-${slot}`, (found) => found === undefined, "the slot goes", WAIT_MS);
  await untilCondition(plane, NS, "switched", "Ready", "True");
  watching = false;
  await watch;
  assert.ok(!looks.includes(""), `behind the client Service, one after the other: ${looks.join(" → ")}`);
  assert.ok(looks.includes(slot), looks.join(" → "));
});

test("no request used another source address", () => {
  // 127.0.0.1: the fleet of the provider External.
  assert.deepEqual([...callers].sort(), [...SOURCES, "127.0.0.1"].sort());
});
