import assert from "node:assert/strict";
import type { Pod } from "../../operator/api/objects.ts";
import { CHART, helmDone } from "../chart/helm.ts";
import { STATIC_IPS } from "../cluster/node/addresses.ts";
import { type Cluster, type ClusterOptions, startCluster } from "../cluster/node/cluster.ts";
import { IMAGE, SENDER_IMAGE } from "../cluster/node/images.ts";
import { ECHO_URL } from "../cluster/node/internet.ts";
import { commandOf } from "../harness/install-page.ts";

/** The actors on a real cluster: the installed chart, applied policies, and senders like Convoy. */

export const NS = "convoy";
export const SYSTEM = "outrider-system";
export const RECEIVER_URL = "http://hooks.example/in";
const POD_MS = 60_000;

/** One delivery, as the sender in the pod saw it; times in milliseconds since the epoch. */
export interface Delivery {
  began: number;
  ended: number;
  attempts: number;
  status: number;
  body?: string;
  /** The text that a delivery attempt of Convoy would show. */
  error?: string;
}

/** A cluster with the chart in it, and the namespace of the senders. */
export async function startStage(options: ClusterOptions & { values?: readonly string[] } = {}): Promise<Cluster> {
  const cluster = await startCluster(options);
  const { plane } = cluster;
  await plane.apply(`/api/v1/namespaces/${NS}`, { apiVersion: "v1", kind: "Namespace", metadata: { name: NS } });
  await installChart(cluster, options.values);
  return cluster;
}

/**
 * The `helm install` of docs/install.md, with the chart of the sources in place of its address, and the image that no registry
 * has. Resolves when the operator is ready.
 */
export function installChart({ plane }: Cluster, values: readonly string[] = []): Promise<string> {
  const [repository, tag] = IMAGE.split(":");
  const image = `--set=image.repository=${repository},image.tag=${tag},image.pullPolicy=Never`;
  const [program, ...args] = commandOf("chart").replace("oci://REGISTRY/OWNER/charts/outrider", CHART).split(" ");
  assert.deepEqual([program, args.includes(CHART), args.includes(SYSTEM)], ["helm", true, true]);
  return helmDone([...args, image, ...values, "--timeout=120s"], plane.userConfig());
}

/** The spec of most policies of these tests: behind the gateway's first address, verified every second. */
export const SPEC = {
  preset: "Convoy",
  staticIPs: [{ address: STATIC_IPS[0] }],
  verification: { echoURLs: [ECHO_URL], intervalSeconds: 1, timeoutSeconds: 1 },
};

/** A Deployment as Convoy's chart makes it, with our sender in Convoy's place. */
export async function deploySender(
  { plane }: Cluster,
  name: string,
  options: { annotations?: Record<string, string>; env?: Record<string, string>; node?: string } = {},
): Promise<void> {
  const { annotations = {}, env = {}, node } = options;
  const container = {
    name: "agent",
    image: SENDER_IMAGE,
    imagePullPolicy: "Never",
    args: [],
    command: ["/sender"],
    readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 },
    env: Object.entries({ HTTP_PROXY: "", ...env }).map(([name, value]) => ({ name, value })),
  };
  const template = {
    metadata: { labels: { app: name }, annotations },
    spec: {
      terminationGracePeriodSeconds: 1,
      ...(node === undefined ? {} : { nodeSelector: { "kubernetes.io/hostname": node } }),
      initContainers: [
        { name: "wait-for-migrate", image: SENDER_IMAGE, imagePullPolicy: "Never", command: ["/sender", "check"] },
      ],
      containers: [container],
    },
  };
  await plane.apply(`/apis/apps/v1/namespaces/${NS}/deployments/${name}`, {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: { name, namespace: NS },
    spec: { selector: { matchLabels: { app: name } }, template },
  });
}

/** The Secret `passwords`, for proxies that require one. */
export function makePasswords({ plane }: Cluster): Promise<void> {
  return plane.apply(`/api/v1/namespaces/${NS}/secrets/passwords`, {
    apiVersion: "v1",
    kind: "Secret",
    metadata: { name: "passwords", namespace: NS },
    stringData: { PROXY_PASSWORD: "s3cret-of-the-fleet" },
  });
}

/** Addresses that the receiver saw since a moment, sorted. */
export function addressesSeen({ internet }: Cluster, from: number): string[] {
  const since = internet.received().filter(({ at }) => at >= from);
  return [...new Set(since.map(({ address }) => address))].sort();
}

/** Running pods with a label that are not being deleted. */
export async function runningPods({ plane }: Cluster, selector: string): Promise<Pod[]> {
  const path = `/api/v1/namespaces/${NS}/pods?labelSelector=${encodeURIComponent(selector)}`;
  const { items } = (await plane.get<{ items: Pod[] }>(path))!;
  return items.filter(
    ({ metadata, status }) =>
      metadata.deletionTimestamp === undefined &&
      status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True"),
  );
}

/** Waits for ready pods under a label. */
export async function untilPods(cluster: Cluster, selector: string, count: number, ms = POD_MS): Promise<Pod[]> {
  for (const began = Date.now(); ; await new Promise((resolve) => setTimeout(resolve, 50))) {
    const pods = await runningPods(cluster, selector);
    if (pods.length === count) return pods;
    if (Date.now() - began > ms) {
      const { stdout } = await cluster.plane.kubectl(["describe", "pods", `--namespace=${NS}`]);
      throw new Error(`${pods.length} of ${count} pods of ${selector} after ${ms} ms\n${stdout.slice(-8000)}`);
    }
  }
}

const ask = async (pod: Pod, path: string) =>
  (await fetch(`http://${pod.status!.podIP}:8080${path}`, { signal: AbortSignal.timeout(30_000) })).json();

/** Has a sender post once, with the environment that its pod has. */
export const send = (pod: Pod, url: string): Promise<Delivery> =>
  ask(pod, `/send?url=${encodeURIComponent(url)}`) as Promise<Delivery>;

/** Deliveries of a sender's loop from the nth on. */
export const loopLog = (pod: Pod, from = 0): Promise<Delivery[]> =>
  ask(pod, `/log?from=${from}`) as Promise<Delivery[]>;

/** Waits until every delivery of a sender's loop that began before a moment has ended. */
export async function untilEnded(pod: Pod, moment: number, ms = POD_MS): Promise<void> {
  for (const began = Date.now(); ; await new Promise((resolve) => setTimeout(resolve, 100))) {
    const open = ((await ask(pod, "/open")) as number[]).filter((at) => at < moment);
    if (open.length === 0) return;
    if (Date.now() - began > ms) throw new Error(`${open.length} deliveries have not ended after ${ms} ms`);
  }
}
