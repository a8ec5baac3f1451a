import assert from "node:assert/strict";
import { test } from "node:test";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import type { Caches } from "../../operator/reconcile/facts/caches.ts";
import { Claims } from "../../operator/reconcile/facts/claims.ts";
import { gather } from "../../operator/reconcile/facts/gather.ts";
import { StatusScraper } from "../../operator/reconcile/facts/status-scraper.ts";
import { AROUND } from "./worlds.ts";

const namespace = {
  apiVersion: "v1",
  kind: "Namespace",
  metadata: { name: "convoy", deletionTimestamp: "2026-01-01T10:00:05Z" },
  status: { phase: "Terminating" },
};

/** Whether the namespace of a policy counts as terminating. */
function terminates(creationTimestamp: string): boolean {
  const caches = new Proxy({} as Caches, {
    get: (_, kind) => ({ get: () => (kind === "namespaces" ? namespace : undefined), by: () => [], list: () => [] }),
  });
  const metadata = { name: "webhooks", namespace: "convoy", uid: "1", creationTimestamp };
  const scraper = new StatusScraper({ fetch: () => Promise.reject(new Error()), intervalMs: 1, onChange: () => {} });
  const memory = { claims: new Claims(), interned: (policy: EgressPolicy) => policy, acceptedSpecOf: () => undefined };
  const records = { read: () => ({ spec: undefined, published: undefined }) };
  const around = { ...AROUND, scraper, records, grants: [], ...memory, blockedCIDRs: [], now: 0 };
  return gather(caches, { metadata, spec: {} } as unknown as EgressPolicy, around).namespaceTerminating;
}

test("a policy in a terminating namespace is older than its deletion", () => {
  assert.equal(terminates("2026-01-01T10:00:00Z"), true);
  assert.equal(terminates("2026-01-01T10:00:05Z"), true);
});

test("a cached namespace that ended before the policy was created is outdated", () => {
  assert.equal(terminates("2026-01-01T10:00:06Z"), false);
});
