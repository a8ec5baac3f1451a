import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import type { Cluster } from "../cluster/node/cluster.ts";
import { INTERNET, STATIC_IPS } from "../cluster/node/network.ts";
import { applyPolicy, policyPath, untilCondition } from "../operator/operator.ts";
import { deploySender, NS, RECEIVER_URL, SPEC, send, startStage, untilPods } from "./stage.ts";

/** The three verbs on a real node: helm install, kubectl apply, annotate; and what then leaves, from where, and what does not. */

const ASKS = { "egress.outrider.dev/policy": "webhooks" };
let cluster: Cluster;

before(async () => {
  cluster = await startStage();
});
after(() => cluster?.stop());

test("a policy becomes Ready once its proxies have proven the address", async () => {
  await applyPolicy(cluster.plane, NS, "webhooks", {
    ...SPEC,
    deny: [{ name: "competitors", hosts: ["*.competitor.example"] }],
  });
  await untilCondition(cluster.plane, NS, "webhooks", "Ready", "True", undefined, 60_000);
  const { stdout } = await cluster.plane.kubectl(["get", "egpol", "-n", NS]);
  assert.match(stdout, /webhooks +True +Enforce +External +203\.0\.113\.10 +1\/1 +2\/2/);
});

test("annotated pods shaped like Convoy's are covered, and deliver from the published address alone", async () => {
  for (const name of ["agent", "server"]) await deploySender(cluster, name, { annotations: ASKS });
  for (const name of ["agent", "server"]) {
    const [pod] = await untilPods(cluster, `app=${name}`, 1);
    const delivery = await send(pod!, RECEIVER_URL);
    assert.deepEqual([delivery.status, delivery.body, delivery.error], [200, `${STATIC_IPS[0]}\n`, undefined]);
  }
  assert.deepEqual([...new Set(cluster.internet.received().map(({ address }) => address))], [STATIC_IPS[0]]);
  const covered = (policy: EgressPolicy | undefined) => policy?.status?.summary?.workloads === "2/2";
  await cluster.plane.until(policyPath(NS, "webhooks"), covered, "2 of 2 pods are covered");
});

test("a refused delivery says why in the sender's own log", async () => {
  const [pod] = await untilPods(cluster, "app=agent", 1);
  const refused = await send(pod!, "https://x.competitor.example/in");
  assert.equal(
    refused.error,
    'Post "https://x.competitor.example/in": egress-denied: x.competitor.example is denied by rule competitors; policy convoy/webhooks',
  );
  assert.equal(cluster.internet.received().filter(({ host }) => host !== "hooks.example").length, 0);
  assert.ok(INTERNET.receiver);
});
