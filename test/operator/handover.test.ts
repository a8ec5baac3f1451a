import assert from "node:assert/strict";
import { test } from "node:test";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import { ANNOTATION, childName, LABEL } from "../../operator/api/names.ts";
import type { Deployment, Pod } from "../../operator/api/objects.ts";
import type { ProxyFacts } from "../../operator/fleet/proxy-status.ts";
import { SHARED, slotId } from "../../operator/fleet/slots.ts";
import { parseGrants } from "../../operator/providers/grants.ts";
import { providerOf } from "../../operator/providers/index.ts";
import { planRound } from "../../operator/reconcile/decision/disturbances.ts";
import { documentOf } from "../../operator/reconcile/decision/document.ts";
import { handoverOf } from "../../operator/reconcile/decision/handover.ts";
import { resolveSpec } from "../../operator/reconcile/decision/resolved-spec.ts";
import { unitsOf } from "../../operator/reconcile/decision/units.ts";
import type { Caches } from "../../operator/reconcile/facts/caches.ts";
import { Claims } from "../../operator/reconcile/facts/claims.ts";
import type { Facts } from "../../operator/reconcile/facts/facts.ts";
import { gather } from "../../operator/reconcile/facts/gather.ts";
import { StatusScraper } from "../../operator/reconcile/facts/status-scraper.ts";
import type { PublishedList } from "../../operator/reconcile/objects/published/list.ts";
import { MAX_STATIC_IPS } from "../../proxy/policy/document.ts";
import { withDefaults } from "../harness/defaults.ts";
import { AROUND } from "./worlds.ts";

/** Deployments that are kept during a migration, and the addresses that verify proxies meanwhile. */

const [OLD, NEW] = ["203.0.113.10", "203.0.113.20"];
const external = { staticIPs: [{ address: OLD }] };
const slots = {
  nat: { provider: "NodeAddress" },
  staticIPs: [{ address: NEW }],
  authentication: { mode: "Basic", secretRef: { name: "passwords" } },
};

const deployment = (slot: string, annotations: Record<string, string>): Deployment => ({
  apiVersion: "apps/v1",
  kind: "Deployment",
  metadata: { name: `d-${slot}`, labels: { [LABEL.slot]: slot }, annotations },
});
const shared = deployment(SHARED, { [ANNOTATION.addresses]: OLD });
const slot = deployment(slotId(NEW), { [ANNOTATION.address]: NEW, [ANNOTATION.source]: "10.0.4.20" });

const proxy = (
  of: string,
  more: { args?: string[]; unschedulable?: boolean; terminating?: boolean } = {},
): ProxyFacts => ({
  pod: {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: `p-${of}` },
    spec: { hostNetwork: of !== SHARED, containers: [{ args: more.args ?? [] }] },
    status: more.unschedulable
      ? { phase: "Pending", conditions: [{ type: "PodScheduled", status: "False", message: "0/1 nodes" }] }
      : { phase: "Running" },
  },
  slot: of,
  node: more.unschedulable ? undefined : "a",
  ips: [],
  ready: !more.unschedulable,
  terminating: more.terminating ?? false,
  status: undefined,
  error: undefined,
  polled: true,
  outdated: false,
});

const list = (ipv4: string[], ipv6: string[] = []): PublishedList => ({
  ...{ ipv4, ipv6, cidrs: [], pending: [], retiring: [] },
  updatedAt: "",
  changes: [],
});

/** The addresses of the document, by phase, and the Deployments that go and stay. */
function exchange(spec: object, deployments: Deployment[], proxies: ProxyFacts[], published: PublishedList) {
  const policy = {
    apiVersion: "egress.outrider.dev/v1alpha1",
    kind: "EgressPolicy",
    metadata: { name: "webhooks", namespace: "convoy", uid: "1" },
    spec: withDefaults(spec),
  } as EgressPolicy;
  const facts = {
    policy,
    record: { spec: undefined, published },
    now: 0,
    children: {
      services: new Map(),
      deployments: new Map(deployments.map((one) => [one.metadata.name, one])),
    },
    proxies,
    nodes: [{ apiVersion: "v1", kind: "Node", metadata: { name: "a" } }],
  } as unknown as Facts;
  const resolved = resolveSpec(facts, policy.spec, providerOf(policy.spec)!);
  const units = unitsOf(facts, resolved, {
    image: "outrider:1",
    imagePullPolicy: "IfNotPresent",
    imagePullSecrets: [],
    adminFrom: undefined,
  });
  const current = units.map((unit) => ({ ...unit, changes: false }));
  const round = planRound(facts, resolved, current);
  const { remove, keep, former } = handoverOf(facts, resolved, round);
  const { staticIPs } = JSON.parse(documentOf(policy, [], former).document) as {
    staticIPs: { address: string; sourceAddress?: string; phase: string }[];
  };
  return {
    remove: remove.map(({ metadata }) => metadata.name),
    keep: keep.map(({ metadata }) => metadata.name),
    document: staticIPs.map(({ address, sourceAddress, phase }) =>
      [address, sourceAddress, phase].filter(Boolean).join(" "),
    ),
  };
}

test("an old shared fleet is verified by the addresses of its Deployment", () => {
  const expected = { remove: [], keep: ["d-shared"], document: [`${NEW} Pending`, `${OLD} Retiring`] };
  for (const published of [
    list([OLD]),
    list([OLD, NEW]),
    list([OLD, OLD, "192.0.2.66"], ["2001:db8::1", "2001:DB8::1"]),
    list([]),
  ]) {
    assert.deepEqual(exchange(slots, [shared], [proxy(SHARED)], published), expected);
  }
});

test("an old shared fleet is verified by an address that is Pending in the new spec", () => {
  const both = { ...slots, staticIPs: [{ address: NEW }, { address: OLD, phase: "Pending" }] };
  assert.deepEqual(exchange(both, [shared], [proxy(SHARED)], list([OLD, NEW])).document, [
    `${NEW} Pending`,
    `${OLD} Retiring`,
  ]);
});

test("the address in use comes before a Pending one of the same source", () => {
  const sourceAddress = "10.0.4.20";
  const later = { address: "203.0.113.21", sourceAddress, phase: "Pending" };
  const both = { ...slots, staticIPs: [later, { address: NEW, sourceAddress }] };
  assert.deepEqual(exchange(both, [shared], [proxy(SHARED)], list([OLD, NEW])).document, [
    `${NEW} ${sourceAddress} Pending`,
    `${later.address} ${sourceAddress} Pending`,
    `${OLD} Retiring`,
  ]);
});

test("a fleet without a Deployment keeps its addresses while a proxy runs", () => {
  const published = list([OLD, NEW, OLD]);
  assert.deepEqual(exchange(slots, [], [proxy(SHARED, { terminating: true })], published).document, [
    `${NEW} Active`,
    `${OLD} Retiring`,
  ]);
  const ending = proxy(slotId(NEW), { terminating: true, args: ["proxy", "--source-address=10.0.4.20"] });
  assert.deepEqual(exchange(external, [], [ending], list([NEW, OLD])).document, [
    `${OLD} Active`,
    `${NEW} 10.0.4.20 Pending`,
  ]);
  assert.deepEqual(exchange(external, [], [], published).document, [`${OLD} Active`]);
});

test("only the addresses of proxies that still run are kept", () => {
  const X = "203.0.113.21";
  const ending = proxy(slotId(NEW), { terminating: true });
  assert.deepEqual(exchange(external, [], [ending], list([NEW, X, OLD])).document, [`${OLD} Active`, `${NEW} Pending`]);
  const waiting = proxy(slotId(NEW), { unschedulable: true });
  assert.deepEqual(exchange(external, [], [waiting], list([NEW, OLD])).document, [`${OLD} Active`]);
  const { status: _, ...created } = ending.pod;
  assert.deepEqual(exchange(external, [], [{ ...ending, pod: created }], list([NEW, OLD])).document, [`${OLD} Active`]);
});

test("an old slot keeps its source although a proxy of an ended fleet runs", () => {
  const next = { ...slots, staticIPs: [{ address: "203.0.113.21" }] };
  const proxies = [proxy(slotId(NEW)), proxy(SHARED, { terminating: true })];
  assert.deepEqual(exchange(next, [slot], proxies, list([NEW, OLD])).document, [
    "203.0.113.21 Active",
    `${OLD} Retiring`,
    `${NEW} 10.0.4.20 Retiring`,
  ]);
});

test("former addresses have a fixed order", () => {
  const two = deployment(SHARED, { [ANNOTATION.addresses]: `203.0.113.12,${OLD}` });
  const expected = [`${NEW} Pending`, `${OLD} Retiring`, "203.0.113.12 Retiring"];
  assert.deepEqual(exchange(slots, [two], [proxy(SHARED)], list([])).document, expected);
});

test("a fleet without static IPs keeps the addresses of old slots", () => {
  const none = withDefaults({}) as Partial<EgressPolicy["spec"]>;
  delete none.staticIPs;
  assert.deepEqual(exchange(none, [slot], [proxy(slotId(NEW))], list([NEW])).document, [`${NEW} 10.0.4.20 Retiring`]);
});

test("a Deployment of a slot without annotations has no address", () => {
  const { annotations: _, ...metadata } = slot.metadata;
  const bare = { ...slot, metadata };
  assert.deepEqual(exchange(external, [bare], [], list([NEW])), {
    ...{ remove: [], keep: [slot.metadata.name] },
    document: [`${OLD} Active`],
  });
});

test("the document has no more addresses than a spec may have", () => {
  const staticIPs = Array.from({ length: MAX_STATIC_IPS }, (_, i) => ({ address: `203.0.113.${100 + i}` }));
  const { document } = exchange({ ...slots, staticIPs }, [shared], [proxy(SHARED)], list([OLD]));
  assert.equal(document.length, MAX_STATIC_IPS);
});

test("a waiting shared fleet adds no addresses to the document", () => {
  const policy = { metadata: { name: "webhooks", uid: "1" }, spec: withDefaults(external) } as EgressPolicy;
  const fleet = deployment(SHARED, { [ANNOTATION.addresses]: NEW });
  const facts = {
    ...{ policy, record: { published: list([OLD]) }, proxies: [], nodes: [] },
    children: { deployments: new Map([["fleet", fleet]]) },
  } as unknown as Facts;
  const unit = { slot: undefined, label: SHARED, name: "fleet", objects: [], changes: true };
  const resolved = resolveSpec(facts, policy.spec, providerOf(policy.spec)!);
  const { former } = handoverOf(facts, resolved, { remove: [], waiting: [{ unit, why: "" }] });
  assert.deepEqual(former.addresses, []);
});

test("a new shared fleet is verified by its own addresses only", () => {
  const proxies = [proxy(SHARED), proxy(slotId(NEW))];
  assert.deepEqual(exchange(external, [shared, slot], proxies, list([NEW])).document, [
    `${OLD} Active`,
    `${NEW} 10.0.4.20 Pending`,
  ]);
  const same = { staticIPs: [{ address: NEW }] };
  assert.deepEqual(exchange(same, [shared, slot], proxies, list([NEW])).document, [`${NEW} 10.0.4.20 Active`]);
});

test("deletes an old slot that blocks the node of a new one", () => {
  const stuck = (of: string) => proxy(of, { unschedulable: true });
  const back = exchange(external, [shared, slot], [stuck(SHARED), proxy(slotId(NEW))], list([NEW]));
  assert.deepEqual(back.remove, []);
  const there = exchange(slots, [shared, slot], [stuck(slotId(NEW)), proxy(SHARED)], list([OLD]));
  assert.deepEqual(there.remove, []);
  const other = deployment(slotId("203.0.113.21"), { [ANNOTATION.address]: "203.0.113.21" });
  const slotsOnly = exchange(slots, [slot, other], [stuck(slotId(NEW)), proxy(slotId("203.0.113.21"))], list([NEW]));
  assert.deepEqual(slotsOnly.remove, [`d-${slotId("203.0.113.21")}`]);
});

test("keeps the slots until the shared Deployment is rolled out", () => {
  const open = { hash: "sha256:1", policyError: null, ready: true, sources: [], proofs: [] };
  const proxies = [{ ...proxy(SHARED), status: open }, proxy(slotId(NEW))];
  const fleet = (status: NonNullable<Deployment["status"]>): Deployment => ({
    ...shared,
    metadata: { ...shared.metadata, name: childName.fleet("webhooks"), generation: 2 },
    spec: { ...shared.spec!, replicas: 2 },
    status,
  });
  const all = { replicas: 2, updatedReplicas: 2, availableReplicas: 2 };
  const gone = (status: NonNullable<Deployment["status"]>) =>
    exchange(external, [fleet(status), slot], proxies, list([NEW])).remove;
  assert.deepEqual(gone({}), []);
  assert.deepEqual(gone({ ...all, observedGeneration: 1 }), []);
  assert.deepEqual(gone({ ...all, observedGeneration: 2, availableReplicas: 1 }), []);
  assert.deepEqual(gone({ ...all, observedGeneration: 2, replicas: 3 }), []);
  assert.deepEqual(gone({ ...all, observedGeneration: 2 }), [slot.metadata.name]);
});

test("pods that have ended, such as evicted ones, do not count", () => {
  const pod = (name: string, phase: string) =>
    ({ apiVersion: "v1", kind: "Pod", metadata: { name, namespace: "convoy", uid: name }, status: { phase } }) as Pod;
  const pods = [pod("evicted", "Failed"), pod("runs", "Running"), pod("waits", "Pending"), pod("done", "Succeeded")];
  const cacheOf = (objects: unknown[]) => ({ get: () => undefined, by: () => objects, list: () => objects });
  const caches = new Proxy({} as Caches, { get: (_, kind) => cacheOf(kind === "proxies" ? [...pods] : []) });
  const scraper = new StatusScraper({ fetch: () => Promise.reject(new Error()), intervalMs: 1, onChange: () => {} });
  const policy = { metadata: { name: "webhooks", namespace: "convoy", uid: "1" }, spec: {} } as unknown as EgressPolicy;
  const around = {
    ...AROUND,
    ...{ scraper, grants: parseGrants('{"grants":[]}'), blockedCIDRs: [], now: 0 },
    records: { read: () => ({ spec: undefined, published: undefined }) },
    claims: new Claims(),
    interned: (one: EgressPolicy) => one,
    acceptedSpecOf: () => undefined,
  };
  assert.deepEqual(
    gather(caches, policy, around).proxies.map(({ pod }) => pod.metadata.name),
    ["runs", "waits"],
  );
});
