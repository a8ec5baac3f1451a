import assert from "node:assert/strict";
import { test } from "node:test";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import type { ProxyFacts, ProxyStatus } from "../../operator/fleet/proxy-status.ts";
import { slotId, slotsOf } from "../../operator/fleet/slots.ts";
import { external } from "../../operator/providers/external.ts";
import { kubeVIP } from "../../operator/providers/kubevip.ts";
import { nodeAddress } from "../../operator/providers/nodeaddress.ts";
import type { Provider } from "../../operator/providers/provider.ts";
import { labelPatches } from "../../operator/reconcile/decision/pod-labels.ts";

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
  ...rest,
});
const patches = (
  proxies: readonly ProxyFacts[],
  provider: Provider,
  spec: EgressPolicy["spec"],
  keys?: Parameters<typeof labelPatches>[2],
) => {
  const given = labelPatches(proxies, { spec, provider, slots: slotsOf(spec) }, keys);
  return Object.fromEntries(given.map(({ pod, labels }) => [pod.metadata.name, labels]));
};

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

test("removes labels of another provider", () => {
  const active = { ...spec, staticIPs: [{ address: NEW }] } as EgressPolicy["spec"];
  const before = proxy(NEW, { [VERIFIED]: "true" }, { status: status(true) });
  assert.deepEqual(patches([before], nodeAddress, active, [PHASE]), { [NEW]: { [PHASE]: "Active" } });
  assert.deepEqual(patches([before], nodeAddress, active, [VERIFIED]), { [NEW]: { [VERIFIED]: null } });
  assert.deepEqual(patches([before], external, active), { [NEW]: { [VERIFIED]: null } });
  assert.deepEqual(patches([{ ...before, terminating: true }], external, active), {});
});
