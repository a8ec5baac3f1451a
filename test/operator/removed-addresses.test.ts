import assert from "node:assert/strict";
import { test } from "node:test";
import type { EgressPolicySpec } from "../../operator/api/egresspolicy.ts";
import type { ProxyFacts } from "../../operator/fleet/proxy-status.ts";
import { stillUsed } from "../../operator/reconcile/decision/published-ips.ts";

/** Published addresses that the spec no longer has, until every running proxy has confirmed the document. */

const [OLD, NEW] = ["203.0.113.10", "203.0.113.20"];
const [BEFORE, NOW] = ["sha256:1", "sha256:2"];
const spec = { staticIPs: [{ address: NEW }] } as EgressPolicySpec;
const published = { ipv4: [OLD, NEW], ipv6: [], cidrs: [], pending: [], retiring: [], updatedAt: "" };

const proxy = (more: Partial<ProxyFacts> = {}): ProxyFacts => ({
  pod: { apiVersion: "v1", kind: "Pod", metadata: { name: "p" }, status: { phase: "Running" } },
  slot: "shared",
  node: "a",
  ips: [],
  ready: true,
  terminating: false,
  status: { hash: NOW, policyError: null, ready: true, sources: [], proofs: [] },
  error: undefined,
  polled: true,
  outdated: false,
  ...more,
});
const kept = (proxies: ProxyFacts[], stored: string | undefined = NOW) =>
  stillUsed(spec, published, proxies, { desired: NOW, stored });

test("a removed address leaves the list when every proxy has confirmed the document", () => {
  assert.deepEqual(kept([proxy(), proxy()]), []);
  assert.deepEqual(kept([]), []);
  const waiting = { ...proxy().pod, status: { phase: "Pending" } };
  assert.deepEqual(kept([proxy({ pod: waiting, node: undefined, status: undefined })]), []);
});

test("a proxy that the kubelet starts keeps a removed address in the list", () => {
  const starting = { ...proxy().pod, status: { phase: "Pending" } };
  assert.deepEqual(kept([proxy({ pod: starting, node: "a", status: undefined })]), [OLD]);
});

test("a proxy with another document, or without an answer, keeps a removed address in the list", () => {
  assert.deepEqual(kept([proxy(), proxy({ status: { ...proxy().status!, hash: BEFORE } })]), [OLD]);
  assert.deepEqual(kept([proxy(), proxy({ status: undefined, error: "no answer" })]), [OLD]);
});

test("an answer that is older than the last write keeps a removed address in the list", () => {
  assert.deepEqual(kept([proxy(), proxy({ outdated: true })]), [OLD]);
});

test("another stored document keeps a removed address in the list", () => {
  assert.deepEqual(kept([proxy()], BEFORE), [OLD]);
  assert.deepEqual(kept([], BEFORE), [OLD], "a proxy may start with it");
  assert.deepEqual(
    stillUsed(spec, published, [proxy()], { desired: NOW, stored: undefined }),
    [],
    "there is no document that a proxy could load",
  );
});
