import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import { RESOURCE } from "../../operator/api/kinds.ts";
import { ANNOTATION, childName, FINALIZER, LABEL } from "../../operator/api/names.ts";
import type { ConfigMap } from "../../operator/api/objects.ts";
import { slotId } from "../../operator/fleet/slots.ts";
import { Client, type WatchEvent } from "../../operator/kube/client.ts";
import type { KubeObject, Resource } from "../../operator/kube/resource.ts";
import { type ControlPlane, startControlPlane } from "../cluster/control-plane.ts";
import { type FaultProxy, startFaultProxy } from "../cluster/fault-proxy.ts";
import { FleetRunner } from "../cluster/fleet.ts";
import { configFrom } from "./kube/shared.ts";
import {
  applyPolicy,
  install,
  LEASE,
  makeNamespace,
  type Operator,
  policyPath,
  startOperator,
  untilCondition,
} from "./operator.ts";

/**
 * Operators whose watches lag or miss events: a replica that takes over, and a leader. Whatever they do not know, they
 * delete nothing that the newest spec needs.
 */

const NS = "convoy";
const P = "webhooks";
const IPS = ["203.0.113.20", "203.0.113.21", "203.0.113.22"] as const;
/** Missed events of policies and Deployments are found within this time. */
const HEALED_MS = 60_000;

let plane: ControlPlane;
let fleet: FleetRunner;
let client: Client;
let args: string[];

const slots = (...addresses: object[]) => ({
  nat: { provider: "KubeVIP", kubeVIP: {} },
  staticIPs: addresses,
  authentication: { mode: "Basic", secretRef: { name: "proxy-passwords" } },
});

before(async () => {
  for (const address of IPS) execFileSync("ip", ["addr", "add", `${address}/32`, "dev", "lo"]);
  plane = await startControlPlane({ kwokNodes: 4, install });
  await makeNamespace(plane, NS);
  const secret = { apiVersion: "v1", kind: "Secret", metadata: { name: "proxy-passwords" } };
  const stringData = { PROXY_PASSWORD: "s3cret" };
  await plane.apply(`/api/v1/namespaces/${NS}/secrets/proxy-passwords`, { ...secret, stringData });
  const account = { apiVersion: "v1", kind: "ServiceAccount", metadata: { name: "default", namespace: NS } };
  await plane.apply(`/api/v1/namespaces/${NS}/serviceaccounts/default`, account);
  const grants = join(plane.folder, "grants.yaml");
  writeFileSync(grants, `grants: [{namespaces: [${NS}], providers: [KubeVIP], staticIPs: [203.0.113.0/24]}]\n`);
  args = ["--scrape-seconds=1", `--grants=${grants}`];
  client = new Client(configFrom(plane.userConfig()));
  fleet = new FleetRunner(plane);
  fleet.start();
});
after(async () => {
  client.close();
  await fleet.stop();
  await plane.stop();
});

async function until(what: string, check: () => boolean | Promise<boolean>, ms = 30_000): Promise<void> {
  for (const began = Date.now(); !(await check()); await sleep(50)) {
    if (Date.now() - began > ms) throw new Error(`waited ${ms} ms for: ${what}`);
  }
}

/** Value of a metric: the sum over all lines with these texts. */
async function metric(operator: Operator, name: string, ...parts: string[]): Promise<number> {
  const { text } = await operator.page(`${operator.metrics}/metrics`);
  const lines = text
    .split("\n")
    .filter((line) => line.startsWith(`${name}{`) && parts.every((part) => line.includes(part)));
  return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
}
const missed = (operator: Operator, plural: string, cause: string) =>
  metric(operator, "outrider_reflector_missed_total", `resource="${plural}"`, `cause="${cause}"`);

/** Everything that happens to the objects of a kind, until the end of the test. */
async function record(resource: Resource): Promise<{ events: WatchEvent[]; stop: () => void }> {
  const { resourceVersion } = await client.listAll(resource, { namespace: NS });
  const [events, end] = [[] as WatchEvent[], new AbortController()];
  const scope = { namespace: NS, resourceVersion, timeoutSeconds: 600, signal: end.signal };
  void client.watch(resource, { ...scope, onEvent: (event) => events.push(event) }).catch(() => undefined);
  return { events, stop: () => end.abort() };
}

/** The watches of one kind. */
const watchesOf = (plural: string) => (path: string) => path.includes(`/${plural}?`) && path.includes("watch=");
/** The watch of all pods, and not the one of the proxies. */
const podWatch = (path: string) => watchesOf("pods")(path) && path.includes("fieldSelector=");

interface Pair {
  first: Operator;
  second: Operator;
  /** In front of the API server for the second one. */
  way: FaultProxy;
  takeOver(): Promise<void>;
  end(): Promise<void>;
}

/** A leader, and a replica behind a proxy for faults. */
async function startPair(): Promise<Pair> {
  const way = await startFaultProxy(plane);
  const first = await startOperator(plane, { args, name: "first" });
  await first.untilLeading();
  const second = await startOperator(plane, { args, name: "second", server: way.url });
  await until("the second one follows", () => second.log().includes("all objects are listed"));
  return {
    ...{ first, second, way },
    /** Ends the leader. Resolves when the other one has reconciled. */
    takeOver: async () => {
      await first.stop("SIGKILL");
      // It would expire after 15 s.
      await plane.delete(LEASE);
      await second.untilLeading();
      const succeeded = () => metric(second, "controller_runtime_reconcile_total", 'result="success"');
      await until("the second one has reconciled", async () => (await succeeded()) > 0);
    },
    end: async () => {
      for (const operator of [first, second]) if (operator.program.running) await operator.stop();
      await way.close();
      await clear();
    },
  };
}

/** Deletes the policy, and waits until its objects are deleted. */
async function clear(): Promise<void> {
  for (const { metadata } of await list(`/api/v1/namespaces/${NS}/pods`)) {
    if (metadata.labels?.[LABEL.injected] !== undefined) await plane.delete(podPath(metadata.name));
  }
  await plane.patch(policyPath(NS, P), { metadata: { finalizers: null } });
  await plane.delete(policyPath(NS, P));
  // Garbage collection would learn of the new kind within half a minute.
  for (const { metadata } of await deployments()) await plane.delete(deploymentPath(metadata.name));
  await until("no proxy runs", () => fleet.pods.length === 0);
  if ((await plane.get(LEASE)) !== undefined) await plane.delete(LEASE);
}

const list = async (path: string) => (await plane.get<{ items: KubeObject[] }>(path))!.items;
const deployments = () => list(`/apis/apps/v1/namespaces/${NS}/deployments`);
const slotOf = async (address: string) =>
  (await deployments()).find(({ metadata }) => metadata.name === childName.slot(P, slotId(address)));
const deploymentPath = (name: string) => `/apis/apps/v1/namespaces/${NS}/deployments/${name}`;
const podPath = (name: string) => `/api/v1/namespaces/${NS}/pods/${name}`;
const finalizers = async () => (await plane.get<EgressPolicy>(policyPath(NS, P)))?.metadata.finalizers ?? [];

/** A pod that uses the policy. */
async function createSender(name: string): Promise<void> {
  const metadata = { name, namespace: NS, labels: { [LABEL.injected]: P } };
  const spec = { containers: [{ name: "app", image: "app:test" }] };
  await plane.apply(podPath(name), { apiVersion: "v1", kind: "Pod", metadata, spec });
}

test("keeps a slot that only the newest spec needs", async () => {
  const { second, way, takeOver, end } = await startPair();
  try {
    await applyPolicy(plane, NS, P, slots({ address: IPS[0] }));
    await untilCondition(plane, NS, P, "Ready", "True");
    way.holds = watchesOf("egresspolicies");
    await applyPolicy(plane, NS, P, slots({ address: IPS[0] }, { address: IPS[1] }));
    await untilCondition(plane, NS, P, "Ready", "True");
    const before = await slotOf(IPS[1]);
    await takeOver();
    const now = await slotOf(IPS[1]);
    assert.equal(now?.metadata.uid, before!.metadata.uid);
    assert.equal(now?.metadata.deletionTimestamp, undefined);
    assert.ok((await missed(second, "egresspolicies", "takeover")) > 0);
    assert.match(second.log(), /"relisted":\["egresspolicies"\]/);
  } finally {
    await end();
  }
});

test("keeps a Pending address in the published list", async () => {
  const { way, takeOver, end } = await startPair();
  const { events, stop } = await record(RESOURCE.configMap);
  try {
    const active = { address: IPS[0] };
    const published = (object: KubeObject | undefined) => (object as ConfigMap | undefined)?.data?.["ips.json"] ?? "";
    const path = `/api/v1/namespaces/${NS}/configmaps/${childName.published(P)}`;
    await applyPolicy(plane, NS, P, { staticIPs: [active] });
    await plane.until<ConfigMap>(path, (found) => published(found).includes(IPS[0]), "the first address");
    way.holds = watchesOf("egresspolicies");
    await applyPolicy(plane, NS, P, { staticIPs: [active, { address: IPS[2], phase: "Pending" }] });
    await plane.until<ConfigMap>(path, (found) => published(found).includes(IPS[2]), "the Pending address");
    await takeOver();
    const versions = events
      .filter(({ object }) => object.metadata.name === childName.published(P))
      .map(({ object }) => published(object));
    const since = versions.slice(versions.findIndex((text) => text.includes(IPS[2])));
    assert.ok(since.length > 0);
    assert.deepEqual(
      since.filter((text) => !text.includes(IPS[2])),
      [],
    );
  } finally {
    stop();
    await end();
  }
});

test("keeps the finalizer of a policy in use", async () => {
  const { way, takeOver, end } = await startPair();
  try {
    await applyPolicy(plane, NS, P, {});
    await untilCondition(plane, NS, P, "Programmed", "True");
    way.holds = podWatch;
    await createSender("sender");
    await until("the finalizer is set", async () => (await finalizers()).includes(FINALIZER));
    await takeOver();
    assert.ok((await finalizers()).includes(FINALIZER));
  } finally {
    await end();
  }
});

test("waits for the API server before it reconciles", async () => {
  const { second, way, first, end } = await startPair();
  try {
    await applyPolicy(plane, NS, P, {});
    await untilCondition(plane, NS, P, "Programmed", "True");
    const lists = (path: string) => path.includes("/deployments?") && !path.includes("watch=");
    way.refuse = (_, path) => (lists(path) ? { status: 500, body: "" } : undefined);
    way.seen.length = 0;
    await first.stop("SIGKILL");
    await plane.delete(LEASE);
    await until("it has tried three times", () => way.seen.filter(({ path }) => lists(path)).length >= 3);
    assert.doesNotMatch(second.log(), /policies are reconciled/);
    way.refuse = undefined;
    await second.untilLeading();
  } finally {
    await end();
  }
});

test("a leader that missed a pod keeps the finalizer", async () => {
  const way = await startFaultProxy(plane);
  const operator = await startOperator(plane, { args, server: way.url });
  try {
    await operator.untilLeading();
    await applyPolicy(plane, NS, P, {});
    await createSender("known");
    await until("the finalizer is set", async () => (await finalizers()).includes(FINALIZER));
    way.swallow = (path, event) => podWatch(path) && event.includes('"missed"');
    await createSender("missed");
    await plane.request("DELETE", podPath("known"), { gracePeriodSeconds: 0 });
    await until("the missed pod is found", async () => (await missed(operator, "pods", "doubt")) > 0);
    assert.ok((await finalizers()).includes(FINALIZER));
    way.swallow = undefined;
    await plane.request("DELETE", podPath("missed"), { gracePeriodSeconds: 0 });
    await until("the finalizer is removed", async () => !(await finalizers()).includes(FINALIZER));
  } finally {
    await operator.stop();
    await way.close();
    await clear();
  }
});

test("an address stays published while a proxy that the leader missed may use it", async () => {
  const way = await startFaultProxy(plane);
  const operator = await startOperator(plane, { args, server: way.url });
  try {
    await operator.untilLeading();
    const [both, one] = [[{ address: IPS[0] }, { address: IPS[1] }], [{ address: IPS[0] }]];
    await applyPolicy(plane, NS, P, { staticIPs: both, proxy: { replicas: 1 } });
    await untilCondition(plane, NS, P, "PolicyDistributed", "True");
    way.swallow = (path) => watchesOf("pods")(path) && !podWatch(path);
    await applyPolicy(plane, NS, P, { staticIPs: both, proxy: { replicas: 2 } });
    await until("two proxies run", () => fleet.pods.length === 2);
    await applyPolicy(plane, NS, P, { staticIPs: one, proxy: { replicas: 2 } });
    const path = `/api/v1/namespaces/${NS}/configmaps/${childName.published(P)}`;
    const isGone = (found: ConfigMap | undefined) => found?.data?.["ips.txt"]?.includes(IPS[1]) === false;
    await plane.until<ConfigMap>(path, isGone, "the address is removed");
    // Proxies confirm the new policy after their pods are annotated.
    for (const { metadata } of await list(`/api/v1/namespaces/${NS}/pods?labelSelector=${LABEL.fleet}=${P}`)) {
      assert.ok(metadata.annotations?.[ANNOTATION.refresh] !== undefined, metadata.name);
    }
    assert.ok((await missed(operator, "pods", "doubt")) > 0);
  } finally {
    way.swallow = undefined;
    await operator.stop();
    await way.close();
    await clear();
  }
});

test("finds a missed edit and a missed deletion within a minute", async () => {
  const way = await startFaultProxy(plane);
  const operator = await startOperator(plane, { args, server: way.url });
  try {
    await operator.untilLeading();
    await applyPolicy(plane, NS, P, { deny: [{ hosts: ["one.example"] }] });
    await untilCondition(plane, NS, P, "Programmed", "True");
    // Afterwards the API server sends no other events of the fleet, so only the comparison finds what was missed.
    await until(
      "the fleet is rolled out",
      async () => (await untilCondition(plane, NS, P, "ProxyAvailable", "True")) !== undefined,
    );
    const fleet = deploymentPath(childName.fleet(P));
    const before = (await plane.get<KubeObject>(fleet))!;
    way.swallow = (path) => watchesOf("egresspolicies")(path) || watchesOf("deployments")(path);
    const began = Date.now();
    await plane.delete(fleet);
    await applyPolicy(plane, NS, P, { deny: [{ hosts: ["two.example"] }] });
    const document = `/api/v1/namespaces/${NS}/configmaps/${childName.document(P)}`;
    const isNew = (found: ConfigMap | undefined) => found?.data?.["policy.json"]?.includes("two.example") ?? false;
    await plane.until<ConfigMap>(document, isNew, "the edit", HEALED_MS);
    const isBack = (found: KubeObject | undefined) => found !== undefined && found.metadata.uid !== before.metadata.uid;
    await plane.until<KubeObject>(fleet, isBack, "the Deployment", HEALED_MS - (Date.now() - began));
    console.log(`missed events were found after ${Date.now() - began} ms`);
  } finally {
    way.swallow = undefined;
    await operator.stop();
    await way.close();
    await clear();
  }
});

test("labels a replaced proxy after the grant was revoked", async () => {
  const granted = await startOperator(plane, { args, name: "granted" });
  let operator = granted;
  try {
    await granted.untilLeading();
    await applyPolicy(plane, NS, P, slots({ address: IPS[0] }));
    await untilCondition(plane, NS, P, "Ready", "True");
    await granted.stop();
    const grants = join(plane.folder, "no-grants.yaml");
    writeFileSync(grants, "grants: []\n");
    operator = await startOperator(plane, { args: ["--scrape-seconds=1", `--grants=${grants}`] });
    await operator.untilLeading();
    await untilCondition(plane, NS, P, "Programmed", "False", "NotAccepted");
    const serving = `/api/v1/namespaces/${NS}/pods?labelSelector=${LABEL.fleet}=${P},${LABEL.verified}=true`;
    const [before] = await list(serving);
    await plane.request("DELETE", podPath(before!.metadata.name), { gracePeriodSeconds: 0 });
    const isReplaced = async () => (await list(serving)).some(({ metadata }) => metadata.uid !== before!.metadata.uid);
    await until("the Service selects the new proxy", isReplaced);
    await untilCondition(plane, NS, P, "PolicyDistributed", "True");
  } finally {
    for (const one of [granted, operator]) if (one.program.running) await one.stop();
    await clear();
  }
});
