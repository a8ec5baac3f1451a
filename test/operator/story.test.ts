import assert from "node:assert/strict";
import { before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import type { ConfigMap } from "../../operator/api/objects.ts";
import { BOOT, controlPlaneMissing } from "../cluster/control-plane.ts";
import { applyPolicy, conditionOf, INVALID, policyPath, untilCondition } from "./operator.ts";
import { type Stage, startStage } from "./stage.ts";

/** The story of a policy on a real API server: real proxies load the very document that the operator wrote. */

const skip = controlPlaneMissing({ kwokNodes: 3 }) ?? false;
let { plane, operator, fleet, again } = {} as Stage;
const NS = "convoy";
const RESYNC_SECONDS = 5;
/** Resyncs that must write nothing. */
const RESYNCS = 5;
const POLICY = policyPath(NS, "webhooks");
const cm = (name: string) => `/api/v1/namespaces/${NS}/configmaps/${name}`;
const service = `/api/v1/namespaces/${NS}/services/webhooks-egress`;
const deployment = `/apis/apps/v1/namespaces/${NS}/deployments/webhooks-egress`;

before(async () => {
  if (skip) return;
  ({ plane, operator, fleet, again } = await startStage({
    plane: { kwokNodes: 3, audit: true },
    namespaces: [NS],
    operator: () => ({ args: ["--scrape-seconds=1", `--resync-seconds=${RESYNC_SECONDS}`] }),
  }));
}, BOOT);

/** The `/status` of every proxy. */
async function hashes(): Promise<string[]> {
  return Promise.all(
    fleet.pods.map(async (pod) => {
      const response = await fetch(`http://${pod.status!.podIP}:9750/status`);
      return ((await response.json()) as { policy: { hash: string } | null }).policy?.hash ?? "none";
    }),
  );
}

test("kubectl apply creates a fleet that runs the policy", { skip }, async () => {
  await applyPolicy(plane, NS, "webhooks", { deny: [{ hosts: ["*.competitor.example"] }] });
  const policy = await untilCondition(plane, NS, "webhooks", "Ready", "True");
  const hash = policy.status!.summary!.policyHash!;
  assert.match(hash, /^sha256:[0-9a-f]{64}$/);
  const document = await plane.get<ConfigMap>(cm("webhooks-egress-policy"));
  assert.equal(document!.metadata.annotations!["egress.outrider.dev/policy-hash"], hash);
  assert.deepEqual(JSON.parse(document!.data!["policy.json"]!).deny, [{ hosts: ["*.competitor.example"] }]);
  assert.deepEqual(await hashes(), [hash, hash]);
  assert.equal(policy.status!.summary!.proxies, "2/2");
  const { body } = await plane.request<{ spec: { clusterIP: string } }>("GET", service);
  assert.deepEqual(policy.status!.endpoint, {
    host: "webhooks-egress.convoy.svc.cluster.local",
    port: 4750,
    clusterIP: body.spec.clusterIP,
  });
  const { stdout } = await plane.kubectl(["get", "egpol", "-n", NS]);
  assert.match(
    stdout,
    /NAME +READY +MODE +PROVIDER +IPS +VERIFIED +PROXIES +PODS +AGE\nwebhooks +True +Enforce +External +2\/2 /,
  );
});

test("PolicyDistributed reports an edit that all proxies run", { skip }, async () => {
  const old = (await hashes())[0]!;
  const began = Date.now();
  await applyPolicy(plane, NS, "webhooks", { deny: [{ hosts: ["*.competitor.example", "other.example"] }] });
  const policy = await untilCondition(plane, NS, "webhooks", "PolicyDistributed", "True");
  console.log(`an edit reached both proxies and the status in ${Date.now() - began} ms`);
  const hash = policy.status!.summary!.policyHash!;
  assert.notEqual(hash, old);
  assert.deepEqual(await hashes(), [hash, hash]);
});

test("an invalid edit changes only the status", { skip }, async () => {
  const before = await plane.get<ConfigMap>(cm("webhooks-egress-policy"));
  await applyPolicy(plane, NS, "webhooks", INVALID);
  const policy = await untilCondition(plane, NS, "webhooks", "Accepted", "False", "Invalid");
  assert.equal(
    conditionOf(policy, "Accepted")!.message,
    'spec.allow[0].hosts[0]: "a\u05d0.example" is not a valid host name',
  );
  assert.equal(conditionOf(policy, "Ready")!.reason, "Invalid");
  assert.equal(conditionOf(policy, "PolicyDistributed")!.status, "True");
  const after = await plane.get<ConfigMap>(cm("webhooks-egress-policy"));
  assert.equal(after!.metadata.resourceVersion, before!.metadata.resourceVersion);
  // Also after a restart of the operator, and after an edit of the ConfigMap.
  await operator.stop();
  await plane.patch(cm("webhooks-egress-policy"), { data: { "policy.json": "{}" } });
  operator = await again();
  const document = before!.data!["policy.json"];
  await plane.until<ConfigMap>(
    cm("webhooks-egress-policy"),
    (found) => found?.data?.["policy.json"] === document,
    "the document comes back",
  );
});

test("restores its own objects and keeps fields of others", { skip }, async () => {
  await applyPolicy(plane, NS, "webhooks", { deny: [{ hosts: ["*.competitor.example"] }] });
  await untilCondition(plane, NS, "webhooks", "Ready", "True");
  const uid = (await plane.get<ConfigMap>(service))!.metadata.uid;
  await plane.delete(service);
  await plane.until<ConfigMap>(
    service,
    (found) => found !== undefined && found.metadata.uid !== uid,
    "the Service comes back",
  );
  await plane.patch(deployment, { spec: { template: { spec: { terminationGracePeriodSeconds: 1 } } } });
  type Deployment = {
    spec: {
      replicas: number;
      template: { metadata: { annotations?: Record<string, string> }; spec: { terminationGracePeriodSeconds: number } };
    };
  };
  await plane.until<Deployment>(
    deployment,
    (found) => found?.spec.template.spec.terminationGracePeriodSeconds === 40,
    "the edit is undone",
  );
  await plane.patch(`${deployment}/scale`, { spec: { replicas: 3 } });
  await plane.kubectl(["rollout", "restart", "-n", NS, "deployment/webhooks-egress"]);
  await plane.until(deployment, () => fleet.pods.length === 3, "three proxies run");
  await plane.patch(service, { metadata: { labels: { "egress.outrider.dev/policy": "webhooks" } } });
  const settled = (await plane.get<Deployment>(deployment))!;
  assert.equal(settled.spec.replicas, 3);
  assert.ok(settled.spec.template.metadata.annotations!["kubectl.kubernetes.io/restartedAt"]);
  await untilCondition(plane, NS, "webhooks", "Ready", "True");
});

test("a resync of a settled policy writes nothing", {
  skip,
  timeout: 120_000,
}, async () => {
  await untilCondition(plane, NS, "webhooks", "Ready", "True");
  const writes = () =>
    plane
      .audit()
      .filter(
        ({ verb, user, path }) =>
          user === "system:serviceaccount:outrider-system:outrider-operator" &&
          !["get", "list", "watch"].includes(verb) &&
          !path.includes("/leases"),
      );
  await sleep(3000);
  const before = writes().length;
  const reconciles = async () => {
    const text = await (await fetch(`${operator.metrics}/metrics`)).text();
    return Number(
      /controller_runtime_reconcile_total\{controller="egresspolicy",result="success"\} (\d+)/.exec(text)![1],
    );
  };
  const looked = await reconciles();
  for (const began = Date.now(); (await reconciles()) < looked + RESYNCS; await sleep(200)) {
    assert.ok(Date.now() - began < 60_000, `${(await reconciles()) - looked} of ${RESYNCS} resyncs`);
  }
  // Writes follow their reconcile.
  await sleep(1000);
  assert.deepEqual(writes().slice(before), []);
});

test("keeps a deleted policy until no pod uses it", {
  skip,
}, async () => {
  const pod = {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: "sender", namespace: NS, labels: { "egress.outrider.dev/injected": "webhooks" } },
    spec: { containers: [{ name: "sender", image: "sender:test" }] },
  };
  await plane.request("POST", `/api/v1/namespaces/${NS}/pods`, pod);
  await plane.until(`/api/v1/namespaces/${NS}/pods/sender`, (found) => found !== undefined, "the sender exists");
  const held = (policy: EgressPolicy | undefined) =>
    policy?.metadata.finalizers?.includes("egress.outrider.dev/in-use");
  await plane.until<EgressPolicy>(POLICY, (policy) => held(policy) === true, "the policy is held");
  await plane.kubectl(["delete", "egpol", "-n", NS, "webhooks", "--wait=false"]);
  const policy = await untilCondition(plane, NS, "webhooks", "Ready", "False", "InUse");
  assert.match(
    conditionOf(policy, "Ready")!.message,
    /the deletion waits until 1 injected pod has ended: sender; remove/,
  );
  assert.equal(fleet.pods.length, 3);
  await plane.delete(`/api/v1/namespaces/${NS}/pods/sender?gracePeriodSeconds=0`);
  const gone = (found: unknown) => found === undefined;
  await plane.until(POLICY, gone, "the policy is gone");
  for (const path of [
    deployment,
    service,
    cm("webhooks-egress-policy"),
    cm("webhooks-egress-ips"),
    `/api/v1/namespaces/${NS}/serviceaccounts/webhooks-egress`,
    `/apis/policy/v1/namespaces/${NS}/poddisruptionbudgets/webhooks-egress`,
    `/apis/networking.k8s.io/v1/namespaces/${NS}/networkpolicies/webhooks-egress`,
  ]) {
    await plane.until(path, gone, `${path} is gone`);
  }
});
