import assert from "node:assert/strict";
import { test } from "node:test";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import type { ProxyFacts, ProxyStatus } from "../../operator/fleet/proxy-status.ts";
import { SHARED, slotId, slotsOf } from "../../operator/fleet/slots.ts";
import { external } from "../../operator/providers/external.ts";
import { kubeVIP } from "../../operator/providers/kubevip.ts";
import { nodeAddress } from "../../operator/providers/nodeaddress.ts";
import type { Provider } from "../../operator/providers/provider.ts";
import { type LabelPatches, labelPatches } from "../../operator/reconcile/decision/pod-labels.ts";
import { servingOf } from "../../operator/reconcile/decision/serving.ts";
import type { Facts } from "../../operator/reconcile/facts/facts.ts";

/** Proxies that get new requests, by the labels of their pods. */

const VERIFIED = "egress.outrider.dev/verified";
const PHASE = "egress.outrider.dev/phase";
const [OLD, NEW] = ["203.0.113.20", "203.0.113.21"] as const;
const spec = { staticIPs: [{ address: OLD, phase: "Retiring" }, { address: NEW }] } as EgressPolicy["spec"];

const status = (assigned: boolean): ProxyStatus => ({
  hash: "sha256:1",
  policyError: null,
  ready: assigned,
  sources: [{ address: "any", assigned }],
  proofs: [],
});
const proxy = (address: string, labels: Record<string, string>, rest: Partial<ProxyFacts>): ProxyFacts => ({
  pod: { apiVersion: "v1", kind: "Pod", metadata: { name: address, labels } },
  slot: slotId(address),
  node: "a",
  ips: [],
  ready: true,
  terminating: false,
  status: undefined,
  error: undefined,
  polled: true,
  outdated: false,
  ...rest,
});

/** Patched labels by pod, of all kinds unless one is named. `selector`: that of the stored client Service. */
function patches(
  proxies: readonly ProxyFacts[],
  provider: Provider,
  spec: EgressPolicy["spec"],
  more: { selector?: Record<string, string>; changing?: string[]; kind?: keyof LabelPatches } = {},
) {
  const service = {
    apiVersion: "v1",
    kind: "Service",
    metadata: { name: "p-egress" },
    spec: { selector: more.selector },
  };
  const services = new Map(more.selector === undefined ? [] : [["p-egress", service]]);
  const facts = { policy: { metadata: { name: "p" } }, children: { services }, proxies } as unknown as Facts;
  const changing = new Set((more.changing ?? []).map(slotId));
  const given = labelPatches(proxies, { spec, provider, slots: slotsOf(spec) }, servingOf(facts, spec), changing);
  const { correct, retire, clean } = given;
  const all = more.kind === undefined ? [...correct, ...retire, ...clean] : given[more.kind];
  return Object.fromEntries(all.map(({ pod, labels }) => [pod.metadata.name, labels]));
}

test("a retiring slot gets new requests only if no other slot serves", () => {
  const old = proxy(OLD, { [PHASE]: "Active" }, { status: status(true) });
  const fresh = { [PHASE]: "Active" };
  const serving = proxy(NEW, fresh, { status: status(true) });
  const unbound = proxy(NEW, fresh, { status: status(false), ready: false });
  assert.deepEqual(patches([old, serving], nodeAddress, spec), { [OLD]: { [PHASE]: "Retiring" } });
  assert.deepEqual(patches([old, unbound], nodeAddress, spec), {});
  assert.deepEqual(patches([old], nodeAddress, spec), {});
  const retired = proxy(OLD, { [PHASE]: "Retiring" }, { status: status(true) });
  assert.deepEqual(patches([retired, unbound], nodeAddress, spec), { [OLD]: { [PHASE]: "Active" } });
  const bound = proxy(NEW, { [VERIFIED]: "true" }, { status: status(true) });
  assert.deepEqual(patches([proxy(OLD, { [VERIFIED]: "true" }, { status: status(true) }), bound], kubeVIP, spec), {
    [OLD]: { [VERIFIED]: null },
  });
});

test("a starting operator changes no labels before its first polls", () => {
  const retired = proxy(OLD, { [PHASE]: "Retiring" }, {});
  assert.deepEqual(patches([retired, proxy(NEW, { [PHASE]: "Active" }, {})], nodeAddress, spec), {});
  assert.deepEqual(patches([proxy(OLD, {}, {}), proxy(NEW, { [VERIFIED]: "true" }, {})], kubeVIP, spec), {});
});

test("a retiring proxy keeps its place until another one was polled", () => {
  const old = proxy(OLD, { [PHASE]: "Active" }, { status: status(true) });
  const unknown = proxy(NEW, { [PHASE]: "Active" }, { polled: false });
  assert.deepEqual(patches([old, unknown], nodeAddress, spec), {});
  assert.deepEqual(patches([old, { ...unknown, polled: true }], nodeAddress, spec), {});
  const answers = { ...unknown, polled: true, status: status(true) };
  assert.deepEqual(patches([old, answers], nodeAddress, spec, { kind: "retire" }), { [OLD]: { [PHASE]: "Retiring" } });
});

test("a retiring proxy serves while the only other one restarts", () => {
  const old = proxy(OLD, { [PHASE]: "Retiring" }, { status: status(true) });
  const only = proxy(NEW, { [PHASE]: "Active" }, { status: status(true) });
  assert.deepEqual(patches([old, only], nodeAddress, spec, { changing: [NEW] }), { [OLD]: { [PHASE]: "Active" } });
  assert.deepEqual(patches([old, only], nodeAddress, spec), {});
});

test("a retiring proxy stays out although all other ones change", () => {
  const third = "203.0.113.22";
  const three = { staticIPs: [...spec.staticIPs!, { address: third }] } as EgressPolicy["spec"];
  const serves = (address: string) => proxy(address, { [PHASE]: "Active" }, { status: status(true) });
  const old = proxy(OLD, { [PHASE]: "Retiring" }, { status: status(true) });
  const changing = [NEW, third];
  assert.deepEqual(patches([old, serves(NEW), serves(third)], nodeAddress, three, { changing }), {});
});

test("a retired proxy stays out until another one was polled", () => {
  const old = proxy(OLD, { [PHASE]: "Retiring" }, { status: status(true) });
  const unknown = proxy(NEW, { [PHASE]: "Active" }, { polled: false });
  assert.deepEqual(patches([old, unknown], nodeAddress, spec), {});
});

test("a retiring proxy that is closed leaves the Service before other ones were polled", () => {
  const old = proxy(OLD, { [VERIFIED]: "true" }, { status: status(false) });
  const unknown = proxy(NEW, { [VERIFIED]: "true" }, { polled: false });
  assert.deepEqual(patches([old, unknown], kubeVIP, spec), { [OLD]: { [VERIFIED]: null } });
});

test("a label that a retiring proxy gains is no disturbance", () => {
  const old = proxy(OLD, { [VERIFIED]: "true" }, { status: status(true) });
  const selector = { [VERIFIED]: "true" };
  assert.deepEqual(patches([old], nodeAddress, spec, { selector, kind: "correct" }), { [OLD]: { [PHASE]: "Active" } });
  assert.deepEqual(patches([old], nodeAddress, spec, { selector, kind: "retire" }), {});
});

test("a new proxy gets its label when it is open, beside serving ones", () => {
  const active = { staticIPs: [{ address: OLD }, { address: NEW }] } as EgressPolicy["spec"];
  const serving = proxy(OLD, { [VERIFIED]: "true" }, { status: status(true) });
  const { labels: _, ...metadata } = proxy(NEW, {}, {}).pod.metadata;
  const pod = { ...serving.pod, metadata, spec: { containers: [{}, { args: ["proxy", "--readiness=policy"] }] } };
  const fresh = (open: boolean) => proxy(NEW, {}, { status: status(open), pod });
  const given = { selector: { [VERIFIED]: "true" } };
  assert.deepEqual(patches([serving, fresh(true)], kubeVIP, active, given), { [NEW]: { [VERIFIED]: "true" } });
  assert.deepEqual(patches([serving, fresh(false)], kubeVIP, active, given), {});
  assert.deepEqual(patches([fresh(true)], nodeAddress, active), { [NEW]: { [PHASE]: "Active" } });
  assert.deepEqual(patches([fresh(false)], nodeAddress, active), {});
  const shared = { ...fresh(true), slot: SHARED };
  assert.deepEqual(patches([serving, shared], kubeVIP, active, given), { [NEW]: { [VERIFIED]: "true" } });
});

test("a retired slot stays out of service after the spec has lost it", () => {
  const active = { ...spec, staticIPs: [{ address: NEW }] } as EgressPolicy["spec"];
  const serving = proxy(NEW, { [PHASE]: "Active", [VERIFIED]: "true" }, { status: status(true) });
  const old = proxy(OLD, { [PHASE]: "Retiring" }, { status: status(true) });
  assert.deepEqual(
    patches([old, serving], nodeAddress, active, { selector: { [PHASE]: "Active" }, kind: "correct" }),
    {},
  );
  assert.deepEqual(patches([old, serving], kubeVIP, active, { selector: { [VERIFIED]: "true" }, kind: "correct" }), {});
  const down = { ...serving, ready: false };
  assert.deepEqual(patches([old, down], nodeAddress, active, { selector: { [PHASE]: "Active" }, kind: "correct" }), {
    [OLD]: { [PHASE]: "Active" },
  });
});

test("a label is kept while the stored Service selects by it", () => {
  const active = { ...spec, staticIPs: [{ address: NEW }] } as EgressPolicy["spec"];
  const old = proxy(NEW, { [VERIFIED]: "true" }, { status: status(true) });
  const selector = { [VERIFIED]: "true" };
  assert.deepEqual(patches([old], external, active, { selector }), {});
  assert.deepEqual(patches([old], nodeAddress, active, { selector }), { [NEW]: { [PHASE]: "Active" } });
  const unlabelled = proxy(NEW, {}, { status: status(true) });
  assert.deepEqual(patches([unlabelled], external, active, { selector }), { [NEW]: { [VERIFIED]: "true" } });
});

test("a proxy whose readiness proves no address gets a phase when it is open", () => {
  const active = { ...spec, staticIPs: [{ address: NEW }] } as EgressPolicy["spec"];
  const pod = (open: boolean | undefined): ProxyFacts => {
    const found = proxy(NEW, {}, { status: open === undefined ? undefined : status(open) });
    return { ...found, pod: { ...found.pod, spec: { containers: [{ args: ["proxy", "--readiness=policy"] }] } } };
  };
  assert.deepEqual(patches([pod(true)], nodeAddress, active), { [NEW]: { [PHASE]: "Active" } });
  assert.deepEqual(patches([pod(false)], nodeAddress, active), {});
  assert.deepEqual(patches([pod(undefined)], nodeAddress, active), {});
});

test("removes labels of another provider", () => {
  const active = { ...spec, staticIPs: [{ address: NEW }] } as EgressPolicy["spec"];
  const before = proxy(NEW, { [VERIFIED]: "true" }, { status: status(true) });
  assert.deepEqual(patches([before], nodeAddress, active, { kind: "correct" }), { [NEW]: { [PHASE]: "Active" } });
  assert.deepEqual(patches([before], nodeAddress, active, { kind: "clean" }), { [NEW]: { [VERIFIED]: null } });
  assert.deepEqual(patches([before], external, active), { [NEW]: { [VERIFIED]: null } });
  assert.deepEqual(patches([{ ...before, terminating: true }], external, active), {});
});
