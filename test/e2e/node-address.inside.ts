import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Pod } from "../../operator/api/objects.ts";
import { FOUR, NODE_IPS, STATIC_IPS } from "../cluster/node/addresses.ts";
import type { Cluster } from "../cluster/node/cluster.ts";
import { findTool } from "../cluster/tools.ts";
import { finish } from "../harness/finish.ts";
import { applyPolicy, policyPath, untilCondition } from "../operator/operator.ts";
import { kubeVIPCommand } from "./kube-vip.ts";
import { PublishedHistory } from "./published.ts";
import {
  addressesSeen,
  type Delivery,
  deploySender,
  loopLog,
  makePasswords,
  NS,
  SPEC,
  send,
  startStage,
  untilEnded,
  untilPods,
} from "./stage.ts";

/** Proxies on two real nodes with addresses of their own: they bind these, or send nothing. */

const READY_MS = 90_000;
const [ONE, TWO] = NODE_IPS;
const FLEET = "egress.outrider.dev/fleet=webhooks";
const ASKS = { "egress.outrider.dev/policy": "webhooks" };

let cluster: Cluster;
let published: PublishedHistory;
let sender: Pod;

before(async () => {
  cluster = await startStage({
    nodes: 2,
    values: [
      "--set=providers.nodeAddress.enabled=true",
      `--set-json=grants=[{"namespaces":["${NS}"],"providers":["NodeAddress"],"staticIPs":["203.0.113.16/28"]}]`,
    ],
  });
  const { plane, network } = cluster;
  for (const [index, address] of NODE_IPS.entries()) {
    network.give(index, address);
    const path = `/api/v1/nodes/${network.nodes[index]!.name}`;
    await plane.patch(path, { metadata: { annotations: { "egress.outrider.dev/addresses": address } } });
  }
  await makePasswords(cluster);
  published = new PublishedHistory(plane, "webhooks");
});
after(async () => {
  await published?.stop();
  await cluster?.stop();
});

test("programs on each node use the API server address of its kubelet", async () => {
  const serverOf = (file: string): string => JSON.parse(readFileSync(file, "utf8")).clusters[0].cluster.server;
  const kubectl = await findTool("kubectl");
  for (const node of cluster.nodes) {
    const command = kubeVIPCommand("kube-vip", node);
    const config = command[command.indexOf("--k8sConfigPath") + 1]!;
    assert.equal(serverOf(config), serverOf(node.kubeletConfig));
    const [program, ...args] = node.inside([kubectl, "--kubeconfig", config, "get", "--raw=/readyz"]) as [string];
    const { stdout, stderr } = await finish(spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] }));
    assert.equal(stdout, "ok", `${node.name}: ${stderr}`);
  }
});

const seenFrom = (from: number) => addressesSeen(cluster, from);

const spec = (provider: string, addresses: readonly string[]) => ({
  ...SPEC,
  nat: { provider },
  staticIPs: addresses.map((address) => ({ address })),
  authentication: { mode: "Basic", secretRef: { name: "passwords" } },
});

test("each slot runs on the node with its address", async () => {
  await applyPolicy(cluster.plane, NS, "webhooks", spec("NodeAddress", NODE_IPS));
  await untilCondition(cluster.plane, NS, "webhooks", "Ready", "True", undefined, READY_MS);
  const { stdout } = await cluster.plane.kubectl(["get", "egpol", "-n", NS]);
  assert.match(stdout, /webhooks +True +Enforce +NodeAddress +203\.0\.113\.17,203\.0\.113\.18 +2\/2 +2\/2/);
  const proxies = await untilPods(cluster, FLEET, 2);
  assert.deepEqual(proxies.map(({ status }) => status?.podIP).sort(), ["10.0.0.2", "10.0.0.3"]);

  const env = { LOOP_URL: "http://hooks.example/loop", LOOP_MS: "50", LOOP_ATTEMPTS: "6" };
  // Not on the node that will lose its power.
  await deploySender(cluster, "agent", { annotations: ASKS, env, node: "node-1" });
  [sender] = (await untilPods(cluster, "app=agent", 1)) as [Pod];
  await sleep(3000);
  assert.deepEqual(seenFrom(0), [ONE, TWO]);
});

test("denies internal targets and missing passwords on node networks", async () => {
  for (const target of ["http://10.96.0.1/", "http://10.0.0.2:10250/pods", "http://10.0.0.3:9750/status"]) {
    const { status, body } = await send(sender, target);
    assert.equal(status, 403, target);
    assert.match(body!, /^egress-denied: 10\.\S+ is (a private address|this proxy itself)/);
  }
  const bare = await deploySender(cluster, "bare", {
    env: { http_proxy: "", HTTP_PROXY: "http://10.0.0.3:4750" },
  }).then(async () => (await untilPods(cluster, "app=bare", 1))[0]!);
  const refused = await send(bare, `http://${FOUR.receiver}/bare`);
  assert.equal(refused.status, 407, refused.error);
  assert.ok(!cluster.internet.received().some(({ path }) => path === "/bare"));
});

/** Changes provider and addresses of the policy, and waits until only these are seen. */
async function exchange(provider: string, addresses: readonly string[]): Promise<void> {
  await applyPolicy(cluster.plane, NS, "webhooks", spec(provider, addresses));
  await untilCondition(cluster.plane, NS, "webhooks", "Ready", "True", undefined, READY_MS);
  const from = Date.now();
  await sleep(3000);
  assert.deepEqual(seenFrom(from + 1000), addresses);
}

/** The results of a sender without retries in the meantime. */
async function once(meanwhile: () => Promise<void>): Promise<{ tried: number; failed: Delivery[] }> {
  const env = { LOOP_URL: "http://hooks.example/once", LOOP_MS: "50", LOOP_ATTEMPTS: "1" };
  await deploySender(cluster, "once", { annotations: ASKS, env, node: "node-1" });
  const [pod] = (await untilPods(cluster, "app=once", 1)) as [Pod];
  const from = Date.now();
  await meanwhile();
  await untilEnded(pod, Date.now());
  const tried = (await loopLog(pod)).filter(({ began }) => began >= from);
  await cluster.plane.delete(`/apis/apps/v1/namespaces/${NS}/deployments/once`);
  return { tried: tried.length, failed: tried.filter(({ status }) => status !== 200) };
}

test("a change of provider and address refuses no request", async () => {
  const { tried, failed } = await once(async () => {
    await exchange("External", STATIC_IPS.slice(0, 1));
    await exchange("NodeAddress", NODE_IPS);
  });
  console.log(`there and back: ${tried} single attempts, ${failed.length} failed`);
  assert.deepEqual(failed, []);
});

test("a drained node gets its proxy back", async () => {
  const { plane } = cluster;
  await exchange("External", STATIC_IPS.slice(0, 1));
  const { tried, failed } = await once(async () => {
    const drain = ["drain", "node-2", `--pod-selector=${FLEET}`, "--timeout=90s"];
    const { status, stderr } = await plane.kubectl(drain);
    assert.equal(status, 0, stderr);
    const proxies = await untilPods(cluster, FLEET, 2);
    assert.deepEqual([...new Set(proxies.map((pod) => pod.spec?.nodeName))], ["node-1"]);
    assert.equal((await plane.kubectl(["uncordon", "node-2"])).status, 0);
  });
  console.log(`drain: ${tried} single attempts, ${failed.length} failed`);
  await exchange("NodeAddress", NODE_IPS);
});

test("a slot without its address serves nothing until it is back", async () => {
  const from = Date.now();
  cluster.network.take(0, ONE);
  await untilCondition(cluster.plane, NS, "webhooks", "IPsAssigned", "False", undefined, READY_MS);
  await untilPods(cluster, FLEET, 1);
  const alone = Date.now();
  await sleep(2000);
  assert.deepEqual(seenFrom(alone), [TWO]);
  cluster.network.give(0, ONE);
  const back = Date.now();
  await untilCondition(cluster.plane, NS, "webhooks", "Ready", "True", undefined, READY_MS);
  while (!seenFrom(back).includes(ONE)) await sleep(20);
  console.log(`its address is used again ${Date.now() - back} ms after it is back`);
  assert.deepEqual(seenFrom(from), [ONE, TWO]);
});

test("the other slot serves during a power cut of a node", async () => {
  const from = Date.now();
  await cluster.nodes[1]!.stop();
  await sleep(4000);
  assert.deepEqual(seenFrom(from + 1000), [ONE]);
  await cluster.startNode(1);
  const back = Date.now();
  while (!seenFrom(back).includes(TWO)) {
    assert.ok(Date.now() - back < READY_MS, "the second address is not used again");
    await sleep(50);
  }
  console.log(`its address is used again ${Date.now() - back} ms after the node is ready`);
});

test("of all requests none came from another address, and who tries again lost none", async () => {
  await untilEnded(sender, Date.now());
  assert.deepEqual(await published.wrong(cluster.internet.received()), []);
  const log = await loopLog(sender);
  const lost = log.filter(({ status }) => status !== 200);
  console.log(`${cluster.internet.received().length} requests; ${log.length} deliveries, ${lost.length} lost`);
  assert.deepEqual(lost, []);
  await cluster.plane.delete(policyPath(NS, "webhooks"));
});
