import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import type { Pod } from "../../operator/api/objects.ts";
import { FOUR, SIX } from "../cluster/node/addresses.ts";
import type { Cluster } from "../cluster/node/cluster.ts";
import { ECHO_NAME_URL } from "../cluster/node/internet.ts";
import { applyPolicy, conditionOf, policyPath, untilCondition } from "../operator/operator.ts";
import { deploySender, NS, SPEC, send, startStage, untilPods } from "./stage.ts";

/** Pods and Services of both families: each family has its own proof and gate. */

const READY_MS = 60_000;
const CLOSED_MS = 10_000;
let cluster: Cluster;
let sender: Pod;

before(async () => {
  cluster = await startStage({ dualStack: true });
  cluster.internet.zone({
    "six.example": [[SIX.receiver]],
    "both.example": [[FOUR.receiver, SIX.receiver]],
    "inside.example": [["fd00:10::2"]],
  });
});
after(() => cluster?.stop());

const states = ({ status }: EgressPolicy) => status!.staticIPs!.map(({ state }) => state);

test("verifies an address per family and uses it for deliveries", async () => {
  await applyPolicy(cluster.plane, NS, "webhooks", {
    ...SPEC,
    staticIPs: [{ address: FOUR.staticIPs[0] }, { address: SIX.staticIPs[0] }],
    verification: { ...SPEC.verification, echoURLs: [ECHO_NAME_URL] },
  });
  const policy = await untilCondition(cluster.plane, NS, "webhooks", "Ready", "True", undefined, READY_MS);
  assert.deepEqual(states(policy), ["Verified", "Verified"]);
  const service = (await cluster.plane.get<{ spec: { clusterIPs: string[] } }>(
    `/api/v1/namespaces/${NS}/services/webhooks-egress`,
  ))!;
  assert.equal(service.spec.clusterIPs.length, 2);
  await deploySender(cluster, "agent", { annotations: { "egress.outrider.dev/policy": "webhooks" } });
  [sender] = (await untilPods(cluster, "app=agent", 1)) as [Pod];
  assert.equal((await send(sender, "http://hooks.example/in")).body, `${FOUR.staticIPs[0]}\n`);
  assert.equal((await send(sender, "http://six.example/in")).body, `${SIX.staticIPs[0]}\n`);
  assert.equal((await send(sender, `http://[${SIX.receiver}]/in`)).body, `${SIX.staticIPs[0]}\n`);
});

test("a wrong address closes the gate of its family only", async () => {
  cluster.network.snat(undefined, SIX);
  // Both proxies have to detect it, since either may get the request.
  for (let [refused, began] = [0, Date.now()]; refused < 10; await sleep(50)) {
    const { status, body } = await send(sender, "http://six.example/in");
    refused = status === 503 ? refused + 1 : 0;
    if (status === 503) assert.match(body!, /^egress-unavailable: requests leave from fd00:/);
    assert.ok(Date.now() - began < CLOSED_MS, `still ${status} ${body}`);
  }
  assert.equal((await send(sender, "http://hooks.example/in")).body, `${FOUR.staticIPs[0]}\n`);
  assert.equal((await send(sender, "http://both.example/in")).body, `${FOUR.staticIPs[0]}\n`);
  const mismatch = await untilCondition(
    cluster.plane,
    NS,
    "webhooks",
    "EgressIPVerified",
    "False",
    "Mismatch",
    READY_MS,
  );
  assert.match(conditionOf(mismatch, "EgressIPVerified")!.message, /fd00:/);
  cluster.network.snat(SIX.staticIPs[0], SIX);
  await untilCondition(cluster.plane, NS, "webhooks", "Ready", "True", undefined, READY_MS);
  assert.equal((await send(sender, "http://six.example/in")).body, `${SIX.staticIPs[0]}\n`);
});

test("denies internal IPv6 targets", async () => {
  const proxies = await untilPods(cluster, "egress.outrider.dev/fleet=webhooks", 2);
  const ips = proxies.flatMap(({ status }) => status!.podIPs!.map(({ ip }) => ip)).filter((ip) => ip.includes(":"));
  assert.equal(ips.length, 2);
  const targets = ["http://[fd00:96::1]/", "http://[fd00:10::2]:10250/pods", `http://[${ips[0]}]:9750/status`];
  for (const target of [...targets, "http://[fe80::1]/", "http://inside.example:10250/pods"]) {
    const { status, body } = await send(sender, target);
    assert.equal(status, 403, `${target}: ${status} ${body}`);
    assert.match(
      body!,
      /^egress-denied: \S+ (is|resolves to) (a unique local address|a link-local address|this proxy itself)/,
      target,
    );
  }
  await cluster.plane.delete(policyPath(NS, "webhooks"));
});
