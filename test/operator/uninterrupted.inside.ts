import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createServer, request, type Server } from "node:http";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import type { Pod } from "../../operator/api/objects.ts";
import { slotId } from "../../operator/fleet/slots.ts";
import type { KubeObject } from "../../operator/kube/resource.ts";
import { BOOT } from "../cluster/control-plane.ts";
import { type FaultProxy, startFaultProxy } from "../cluster/fault-proxy.ts";
import type { FleetPod } from "../cluster/fleet.ts";
import { EndpointWatch } from "./endpoint-watch.ts";
import {
  applyPolicy,
  conditionOf,
  LEASE,
  makePasswords,
  policyPath,
  startOperator,
  untilCondition,
} from "./operator.ts";
import { type Stage, startStage } from "./stage.ts";

/**
 * The client Service of a fleet that served is never without a serving proxy: real proxies, and every version of pods
 * and Services that the API server reports. A forwarder in front of each admin port can hide `/status` from the operator
 * while probes of the kubelet still succeed.
 */

const NS = "convoy";
const VIPS = ["203.0.113.20", "203.0.113.21", "203.0.113.22"] as const;
const NODES = ["203.0.113.23", "203.0.113.24", "203.0.113.25"] as const;
const ONE = "203.0.113.26";
const MOVED = "203.0.113.27";
/** No interface has it. */
const UNPROVEN = "203.0.113.28";
/** Forwarders listen on the admin ports, the proxies on ports that are this much higher. */
const HIDDEN = 10_000;
const WAIT_MS = 120_000;
/** Each test restarts several proxies, one after the other. */
const LONG = { timeout: 300_000 };
let { plane, operator } = {} as Stage;
let faults: FaultProxy;
let endpoints: EndpointWatch;
/** While true the operator cannot read `/status`. */
let hidden = false;
const forwarders = new Map<string, Server>();

/** Forwards an admin port to the proxy behind it. */
function forward(host: string, port: number): void {
  const key = `${host}:${port}`;
  if (forwarders.has(key)) return;
  const server = createServer((incoming, answer) => {
    if (hidden && incoming.url === "/status") {
      incoming.socket.destroy();
      return;
    }
    const outgoing = request({ host, port: port + HIDDEN, path: incoming.url, agent: false }, (back) => {
      answer.writeHead(back.statusCode!, back.headers);
      back.pipe(answer);
    });
    outgoing.on("error", () => incoming.socket.destroy());
    outgoing.end();
  });
  server.listen(port, host);
  forwarders.set(key, server);
}

function proxyArgs(pod: FleetPod): string[] {
  const container = pod.spec.containers[0] as unknown as { ports: { name: string; containerPort: number }[] };
  const port = container.ports.find(({ name }) => name === "admin")!.containerPort;
  const host = pod.status!.podIP!;
  forward(host, port);
  return ["--allow-cidr=127.0.0.0/8", `--admin=${host}:${port + HIDDEN}`];
}

type Ip = string | { address: string; phase: string };
const spec = (provider: string, ips: readonly Ip[], proxy: object) => ({
  nat: { provider, ...(provider === "KubeVIP" ? { kubeVIP: {} } : {}) },
  staticIPs: ips.map((ip) => (typeof ip === "string" ? { address: ip } : ip)),
  authentication: { mode: "Basic", secretRef: { name: "proxy-passwords" } },
  proxy: { timeouts: { drainSeconds: 1 }, ...proxy },
});
const edition = (number: string) => ({ podAnnotations: { edition: number } });
const vip = (more: object = {}) => spec("KubeVIP", VIPS, { port: 4750, adminPort: 9750, ...more });
const onNode = (more: object = {}) => spec("NodeAddress", NODES, { port: 5750, adminPort: 10_750, ...more });
const one = (more: object = {}) => spec("KubeVIP", [ONE], { port: 6750, adminPort: 11_750, ...more });
const moves = (provider: string, ips: readonly Ip[], more: object = {}) =>
  spec(provider, ips, { port: 7750, adminPort: 12_750, ...(provider === "External" ? { replicas: 2 } : {}), ...more });

/** Ends the operator without a graceful shutdown, and its Lease, which would expire after 15 s. */
async function kill(): Promise<void> {
  await operator.stop("SIGKILL");
  // A renewal that was on its way would create the Lease again.
  await sleep(500);
  await plane.delete(LEASE);
}

/** Starts the next operator. */
async function again(): Promise<void> {
  const args = ["--scrape-seconds=1", `--grants=${join(plane.folder, "grants.yaml")}`];
  operator = await startOperator(plane, { args, server: faults.url });
  await operator.untilLeading(WAIT_MS);
}

before(async () => {
  for (const address of [...VIPS, ...NODES, ONE, MOVED]) {
    execFileSync("ip", ["addr", "add", `${address}/32`, "dev", "lo"]);
  }
  const ranges = "providers: [KubeVIP, NodeAddress], staticIPs: [203.0.113.0/24]";
  ({ plane, operator } = await startStage({
    plane: { kwokNodes: 4, realProxies: true },
    namespaces: [NS],
    grants: `grants: [{namespaces: [${NS}], ${ranges}}]\n`,
    operator: async (started) => {
      faults = await startFaultProxy(started);
      endpoints = new EndpointWatch(started);
      await endpoints.start(NS);
      return { args: ["--scrape-seconds=1"], server: faults.url };
    },
    fleet: { args: proxyArgs },
  }));
  await makePasswords(plane, NS);
  for (const [i, address] of NODES.entries()) {
    const annotations = { "egress.outrider.dev/addresses": address };
    await plane.patch(`/api/v1/nodes/node-${i}`, { metadata: { annotations } });
  }
}, BOOT);
after(async () => {
  for (const server of forwarders.values()) server.closeAllConnections();
  for (const server of forwarders.values()) server.close();
  await endpoints.stop();
  await operator.stop();
  await faults.close();
});

afterEach(() => {
  hidden = false;
  faults.refuse = undefined;
});

type Deployment = KubeObject & { spec: { template: { metadata: { annotations?: Record<string, string> } } } };
/** Deployments of a policy with an edition. */
async function changed(policy: string, number: string): Promise<string[]> {
  const path = `/apis/apps/v1/namespaces/${NS}/deployments?labelSelector=egress.outrider.dev/policy=${policy}`;
  const { items } = (await plane.get<{ items: Deployment[] }>(path))!;
  return items
    .filter(({ spec }) => spec.template.metadata.annotations?.edition === number)
    .map(({ metadata }) => metadata.name);
}
async function until(what: string, wanted: () => Promise<boolean>): Promise<void> {
  for (const began = Date.now(); !(await wanted()); await sleep(50)) {
    if (Date.now() - began < WAIT_MS) continue;
    throw new Error(`${what}: not within ${WAIT_MS} ms\n${operator.log().slice(-3000)}`);
  }
}
const ready = (policy: string) => untilCondition(plane, NS, policy, "Ready", "True", undefined, WAIT_MS);
const untilProgrammed = (policy: string, message: RegExp) =>
  plane.until<EgressPolicy>(
    policyPath(NS, policy),
    (found) => message.test(conditionOf(found, "Programmed")?.message ?? ""),
    `${policy}: ${message}`,
    WAIT_MS,
  );
const deploymentPath = (name: string) => `/apis/apps/v1/namespaces/${NS}/deployments/${name}`;
const untilGone = (name: string) =>
  plane.until(deploymentPath(name), (found) => found === undefined, `${name} is deleted`, WAIT_MS);

/** Checks that a policy's Service had at least so many endpoints since a version, without those of a slot. */
function assertServed(policy: string, since: number, least: number, without: string[] = []): void {
  const history = endpoints.history(policy, since);
  const counts = history.map(({ slots }) => slots.filter((slot) => !without.includes(slot)).length);
  const text = history.map(({ version, pods }) => `${version}: ${pods.join(" ")}`).join("\n");
  assert.ok(Math.min(...counts) >= least, `${policy}: ${Math.min(...counts)} endpoints\n${text}`);
}

test("an edit made while no operator runs restarts one slot at a time", LONG, async () => {
  await applyPolicy(plane, NS, "vip", vip());
  await applyPolicy(plane, NS, "nodes", onNode());
  await ready("vip");
  await ready("nodes");
  await kill();
  const since = endpoints.version;
  await applyPolicy(plane, NS, "vip", vip(edition("1")));
  await applyPolicy(plane, NS, "nodes", onNode(edition("1")));
  await again();
  await until("all slots are changed", async () => {
    const counts = [(await changed("vip", "1")).length, (await changed("nodes", "1")).length];
    return counts.join() === "3,3";
  });
  await ready("vip");
  await ready("nodes");
  assertServed("vip", since, 2);
  assertServed("nodes", since, 2);
});

test("an edit of fleets that do not answer leaves proxies in service", LONG, async () => {
  await applyPolicy(plane, NS, "one", one());
  await ready("one");
  const since = endpoints.version;
  hidden = true;
  for (const policy of ["vip", "nodes", "one"]) {
    await untilCondition(plane, NS, policy, "PolicyDistributed", "False", "Propagating", WAIT_MS);
  }
  await applyPolicy(plane, NS, "vip", vip(edition("2")));
  await applyPolicy(plane, NS, "nodes", onNode(edition("2")));
  await applyPolicy(plane, NS, "one", one(edition("2")));
  await untilProgrammed("one", /cannot read \/status of one-egress-.*port 11750/);
  await until("the slots on nodes are changed", async () => (await changed("nodes", "2")).length === 3);
  await untilProgrammed("vip", /cannot read \/status of vip-egress-/);
  assert.equal((await changed("vip", "2")).length, 1);
  assert.deepEqual(await changed("one", "2"), []);
  assertServed("one", since, 1);
  hidden = false;
  await until("all slots are changed", async () => (await changed("vip", "2")).length === 3);
  await until("the only slot is changed", async () => (await changed("one", "2")).length === 1);
  for (const policy of ["vip", "nodes", "one"]) await ready(policy);
  assertServed("vip", since, 2);
  assertServed("nodes", since, 2);
});

test("removing slots and changing pods in one edit leaves a proxy in service", LONG, async () => {
  const since = endpoints.version;
  await applyPolicy(plane, NS, "vip", {
    ...vip(edition("3")),
    staticIPs: [{ address: VIPS[0] }, { address: VIPS[1], phase: "Retiring" }],
  });
  await untilGone(`vip-egress-${slotId(VIPS[2])}`);
  await ready("vip");
  assert.equal((await changed("vip", "3")).length, 2);
  assertServed("vip", since, 1);
  await plane.delete(policyPath(NS, "vip"));
  await plane.delete(policyPath(NS, "nodes"));
  await plane.delete(policyPath(NS, "one"));
});

const serviceSelector = async () =>
  (await plane.get<KubeObject & { spec: { selector: object } }>(`/api/v1/namespaces/${NS}/services/moves-egress`))!.spec
    .selector;
const slot = `moves-egress-${slotId(MOVED)}`;

test("a migration to slots waits for answers, also after a start", LONG, async () => {
  await applyPolicy(plane, NS, "moves", moves("External", [MOVED]));
  await ready("moves");
  await kill();
  const since = endpoints.version;
  hidden = true;
  await applyPolicy(plane, NS, "moves", moves("KubeVIP", [MOVED]));
  await again();
  await untilProgrammed("moves", /Service moves-egress keeps its selector/);
  assert.ok(!("egress.outrider.dev/verified" in (await serviceSelector())));
  hidden = false;
  // Another start in the middle.
  await plane.until(deploymentPath(slot), (found) => found !== undefined, "the slot", WAIT_MS);
  await kill();
  await again();
  await untilGone("moves-egress");
  await ready("moves");
  assertServed("moves", since, 1);
});

/** Rejects writes of some objects until a condition shows it. */
async function refused(part: RegExp, edit: () => Promise<void>): Promise<void> {
  faults.refuse = (method, path) =>
    method === "PATCH" && part.test(path) ? { status: 403, body: '{"message":"rejected by a test"}' } : undefined;
  await edit();
  await untilCondition(plane, NS, "moves", "Programmed", "False", "ApplyFailed", WAIT_MS);
  // A start in this state.
  await kill();
  await again();
  await sleep(2000);
  faults.refuse = undefined;
}

test("a rejected Service does not empty it, and unproven proxies stay out", LONG, async () => {
  await applyPolicy(plane, NS, "moves", moves("KubeVIP", [MOVED, UNPROVEN]));
  const labels = `egress.outrider.dev/slot=${slotId(UNPROVEN)}`;
  await plane.until<{ items: Pod[] }>(
    `/api/v1/namespaces/${NS}/pods?labelSelector=${labels}`,
    (found) =>
      found!.items.some(({ status }) =>
        status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True"),
      ),
    "the unproven proxy is ready",
    WAIT_MS,
  );
  const since = endpoints.version;
  await refused(/services\/moves-egress\?/, () => applyPolicy(plane, NS, "moves", moves("External", [MOVED])));
  await untilGone(slot);
  await ready("moves");
  assertServed("moves", since, 1, [slotId(UNPROVEN)]);
  const unproven = endpoints.history("moves", since).filter(({ slots }) => slots.includes(slotId(UNPROVEN)));
  assert.deepEqual(unproven, []);
});

test("rejected ConfigMaps and Services do not empty the way back", LONG, async () => {
  const since = endpoints.version;
  await refused(/configmaps\/(moves-egress|egresspolicy-)/, () =>
    applyPolicy(plane, NS, "moves", moves("KubeVIP", [MOVED])),
  );
  await untilGone("moves-egress");
  await ready("moves");
  await refused(/configmaps\/(moves-egress|egresspolicy-)/, () =>
    applyPolicy(plane, NS, "moves", moves("External", [MOVED])),
  );
  await untilGone(slot);
  await ready("moves");
  await refused(/services\/moves-egress\?/, () => applyPolicy(plane, NS, "moves", moves("KubeVIP", [MOVED])));
  await untilGone("moves-egress");
  await ready("moves");
  assertServed("moves", since, 1);
});
