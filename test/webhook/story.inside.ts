import assert from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { before, test } from "node:test";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import type { KubeObject } from "../../operator/kube/resource.ts";
import { BOOT } from "../cluster/control-plane.ts";
import { freePort } from "../cluster/processes.ts";
import { makeCertificate } from "../harness/certificate.ts";
import { applyPolicy, conditionOf, INVALID, policyPath, untilCondition } from "../operator/operator.ts";
import { type Stage, startStage } from "../operator/stage.ts";
import { SENDERS } from "../proxy/senders/senders.ts";
import { installWebhook, untilAdmitting } from "./installed.ts";

/**
 * The three verbs: the operator is there, a policy is applied, Convoy's pods are annotated. What the stored pods then
 * have in their environment makes a sender with Convoy's transport deliver through a real proxy. The receiver has a public
 * address on the loopback interface of this network namespace.
 */

const NS = "convoy";
const RECEIVER = "11.0.0.10";
const ROOT = new URL("../..", import.meta.url).pathname;
const go = SENDERS.find(({ name }) => name.startsWith("Go"))!;
/** Folder with the sender, which story.test.ts built; undefined without Go. */
const built = process.env.OUTRIDER_SENDER_FOLDER;

type Container = { name: string; image: string; env?: { name: string; value?: string; valueFrom?: object }[] };
type StoredPod = KubeObject & { spec: { containers: Container[]; initContainers?: Container[] } };
let { plane, operator, fleet, again } = {} as Stage;
let folder: string;

before(async () => {
  execFileSync("ip", ["addr", "add", `${RECEIVER}/32`, "dev", "lo"]);
  ({ plane, operator, fleet, again } = await startStage({
    plane: { kwokNodes: 3, realProxies: true },
    namespaces: [NS],
    operator: async (plane) => {
      folder = plane.folder;
      makeCertificate(folder, ["hooks.example"]);
      writeFileSync(join(folder, "hosts"), `${RECEIVER} hooks.example x.competitor.example\n`);
      const port = await freePort();
      await installWebhook(plane, port);
      return { args: ["--scrape-seconds=1", `--webhook=127.0.0.1:${port}`, "--webhook-names=127.0.0.1"] };
    },
    fleet: {
      args: () => [`--hosts=${join(folder, "hosts")}`, `--allow-cidr=${RECEIVER}/32`, "--resolver=127.0.0.1:53"],
    },
  }));
}, BOOT);

const pods = async () => (await plane.get<{ items: StoredPod[] }>(`/api/v1/namespaces/${NS}/pods`))!.items;
const senders = async () => (await pods()).filter(({ metadata }) => metadata.labels?.app !== undefined);

/** As Convoy's chart makes it: HTTP_PROXY is set and empty, and there are pod annotations but no pod labels of one's own. */
const deployment = (name: string, annotations: Record<string, string>) => ({
  apiVersion: "apps/v1",
  kind: "Deployment",
  metadata: { name, namespace: NS },
  spec: {
    replicas: 2,
    selector: { matchLabels: { app: name } },
    template: {
      metadata: { labels: { app: name }, annotations },
      spec: {
        initContainers: [{ name: "wait-for-migrate", image: "getconvoy/convoy:v26.3.6", args: ["migrate", "check"] }],
        containers: [
          {
            name,
            image: "getconvoy/convoy:v26.3.6",
            env: [
              { name: "HTTP_PROXY", value: "" },
              { name: "CONVOY_ENV", value: "oss" },
            ],
          },
        ],
      },
    },
  },
});
const deploy = (name: string, annotations: Record<string, string>) =>
  plane.apply(`/apis/apps/v1/namespaces/${NS}/deployments/${name}`, deployment(name, annotations));
const ASKS = { "egress.outrider.dev/policy": "webhooks" };

async function untilSenders(count: number, wanted: (pod: StoredPod) => boolean): Promise<StoredPod[]> {
  for (const began = Date.now(); ; ) {
    const found = (await senders()).filter((pod) => pod.metadata.deletionTimestamp === undefined && wanted(pod));
    if (found.length === count) return found;
    if (Date.now() - began > 60_000)
      throw new Error(`${found.length} of ${count} pods: ${JSON.stringify(await senders())}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
const envOf = (pod: StoredPod) =>
  Object.fromEntries((pod.spec.containers[0]!.env ?? []).map(({ name, value }) => [name, value]));

test("rejects a pod that names a missing policy", async () => {
  const pod = (annotations: object) =>
    JSON.stringify({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "lonely", namespace: NS, annotations },
      spec: { containers: [{ name: "a", image: "a" }] },
    });
  await untilAdmitting(plane, operator, NS);
  const refused = await plane.kubectl(["create", "-f", "-"], pod(ASKS));
  assert.equal(refused.status, 1);
  assert.match(refused.stderr, /admission webhook "inject\.egress\.outrider\.dev" denied the request: .*webhooks/);
  const other = await plane.kubectl(["create", "-f", "-"], pod({}));
  assert.equal(other.status, 0, other.stderr);
  await plane.delete(`/api/v1/namespaces/${NS}/pods/lonely?gracePeriodSeconds=0`);
});

test("two annotations cover Convoy's agent and server", async () => {
  await applyPolicy(plane, NS, "webhooks", {
    preset: "Convoy",
    deny: [{ name: "competitors", hosts: ["*.competitor.example"] }],
  });
  await untilCondition(plane, NS, "webhooks", "Ready", "True");
  await deploy("agent", {});
  await untilSenders(2, () => true);
  await deploy("agent", ASKS);
  await deploy("server", ASKS);
  const covered = await untilSenders(
    4,
    ({ metadata }) => metadata.labels?.["egress.outrider.dev/injected"] === "webhooks",
  );
  for (const pod of covered) {
    const env = envOf(pod);
    const url = "http://webhooks-egress.convoy.svc.cluster.local.:4750";
    for (const name of ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"]) assert.equal(env[name], url);
    assert.equal(env.CONVOY_ENV, "oss");
    assert.equal(pod.spec.initContainers![0]!.env, undefined, "wait-for-migrate is left alone");
  }
  const all = (policy: EgressPolicy | undefined) => policy?.status?.summary?.workloads === "4/4";
  const policy = await plane.until<EgressPolicy>(policyPath(NS, "webhooks"), all, "4 of 4 pods are covered");
  assert.equal(conditionOf(policy, "WorkloadsInjected")!.reason, "Injected");
  const { stdout } = await plane.kubectl(["get", "egpol", "-n", NS]);
  assert.match(stdout, /webhooks +True +Enforce +External +2\/2 +4\/4 /);
});

test("a sender with the injected variables uses the proxy", {
  skip: built === undefined ? "needs Go, to build a sender like Convoy's" : false,
}, async () => {
  const receiver = spawn(
    process.execPath,
    [join(ROOT, "test/proxy/senders/receiver.mjs"), RECEIVER, "", join(folder, "key.pem"), join(folder, "ca.pem")],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  try {
    assert.deepEqual(await once(createInterface({ input: receiver.stdout }), "line"), ["ready"]);
    const [pod] = await senders();
    const proxy = fleet.pods[0]!.status!.podIP!;
    // Without cluster DNS and kube-proxy, the name of the client Service resolves to one of its endpoints.
    const env = Object.fromEntries(
      Object.entries(envOf(pod!)).map(([name, value]) => [
        name,
        (value ?? "").replace("webhooks-egress.convoy.svc.cluster.local.", proxy),
      ]),
    );
    const send = (url: string) => {
      const { command } = go.command({ urls: [url], ca: join(folder, "ca.pem"), folder: built! });
      return spawnSync(command[0]!, command.slice(1), { env: { PATH: process.env.PATH, ...env }, encoding: "utf8" });
    };
    const delivered = send("https://hooks.example/in");
    assert.match(delivered.stdout, /got POST \/in/, delivered.stderr);
    assert.match(delivered.stdout, /"event":"paid"/);
    const refused = send("https://x.competitor.example/in");
    assert.equal(
      `${refused.stdout}${refused.stderr}`,
      'Post "https://x.competitor.example/in": egress-denied: x.competitor.example is denied by rule competitors; policy convoy/webhooks\n',
    );
  } finally {
    receiver.kill("SIGKILL");
  }
});

test("WorkloadsInjected names outdated and missed pods", async () => {
  await applyPolicy(plane, NS, "webhooks", {
    preset: "Convoy",
    deny: [{ name: "competitors", hosts: ["*.competitor.example"] }],
    injection: { noProxy: ["otel-collector.monitoring.svc"] },
  });
  const outdated = await untilCondition(plane, NS, "webhooks", "WorkloadsInjected", "False", "Outdated");
  assert.match(
    conditionOf(outdated, "WorkloadsInjected")!.message,
    /^0 of 4 pods have the current proxy settings; 4 pods have outdated ones: agent-.* \(restart them\)$/,
  );
  assert.equal(conditionOf(outdated, "Ready")!.status, "True");
  for (const name of ["agent", "server"]) await plane.kubectl(["rollout", "restart", "-n", NS, `deployment/${name}`]);
  await untilCondition(plane, NS, "webhooks", "WorkloadsInjected", "True", "Injected", 60_000);
  // An annotation that comes to a pod that runs already changes nothing in it.
  await plane.request("POST", `/api/v1/namespaces/${NS}/pods`, {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: "early", namespace: NS },
    spec: { containers: [{ name: "a", image: "a" }] },
  });
  await plane.patch(`/api/v1/namespaces/${NS}/pods/early`, { metadata: { annotations: ASKS } });
  const missed = await untilCondition(plane, NS, "webhooks", "WorkloadsInjected", "False", "Missed");
  assert.match(
    conditionOf(missed, "WorkloadsInjected")!.message,
    /^4 of 5 pods have .*; 1 pod is not injected: early \(created before the webhook ran, .*; restart it\)/,
  );
  await plane.delete(`/api/v1/namespaces/${NS}/pods/early?gracePeriodSeconds=0`);
});

test("injects the last accepted spec while the newest is rejected", async () => {
  await plane.apply(policyPath(NS, "webhooks"), {
    apiVersion: "egress.outrider.dev/v1alpha1",
    kind: "EgressPolicy",
    metadata: { name: "webhooks", namespace: NS },
    spec: { preset: "Convoy", ...INVALID },
  });
  await untilCondition(plane, NS, "webhooks", "Accepted", "False", "Invalid");
  const metadata = { name: "meanwhile", namespace: NS, annotations: ASKS, labels: { app: "meanwhile" } };
  const pod = { apiVersion: "v1", kind: "Pod", metadata, spec: { containers: [{ name: "a", image: "a" }] } };
  const made = await plane.kubectl(["create", "-f", "-"], JSON.stringify(pod));
  assert.equal(made.status, 0, made.stderr);
  assert.match(
    made.stderr,
    /EgressPolicy "webhooks" is not accepted; the pod gets the settings of the last accepted spec: .*hosts/,
  );
  const stored = (await senders()).find(({ metadata }) => metadata.labels?.app === "meanwhile")!;
  assert.equal(envOf(stored).NO_PROXY, "otel-collector.monitoring.svc");
  const all = (policy: EgressPolicy | undefined) => policy?.status?.summary?.workloads === "5/5";
  const policy = await plane.until<EgressPolicy>(policyPath(NS, "webhooks"), all, "5 of 5 pods are covered");
  assert.equal(conditionOf(policy, "WorkloadsInjected")!.reason, "Injected");
});

test("a pod that has ended does not keep its policy", async () => {
  const path = `/api/v1/namespaces/${NS}/pods/meanwhile`;
  await plane.patch(`${path}/status`, { status: { phase: "Succeeded" } });
  const fewer = (policy: EgressPolicy | undefined) => policy?.status?.summary?.workloads === "4/4";
  await plane.until<EgressPolicy>(policyPath(NS, "webhooks"), fewer, "4 of 4 pods are covered");
  assert.ok(await plane.get(path), "it is still there");
});

test("rejects only requesting pods while no operator runs", async () => {
  await operator.stop("SIGKILL");
  const pod = (name: string, annotations: object) =>
    JSON.stringify({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name, namespace: NS, annotations },
      spec: { containers: [{ name: "a", image: "a" }] },
    });
  const refused = await plane.kubectl(["create", "-f", "-"], pod("asks", ASKS));
  assert.match(refused.stderr, /failed calling webhook "inject\.egress\.outrider\.dev"/);
  assert.equal((await plane.kubectl(["create", "-f", "-"], pod("other", {}))).status, 0);
  operator = await again({ name: "again" });
  await plane.kubectl(["delete", "egpol", "-n", NS, "webhooks", "--wait=false"]);
  const policy = await untilCondition(plane, NS, "webhooks", "Ready", "False", "InUse");
  assert.match(conditionOf(policy, "Ready")!.message, /agent-/);
  for (const name of ["agent", "server"]) await plane.delete(`/apis/apps/v1/namespaces/${NS}/deployments/${name}`);
  await plane.until<EgressPolicy>(
    policyPath(NS, "webhooks"),
    (found) => found === undefined,
    "the policy goes",
    60_000,
  );
});
