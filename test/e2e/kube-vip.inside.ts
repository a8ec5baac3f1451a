import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Pod } from "../../operator/api/objects.ts";
import { NODE_IPS } from "../cluster/node/addresses.ts";
import type { Cluster } from "../cluster/node/cluster.ts";
import { applyPolicy, untilCondition } from "../operator/operator.ts";
import { kubeVIPCommand } from "./kube-vip.ts";
import { PublishedHistory } from "./published.ts";
import {
  addressesSeen,
  deploySender,
  loopLog,
  makePasswords,
  NS,
  runningPods,
  SPEC,
  startStage,
  untilPods,
} from "./stage.ts";

/** The provider KubeVIP with the real kube-vip on two nodes: the address follows the slot's proxy, which binds it. */

const READY_MS = 120_000;
const FLEET = "egress.outrider.dev/fleet=webhooks";

let cluster: Cluster;
let published: PublishedHistory;
let sender: Pod;

before(async () => {
  cluster = await startStage({
    nodes: 2,
    values: [
      "--set=providers.kubeVIP.enabled=true",
      `--set-json=grants=[{"namespaces":["${NS}"],"providers":["KubeVIP"],"staticIPs":["203.0.113.16/28"]}]`,
    ],
  });
  for (const node of cluster.nodes) node.run("kube-vip", kubeVIPCommand(process.env.KUBE_VIP!, node));
  await makePasswords(cluster);
  published = new PublishedHistory(cluster.plane, "webhooks");
});
after(async () => {
  await published?.stop();
  await cluster?.stop();
});

const seenFrom = (from: number) => addressesSeen(cluster, from);

test("each slot gets its address, and deliveries use both", async () => {
  await applyPolicy(cluster.plane, NS, "webhooks", {
    ...SPEC,
    nat: { provider: "KubeVIP" },
    staticIPs: NODE_IPS.map((address) => ({ address })),
    authentication: { mode: "Basic", secretRef: { name: "passwords" } },
  });
  await untilCondition(cluster.plane, NS, "webhooks", "Ready", "True", undefined, READY_MS);
  const annotations = { "egress.outrider.dev/policy": "webhooks" };
  const env = { LOOP_URL: "http://hooks.example/loop", LOOP_MS: "50", LOOP_ATTEMPTS: "7" };
  await deploySender(cluster, "agent", { annotations, env });
  [sender] = (await untilPods(cluster, "app=agent", 1)) as [Pod];
  await sleep(3000);
  assert.deepEqual(seenFrom(0), [...NODE_IPS]);
});

test("restarts of proxies and kube-vip cause no wrong address", async () => {
  for (const { metadata } of await runningPods(cluster, FLEET)) {
    await cluster.plane.delete(`/api/v1/namespaces/${NS}/pods/${metadata.name}`);
    const from = Date.now();
    await untilCondition(cluster.plane, NS, "webhooks", "Ready", "True", undefined, READY_MS);
    while (seenFrom(from).length < 2) {
      assert.ok(Date.now() - from < READY_MS, "one address is not used again");
      await sleep(100);
    }
  }
  await cluster.nodes[0]!.kill("kube-vip");
  const from = Date.now();
  await sleep(4000);
  assert.ok(seenFrom(from).length > 0);
});

test("no request used another address, and retries lost none", async () => {
  await sleep(5000);
  assert.deepEqual(await published.wrong(cluster.internet.received()), []);
  const lost = (await loopLog(sender)).filter(({ status }) => status !== 200);
  assert.deepEqual(lost, []);
});
