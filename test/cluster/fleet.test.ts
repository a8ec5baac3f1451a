import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { LABEL } from "../../operator/api/names.ts";
import { RawClient } from "../harness/raw.ts";
import { BOOT, type ControlPlane, controlPlaneMissing, startControlPlane } from "./control-plane.ts";
import { FleetRunner } from "./fleet.ts";

/** Runs real proxies for a hand-written Deployment, as a kubelet would. */

const OPTIONS = { kwokNodes: 2, realProxies: true };
const skip = controlPlaneMissing(OPTIONS) ?? false;
const NS = "/api/v1/namespaces/default";
const DEPLOYMENT = "/apis/apps/v1/namespaces/default/deployments/proxies";
const MAP = `${NS}/configmaps/policy`;
let plane: ControlPlane;
let fleet: FleetRunner;

interface Pod {
  metadata: { name: string; annotations?: Record<string, string> };
  status: { podIP: string; conditions: { type: string; status: string }[] };
}
interface Status {
  policy: { hash: string } | null;
}

const policy = (host: string) =>
  JSON.stringify({
    apiVersion: "egress.outrider.dev/v1alpha1",
    kind: "EgressPolicy",
    metadata: { name: "webhooks", namespace: "default" },
    spec: { deny: [{ hosts: [host] }] },
  });

const DEPLOYED = {
  apiVersion: "apps/v1",
  kind: "Deployment",
  metadata: { name: "proxies" },
  spec: {
    replicas: 2,
    selector: { matchLabels: { [LABEL.fleet]: "webhooks" } },
    template: {
      metadata: { labels: { [LABEL.fleet]: "webhooks" } },
      spec: {
        terminationGracePeriodSeconds: 10,
        containers: [
          {
            name: "proxy",
            image: "outrider:test",
            args: [
              "proxy",
              "--policy=/etc/outrider/policy.json",
              "--listen=[$(POD_IP)]:4750",
              "--admin=:9750",
              "--password-dir=/etc/passwords",
              "--on-bad-policy=wait",
              "--drain-delay-seconds=0",
              "--drain-seconds=0",
            ],
            env: [{ name: "POD_IP", valueFrom: { fieldRef: { fieldPath: "status.podIP" } } }],
            ports: [{ name: "admin", containerPort: 9750 }],
            readinessProbe: { httpGet: { path: "/readyz", port: "admin" } },
            volumeMounts: [
              { name: "policy", mountPath: "/etc/outrider" },
              { name: "passwords", mountPath: "/etc/passwords" },
            ],
          },
        ],
        volumes: [
          { name: "policy", configMap: { name: "policy", items: [{ key: "policy", path: "policy.json" }] } },
          { name: "passwords", secret: { secretName: "passwords" } },
        ],
      },
    },
  },
};

before(async () => {
  if (skip) return;
  plane = await startControlPlane(OPTIONS);
  fleet = new FleetRunner(plane);
  fleet.start();
}, BOOT);
after(async () => {
  if (skip) return;
  await fleet.stop();
  await plane.stop();
});

const pods = async () => (await plane.get<{ items: Pod[] }>(`${NS}/pods?labelSelector=${LABEL.fleet}`))!.items;
const statusOf = async (pod: Pod) => (await (await fetch(`http://${pod.status.podIP}:9750/status`)).json()) as Status;
const readiness = (pod: Pod) => pod.status.conditions.find(({ type }) => type === "Ready")?.status;
const untilReady = (count: number) =>
  plane.until<{ status?: { readyReplicas?: number } }>(
    DEPLOYMENT,
    (found) => (found?.status?.readyReplicas ?? 0) === count,
    `${count} proxies are ready`,
  );

test("a pod waits for its volumes and is ready with its proxy", { skip }, async () => {
  await plane.applyYaml(JSON.stringify(DEPLOYED));
  type Pods = { items: Pod[] };
  const running = (found: Pods | undefined) => found?.items.filter(({ status }) => status.podIP).length === 2;
  await plane.until<Pods>(`${NS}/pods?labelSelector=${LABEL.fleet}`, running, "two pods run");
  const secret = {
    apiVersion: "v1",
    kind: "Secret",
    metadata: { name: "passwords" },
    stringData: { convoy: "s3cret" },
  };
  await plane.request("POST", `${NS}/secrets`, secret);
  assert.deepEqual(fleet.pods, []);
  const map = { apiVersion: "v1", kind: "ConfigMap", metadata: { name: "policy" }, data: { policy: "{}" } };
  await plane.request("POST", `${NS}/configmaps`, map);
  // The document is not a valid policy yet: the proxies run, but are not ready.
  await plane.until(DEPLOYMENT, () => fleet.pods.length === 2, "two proxies run");
  for (const pod of await pods()) {
    assert.equal(readiness(pod), "False");
    await plane.until(MAP, () => fleet.program(pod.metadata.name).running, "it runs");
  }
  await plane.patch(MAP, { data: { policy: policy("one.example") } });
  for (const pod of await pods()) {
    await plane.patch(`${NS}/pods/${pod.metadata.name}`, { metadata: { annotations: { touched: "1" } } });
  }
  await untilReady(2);
  for (const pod of await pods()) {
    assert.ok(pod.status.podIP.startsWith(plane.block));
    assert.ok((await statusOf(pod)).policy !== null);
    // Only the client of the Secret is accepted; the name is never resolved.
    assert.match(await connect(pod, "convoy:s3cret"), /^HTTP\/1\.1 403 egress-denied: one\.example is denied/);
    assert.match(await connect(pod, "convoy:wrong"), /^HTTP\/1\.1 407 /);
  }
});

async function connect(pod: Pod, credentials: string): Promise<string> {
  const client = await RawClient.open(4750, pod.status.podIP);
  const authorization = `Proxy-Authorization: Basic ${Buffer.from(credentials).toString("base64")}`;
  client.socket.write(`CONNECT one.example:443 HTTP/1.1\r\nHost: one.example:443\r\n${authorization}\r\n\r\n`);
  await client.untilEnd();
  client.socket.destroy();
  return client.text;
}

test("a change reaches only the pod that was touched", { skip }, async () => {
  const [touched, other] = (await pods()) as [Pod, Pod];
  const old = (await statusOf(other)).policy!.hash;
  await plane.patch(MAP, { data: { policy: policy("two.example") } });
  await plane.patch(`${NS}/pods/${touched.metadata.name}`, { metadata: { annotations: { touched: "2" } } });
  await untilHash(touched, (hash) => hash !== old);
  assert.equal((await statusOf(other)).policy!.hash, old);
  await plane.patch(`${NS}/pods/${other.metadata.name}`, { metadata: { annotations: { touched: "2" } } });
  await untilHash(other, (hash) => hash !== old);
});

async function untilHash(pod: Pod, wanted: (hash: string | undefined) => boolean): Promise<void> {
  for (const began = Date.now(); ; await sleep(50)) {
    const { policy } = await statusOf(pod);
    if (wanted(policy?.hash)) return;
    assert.ok(Date.now() - began < 15_000, `the hash stays ${policy?.hash}`);
  }
}

test("restarts a killed proxy", { skip }, async () => {
  const pod = (await pods())[0]!;
  const program = fleet.program(pod.metadata.name);
  const pid = program.pid;
  await program.stop("SIGKILL");
  await untilReady(1);
  await untilReady(2);
  assert.notEqual(fleet.program(pod.metadata.name).pid, pid);
});

test("a deleted pod is replaced after its proxy has ended", { skip }, async () => {
  const pod = (await pods())[0]!;
  const program = fleet.program(pod.metadata.name);
  await plane.delete(`${NS}/pods/${pod.metadata.name}`);
  await plane.until(`${NS}/pods/${pod.metadata.name}`, (found) => found === undefined, "the pod is gone");
  assert.equal(program.running, false);
  assert.equal(program.exitCode, 0);
  await untilReady(2);
});

test("stops all proxies", { skip }, async () => {
  const addresses = (await pods()).map(({ status }) => status.podIP);
  await fleet.stop();
  for (const address of addresses) {
    await assert.rejects(fetch(`http://${address}:9750/status`));
  }
});
