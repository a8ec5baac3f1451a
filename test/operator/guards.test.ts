import assert from "node:assert/strict";
import { before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import type { KubeObject } from "../../operator/kube/resource.ts";
import type { NetworkPolicy } from "../../operator/reconcile/objects/networkpolicy.ts";
import { BOOT, controlPlaneMissing } from "../cluster/control-plane.ts";
import { ip } from "../policy/evaluator.ts";
import { lets } from "./np-evaluator.ts";
import { applyPolicy, conditionOf, makeNamespace, untilCondition, warningsOf } from "./operator.ts";
import { type Stage, startStage } from "./stage.ts";

/** NetworkPolicies on a real API server, under exactly the role that is shipped. Nothing enforces them here. */

const skip = controlPlaneMissing({ kwokNodes: 3 }) ?? false;
/** Several times what the operator waits after a change of its own objects. */
const QUIET_MS = 1500;
const OPERATOR = "system:serviceaccount:outrider-system:outrider-operator";
let { plane, operator } = {} as Stage;

before(async () => {
  if (skip) return;
  ({ plane, operator } = await startStage({
    plane: { kwokNodes: 3, audit: true },
    grants: 'grants: [{namespaces: ["*"], providers: [KubeVIP], staticIPs: [203.0.113.0/24]}]\n',
    operator: () => ({ args: ["--scrape-seconds=1", "--metrics-namespaces=monitoring"] }),
    fleet: { refuse: () => true },
  }));
}, BOOT);

const folder = (ns: string) => `/apis/networking.k8s.io/v1/namespaces/${ns}/networkpolicies`;
const PROXY = "webhooks-egress";
const SENDERS = "webhooks-egress-senders";
const read = (ns: string, name: string) => plane.get<NetworkPolicy>(`${folder(ns)}/${name}`);
const until = async (ns: string, name: string, wanted: (found: NetworkPolicy) => boolean, what: string) =>
  (await plane.until<NetworkPolicy>(`${folder(ns)}/${name}`, (found) => found !== undefined && wanted(found), what))!;
const gone = (ns: string, name: string) =>
  plane.until(`${folder(ns)}/${name}`, (found) => found === undefined, `${name} is gone`);
const applied = (ns: string, reason = "Applied") =>
  untilCondition(plane, ns, "webhooks", "NetworkPolicyApplied", "True", reason);
const both = { networkPolicy: { senders: "Enabled" } };
const messageOf = (policy: EgressPolicy) => conditionOf(policy, "NetworkPolicyApplied")!.message;
const pod = (label: string) => ({ pod: { [`egress.outrider.dev/${label}`]: "webhooks" }, namespace: "convoy" });

/** Writes of the operator to NetworkPolicies of a namespace. */
const writesIn = (ns: string) => plane.writes(OPERATOR).filter(({ path }) => path.startsWith(`${folder(ns)}/`));

/** Edits like `kubectl edit`: the complete object, as another manager. */
async function edit(ns: string, name: string, change: (object: NetworkPolicy) => void): Promise<NetworkPolicy> {
  const object = (await read(ns, name))!;
  change(object);
  const { status, body } = await plane.request<NetworkPolicy>(
    "PUT",
    `${folder(ns)}/${name}?fieldManager=editor`,
    object,
  );
  assert.equal(status, 200, JSON.stringify(body));
  return body;
}

test("the API server stores NetworkPolicies as applied, and once", { skip, timeout: 180_000 }, async () => {
  const ns = "convoy";
  await makeNamespace(plane, ns);
  const additionalEgress = [
    { to: [{ podSelector: { matchLabels: { app: "postgres" } } }, { namespaceSelector: {} }], ports: [{ port: 5432 }] },
    {
      to: [{ podSelector: {} }],
      ports: [
        { protocol: "UDP", port: "dns" },
        { port: 6000, endPort: 6010 },
      ],
    },
    { to: [{ ipBlock: { cidr: "10.20.0.0/16", except: ["10.20.30.0/24"] } }, { ipBlock: { cidr: "fd00:20::/32" } }] },
  ];
  await applyPolicy(plane, ns, "webhooks", {
    ports: [443, "8000-8999"],
    allow: [
      { hosts: ["a.example"], cidrs: ["10.96.0.0/12", "fd00:10::/48", "fd00::/8", "0.0.0.0/0"], ports: [8080] },
      { hosts: ["b.example"], cidrs: ["192.168.0.0/16", "64:ff9b::/96"], ports: ["9000-9010"] },
    ],
    networkPolicy: { senders: "Enabled", additionalEgress },
  });
  const policy = await applied(ns);
  assert.match(messageOf(policy), /^webhooks-egress and webhooks-egress-senders are applied \(no effect unless/);
  const proxy = (await read(ns, PROXY))!;
  const senders = (await read(ns, SENDERS))!;
  for (const { metadata } of [proxy, senders]) {
    assert.equal(metadata.ownerReferences![0]!.uid, policy.metadata.uid);
    assert.equal(metadata.labels!["egress.outrider.dev/policy"], "webhooks");
  }
  for (const [address, port, wanted] of [
    ["10.96.0.1", 8080, true],
    ["fd00:10::1", 8080, true],
    ["192.168.1.1", 9005, true],
    ["192.168.1.1", 443, false],
    ["8.8.8.8", 443, true],
    ["2606:4700::1", 8999, true],
    ["169.254.169.254", 8080, false],
    ["fd00:ec2::254", 8080, false],
  ] as const) {
    assert.equal(lets(proxy, "to", ip(address), port), wanted, `${address} ${port}`);
  }
  for (const namespace of ["outrider-system", "monitoring"])
    assert.ok(lets(proxy, "from", { pod: {}, namespace }, 9750));
  assert.ok(lets(proxy, "from", pod("injected"), 4750) && !lets(proxy, "from", pod("injected"), 9750));
  assert.ok(lets(senders, "to", pod("fleet"), 4750) && lets(senders, "to", ip("fd00:20::1"), 1));
  assert.deepEqual(senders.spec.policyTypes, ["Egress"]);
  await untilCondition(plane, ns, "webhooks", "ProxyAvailable", "True");
  // Another reconcile, whose end is seen by its status.
  await applyPolicy(plane, ns, "webhooks", { ports: [443], networkPolicy: { senders: "Enabled", additionalEgress } });
  await until(ns, PROXY, (found) => !lets(found, "to", ip("8.8.8.8"), 8080), "the narrower policy");
  await applied(ns);
  const versions = async () => [(await read(ns, PROXY))!, (await read(ns, SENDERS))!].map(({ metadata }) => metadata);
  assert.deepEqual(
    (await versions()).map(({ generation }) => generation),
    [2, 1],
  );
  // After any other trigger the NetworkPolicies are up to date and not written.
  const written = writesIn(ns).length;
  const budget = `/apis/policy/v1/namespaces/${ns}/poddisruptionbudgets/${PROXY}`;
  const { uid } = (await plane.get<KubeObject>(budget))!.metadata;
  await plane.delete(budget);
  const recreated = (found: KubeObject | undefined) => found !== undefined && found.metadata.uid !== uid;
  await plane.until<KubeObject>(budget, recreated, "the budget is created again");
  await untilCondition(plane, ns, "webhooks", "Programmed", "True");
  assert.equal(writesIn(ns).length, written);
  assert.deepEqual(warningsOf(operator), []);
});

test("applies thousands of networks, and widens too many", {
  skip,
}, async () => {
  const ns = "large";
  await makeNamespace(plane, ns);
  const rules = (count: number) =>
    Array.from({ length: count }, (_, i) => ({
      hosts: [`h${i}.example`],
      cidrs: Array.from({ length: 500 }, (_, k) => `10.${i}.${k >> 1}.${(k & 1) * 128 + 5}/32`),
      ports: [443],
    }));
  await applyPolicy(plane, ns, "webhooks", { allow: rules(10) });
  await applied(ns);
  const exact = (await read(ns, PROXY))!;
  assert.ok(lets(exact, "to", ip("10.3.7.133"), 443) && !lets(exact, "to", ip("10.3.7.134"), 443));
  await applyPolicy(plane, ns, "webhooks", { allow: rules(40) });
  const policy = await applied(ns, "Widened");
  assert.match(
    messageOf(policy),
    /; the exact rules .* would have \d{6,7} bytes; .* widened to \/\d+ \(IPv4\) and \/\d+ \(IPv6\) or larger/,
  );
  const rounded = (await read(ns, PROXY))!;
  assert.ok(lets(rounded, "to", ip("10.39.200.5"), 443) && lets(rounded, "to", ip("10.39.200.6"), 443));
  assert.ok(!lets(rounded, "to", ip("192.168.0.1"), 443) && !lets(rounded, "to", ip("169.254.169.254"), 443));
  assert.equal(conditionOf(policy, "Programmed")!.status, "True");
});

for (const [what, name, change] of [
  ["a port more", PROXY, ({ spec }) => spec.ingress[0]!.ports.push({ protocol: "TCP", port: 22 })],
  [
    "a peer of any namespace",
    PROXY,
    ({ spec }) => Object.assign(spec.ingress[0]!.from![0]!, { namespaceSelector: {} }),
  ],
  ["a rule that opens all", PROXY, ({ spec }) => spec.egress.push({})],
  ["other pods", PROXY, ({ spec }) => Object.assign(spec, { podSelector: { matchLabels: { app: "theirs" } } })],
  ["fewer types", PROXY, ({ spec }) => Object.assign(spec, { policyTypes: ["Ingress"] })],
  [
    "ingress to senders",
    SENDERS,
    ({ spec }) => Object.assign(spec, { ingress: [{}], policyTypes: ["Egress", "Ingress"] }),
  ],
  ["the policy's label", PROXY, ({ metadata }) => delete metadata.labels!["egress.outrider.dev/policy"]],
] as const satisfies readonly (readonly [string, string, (object: NetworkPolicy) => unknown])[]) {
  test(`reverts an edit: ${what}`, { skip }, async () => {
    const ns = "edited";
    const logged = operator.log().length;
    await makeNamespace(plane, ns);
    await applyPolicy(plane, ns, "webhooks", both);
    await applied(ns);
    const before = (await read(ns, name))!;
    const edited = await edit(ns, name, change);
    assert.notEqual(edited.metadata.resourceVersion, before.metadata.resourceVersion);
    const back = await until(
      ns,
      name,
      (found) =>
        JSON.stringify(found.spec) === JSON.stringify(before.spec) &&
        found.metadata.labels?.["egress.outrider.dev/policy"] === "webhooks",
      "it is as it was",
    );
    assert.equal(back.metadata.uid, before.metadata.uid);
    assert.deepEqual(warningsOf(operator, logged), []);
  });
}

test("keeps added labels and restores a deleted NetworkPolicy", { skip }, async () => {
  const ns = "deleted";
  await makeNamespace(plane, ns);
  await applyPolicy(plane, ns, "webhooks", both);
  await applied(ns);
  const { metadata } = (await read(ns, PROXY))!;
  await edit(ns, SENDERS, (object) => Object.assign(object.metadata.labels!, { team: "payments" }));
  await plane.delete(`${folder(ns)}/${PROXY}`);
  await until(ns, PROXY, (found) => found.metadata.uid !== metadata.uid, "it comes back");
  assert.equal((await read(ns, SENDERS))!.metadata.labels!.team, "payments");
});

test("deletes a disabled NetworkPolicy and keeps foreign ones", { skip }, async () => {
  const ns = "off";
  await makeNamespace(plane, ns);
  const theirs = { podSelector: { matchLabels: { app: "theirs" } }, policyTypes: ["Ingress"] };
  const foreign = {
    apiVersion: "networking.k8s.io/v1",
    kind: "NetworkPolicy",
    metadata: { name: SENDERS },
    spec: theirs,
  };
  await plane.apply(`${folder(ns)}/${SENDERS}`, foreign);
  const before = (await read(ns, SENDERS))!;
  await applyPolicy(plane, ns, "webhooks", both);
  const taken = await untilCondition(plane, ns, "webhooks", "NetworkPolicyApplied", "False", "NameTaken");
  assert.equal(
    messageOf(taken),
    `NetworkPolicy ${SENDERS} exists and does not belong to this policy; delete it, or create the policy under another name`,
  );
  assert.equal(conditionOf(taken, "Programmed")!.reason, "NameTaken");
  // The fleet does not wait for it.
  await untilCondition(plane, ns, "webhooks", "ProxyAvailable", "True");
  assert.ok(await read(ns, PROXY));
  // A disabled NetworkPolicy is deleted even if another object cannot be applied.
  await applyPolicy(plane, ns, "webhooks", { networkPolicy: { proxy: "Disabled", senders: "Enabled" } });
  await gone(ns, PROXY);
  await untilCondition(plane, ns, "webhooks", "NetworkPolicyApplied", "False", "NameTaken");
  await applyPolicy(plane, ns, "webhooks", { networkPolicy: { proxy: "Disabled" } });
  const none = await untilCondition(plane, ns, "webhooks", "NetworkPolicyApplied", "Unknown", "NotRequested");
  assert.equal(conditionOf(none, "Programmed")!.status, "True");
  assert.deepEqual(await read(ns, SENDERS), before);
  await plane.delete(`${folder(ns)}/${SENDERS}`);
  await applyPolicy(plane, ns, "webhooks", both);
  await applied(ns);
  await applyPolicy(plane, ns, "webhooks", {});
  await gone(ns, SENDERS);
  await applied(ns);
  assert.ok(await read(ns, PROXY));
});

test("reports a rejected NetworkPolicy while the fleet runs", {
  skip,
}, async () => {
  const ns = "refused";
  await makeNamespace(plane, ns);
  const selector = { matchExpressions: [{ key: "app", operator: "In" }] };
  const networkPolicy = { senders: "Enabled", additionalEgress: [{ to: [{ podSelector: selector }] }] };
  await applyPolicy(plane, ns, "webhooks", { networkPolicy });
  const policy = await untilCondition(plane, ns, "webhooks", "NetworkPolicyApplied", "False", "ApplyFailed");
  assert.match(
    messageOf(policy),
    /spec\.egress\[2\]\.to\[0\]\.podSelector\.matchExpressions\[0\]\.values: Required value/,
  );
  await untilCondition(plane, ns, "webhooks", "ProxyAvailable", "True");
  assert.ok(await read(ns, PROXY), "the other one is applied");
  await applyPolicy(plane, ns, "webhooks", both);
  await applied(ns);
});

const kubeVIP = (address: string) => ({
  nat: { provider: "KubeVIP", kubeVIP: {} },
  staticIPs: [{ address }],
  authentication: { mode: "Basic", secretRef: { name: "passwords" } },
  proxy: { nodeSelector: { role: "egress" } },
});

test("keeps the NetworkPolicy of old proxies until they have ended", {
  skip,
}, async () => {
  const ns = "moved";
  await makeNamespace(plane, ns);
  await applyPolicy(plane, ns, "webhooks", {});
  await applied(ns);
  await applyPolicy(plane, ns, "webhooks", kubeVIP("203.0.113.20"));
  // No node takes the slot, so the old fleet stays.
  await untilCondition(plane, ns, "webhooks", "Programmed", "False", "NotEnoughNodes");
  const policy = await untilCondition(plane, ns, "webhooks", "NetworkPolicyApplied", "True");
  assert.match(conditionOf(policy, "NetworkPolicyApplied")!.message, /^webhooks-egress is applied \(no effect unless/);
  await plane.delete(`/apis/apps/v1/namespaces/${ns}/deployments/webhooks-egress`);
  await untilCondition(plane, ns, "webhooks", "NetworkPolicyApplied", "Unknown", "HostNetwork");
  await gone(ns, PROXY);
});

test("the senders' NetworkPolicy follows the nodes of proxies", { skip }, async () => {
  const ns = "nodes";
  await makeNamespace(plane, ns);
  // No node can run its pod, so that only nodes trigger reconciles.
  await applyPolicy(plane, ns, "webhooks", { ...kubeVIP("203.0.113.21"), ...both });
  await applied(ns);
  const reach = (address: string, wanted: boolean) =>
    until(ns, SENDERS, (found) => lets(found, "to", ip(address), 4750) === wanted, `${address}: ${wanted}`);
  await reach("10.9.0.1", false);
  const path = "/api/v1/nodes/egress-1";
  const node = { apiVersion: "v1", kind: "Node", metadata: { name: "egress-1", labels: { role: "egress" } } };
  const { status } = await plane.request("POST", "/api/v1/nodes", {
    ...node,
    spec: { unschedulable: true },
    status: { addresses: [{ type: "InternalIP", address: "10.9.0.1" }] },
  });
  assert.equal(status, 201);
  await reach("10.9.0.1", true);
  for (const address of ["10.9.0.2", "10.9.0.3", "10.9.0.7"]) {
    // The reconciles after the last write have ended: only the address is a trigger.
    await sleep(QUIET_MS);
    await plane.patch(`${path}/status`, { status: { addresses: [{ type: "InternalIP", address }] } });
    await reach(address, true);
  }
  await reach("10.9.0.1", false);
  await plane.patch(path, { metadata: { labels: { role: "other" } } });
  await reach("10.9.0.7", false);
  await plane.patch(path, { metadata: { labels: { role: "egress" } } });
  await reach("10.9.0.7", true);
  await plane.delete(path);
  await reach("10.9.0.7", false);
});

test("the shipped role is sufficient, and objects go with their policy", { skip, timeout: 180_000 }, async () => {
  const refused = plane.audit().filter(({ user, code }) => user === OPERATOR && code === 403);
  assert.deepEqual(refused, []);
  const ns = "ended";
  await makeNamespace(plane, ns);
  await applyPolicy(plane, ns, "webhooks", both);
  await applied(ns);
  await plane.delete(`/apis/egress.outrider.dev/v1alpha1/namespaces/${ns}/egresspolicies/webhooks`);
  const none = (found: { items: KubeObject[] } | undefined) => found?.items.length === 0;
  await plane.until<{ items: KubeObject[] }>(folder(ns), none, "garbage collection took them", 90_000);
});
