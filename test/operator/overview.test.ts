import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parse, stringify } from "yaml";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import type { Pod } from "../../operator/api/objects.ts";
import type { ProxyStatus } from "../../operator/fleet/proxy-status.ts";
import { slotId } from "../../operator/fleet/slots.ts";
import { ConditionHistory, MAX_CHANGES } from "../../operator/overview/history.ts";
import { type EventObject, type FleetObjects, SPARE_HINT, viewOf } from "../../operator/overview/overview.ts";
import { detailOf, listOf } from "../../operator/overview/page-data.ts";
import { parsePublished } from "../../operator/reconcile/objects/published/list.ts";
import { withDefaults } from "../harness/defaults.ts";

/**
 * Overviews of policies. The golden files are those of statuses that golden.test.ts computes: `UPDATE=1` writes them after
 * that test.
 */

const folder = new URL(".", import.meta.url).pathname;
const NOTHING = { proxies: undefined, pods: undefined, events: undefined, namespaceLabels: undefined };

interface Input {
  policy: EgressPolicy;
  kept?: EgressPolicy["spec"];
  published?: object;
  proxies?: { name: string; address?: string; node?: string; ready?: boolean; status?: Partial<ProxyStatus> }[];
  asking?: Pod["metadata"][];
}

/** The objects of a golden input, with the status of its result. */
function objectsOf(name: string): FleetObjects {
  const read = (kind: string) => parse(readFileSync(join(folder, `golden/${name}.${kind}.yaml`), "utf8"));
  const input = read("in") as Input;
  const { status } = read("out") as Pick<EgressPolicy, "status">;
  const { metadata, spec } = input.policy;
  const labels = { "egress.outrider.dev/fleet": metadata.name };
  const wanted = status?.summary?.policyHash ?? null;
  const proxies = (input.proxies ?? []).map((entry): { pod: Pod; status: ProxyStatus | undefined } => {
    const slot = entry.address === undefined ? {} : { "egress.outrider.dev/slot": slotId(entry.address) };
    const { status } = entry;
    const pod = {
      ...{ apiVersion: "v1", kind: "Pod" },
      metadata: { name: entry.name, namespace: metadata.namespace!, labels: { ...labels, ...slot } },
      spec: { ...(entry.node && { nodeName: entry.node }) },
      status: { phase: "Running", conditions: [{ type: "Ready", status: entry.ready === false ? "False" : "True" }] },
    };
    const full = { version: "0.1.0", policyError: null, ready: true, sources: [], proofs: [], hash: null, ...status };
    return { pod, status: status && { ...full, hash: full.hash === "wanted" ? wanted : full.hash } };
  });
  return {
    policy: { ...input.policy, spec: withDefaults(spec), ...(status && { status }) },
    proxies: proxies.map(({ pod }) => pod),
    answerOf: (pod) => ({ status: proxies.find((one) => one.pod === pod)?.status }),
    pods: (input.asking ?? []).map((metadata) => ({ metadata })),
    namespaceLabels: undefined,
    events: [],
    ...(input.kept && { inForce: withDefaults(input.kept) }),
    ...(input.published && { published: parsePublished(JSON.stringify(input.published)) }),
  };
}

for (const name of [
  "external",
  "invalid",
  "node-address-rotation",
  "node-address-pending",
  "scaled-to-zero",
  "clients",
]) {
  test(`the overview of ${name} is the expected one`, () => {
    const file = join(folder, "overview/golden", `${name}.yaml`);
    const found = JSON.parse(JSON.stringify(detailOf(objectsOf(name), []))) as object;
    if (process.env.UPDATE !== undefined) {
      mkdirSync(join(folder, "overview/golden"), { recursive: true });
      writeFileSync(file, stringify(found, { lineWidth: 0 }));
    }
    assert.deepEqual(found, parse(readFileSync(file, "utf8")));
  });
}

const condition = (type: string, status: string, reason: string, at: string) => ({
  ...{ type, status, reason, message: `${reason}.`, observedGeneration: 1, lastTransitionTime: at },
});

/** A policy with these conditions, and a name for each uid. */
function policyWith(conditions: object[], uid = "u1"): EgressPolicy {
  return {
    ...{ apiVersion: "egress.outrider.dev/v1alpha1", kind: "EgressPolicy" },
    metadata: { name: `p-${uid}`, namespace: "convoy", uid, generation: 1 },
    spec: withDefaults({} as EgressPolicy["spec"]),
    status: { observedGeneration: 1, conditions },
  } as unknown as EgressPolicy;
}

const T0 = "2026-03-01T12:00:00Z";
const T1 = "2026-03-01T12:05:00Z";
const T2 = "2026-03-01T12:06:00.000Z";

test("the history has changes of status and reason, with their times", () => {
  const history = new ConditionHistory();
  const first = policyWith([condition("Accepted", "True", "Accepted", T0)]);
  history.observe(first, 0);
  assert.deepEqual(history.of(first), []);
  history.observe(policyWith([condition("Accepted", "False", "Invalid", T1)]), Date.parse(T2));
  // The status is the same, so its time is that of the observation.
  history.observe(policyWith([condition("Accepted", "False", "TooLarge", T1)]), Date.parse(T2));
  history.observe(policyWith([condition("Accepted", "False", "TooLarge", T1)]), Date.parse(T2) + 1);
  assert.deepEqual(history.of(first), [
    { at: T1, type: "Accepted", before: "True", status: "False", reason: "Invalid", message: "Invalid." },
    { at: T2, type: "Accepted", before: "False", status: "False", reason: "TooLarge", message: "TooLarge." },
  ]);
  history.forget(first);
  assert.deepEqual(history.of(first), []);
});

test("the history of a policy and of all policies is limited", () => {
  const history = new ConditionHistory(2 * MAX_CHANGES);
  const change = (uid: string, times: number) => {
    for (let i = 0; i <= times; i++) history.observe(policyWith([condition("Ready", "True", `R${i}`, T0)], uid), i);
  };
  change("a", MAX_CHANGES + 7);
  const of = (uid: string) => history.of(policyWith([], uid));
  assert.equal(of("a").length, MAX_CHANGES);
  assert.equal(of("a").at(-1)!.reason, `R${MAX_CHANGES + 7}`);
  change("b", MAX_CHANGES);
  change("c", 1);
  assert.deepEqual(
    ["a", "b", "c"].map((uid) => of(uid).length),
    [0, MAX_CHANGES, 1],
  );
  // Forgotten changes make room.
  history.forget(policyWith([], "b"));
  change("d", MAX_CHANGES);
  assert.deepEqual(
    ["c", "d"].map((uid) => of(uid).length),
    [1, MAX_CHANGES],
  );
});

const event = (name: string, message: string, at: string, reason = "Invalid"): EventObject => ({
  ...{ apiVersion: "v1", kind: "Event", metadata: { name, namespace: "convoy" } },
  involvedObject: { kind: "EgressPolicy", name: "p-u1", namespace: "convoy", uid: "u1" },
  ...{ type: "Warning", reason, message, count: 1, lastTimestamp: at },
});

test("the timeline joins changes, other events and published addresses", () => {
  const policy = policyWith([condition("Ready", "True", "Ready", T0), condition("Accepted", "False", "Invalid", T1)]);
  const published = parsePublished(
    JSON.stringify({
      ...{ ipv4: ["203.0.113.1"], ipv6: [], cidrs: [], pending: [], retiring: [], updatedAt: T0 },
      changes: [{ address: "203.0.113.1", state: "Active", since: "2026-03-01T11:00:00Z" }],
    }),
  );
  const events = [event("a", "Accepted: Invalid.", T1), event("b", "a static IP is in use", T2, "AddedWithoutNotice")];
  const history = [
    { at: T1, type: "Accepted", before: "True", status: "False", reason: "Invalid", message: "Invalid." },
  ];
  const { timeline } = detailOf({ ...NOTHING, policy, events, published }, history);
  assert.deepEqual(
    timeline.map(({ kind, subject, state, before }) => [kind, subject, state, before]),
    [
      ["event", "Warning", "1", null],
      ["condition", "Accepted", "False", "True"],
      ["condition", "Ready", "True", null],
      ["address", "203.0.113.1", "Active", null],
    ],
  );
});

test("without a history the timeline has the last change of each condition", () => {
  const policy = policyWith([condition("Ready", "False", "Invalid", T1)]);
  const { timeline, events } = detailOf({ ...NOTHING, policy }, []);
  assert.equal(events, null);
  assert.deepEqual(
    timeline.map(({ at, before }) => [at, before]),
    [[T1, null]],
  );
});

test("lists and texts of an overview are limited, and say how many are missing", () => {
  const message = "x".repeat(30_000);
  const policy = policyWith([{ ...condition("Ready", "False", "Missed", T0), message }]);
  const pods = Array.from({ length: 500 }, (_, i) => ({
    metadata: { name: `pod-${i}`, namespace: "convoy", labels: { "egress.outrider.dev/policy": "p-u1" } },
  }));
  const detail = detailOf({ ...NOTHING, policy, pods }, []);
  assert.equal(detail.pods!.length, 200);
  assert.deepEqual([detail.left.pods, detail.coveredPods], [300, 0]);
  assert.equal(detail.conditions[0]!.message.length, 2000);
  const list = listOf(
    Array.from({ length: 1100 }, (_, i) => ({ ...policy, metadata: { ...policy.metadata, name: `p${i}` } })),
  );
  assert.deepEqual([list.total, list.policies.length], [1100, 1000]);
  assert.equal(list.policies[0]!.message.length, 300);
});

test("while the newest spec is rejected, the overview is that of the spec in force", () => {
  const policy = policyWith([condition("Accepted", "False", "Invalid", T0)]);
  const staticIPs = [{ address: "203.0.113.1", phase: "Active" as const }];
  const inForce = { ...policy.spec, mode: "Report" as const, staticIPs };
  assert.equal(viewOf({ ...NOTHING, policy }).inForce, "none");
  const stored = { ...policy, status: { ...policy.status, summary: { policyHash: "sha256:1" } } };
  const view = viewOf({ ...NOTHING, policy: stored, inForce });
  assert.deepEqual([view.inForce, view.mode, view.hints], ["former", "Report", [SPARE_HINT]]);
  assert.deepEqual(
    view.addresses.map(({ address, phase }) => [address, phase]),
    [["203.0.113.1", "Active"]],
  );
});
