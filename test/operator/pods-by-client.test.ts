import assert from "node:assert/strict";
import { test } from "node:test";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import { ANNOTATION, LABEL, SERVICE_PORT } from "../../operator/api/names.ts";
import { markerOf } from "../../operator/injection/variables.ts";
import type { RequestingPod } from "../../operator/reconcile/facts/facts.ts";
import { podsByClient } from "../../operator/reconcile/status/clients.ts";
import { judgeWorkloads } from "../../operator/reconcile/status/workloads.ts";
import { withDefaults } from "../harness/defaults.ts";

/** Pods by the client that they name. */

const HOST = "webhooks-egress.convoy.svc.cluster.local";
const policyOf = (clients: object[] | undefined): EgressPolicy => ({
  apiVersion: "egress.outrider.dev/v1alpha1",
  kind: "EgressPolicy",
  metadata: { name: "webhooks", namespace: "convoy", uid: "1" },
  spec: withDefaults({
    authentication: { mode: "Basic", secretRef: { name: "passwords" } },
    ...(clients && { clients }),
  }),
});

/** Injected pods with the current settings, each with the client that it names. */
function injected(policy: EgressPolicy, names: readonly (string | undefined)[]): RequestingPod[] {
  const marker = markerOf({ policy, host: HOST, port: SERVICE_PORT })!;
  return names.map((name, i) => ({
    pod: {
      metadata: {
        name: `pod-${i}`,
        labels: { [LABEL.policy]: "webhooks" },
        annotations: { [ANNOTATION.injected]: marker, ...(name === undefined ? {} : { [ANNOTATION.client]: name }) },
      },
    },
    namespaceLabels: undefined,
  }));
}

const judge = (policy: EgressPolicy, requesting: RequestingPod[]) => {
  const { counts, strangers } = podsByClient({ policy, requesting }, policy.spec);
  return { counts, ...judgeWorkloads({ policy, requesting }, policy.spec, HOST, strangers).finding };
};

test("counts the pods of each client in the order of the spec", () => {
  const policy = policyOf([{ name: "search" }, { name: "default" }, { name: "__proto__" }, { name: "billing" }]);
  const { counts, status } = judge(
    policy,
    injected(policy, ["billing", undefined, " billing ", undefined, "__proto__"]),
  );
  assert.deepEqual(counts, [
    { name: "search", pods: 0 },
    { name: "default", pods: 2 },
    { name: "__proto__", pods: 1 },
    { name: "billing", pods: 2 },
  ]);
  assert.equal(status, "True");
});

test("reports pods of clients that the policy does not list", () => {
  const policy = policyOf([{ name: "default" }]);
  const { counts, status, reason, message } = judge(policy, injected(policy, ["billing", undefined, "constructor"]));
  assert.deepEqual(counts, [{ name: "default", pods: 1 }]);
  assert.deepEqual([status, reason], ["False", "ClientUnlisted"]);
  assert.match(
    message,
    /2 pods name clients that spec\.clients does not list: pod-0, pod-2 \(billing, constructor; add /,
  );
  // A pod without a name is no stranger, also where no default exists.
  const bare = policyOf([{ name: "billing" }]);
  assert.deepEqual(podsByClient({ policy: bare, requesting: injected(bare, [undefined]) }, bare.spec), {
    counts: [{ name: "billing", pods: 0 }],
    strangers: [],
  });
});

test("shows long names of clients, which users can write, in one short line", () => {
  const policy = policyOf([{ name: "default" }]);
  const { message } = judge(policy, injected(policy, [`a\n${"b".repeat(50_000)}`]));
  assert.match(message, /\(a\\u000ab+\.\.\.; add it to spec\.clients, or correct the annotation/);
  assert.ok(message.length < 500, `${message.length} characters`);
});

test("a policy without clients lists none, and accepts each name", () => {
  const policy = policyOf(undefined);
  const { counts, status } = judge(policy, injected(policy, ["billing", undefined]));
  assert.equal(counts, undefined);
  assert.equal(status, "True");
});

test("reports pods that the proxies refuse, since no entry applies to them", () => {
  const policy = policyOf([{ name: "billing" }]);
  const pods = injected(policy, ["billing", undefined, "orders"]);
  delete pods[2]!.pod.metadata.annotations![ANNOTATION.injected];
  const { status, reason, message } = judge(policy, pods);
  assert.deepEqual([status, reason], ["False", "Missed"]);
  assert.match(
    message,
    /^1 of 3 pods have .*; the proxies refuse 1 pod: pod-1 \(spec\.clients has neither their client nor/,
  );
  assert.match(message, /; 1 pod is not injected: pod-2 \(created before/);
  const later = policyOf([{ name: "billing" }, { name: "default" }]);
  assert.equal(judge(later, injected(later, ["billing", undefined])).status, "True");
});

test("reports pods that were injected before the mode needed certificates", () => {
  const before = policyOf(undefined);
  const pods = injected({ ...before, spec: withDefaults({}) }, [undefined]);
  const after = { ...before, spec: withDefaults({ authentication: { mode: "TLS" } }) };
  const { status, reason, message } = judge(after, pods);
  assert.deepEqual([status, reason], ["False", "Missed"]);
  assert.match(message, /the proxies refuse 1 pod: pod-0 \(authentication\.mode TLS needs a client certificate;/);
  const allowing = withDefaults({
    authentication: { mode: "TLS", allowMissing: true },
    clients: [{ name: "default" }],
  });
  assert.equal(judge({ ...before, spec: allowing }, pods).status, "True");
});
