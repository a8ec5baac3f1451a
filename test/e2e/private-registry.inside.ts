import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { Pod } from "../../operator/api/objects.ts";
import { type Cluster, startCluster } from "../cluster/node/cluster.ts";
import { applyPolicy, untilCondition } from "../operator/operator.ts";
import { Registry, USER } from "./registry.ts";
import { installChart, NS, SPEC, SYSTEM } from "./stage.ts";

/** Operator and proxies with an image that the kubelet pulls with credentials, each time that a pod starts. */

const READY_MS = 120_000;
const SECRET = "registry";
let cluster: Cluster;
let registry: Registry;
let host: string;

before(async () => {
  cluster = await startCluster();
  registry = new Registry(join(cluster.plane.folder, "images/outrider.tar"));
  host = await registry.start();
  for (const name of [NS, SYSTEM]) {
    await cluster.plane.apply(`/api/v1/namespaces/${name}`, {
      apiVersion: "v1",
      kind: "Namespace",
      metadata: { name },
    });
  }
});
after(async () => {
  registry?.stop();
  await cluster?.stop();
});

/** The pull secret, as `kubectl create secret docker-registry` makes it. */
const makeSecret = (namespace: string): Promise<void> =>
  cluster.plane.apply(`/api/v1/namespaces/${namespace}/secrets/${SECRET}`, {
    apiVersion: "v1",
    kind: "Secret",
    metadata: { name: SECRET, namespace },
    type: "kubernetes.io/dockerconfigjson",
    stringData: { ".dockerconfigjson": JSON.stringify({ auths: { [host]: USER } }) },
  });

test("the operator runs with the pull secret of the chart", async () => {
  await makeSecret(SYSTEM);
  await installChart(cluster, [
    `--set=image.repository=${host}/outrider,image.pullPolicy=Always`,
    `--set=imagePullSecrets[0].name=${SECRET},proxy.imagePullSecrets[0].name=${SECRET}`,
  ]);
  assert.ok(registry.pulls > 0);
});

type Waiting = { status?: { containerStatuses?: { state?: { waiting?: { reason?: string; message?: string } } }[] } };
const waits = (pod: Pod): string => {
  const waiting = (pod as Waiting).status?.containerStatuses?.[0]?.state?.waiting;
  return `${waiting?.reason}: ${waiting?.message}`;
};

test("proxies wait for the pull secret in the namespace of their policy", async () => {
  const { pulls, refused } = registry;
  await applyPolicy(cluster.plane, NS, "webhooks", SPEC);
  const pods = `/api/v1/namespaces/${NS}/pods?labelSelector=egress.outrider.dev/fleet%3Dwebhooks`;
  const isRefused = (list: { items: Pod[] } | undefined) =>
    list?.items.some((pod) => /^(ErrImagePull|ImagePullBackOff): .*401/s.test(waits(pod))) ?? false;
  await cluster.plane.until<{ items: Pod[] }>(pods, isRefused, "a pull without credentials fails", READY_MS);
  await untilCondition(cluster.plane, NS, "webhooks", "Ready", "False", undefined, READY_MS);
  assert.ok(registry.refused > refused);
  assert.equal(registry.pulls, pulls);
  await makeSecret(NS);
  await untilCondition(cluster.plane, NS, "webhooks", "Ready", "True", undefined, READY_MS);
  assert.ok(registry.pulls > pulls);
});
