import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";
import { gzipSync } from "node:zlib";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import { isReady, type Pod } from "../../operator/api/objects.ts";
import { slotId } from "../../operator/fleet/slots.ts";
import type { KubeObject } from "../../operator/kube/resource.ts";
import { BOOT } from "../cluster/control-plane.ts";
import { applyPolicy, conditionOf, INVALID, makePasswords, policyPath, untilCondition } from "./operator.ts";
import { type Stage, startStage } from "./stage.ts";

/**
 * One slot for each static IP: real proxies bind addresses that this test puts on the loopback interface of its own
 * network namespace and takes away, as kube-vip does on nodes. One of them is seen by the world as another address.
 */

const NS = "convoy";
const IPS = ["203.0.113.20", "203.0.113.21", "203.0.113.22", "203.0.113.23", "203.0.113.25"] as const;
let { plane, operator, again } = {} as Stage;
let echoURL: string;
/** Answers of the echo server: the address that it reports, by source address. */
const seen = new Map<string, string>();

/** Address that the proxy binds. A router maps the second static IP. */
const bound = (i: number) => (i === 1 ? "10.0.4.21" : IPS[i]!);
function put(i: number): void {
  execFileSync("ip", ["addr", "add", `${bound(i)}/32`, "dev", "lo"]);
}
function take(i: number): void {
  execFileSync("ip", ["addr", "del", `${bound(i)}/32`, "dev", "lo"]);
}

const echo = createServer((request, response) => {
  const from = request.socket.remoteAddress!.replace("::ffff:", "");
  response.end(seen.get(from) ?? from);
});

const spec = (indexes: readonly number[]) => ({
  nat: { provider: "KubeVIP", kubeVIP: {} },
  staticIPs: indexes.map((i) => (i === 1 ? { address: IPS[i], sourceAddress: bound(i) } : { address: IPS[i] })),
  verification: { echoURLs: [echoURL], intervalSeconds: 1, timeoutSeconds: 1 },
  authentication: { mode: "Basic", secretRef: { name: "proxy-passwords" } },
});

before(async () => {
  echo.listen(0, "127.0.0.1");
  await once(echo, "listening");
  echoURL = `http://127.0.0.1:${(echo.address() as AddressInfo).port}/ip`;
  IPS.forEach((address, i) => {
    seen.set(bound(i), address);
  });
  ({ plane, operator, again } = await startStage({
    plane: { kwokNodes: 4, realProxies: true },
    namespaces: [NS],
    grants: `grants: [{namespaces: [${NS}], providers: [KubeVIP], staticIPs: [203.0.113.16/28, 10.0.4.0/24]}]\n`,
    operator: () => ({ args: ["--scrape-seconds=1"] }),
    fleet: { args: () => ["--allow-cidr=127.0.0.0/8"] },
  }));
  await makePasswords(plane, NS);
}, BOOT);
after(() => echo.close());

const list = async <T>(path: string) => (await plane.get<{ items: T[] }>(path))!.items;
const deployments = () => list<KubeObject>(`/apis/apps/v1/namespaces/${NS}/deployments`);
const pods = () => list<Pod>(`/api/v1/namespaces/${NS}/pods`);
const slots = (indexes: readonly number[]) => indexes.map((i) => slotId(IPS[i]!)).sort();

/** Slots whose pod has the label by which the client Service selects; pods on their way out are no endpoints. */
async function labelled(): Promise<string[]> {
  const found = (await pods()).filter(
    ({ metadata }) =>
      metadata.deletionTimestamp === undefined && metadata.labels!["egress.outrider.dev/verified"] === "true",
  );
  return found.map(({ metadata }) => metadata.labels!["egress.outrider.dev/slot"]!).sort();
}
async function untilLabelled(indexes: readonly number[]): Promise<void> {
  const wanted = slots(indexes).join();
  for (const began = Date.now(); (await labelled()).join() !== wanted; ) {
    if (Date.now() - began > 30_000) throw new Error(`labelled: ${await labelled()}, not ${wanted}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
const states = (policy: EgressPolicy | undefined) => policy?.status?.staticIPs?.map(({ state }) => state).join();
const untilStates = (wanted: string) =>
  plane.until<EgressPolicy>(policyPath(NS, "webhooks"), (policy) => states(policy) === wanted, `states ${wanted}`);

test("creates a Deployment and a Service for each static IP", async () => {
  put(0);
  put(1);
  await applyPolicy(plane, NS, "webhooks", spec([0, 1, 2]));
  await untilCondition(plane, NS, "webhooks", "Programmed", "True");
  assert.deepEqual(
    (await deployments()).map(({ metadata }) => metadata.name).sort(),
    slots([0, 1, 2]).map((id) => `webhooks-egress-${id}`),
  );
  type Service = KubeObject & { spec: Record<string, unknown> };
  const services = await list<Service>(`/api/v1/namespaces/${NS}/services`);
  const client = services.find(({ metadata }) => metadata.name === "webhooks-egress")!;
  assert.deepEqual(client.spec.selector, {
    "egress.outrider.dev/fleet": "webhooks",
    "egress.outrider.dev/verified": "true",
  });
  const gateways = services.filter(({ spec }) => spec.type === "LoadBalancer");
  assert.equal(gateways.length, 3);
  for (const [i, address] of IPS.slice(0, 3).entries()) {
    const gateway = gateways.find(({ metadata }) => metadata.name === `webhooks-egress-${slotId(address)}`)!;
    assert.equal(gateway.metadata.annotations!["kube-vip.io/loadbalancerIPs"], bound(i));
    const { loadBalancerClass, externalTrafficPolicy, allocateLoadBalancerNodePorts, ports } = gateway.spec;
    assert.deepEqual(
      { loadBalancerClass, externalTrafficPolicy, allocateLoadBalancerNodePorts, ports },
      {
        loadBalancerClass: "kube-vip.io/kube-vip-class",
        externalTrafficPolicy: "Local",
        allocateLoadBalancerNodePorts: false,
        ports: [{ name: "sink", port: 65534, protocol: "TCP", targetPort: 65534 }],
      },
    );
    // Like kube-vip: reports the address in the status, whether or not it is true.
    const status = { loadBalancer: { ingress: [{ ip: bound(i), ipMode: "VIP" }] } };
    await plane.patch(`/api/v1/namespaces/${NS}/services/${gateway.metadata.name}/status`, { status });
  }
});

test("trusts bound and seen addresses, not the status of a Service", async () => {
  await untilLabelled([0, 1]);
  const policy = await untilStates("Verified,Verified,Unassigned");
  assert.match(
    conditionOf(policy, "IPsAssigned")!.message,
    /not assigned to a proxy: 203\.0\.113\.22; kube-vip assigns/,
  );
  assert.equal(policy!.status!.summary!.verified, "2/3");
  put(2);
  await untilCondition(plane, NS, "webhooks", "Ready", "True");
  await untilStates("Verified,Verified,Verified");
  await untilLabelled([0, 1, 2]);
});

test("removes the label of a proxy with a wrong or lost address", async () => {
  seen.set(bound(0), "198.51.100.7");
  await untilLabelled([1, 2]);
  const wrong = await untilStates("Mismatch,Verified,Verified");
  assert.equal(wrong!.status!.staticIPs![0]!.observedAddress, "198.51.100.7");
  const found = await untilCondition(plane, NS, "webhooks", "EgressIPVerified", "False", "Mismatch");
  assert.match(
    conditionOf(found, "EgressIPVerified")!.message,
    /sends from 198\.51\.100\.7; expected 203\.0\.113\.20; correct/,
  );
  take(1);
  await untilLabelled([2]);
  await untilStates("Mismatch,Unassigned,Verified");
  seen.set(bound(0), IPS[0]);
  put(1);
  await untilLabelled([0, 1, 2]);
  await untilCondition(plane, NS, "webhooks", "Ready", "True");
});

test("replacing an address changes only its slot", async () => {
  const before = await deployments();
  const published = async () => {
    const found = await plane.get<{ data: Record<string, string> }>(
      `/api/v1/namespaces/${NS}/configmaps/webhooks-egress-ips`,
    );
    return JSON.parse(found!.data["ips.json"]!) as { ipv4: string[]; retiring: string[] };
  };
  await applyPolicy(plane, NS, "webhooks", spec([0, 1, 3]));
  const gone = `/apis/apps/v1/namespaces/${NS}/deployments/webhooks-egress-${slotId(IPS[2])}`;
  const come = `/apis/apps/v1/namespaces/${NS}/deployments/webhooks-egress-${slotId(IPS[3])}`;
  await plane.until(come, (found) => found !== undefined, "the new slot");
  await untilStates("Verified,Verified,Unassigned");
  assert.notEqual(await plane.get(gone), undefined);
  assert.deepEqual(await labelled(), slots([0, 1, 2]));
  assert.deepEqual((await published()).retiring, [IPS[2]]);
  put(3);
  await plane.until(gone, (found) => found === undefined, "the old slot goes");
  await untilLabelled([0, 1, 3]);
  await untilCondition(plane, NS, "webhooks", "Ready", "True");
  await plane.until(
    `/api/v1/namespaces/${NS}/services/webhooks-egress-${slotId(IPS[2])}`,
    (found) => found === undefined,
    "its Service goes",
  );
  // Its proxy ends what is open first.
  await untilPublished([IPS[0]!, IPS[1]!, IPS[3]!]);
  for (const { metadata } of before.filter(({ metadata }) => metadata.name !== `webhooks-egress-${slotId(IPS[2])}`)) {
    const now = await plane.get<KubeObject>(`/apis/apps/v1/namespaces/${NS}/deployments/${metadata.name}`);
    assert.equal(now!.metadata.generation, metadata.generation, metadata.name);
  }
});

async function untilPublished(list: readonly string[]): Promise<void> {
  await plane.until<{ data: Record<string, string> }>(
    `/api/v1/namespaces/${NS}/configmaps/webhooks-egress-ips`,
    (found) => found?.data["ips.txt"] === `${list.join("\n")}\n`,
    `${list.join(", ")} are published`,
  );
}

test("drains a retiring address and only publishes a pending one", async () => {
  const wanted = spec([0, 1, 3]) as { staticIPs: object[] };
  wanted.staticIPs[1] = { ...wanted.staticIPs[1], phase: "Retiring" };
  wanted.staticIPs.push({ address: "203.0.113.24", phase: "Pending" });
  await applyPolicy(plane, NS, "webhooks", wanted);
  await untilLabelled([0, 3]);
  await untilStates("Verified,Retiring,Verified,Unassigned");
  assert.equal((await deployments()).length, 3);
  await untilPublished([IPS[0]!, IPS[1]!, IPS[3]!, "203.0.113.24"]);
  await untilCondition(plane, NS, "webhooks", "Ready", "True");
});

test("restarts one slot at a time", async () => {
  await applyPolicy(plane, NS, "webhooks", spec([0, 1, 3]));
  await untilCondition(plane, NS, "webhooks", "Ready", "True");
  await untilLabelled([0, 1, 3]);
  await applyPolicy(plane, NS, "webhooks", { ...spec([0, 1, 3]), proxy: { podAnnotations: { edition: "2" } } });
  type Deployment = KubeObject & { spec: { template: { metadata: { annotations?: Record<string, string> } } } };
  const changed = async () =>
    ((await deployments()) as Deployment[]).filter(({ spec }) => spec.template.metadata.annotations?.edition === "2")
      .length;
  let least = 3;
  for (const began = Date.now(); (await changed()) < 3 || (await labelled()).length < 3; ) {
    least = Math.min(least, (await labelled()).length);
    assert.ok(Date.now() - began < 60_000, `${await changed()} of 3 slots are changed`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.equal(least, 2);
  await untilCondition(plane, NS, "webhooks", "Ready", "True");
});

test("rejects an address of another policy until it is free", async () => {
  await applyPolicy(plane, NS, "younger", { ...spec([0]), proxy: { port: 5750, adminPort: 5751 } });
  const loser = await untilCondition(plane, NS, "younger", "Accepted", "False", "Conflicted");
  assert.equal(
    conditionOf(loser, "Accepted")!.message,
    "spec.staticIPs[0].address: 203.0.113.20 is held by policy convoy/webhooks; use another address, or remove it there",
  );
  await plane.delete(policyPath(NS, "webhooks"));
  await untilCondition(plane, NS, "younger", "Accepted", "True");
  const draining = (await pods()).filter(({ metadata: { labels } }) => {
    return (
      labels!["egress.outrider.dev/fleet"] === "webhooks" && labels!["egress.outrider.dev/slot"] === slotId(IPS[0])
    );
  });
  assert.deepEqual(
    draining.map(({ metadata }) => metadata.name),
    [],
  );
  await untilCondition(plane, NS, "younger", "Ready", "True");
  await applyPolicy(plane, "default", "stranger", spec([3]));
  const stranger = await untilCondition(plane, "default", "stranger", "Accepted", "False", "NotGranted");
  assert.match(conditionOf(stranger, "Accepted")!.message, /namespace default has no grant for KubeVIP/);
});

test("migrates between providers without an outage", async () => {
  type Service = KubeObject & { spec: { selector: Record<string, string> } };
  const shared = { ...spec([4]), nat: { provider: "External" }, staticIPs: [{ address: IPS[4] }] };
  const named = async () => (await deployments()).map(({ metadata }) => metadata.name).sort();
  const slot = `switched-egress-${slotId(IPS[4])}`;
  // From a pod's own address the world sees the static IP, as behind a NAT gateway.
  seen.set("127.0.0.1", IPS[4]);
  const selector = async () =>
    (await plane.get<Service>(`/api/v1/namespaces/${NS}/services/switched-egress`))!.spec.selector;
  /** Pods that the client Service selects now. There must always be one. */
  const selected = async (): Promise<Pod[]> => {
    const before = await selector();
    const found = await pods();
    // Read twice, since a selector that changed in between belongs to other labels.
    if (JSON.stringify(await selector()) !== JSON.stringify(before)) return selected();
    const wanted = Object.entries(before);
    return found.filter(({ metadata }) => wanted.every(([key, value]) => metadata.labels?.[key] === value));
  };
  await applyPolicy(plane, NS, "switched", { ...shared, proxy: { replicas: 1, port: 6750, adminPort: 6751 } });
  await untilCondition(plane, NS, "switched", "Ready", "True");
  const looks: string[] = [];
  let watching = true;
  const watch = (async () => {
    while (watching) {
      const found = await selected();
      const ready = found.filter(isReady).map(({ metadata }) => metadata.labels!["egress.outrider.dev/slot"]!);
      if (looks.at(-1) !== ready.join()) looks.push(ready.join());
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  })();
  await applyPolicy(plane, NS, "switched", { ...spec([4]), proxy: { port: 6750, adminPort: 6751 } });
  await plane.until(`/apis/apps/v1/namespaces/${NS}/deployments/${slot}`, (found) => found !== undefined, "the slot");
  await untilCondition(plane, NS, "switched", "IPsAssigned", "False", "Unassigned");
  assert.ok((await named()).includes("switched-egress"), "the shared fleet stays");
  put(4);
  await plane.until(
    `/apis/apps/v1/namespaces/${NS}/deployments/switched-egress`,
    (found) => found === undefined,
    "it goes",
  );
  await untilCondition(plane, NS, "switched", "Ready", "True");
  await applyPolicy(plane, NS, "switched", { ...shared, proxy: { replicas: 1, port: 6750, adminPort: 6751 } });
  await plane.until(
    `/apis/apps/v1/namespaces/${NS}/deployments/${slot}`,
    (found) => found === undefined,
    "the slot goes",
  );
  await untilCondition(plane, NS, "switched", "Ready", "True");
  // When its proxy has ended.
  await plane.until(`/api/v1/namespaces/${NS}/services/${slot}`, (found) => found === undefined, "its Service goes");
  watching = false;
  await watch;
  assert.ok(!looks.includes(""), `behind the client Service, one after the other: ${looks.join(" → ")}`);
  assert.ok(
    (await labelled()).every((id) => id !== slotId(IPS[4]) && id !== "shared"),
    "no label is left",
  );
});

test("a recorded spec does not replace a grant", async () => {
  await applyPolicy(plane, "default", "forger", {});
  const { metadata, spec: stored } = await untilCondition(plane, "default", "forger", "Programmed", "True");
  await operator.stop();
  // With the defaults of the API server, as every recorded spec.
  const recorded = gzipSync(JSON.stringify({ ...stored, ...spec([3]) })).toString("base64");
  const path = `/api/v1/namespaces/outrider-system/configmaps/egresspolicy-${metadata.uid}`;
  await plane.patch(path, { binaryData: { "spec.json.gz": recorded } });
  await applyPolicy(plane, "default", "forger", INVALID);
  operator = await again();
  const policy = await untilCondition(plane, "default", "forger", "Programmed", "False", "NotAccepted");
  assert.match(
    conditionOf(policy, "Programmed")!.message,
    /no longer valid either; existing objects are left unchanged: .*no grant for KubeVIP/,
  );
  const fleets = await list<KubeObject>("/apis/apps/v1/namespaces/default/deployments");
  assert.deepEqual(
    fleets.map(({ metadata }) => metadata.name),
    ["forger-egress"],
  );
});
