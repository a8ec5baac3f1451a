import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { LABEL } from "../../operator/api/names.ts";
import type { Pod } from "../../operator/api/objects.ts";
import { slotId } from "../../operator/fleet/slots.ts";
import type { KubeObject } from "../../operator/kube/resource.ts";
import { BOOT, type ControlPlane, controlPlaneMissing, startControlPlane } from "../cluster/control-plane.ts";
import {
  applyPolicy,
  conditionOf,
  INVALID,
  install,
  makeNamespace,
  type Operator,
  policyPath,
  startOperator,
  untilCondition,
} from "./operator.ts";

/**
 * One owner for each exclusive address. No proxy runs: pods are scheduled, never become ready, and terminate until the
 * test ends them, like a proxy that drains. The full resync (10 minutes) is longer than every wait, so each change has
 * to be noticed by its own event.
 */

const OPTIONS = { kwokNodes: 3, realProxies: true };
const skip = controlPlaneMissing(OPTIONS) ?? false;
/** Restarts of the operator, and garbage collection, on a busy machine. */
const SLOW = { skip, timeout: 240_000 };
const SPACES = ["billing", "convoy"] as const;
let plane: ControlPlane;
let operator: Operator;
let ports = 5000;

/** An address of its own for each test, so that they do not depend on each other. */
const ip = (n: number) => `203.0.113.${n}`;
const source = (n: number) => `10.0.4.${n}`;

type StaticIP = { address: string; sourceAddress?: string; phase?: string };
const specOf = (staticIPs: readonly StaticIP[], more: object = {}) => ({
  nat: { provider: "KubeVIP", kubeVIP: {} },
  staticIPs,
  authentication: { mode: "Basic", secretRef: { name: "proxy-passwords" } },
  proxy: { port: ports++, adminPort: ports++ },
  ...more,
});

const start = async () => {
  const grants = join(plane.folder, "grants.yaml");
  operator = await startOperator(plane, { args: ["--scrape-seconds=1", `--grants=${grants}`] });
  await operator.untilLeading();
};

before(async () => {
  if (skip) return;
  plane = await startControlPlane({ ...OPTIONS, install });
  for (const space of SPACES) await makeNamespace(plane, space);
  writeFileSync(
    join(plane.folder, "grants.yaml"),
    `grants: [{namespaces: [${SPACES.join()}], providers: [KubeVIP], staticIPs: [203.0.113.0/24, 10.0.4.0/24]}]\n`,
  );
  await start();
}, BOOT);
after(async () => {
  if (skip) return;
  await operator.stop();
  await plane.stop();
});

const accepted = (namespace: string, name: string) => untilCondition(plane, namespace, name, "Accepted", "True");
async function refused(namespace: string, name: string): Promise<string> {
  const policy = await untilCondition(plane, namespace, name, "Accepted", "False", "Conflicted");
  return conditionOf(policy, "Accepted")!.message;
}

/** Pods of one slot. */
async function podsOf(namespace: string, policy: string, address: string): Promise<Pod[]> {
  const selector = `${LABEL.fleet}=${policy},${LABEL.slot}=${slotId(address)}`;
  const path = `/api/v1/namespaces/${namespace}/pods?labelSelector=${encodeURIComponent(selector)}`;
  return (await plane.get<{ items: Pod[] }>(path))!.items;
}

async function poll<T>(what: string, read: () => Promise<T | undefined>): Promise<T> {
  for (const began = Date.now(); ; await new Promise((resolve) => setTimeout(resolve, 50))) {
    const value = await read();
    if (value !== undefined) return value;
    if (Date.now() - began > 30_000) throw new Error(`not within 30 s: ${what}`);
  }
}

/** Waits for a pod of a slot. */
const untilPod = (namespace: string, policy: string, address: string, which: (pod: Pod) => boolean = () => true) =>
  poll(`a pod of ${policy} for ${address}`, async () => (await podsOf(namespace, policy, address)).find(which));

const terminates = ({ metadata }: Pod) => metadata.deletionTimestamp !== undefined;

/** Ends a proxy that drains. */
async function end({ metadata }: Pod): Promise<void> {
  const path = `/api/v1/namespaces/${metadata.namespace}/pods/${metadata.name}`;
  const { status } = await plane.request("DELETE", path, {
    ...{ apiVersion: "v1", kind: "DeleteOptions", gracePeriodSeconds: 0 },
    preconditions: { uid: metadata.uid },
  });
  assert.equal(status, 200);
}

const gone = (path: string, what: string) => plane.until(path, (found) => found === undefined, what);
const slotPaths = (namespace: string, policy: string, address: string) => ({
  deployment: `/apis/apps/v1/namespaces/${namespace}/deployments/${policy}-egress-${slotId(address)}`,
  service: `/api/v1/namespaces/${namespace}/services/${policy}-egress-${slotId(address)}`,
});

test("rejects the source address of another policy, across namespaces", SLOW, async () => {
  await applyPolicy(plane, "convoy", "victim", specOf([{ address: ip(10), sourceAddress: source(10) }]));
  await accepted("convoy", "victim");
  const own = specOf([{ address: ip(11), sourceAddress: source(11) }]);
  await applyPolicy(plane, "billing", "thief", own);
  await accepted("billing", "thief");
  for (const [taken, field] of [
    [{ address: ip(11), sourceAddress: source(10) }, `spec.staticIPs[0].sourceAddress: ${source(10)}`],
    [{ address: ip(11), sourceAddress: ip(10) }, `spec.staticIPs[0].sourceAddress: ${ip(10)}`],
    [{ address: source(10), sourceAddress: source(11) }, `spec.staticIPs[0].address: ${source(10)}`],
  ] as const) {
    await applyPolicy(plane, "billing", "thief", { ...own, staticIPs: [taken] });
    assert.equal(
      await refused("billing", "thief"),
      `${field} is held by policy convoy/victim; use another address, or remove it there`,
    );
  }
  // Its next edit is judged again.
  const edited = specOf([{ address: ip(10), sourceAddress: source(10) }], { deny: [{ hosts: ["a.example"] }] });
  await applyPolicy(plane, "convoy", "victim", edited);
  await accepted("convoy", "victim");
  await operator.stop();
  await applyPolicy(plane, "convoy", "victim", { ...edited, deny: [{ hosts: ["b.example"] }] });
  await applyPolicy(plane, "billing", "thief", { ...own, staticIPs: [{ address: ip(11), sourceAddress: source(10) }] });
  await start();
  await accepted("convoy", "victim");
  await refused("billing", "thief");
});

test("an older policy that cannot be accepted does not block a younger one", { skip }, async () => {
  await applyPolicy(plane, "convoy", "holder", specOf([{ address: ip(20) }]));
  await accepted("convoy", "holder");
  await applyPolicy(plane, "billing", "blocked", specOf([{ address: ip(20) }, { address: ip(21) }]));
  await refused("billing", "blocked");
  await applyPolicy(plane, "billing", "invalid", specOf([{ address: ip(21) }], INVALID));
  await untilCondition(plane, "billing", "invalid", "Accepted", "False", "Invalid");
  await applyPolicy(plane, "convoy", "younger", specOf([{ address: ip(21) }]));
  await accepted("convoy", "younger");
});

test("offers a changed source address after the old proxy has ended", { skip }, async () => {
  const [one, two] = [specOf([{ address: ip(30), sourceAddress: source(30) }]), ip(30)];
  await applyPolicy(plane, "convoy", "mover", one);
  const old = await untilPod("convoy", "mover", two);
  const waiting = specOf([{ address: ip(31), sourceAddress: source(30) }]);
  await applyPolicy(plane, "billing", "waiter", waiting);
  assert.match(await refused("billing", "waiter"), /is held by policy convoy\/mover; use another/);
  await applyPolicy(plane, "convoy", "mover", {
    ...one,
    staticIPs: [{ address: ip(30), sourceAddress: source(32) }],
  });
  await untilPod("convoy", "mover", two, (pod) => pod.metadata.uid === old.metadata.uid && terminates(pod));
  const { service } = slotPaths("convoy", "mover", ip(30));
  await plane.until<KubeObject>(
    service,
    (found) => found?.metadata.annotations?.["kube-vip.io/loadbalancerIPs"] === source(32),
    "the Service has the new source",
  );
  // Its next edit is judged while the proxy drains.
  await applyPolicy(plane, "billing", "waiter", { ...waiting, deny: [{ hosts: ["a.example"] }] });
  assert.equal(
    await refused("billing", "waiter"),
    `spec.staticIPs[0].sourceAddress: ${source(30)} is held by policy convoy/mover until its proxies on this address have ended`,
  );
  await end(old);
  await accepted("billing", "waiter");
});

test("holds the addresses of a deleted policy until its last proxy has ended", SLOW, async () => {
  const spec = specOf([{ address: ip(40), sourceAddress: source(40) }]);
  await applyPolicy(plane, "convoy", "deleted", spec);
  await untilPod("convoy", "deleted", ip(40));
  const waiting = specOf([{ address: ip(40) }]);
  await applyPolicy(plane, "billing", "heir", waiting);
  await refused("billing", "heir");
  const second = specOf([{ address: ip(41), sourceAddress: source(40) }]);
  await applyPolicy(plane, "billing", "cousin", second);
  await refused("billing", "cousin");
  await plane.delete(policyPath("convoy", "deleted"));
  const { deployment, service } = slotPaths("convoy", "deleted", ip(40));
  await gone(deployment, "the Deployment is deleted");
  await gone(service, "the Service is deleted");
  const draining = await untilPod("convoy", "deleted", ip(40), terminates);
  await applyPolicy(plane, "billing", "heir", { ...waiting, deny: [{ hosts: ["a.example"] }] });
  await applyPolicy(plane, "billing", "cousin", { ...second, deny: [{ hosts: ["a.example"] }] });
  for (const name of ["heir", "cousin"]) {
    assert.match(
      await refused("billing", name),
      / is held by policy convoy\/deleted until its proxies on this address have ended$/,
    );
  }
  await end(draining);
  await accepted("billing", "heir");
  await accepted("billing", "cousin");
});

test("a proxy that has ended holds no address, although its pod exists", SLOW, async () => {
  await applyPolicy(plane, "convoy", "evicted", specOf([{ address: ip(45) }]));
  await untilPod("convoy", "evicted", ip(45));
  await applyPolicy(plane, "billing", "follower", specOf([{ address: ip(45) }]));
  await refused("billing", "follower");
  await plane.delete(policyPath("convoy", "evicted"));
  const { deployment, service } = slotPaths("convoy", "evicted", ip(45));
  await gone(deployment, "the Deployment is deleted");
  await gone(service, "the Service is deleted");
  const { metadata } = await untilPod("convoy", "evicted", ip(45), terminates);
  await plane.patch(`/api/v1/namespaces/convoy/pods/${metadata.name}/status`, { status: { phase: "Failed" } });
  await accepted("billing", "follower");
});

test("reserves Pending addresses, also after a restart", SLOW, async () => {
  const used = { address: ip(50) };
  const owner = specOf([used, { address: ip(51), phase: "Pending" }]);
  await applyPolicy(plane, "convoy", "planner", owner);
  await accepted("convoy", "planner");
  const waiting = specOf([{ address: ip(51) }]);
  await applyPolicy(plane, "billing", "eager", waiting);
  assert.match(
    await refused("billing", "eager"),
    /^spec\.staticIPs\[0\]\.address: .* is held by policy convoy\/planner;/,
  );
  await operator.stop();
  // It is older than the edit of the owner below, which is rejected and keeps its last accepted spec.
  await applyPolicy(plane, "billing", "eager", { ...waiting, deny: [{ hosts: ["a.example"] }] });
  await applyPolicy(plane, "convoy", "planner", { ...owner, ...INVALID });
  await start();
  await untilCondition(plane, "convoy", "planner", "Accepted", "False", "Invalid");
  await refused("billing", "eager");
  // No object besides the policy changes that other policies see.
  await applyPolicy(plane, "convoy", "planner", { ...owner, staticIPs: [used] });
  await accepted("billing", "eager");
});

test("offers the Pending addresses of a deleted policy at once", { skip }, async () => {
  await applyPolicy(plane, "convoy", "brief", specOf([{ address: ip(60), phase: "Pending" }]));
  await accepted("convoy", "brief");
  await applyPolicy(plane, "billing", "next", specOf([{ address: ip(60) }]));
  await refused("billing", "next");
  await plane.delete(policyPath("convoy", "brief"));
  await accepted("billing", "next");
});

test("node events reach a policy whose newest spec is rejected", { skip }, async () => {
  const nodePath = (i: number) => `/api/v1/nodes/node-${i}`;
  const label = (i: number) => plane.patch(nodePath(i), { metadata: { labels: { pool: "egress" } } });
  const addressOf = async (i: number) => {
    const node = await plane.get<{ status: { addresses: { type: string; address: string }[] } }>(nodePath(i));
    return node!.status.addresses.find(({ type }) => type === "InternalIP")!.address;
  };
  const spec = specOf([{ address: ip(70) }], { networkPolicy: { senders: "Enabled" } });
  const selected = { ...spec, proxy: { ...spec.proxy, nodeSelector: { pool: "egress" } } };
  await label(0);
  await applyPolicy(plane, "convoy", "nodes", selected);
  const path = "/apis/networking.k8s.io/v1/namespaces/convoy/networkpolicies/nodes-egress-senders";
  const lists = async (i: number, what: string) => {
    const address = await addressOf(i);
    await plane.until(path, (found) => JSON.stringify(found ?? "").includes(`${address}/32`), what);
  };
  await lists(0, "the NetworkPolicy has the first node");
  await untilPod("convoy", "nodes", ip(70), (pod) => pod.status?.phase === "Running");
  const { nat: _, staticIPs: __, ...rest } = selected;
  await applyPolicy(plane, "convoy", "nodes", { ...rest, ...INVALID });
  await untilCondition(plane, "convoy", "nodes", "Accepted", "False", "Invalid");
  await label(1);
  await lists(1, "the NetworkPolicy has the second node");
});
