import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Pod } from "../../operator/api/objects.ts";
import { FOUR } from "../cluster/node/addresses.ts";
import type { Cluster } from "../cluster/node/cluster.ts";
import { findTool } from "../cluster/tools.ts";
import { finish } from "../harness/finish.ts";
import { applyPolicy, untilCondition } from "../operator/operator.ts";
import { deploySender, NS, RECEIVER_URL, SPEC, send, startStage, untilPods } from "./stage.ts";

/** NetworkPolicies as kube-router enforces them: connections between pods, tried from the pods' own networks. */

const FLEET = "egress.outrider.dev/fleet=webhooks";
const READY_MS = 90_000;
/** kube-router checks pods and policies with a delay. */
const ENFORCED_MS = 30_000;
const CONNECT_SECONDS = 2;
const SPEC_GUARDED = { ...SPEC, networkPolicy: { senders: "Enabled" } };

let cluster: Cluster;
let proxy: Pod;
let sender: Pod;
let bystander: Pod;

before(async () => {
  cluster = await startStage();
  const { plane, nodes } = cluster;
  const [node] = nodes;
  const command = [
    ...[await findTool("kube-router"), `--kubeconfig=${node!.adminConfig}`, `--hostname-override=${node!.name}`],
    ...["--run-firewall", "--run-router=false", "--run-service-proxy=false", "--run-loadbalancer=false"],
    ...["--metrics-port=0", "--health-port=0", `--service-cluster-ip-range=${FOUR.services}`],
  ];
  node!.run("kube-router", command);
  await applyPolicy(plane, NS, "webhooks", SPEC_GUARDED);
  await untilCondition(plane, NS, "webhooks", "Ready", "True", undefined, READY_MS);
  await deploySender(cluster, "agent", { annotations: { "egress.outrider.dev/policy": "webhooks" } });
  await deploySender(cluster, "bystander");
  [sender] = (await untilPods(cluster, "app=agent", 1)) as [Pod];
  [bystander] = (await untilPods(cluster, "app=bystander", 1)) as [Pod];
  [proxy] = (await untilPods(cluster, FLEET, 2)) as [Pod];
});
after(() => cluster?.stop());

/** Whether a connection can be made from within a pod's network. */
async function reaches(from: Pod, host: string, port: number): Promise<boolean> {
  const [node] = cluster.nodes;
  const { containerStatuses } = from.status as { containerStatuses: { containerID: string }[] };
  const id = containerStatuses[0]!.containerID.slice("containerd://".length);
  const line = (await node!.ctr("tasks", "list")).split("\n").find((one) => one.startsWith(id))!;
  const pid = line.trim().split(/\s+/)[1]!;
  const probe = ["timeout", `${CONNECT_SECONDS}`, "bash", "-c", `exec 3<>/dev/tcp/${host}/${port}`];
  const [program, ...args] = node!.inside(["nsenter", `--target=${pid}`, "--net", "--", ...probe]) as [string];
  return (await finish(spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] }))).status === 0;
}

/** Waits until the result is as expected, and checks once more. */
async function assertReach(what: string, from: Pod, host: string, port: number, wanted: boolean): Promise<void> {
  for (const began = Date.now(); (await reaches(from, host, port)) !== wanted; await sleep(200)) {
    assert.ok(Date.now() - began < ENFORCED_MS, `${what} ${wanted ? "is not allowed" : "is not denied"}`);
  }
  assert.equal(await reaches(from, host, port), wanted, what);
}

test("enforced NetworkPolicies allow only the required traffic", async () => {
  const { plane, nodes } = cluster;
  const path = `/api/v1/namespaces/${NS}/services/webhooks-egress`;
  const service = (await plane.get<{ spec: { clusterIP: string } }>(path))!.spec.clusterIP;
  const node = nodes[0]!.place.address;
  const [own, other] = [proxy.status!.podIP!, bystander.status!.podIP!];
  const cases = [
    ["a sender to what it should not send to by itself", sender, FOUR.receiver, 80, false],
    ["a sender to another pod", sender, other, 8080, false],
    ["a sender to the API server", sender, node, 6443, false],
    ["a sender to a proxy's admin port", sender, own, 9750, false],
    ["a sender to a proxy", sender, own, 4750, true],
    ["a sender to the proxies' Service", sender, service, 4750, true],
    ["a sender to DNS", sender, node, 53, true],
    ["another pod to a proxy", bystander, own, 4750, false],
    ["another pod to a proxy's admin port", bystander, own, 9750, false],
    ["another pod to the receiver", bystander, FOUR.receiver, 80, true],
    ["a proxy to the receiver", proxy, FOUR.receiver, 80, true],
    ["a proxy to another pod", proxy, other, 8080, false],
    ["a proxy to the API server", proxy, node, 6443, false],
    ["a proxy to the kubelet", proxy, node, 10250, false],
    ["a proxy to DNS", proxy, node, 53, true],
  ] as const;
  await Promise.all(cases.map(([what, from, host, port, wanted]) => assertReach(what, from, host, port, wanted)));
  const delivery = await send(sender, RECEIVER_URL);
  assert.equal(delivery.status, 200, delivery.error);
  // The operator still polls the proxies.
  await untilCondition(plane, NS, "webhooks", "Ready", "True");
});

test("the NetworkPolicy follows allow rules for cluster targets", async () => {
  const { plane } = cluster;
  const address = bystander.status!.podIP!;
  const open = { ...SPEC_GUARDED, allow: [{ name: "pods", cidrs: [`${address}/32`], ports: [8080] }] };
  await applyPolicy(plane, NS, "webhooks", { ...open, defaultAction: "Allow" });
  // The network may be open before a proxy has the policy.
  await untilCondition(plane, NS, "webhooks", "PolicyDistributed", "True", undefined, READY_MS);
  await assertReach("a proxy to the opened pod", proxy, address, 8080, true);
  assert.equal((await send(sender, `http://${address}:8080/environment`)).status, 200);
  await applyPolicy(plane, NS, "webhooks", SPEC_GUARDED);
  await assertReach("a proxy to the pod that is closed again", proxy, address, 8080, false);
});

test("without NetworkPolicies every pod reaches proxies and targets", async () => {
  const { plane } = cluster;
  await applyPolicy(plane, NS, "webhooks", { ...SPEC, networkPolicy: { proxy: "Disabled" } });
  await assertReach("another pod to a proxy", bystander, proxy.status!.podIP!, 4750, true);
  await assertReach("a sender to the receiver", sender, FOUR.receiver, 80, true);
});
