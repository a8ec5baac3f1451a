import assert from "node:assert/strict";
import { test } from "node:test";
import type { EgressPolicySpec } from "../../operator/api/egresspolicy.ts";
import type { ProxyFacts } from "../../operator/fleet/proxy-status.ts";
import { addedWithoutNotice, publish, stillUsed } from "../../operator/reconcile/decision/published-ips.ts";
import type { PublishedList } from "../../operator/reconcile/objects/published/list.ts";
import { A, at, B, C, NOW, pending, podOf, retiring, settled, specOf } from "./worlds.ts";

/** The published list: addresses that receivers have to accept. */

const V6 = "2001:db8::1";
const HASH = "sha256:2";
const HASHES = { desired: HASH, stored: HASH };
const list = (ipv4: string[], more: Partial<PublishedList> = {}): PublishedList => ({
  ...{ ipv4, ipv6: [], cidrs: [], pending: [], retiring: [] },
  updatedAt: at(NOW),
  changes: [],
  ...more,
});
function running(): ProxyFacts {
  const [fleet] = settled(specOf("External", [A])).deployments.values();
  return podOf(fleet!);
}
/** A running proxy on the pod network that has the newest policy, except for these facts. */
function proxyWith({ pod, ...facts }: Partial<ProxyFacts>): ProxyFacts {
  const proxy = running();
  return {
    ...proxy,
    status: { ...proxy.status!, hash: HASH },
    ...facts,
    pod: { ...proxy.pod, spec: { hostNetwork: false }, ...pod },
  };
}
const used = (proxies: ProxyFacts[], before = list([A, B])) =>
  stillUsed(specOf("External", [B]), before, proxies, HASHES);
const stillUsedWith = (stored: string | undefined, proxies: ProxyFacts[]) =>
  stillUsed(specOf("External", [B]), list([A, B]), proxies, { desired: HASH, stored });

test("an address leaves the list after every running proxy has the new policy", () => {
  const { status } = running();
  assert.deepEqual(used([]), []);
  assert.deepEqual(used([proxyWith({})]), []);
  assert.deepEqual(used([proxyWith({}), proxyWith({})]), []);
  assert.deepEqual(used([proxyWith({}), proxyWith({ status })]), [A]);
  assert.deepEqual(used([proxyWith({ status: undefined })]), [A]);
  assert.deepEqual(used([proxyWith({}), proxyWith({ status: undefined, error: "no answer" })]), [A]);
  const { pod } = proxyWith({});
  const waits = { ...pod, status: { phase: "Pending" } };
  assert.deepEqual(used([proxyWith({ status: undefined, pod: waits, node: undefined })]), []);
  const { status: _, ...created } = pod;
  assert.deepEqual(used([{ ...proxyWith({ status: undefined, node: undefined }), pod: created }]), []);
  assert.deepEqual(stillUsed(specOf("External", [B]), undefined, [proxyWith({ status })], HASHES), []);
});

test("a proxy that the kubelet starts keeps a removed address in the list", () => {
  const { pod } = proxyWith({});
  const starting = { ...pod, status: { phase: "Pending" } };
  assert.deepEqual(used([proxyWith({ pod: starting, node: "a", status: undefined })]), [A]);
});

test("an answer that is older than the last write keeps a removed address in the list", () => {
  assert.deepEqual(used([proxyWith({}), proxyWith({ outdated: true })]), [A]);
});

test("another stored document keeps a removed address in the list", () => {
  assert.deepEqual(stillUsedWith("sha256:1", [proxyWith({})]), [A]);
  assert.deepEqual(stillUsedWith("sha256:1", []), [A], "a proxy may start with it");
  assert.deepEqual(stillUsedWith(undefined, [proxyWith({})]), [], "there is no document that a proxy could load");
});

test("an address stays in the list while a pod has it", () => {
  const { pod } = proxyWith({});
  assert.deepEqual(used([proxyWith({ ips: [A] }), proxyWith({ ips: [C] })]), [A]);
  assert.deepEqual(used([proxyWith({ ips: [C] })]), []);
  // On the node network, the pod has all addresses of its node.
  assert.deepEqual(used([proxyWith({ ips: [A], pod: { ...pod, spec: { hostNetwork: true } } })]), []);
  const { spec: _, ...bare } = pod;
  assert.deepEqual(used([{ ...proxyWith({ ips: [A] }), pod: bare }]), [A]);
});

test("a Pending address was never used", () => {
  assert.deepEqual(used([proxyWith({ status: undefined })], list([A, B], { pending: [A] })), []);
});

test("finds Active addresses that were not announced", () => {
  const found = (ips: Parameters<typeof specOf>[1], before: PublishedList | undefined) =>
    addedWithoutNotice(specOf("External", ips), before);
  assert.deepEqual(found([A, B], list([A])), [B]);
  assert.deepEqual(found([A, "2001:DB8::1", "2001:db8::2"], list([A], { ipv6: [V6] })), ["2001:db8::2"]);
  assert.deepEqual(found([A, B], list([A, B], { pending: [B] })), []);
  assert.deepEqual(found([A, pending(B), retiring(C)], list([])), [A]);
  // The first list of a policy announces all of its addresses.
  assert.deepEqual(found([A, B], undefined), []);
  assert.deepEqual(addedWithoutNotice({ staticIPs: [{ address: A }] } as EgressPolicySpec, list([])), [A]);
  assert.deepEqual(addedWithoutNotice({} as EgressPolicySpec, list([])), []);
});

test("the time of the list changes only with its content", () => {
  const spec = specOf("External", [A, pending(B), retiring(C), V6]);
  const first = publish(spec, [], undefined, at(NOW));
  assert.deepEqual(first, {
    all: [A, B, C, V6],
    json: {
      ipv4: [A, B, C],
      ipv6: [V6],
      cidrs: [`${A}/32`, `${B}/32`, `${C}/32`, `${V6}/128`],
      pending: [B],
      retiring: [C],
      updatedAt: at(NOW),
      changes: [
        { address: A, state: "Active", since: at(NOW) },
        { address: B, state: "Pending", since: at(NOW) },
        { address: C, state: "Retiring", since: at(NOW) },
        { address: V6, state: "Active", since: at(NOW) },
      ],
    },
  });
  const later = at(NOW + 1000);
  assert.deepEqual(publish(spec, [], first.json, later), first);
  assert.equal(publish(specOf("External", [A]), [], first.json, later).json.updatedAt, later);
});
