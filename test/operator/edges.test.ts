import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { before, test } from "node:test";
import { KubeConfig } from "@kubernetes/client-node";
import { parseAllDocuments } from "yaml";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import type { ConfigMap, Deployment, Pod } from "../../operator/api/objects.ts";
import { slotId } from "../../operator/fleet/slots.ts";
import { Client } from "../../operator/kube/client.ts";
import type { KubeObject } from "../../operator/kube/resource.ts";
import { stamp } from "../../operator/reconcile/objects/compare.ts";
import { Writer } from "../../operator/reconcile/writes/writer.ts";
import { makeLog } from "../../proxy/cli/log.ts";
import { BOOT, controlPlaneMissing, startControlPlane } from "../cluster/control-plane.ts";
import {
  applyPolicy,
  conditionOf,
  INVALID,
  install,
  makeNamespace,
  type Operator,
  policyPath,
  startOperator,
  untilCondition,
  warningsOf,
} from "./operator.ts";
import { type Stage, startStage } from "./stage.ts";

/** Rare cases: names at their limits, foreign objects, quotas, deleted namespaces, policies that are created again. */

const skip = controlPlaneMissing({ kwokNodes: 3 }) ?? false;
const LONG_NAME = "p".repeat(40);
const LONG_NS = "n".repeat(63);
/** Fleets of this namespace are real proxies; elsewhere kwok's pods are enough. */
const LIVE = "live";
const OPERATOR = "system:serviceaccount:outrider-system:outrider-operator";
const MANIFEST = new URL("../../examples/operator/operator.yaml", import.meta.url).pathname;
/** Resources that only a cluster-wide role can grant, and only --discover-cidrs needs. */
const CLUSTER_WIDE = ["nodes", "servicecidrs", "endpointslices"];
let { plane, operator, again } = {} as Stage;

before(async () => {
  if (skip) return;
  ({ plane, operator, again } = await startStage({
    plane: { kwokNodes: 3, audit: true },
    grants: 'grants: [{namespaces: ["*"], providers: [KubeVIP], staticIPs: [203.0.113.0/24]}]\n',
    operator: () => ({ args: ["--scrape-seconds=1"] }),
    fleet: { refuse: ({ metadata }) => metadata.namespace !== LIVE },
  }));
}, BOOT);

const KINDS = {
  ConfigMap: { group: "/api/v1", plural: "configmaps" },
  Service: { group: "/api/v1", plural: "services" },
  ServiceAccount: { group: "/api/v1", plural: "serviceaccounts" },
  Pod: { group: "/api/v1", plural: "pods" },
  Deployment: { group: "/apis/apps/v1", plural: "deployments" },
  PodDisruptionBudget: { group: "/apis/policy/v1", plural: "poddisruptionbudgets" },
  NetworkPolicy: { group: "/apis/networking.k8s.io/v1", plural: "networkpolicies" },
  ResourceQuota: { group: "/api/v1", plural: "resourcequotas" },
} as const;
type Kind = keyof typeof KINDS;

const folderOf = (kind: Kind, namespace: string) =>
  `${KINDS[kind].group}/namespaces/${namespace}/${KINDS[kind].plural}`;
const pathOf = (kind: Kind, namespace: string, name: string) => `${folderOf(kind, namespace)}/${name}`;
const listOf = async <T extends KubeObject>(kind: Kind, namespace: string, selector = "") =>
  (await plane.get<{ items: T[] }>(`${folderOf(kind, namespace)}?labelSelector=${selector}`))!.items;
const gone = (found: unknown) => found === undefined;
const document = async (namespace: string, name: string) =>
  plane.get<ConfigMap>(pathOf("ConfigMap", namespace, `${name}-egress-policy`));
const blockedCIDRs = (found: ConfigMap | undefined) =>
  (JSON.parse(found?.data?.["policy.json"] ?? "{}") as { blockedCIDRs?: string[] }).blockedCIDRs ?? [];

/** The objects of a policy with one Deployment. */
const childrenOf = (name: string): [Kind, string][] => [
  ["ConfigMap", `${name}-egress-ips`],
  ["ConfigMap", `${name}-egress-policy`],
  ["ServiceAccount", `${name}-egress`],
  ["Service", `${name}-egress`],
  ["PodDisruptionBudget", `${name}-egress`],
  ["NetworkPolicy", `${name}-egress`],
  ["Deployment", `${name}-egress`],
];

/** Every child exists, and the policy controls it. */
async function untilChildren(namespace: string, name: string): Promise<void> {
  const { uid } = (await plane.get<EgressPolicy>(policyPath(namespace, name)))!.metadata;
  const own = (found: KubeObject | undefined) =>
    found?.metadata.ownerReferences?.length === 1 && found.metadata.ownerReferences[0]!.uid === uid;
  for (const [kind, child] of childrenOf(name)) {
    await plane.until<KubeObject>(pathOf(kind, namespace, child), own, `${kind} ${child} is the policy's`);
  }
}

/** A pod that uses a policy's fleet. */
async function makeSender(namespace: string, policy: string, name = "sender", finalizers: string[] = []) {
  const { status, body } = await plane.request("POST", folderOf("Pod", namespace), {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name, namespace, finalizers, labels: { "egress.outrider.dev/injected": policy } },
    spec: { containers: [{ name: "sender", image: "sender:test" }] },
  });
  assert.equal(status, 201, JSON.stringify(body));
}

/** The operator knows that pods use a policy's fleet. */
async function untilHeld(namespace: string, name: string): Promise<void> {
  const held = (policy: EgressPolicy | undefined) =>
    policy?.metadata.finalizers?.includes("egress.outrider.dev/in-use");
  await plane.until<EgressPolicy>(policyPath(namespace, name), (policy) => held(policy) === true, "the policy is held");
}

/** A namespace with its default ServiceAccount, without which it takes no pods. */
async function namespaceForPods(name: string): Promise<void> {
  await makeNamespace(plane, name);
  await plane.until(pathOf("ServiceAccount", name, "default"), (found) => found !== undefined, "its account");
}

const kubeVIP = (addresses: readonly string[]) => ({
  nat: { provider: "KubeVIP", kubeVIP: {} },
  staticIPs: addresses.map((address) => ({ address })),
  authentication: { mode: "Basic", secretRef: { name: "passwords" } },
});

test("creates all objects for names at their limits", { skip }, async () => {
  await makeNamespace(plane, LONG_NS);
  await applyPolicy(plane, LONG_NS, LONG_NAME, {});
  const policy = await untilCondition(plane, LONG_NS, LONG_NAME, "ProxyAvailable", "True");
  await untilChildren(LONG_NS, LONG_NAME);
  assert.equal(policy.status!.endpoint!.host, `${LONG_NAME}-egress.${LONG_NS}.svc.cluster.local`);
  const addresses = ["203.0.113.1", "203.0.113.2"];
  await applyPolicy(plane, LONG_NS, LONG_NAME, kubeVIP(addresses));
  for (const address of addresses) {
    const name = `${LONG_NAME}-egress-${slotId(address)}`;
    for (const kind of ["Deployment", "Service"] as const) {
      await plane.until(pathOf(kind, LONG_NS, name), (found) => found !== undefined, `${kind} ${name}`);
    }
    const pods = await plane.until<{ items: Pod[] }>(
      `${folderOf("Pod", LONG_NS)}?labelSelector=egress.outrider.dev/slot=${slotId(address)}`,
      (found) => found?.items.length === 1,
      "the slot's pod",
    );
    assert.equal(pods!.items[0]!.metadata.labels!["egress.outrider.dev/fleet"], LONG_NAME);
  }
  // No proxy answers here: what served before has to stay.
  const exchanged = await untilCondition(plane, LONG_NS, LONG_NAME, "Programmed", "False", "Progressing");
  assert.match(conditionOf(exchanged, "Programmed")!.message, /^\d+ old prox(y still runs|ies still run): /);
  assert.ok(await plane.get(pathOf("Deployment", LONG_NS, `${LONG_NAME}-egress`)));
  for (const name of [`${LONG_NAME}p`, "a.b", "1a", "a-"]) {
    const { status, body } = await plane.request<{ message: string }>(
      "POST",
      `/apis/egress.outrider.dev/v1alpha1/namespaces/${LONG_NS}/egresspolicies`,
      { apiVersion: "egress.outrider.dev/v1alpha1", kind: "EgressPolicy", metadata: { name }, spec: {} },
    );
    assert.equal(status, 422, name);
    assert.match(body.message, /metadata\.name: |RFC 1123/);
  }
});

test("names foreign objects, and continues after they are deleted", {
  skip,
}, async () => {
  const ns = "taken";
  await makeNamespace(plane, ns);
  const pods = {
    metadata: { labels: { app: "theirs" } },
    spec: { containers: [{ name: "theirs", image: "theirs" }] },
  };
  const selector = { matchLabels: { app: "theirs" } };
  const foreign: Record<string, [Kind, string, object]> = {
    document: ["ConfigMap", "document-egress-policy", { data: { theirs: "1" } }],
    ips: ["ConfigMap", "ips-egress-ips", { data: { theirs: "1" } }],
    service: ["Service", "service-egress", { spec: { selector: { app: "theirs" }, ports: [{ port: 1 }] } }],
    account: ["ServiceAccount", "account-egress", {}],
    budget: ["PodDisruptionBudget", "budget-egress", { spec: { maxUnavailable: 3, selector } }],
    network: ["NetworkPolicy", "network-egress", { spec: { podSelector: selector, policyTypes: ["Ingress"] } }],
    deployment: ["Deployment", "deployment-egress", { spec: { replicas: 0, selector, template: pods } }],
    // With the labels of the operator, but without an owner, and with another owner.
    orphan: ["ConfigMap", "orphan-egress-policy", { data: { theirs: "1" } }],
    other: ["ConfigMap", "other-egress-policy", { data: { theirs: "1" } }],
  };
  const owner = { apiVersion: "v1", kind: "ConfigMap", name: "owner", uid: "", controller: true };
  await plane.apply(pathOf("ConfigMap", ns, "owner"), {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: { name: "owner" },
  });
  owner.uid = (await plane.get<KubeObject>(pathOf("ConfigMap", ns, "owner")))!.metadata.uid!;
  const written = new Map<string, KubeObject>();
  for (const [policy, [kind, name, content]] of Object.entries(foreign)) {
    const ours = {
      "app.kubernetes.io/name": "outrider-proxy",
      "app.kubernetes.io/managed-by": "outrider",
      "egress.outrider.dev/policy": policy,
    };
    const metadata = {
      name,
      ...(policy === "orphan" || policy === "other" ? { labels: ours } : {}),
      ...(policy === "other" ? { ownerReferences: [owner] } : {}),
    };
    const apiVersion = KINDS[kind].group.replace(/^\/apis?\//, "");
    await plane.apply(pathOf(kind, ns, name), { apiVersion, kind, metadata, ...content });
    await applyPolicy(plane, ns, policy, {});
  }
  for (const [policy, [kind, name]] of Object.entries(foreign)) {
    const found = await untilCondition(plane, ns, policy, "Programmed", "False", "NameTaken");
    const { message } = conditionOf(found, "Programmed")!;
    assert.equal(
      message,
      `${kind} ${name} exists and does not belong to this policy; delete it, or create the policy under another name`,
    );
    assert.equal(conditionOf(found, "Ready")!.message, `Programmed: ${message}`);
    written.set(policy, (await plane.get<KubeObject>(pathOf(kind, ns, name)))!);
  }
  for (const [policy, object] of written) {
    const managers = (object.metadata.managedFields ?? []).map(({ manager }) => manager);
    assert.ok(!managers.includes("outrider"), `${policy}: ${managers}`);
    assert.notEqual(object.metadata.ownerReferences?.[0]?.kind, "EgressPolicy");
  }
  const began = Date.now();
  for (const [kind, name] of Object.values(foreign)) await plane.delete(pathOf(kind, ns, name));
  for (const policy of Object.keys(foreign)) {
    await untilCondition(plane, ns, policy, "Programmed", "True");
    await untilChildren(ns, policy);
  }
  console.log(`nine policies whose names were free again were programmed within ${Date.now() - began} ms`);
});

test("ignores a child without owner reference until it is restored", {
  skip,
}, async () => {
  const ns = "released";
  await makeNamespace(plane, ns);
  await applyPolicy(plane, ns, "webhooks", {});
  await untilCondition(plane, ns, "webhooks", "ProxyAvailable", "True");
  const path = pathOf("ConfigMap", ns, "webhooks-egress-policy");
  const { ownerReferences } = (await plane.get<ConfigMap>(path))!.metadata;
  await plane.patch(path, { metadata: { ownerReferences: null } });
  const policy = await untilCondition(plane, ns, "webhooks", "Programmed", "False", "NameTaken");
  assert.match(conditionOf(policy, "Programmed")!.message, /^ConfigMap webhooks-egress-policy exists/);
  const before = await plane.get<ConfigMap>(path);
  assert.equal(before!.metadata.ownerReferences, undefined);
  await plane.patch(path, { metadata: { ownerReferences } });
  await untilCondition(plane, ns, "webhooks", "Programmed", "True");
  assert.equal((await plane.get<ConfigMap>(path))!.metadata.uid, before!.metadata.uid);
});

test("does not write an object that replaced a child", { skip }, async () => {
  const ns = "raced";
  await makeNamespace(plane, ns);
  await applyPolicy(plane, ns, "webhooks", {});
  await untilCondition(plane, ns, "webhooks", "Programmed", "True");
  const policy = (await plane.get<EgressPolicy>(policyPath(ns, "webhooks")))!;
  const path = pathOf("ConfigMap", ns, "theirs");
  const content = { apiVersion: "v1", kind: "ConfigMap", metadata: { name: "theirs", namespace: ns } };
  await plane.apply(path, content);
  const seen = (await plane.get<KubeObject>(path))!;
  await plane.delete(path);
  await plane.apply(path, content);
  const kube = new KubeConfig();
  kube.loadFromFile(plane.userConfig());
  const client = new Client(kube);
  const desired = stamp({ ...content, data: { ours: "1" } });
  await assert.rejects(new Writer(client, makeLog("silent")).apply(policy, desired, seen), { reason: "NameTaken" });
  client.close();
  const found = await plane.get<ConfigMap>(path);
  assert.notEqual(found!.metadata.uid, seen.metadata.uid);
  assert.equal(found!.data, undefined);
});

test("a policy that is deleted and created again gets its own children", { skip }, async () => {
  const ns = "recreated";
  await makeNamespace(plane, ns);
  const path = policyPath(ns, "webhooks");
  const logged = operator.log().length;
  await applyPolicy(plane, ns, "webhooks", {});
  await untilCondition(plane, ns, "webhooks", "ProxyAvailable", "True");
  // Their end is held up: they run on beside those of the new policy.
  const held = await listOf<Pod>("Pod", ns);
  for (const { metadata } of held) {
    await plane.patch(pathOf("Pod", ns, metadata.name), { metadata: { finalizers: ["test.example/hold"] } });
  }
  for (let i = 0; i < 5; i++) {
    await plane.delete(path);
    await plane.until(path, gone, "the policy is gone");
    await applyPolicy(plane, ns, "webhooks", { deny: [{ hosts: [`r${i}.example`] }] });
  }
  const began = Date.now();
  await untilCondition(plane, ns, "webhooks", "Programmed", "True");
  console.log(`a policy created again five times was programmed ${Date.now() - began} ms after the last time`);
  await untilCondition(plane, ns, "webhooks", "ProxyAvailable", "True");
  await untilChildren(ns, "webhooks");
  for (const kind of [
    "Deployment",
    "Service",
    "ServiceAccount",
    "PodDisruptionBudget",
    "NetworkPolicy",
    "ConfigMap",
  ] as const) {
    const own = await listOf(kind, ns, "egress.outrider.dev/policy=webhooks");
    assert.equal(own.length, kind === "ConfigMap" ? 2 : 1, kind);
  }
  assert.match((await document(ns, "webhooks"))!.data!["policy.json"]!, /r4\.example/);
  for (const { metadata } of held) {
    await plane.patch(pathOf("Pod", ns, metadata.name), { metadata: { finalizers: null } });
  }
  const own = (found: { items: Pod[] } | undefined) => found?.items.length === 2;
  await plane.until(folderOf("Pod", ns), own, "the old pods go");
  assert.deepEqual(warningsOf(operator, logged), []);
});

test("a deleted namespace terminates with policies in use", { skip }, async () => {
  const ns = "doomed";
  await namespaceForPods(ns);
  for (const name of ["free", "used"]) {
    await applyPolicy(plane, ns, name, {});
    await untilCondition(plane, ns, name, "ProxyAvailable", "True");
  }
  // The object and the deleted policy exist until the namespace is deleted.
  await makeSender(ns, "used", "sender", ["test.example/hold"]);
  await untilHeld(ns, "used");
  await plane.delete(policyPath(ns, "used"));
  await untilCondition(plane, ns, "used", "Ready", "False", "InUse");
  const logged = operator.log().length;
  const audited = plane.audit().length;
  await plane.delete(`/api/v1/namespaces/${ns}`);
  await plane.until(policyPath(ns, "used"), gone, "the policy in use goes");
  assert.ok(await plane.get(pathOf("Pod", ns, "sender")), "its sender is still there");
  await plane.patch(pathOf("Pod", ns, "sender"), { metadata: { finalizers: null } });
  await plane.until(`/api/v1/namespaces/${ns}`, gone, "the namespace is gone");
  assert.deepEqual(warningsOf(operator, logged), []);
  const refused = plane
    .audit()
    .slice(audited)
    .filter(({ user, path, code }) => user === OPERATOR && path.includes(`/${ns}/`) && code === 403);
  assert.ok(refused.length <= 10, `refused: ${JSON.stringify(refused)}`);
});

test("deletion works with force-delete and with an invalid spec", {
  skip,
}, async () => {
  const ns = "deletion";
  await namespaceForPods(ns);
  for (const name of ["forced", "invalid"]) {
    await applyPolicy(plane, ns, name, {});
    await makeSender(ns, name, `sender-${name}`);
    await untilHeld(ns, name);
    await untilCondition(plane, ns, name, "ProxyAvailable", "True");
  }
  await applyPolicy(plane, ns, "invalid", INVALID);
  await untilCondition(plane, ns, "invalid", "Accepted", "False", "Invalid");
  for (const name of ["forced", "invalid"]) {
    await plane.delete(policyPath(ns, name));
    const policy = await untilCondition(plane, ns, name, "Ready", "False", "InUse");
    assert.match(conditionOf(policy, "Ready")!.message, new RegExp(`: sender-${name}; remove `));
    assert.equal(conditionOf(policy, "ProxyAvailable")!.status, "True");
  }
  // The operator restores a child of a policy in use, from the last valid spec.
  await plane.delete(pathOf("Service", ns, "invalid-egress"));
  await plane.until(pathOf("Service", ns, "invalid-egress"), (found) => found !== undefined, "the Service comes back");
  await plane.kubectl(["annotate", "egpol", "-n", ns, "forced", "egress.outrider.dev/force-delete=true"]);
  await plane.until(policyPath(ns, "forced"), gone, "the forced one goes");
  await plane.until(pathOf("Deployment", ns, "forced-egress"), gone, "and its fleet");
  await plane.delete(`${pathOf("Pod", ns, "sender-invalid")}?gracePeriodSeconds=0`);
  await plane.until(policyPath(ns, "invalid"), gone, "the invalid one goes");
  await applyPolicy(plane, ns, "never", INVALID);
  const never = await untilCondition(plane, ns, "never", "Accepted", "False", "Invalid");
  assert.equal(conditionOf(never, "Programmed")!.reason, "NotAccepted");
  await plane.delete(policyPath(ns, "never"));
  await plane.until(policyPath(ns, "never"), gone, "the one that never was valid goes");
});

test("restores a fleet in use after a foreground deletion", {
  skip,
}, async () => {
  const ns = "foreground";
  await namespaceForPods(ns);
  await applyPolicy(plane, ns, "webhooks", {});
  await makeSender(ns, "webhooks");
  await untilHeld(ns, "webhooks");
  await untilCondition(plane, ns, "webhooks", "ProxyAvailable", "True");
  await plane.kubectl(["delete", "egpol", "-n", ns, "webhooks", "--cascade=foreground", "--wait=false"]);
  await untilCondition(plane, ns, "webhooks", "Ready", "False", "InUse");
  await untilCondition(plane, ns, "webhooks", "ProxyAvailable", "True");
  await plane.until<EgressPolicy>(
    policyPath(ns, "webhooks"),
    (policy) => policy?.metadata.finalizers?.join() === "egress.outrider.dev/in-use",
    "garbage collection has nothing more to do",
  );
  await untilCondition(plane, ns, "webhooks", "Programmed", "True");
  await untilChildren(ns, "webhooks");
  await plane.delete(`${pathOf("Pod", ns, "sender")}?gracePeriodSeconds=0`);
  await plane.until(policyPath(ns, "webhooks"), gone, "the policy goes");
  for (const [kind, name] of childrenOf("webhooks")) await plane.until(pathOf(kind, ns, name), gone, name);
});

test("a rolling update without a node is not Ready", {
  skip,
}, async () => {
  await namespaceForPods("no-node");
  await applyPolicy(plane, "no-node", "webhooks", {});
  await untilCondition(plane, "no-node", "webhooks", "ProxyAvailable", "True");
  await applyPolicy(plane, "no-node", "webhooks", { proxy: { nodeSelector: { disk: "none" } } });
  const explained = (policy: EgressPolicy | undefined) => {
    const { status, message } = conditionOf(policy, "ProxyAvailable") ?? {};
    return (
      status === "False" &&
      /^2 of 2 proxies .* 1 proxy has the new settings, 2 have the old ones; proxy \S+: 0\/\d+ nodes/.test(
        message ?? "",
      )
    );
  };
  const policy = await plane.until<EgressPolicy>(policyPath("no-node", "webhooks"), explained, "the scheduler's words");
  assert.match(conditionOf(policy, "Ready")!.message, /^ProxyAvailable: 2 of 2 proxies .* nodes are available: /);
  await applyPolicy(plane, "no-node", "webhooks", {});
  await untilCondition(plane, "no-node", "webhooks", "ProxyAvailable", "True");
});

/** A quota, once it is counted. */
async function limit(namespace: string, hard: Record<string, string>): Promise<void> {
  const path = pathOf("ResourceQuota", namespace, "limit");
  const metadata = { name: "limit", namespace };
  await plane.apply(path, { apiVersion: "v1", kind: "ResourceQuota", metadata, spec: { hard } });
  const counted = (found: { status?: { hard?: object } } | undefined) =>
    JSON.stringify(found?.status?.hard) === JSON.stringify(hard);
  await plane.until(path, counted, "the quota is counted");
}

test("ProxyAvailable reports pods that quota or Pod Security rejects", { skip }, async () => {
  await namespaceForPods("few-pods");
  await limit("few-pods", { pods: "1" });
  await applyPolicy(plane, "few-pods", "webhooks", {});
  await makeNamespace(plane, "restricted");
  await plane.patch("/api/v1/namespaces/restricted", {
    metadata: { labels: { "pod-security.kubernetes.io/enforce": "restricted" } },
  });
  await applyPolicy(plane, "restricted", "webhooks", {});
  await applyPolicy(plane, "restricted", "slots", kubeVIP(["203.0.113.3"]));
  const few = await untilCondition(plane, "few-pods", "webhooks", "ProxyAvailable", "False", "ReplicaFailure");
  assert.match(
    conditionOf(few, "ProxyAvailable")!.message,
    /^Deployment webhooks-egress: .*exceeded quota: limit.*pods=1/,
  );
  assert.match(conditionOf(few, "Ready")!.message, /^ProxyAvailable: Deployment webhooks-egress: /);
  await limit("few-pods", { pods: "10" });
  await untilCondition(plane, "few-pods", "webhooks", "ProxyAvailable", "True");
  // A shared fleet is as restricted as it can be; slots need their node's network.
  await untilCondition(plane, "restricted", "webhooks", "ProxyAvailable", "True");
  const slots = await untilCondition(plane, "restricted", "slots", "ProxyAvailable", "False", "ReplicaFailure");
  assert.match(
    conditionOf(slots, "ProxyAvailable")!.message,
    /violates PodSecurity "restricted:latest": host namespaces/,
  );
});

test("Programmed reports objects that quota rejects, until they fit", { skip }, async () => {
  await makeNamespace(plane, "few-maps");
  await plane.until(pathOf("ConfigMap", "few-maps", "kube-root-ca.crt"), (found) => found !== undefined, "root CA");
  await makeNamespace(plane, "no-services");
  await limit("few-maps", { "count/configmaps": "2" });
  await limit("no-services", { services: "0" });
  for (const [ns, message] of [
    ["few-maps", /configmaps "webhooks-egress-policy" is forbidden: exceeded quota: limit/],
    ["no-services", /services "webhooks-egress" is forbidden: exceeded quota: limit/],
  ] as const) {
    await applyPolicy(plane, ns, "webhooks", {});
    const policy = await untilCondition(plane, ns, "webhooks", "Programmed", "False", "ApplyFailed");
    assert.match(conditionOf(policy, "Programmed")!.message, message);
  }
  await limit("few-maps", { "count/configmaps": "20" });
  await limit("no-services", { services: "5" });
  for (const ns of ["few-maps", "no-services"]) await untilCondition(plane, ns, "webhooks", "Programmed", "True");
});

test("documents block public ranges and ignore private nodes", {
  skip,
}, async () => {
  const ns = "ranges";
  await makeNamespace(plane, ns);
  const names = ["a", "b"];
  for (const name of names) {
    await applyPolicy(plane, ns, name, {});
    await untilCondition(plane, ns, name, "Programmed", "True");
  }
  const node = async (name: string, podCIDR: string, type: string, address: string) => {
    const status = { addresses: [{ type, address }] };
    const spec = { podCIDR, podCIDRs: [podCIDR], unschedulable: true };
    const body = { apiVersion: "v1", kind: "Node", metadata: { name }, spec, status };
    assert.equal((await plane.request("POST", "/api/v1/nodes", body)).status, 201);
  };
  const has = (list: readonly string[]) => (found: ConfigMap | undefined) => blockedCIDRs(found).join() === list.join();
  const untilBlocked = async (list: readonly string[]) => {
    for (const name of names) {
      await plane.until(pathOf("ConfigMap", ns, `${name}-egress-policy`), has(list), `${name} blocks ${list}`);
    }
  };
  await node("public", "11.22.32.0/24", "ExternalIP", "12.34.56.78");
  await untilBlocked(["11.22.32.0/24", "12.34.56.78/32"]);
  const audited = plane.audit().length;
  for (let i = 0; i < 20; i++) await node(`private-${i}`, `10.244.${i}.0/24`, "InternalIP", `10.0.0.${i + 1}`);
  // Halves are joined. The cache gets nodes in order, so it has the private ones before this one.
  await node("neighbour", "11.22.33.0/24", "InternalIP", "10.0.1.1");
  await untilBlocked(["11.22.32.0/23", "12.34.56.78/32"]);
  for (let i = 0; i < 20; i++) await plane.delete(`/api/v1/nodes/private-${i}`);
  await plane.delete("/api/v1/nodes/neighbour");
  await plane.delete("/api/v1/nodes/public");
  await untilBlocked([]);
  const writes = plane
    .audit()
    .slice(audited)
    .filter(({ verb, user, path }) => verb === "patch" && user === OPERATOR && path.includes("/configmaps/a-egress-"));
  assert.ok(writes.length >= 2 && writes.length <= 3, JSON.stringify(writes));
});

test("rejects a document that is too large and keeps the last one", { skip }, async () => {
  const ns = "large";
  await makeNamespace(plane, ns);
  await applyPolicy(plane, ns, "webhooks", { deny: [{ hosts: ["good.example"] }] });
  await untilCondition(plane, ns, "webhooks", "Programmed", "True");
  const good = await document(ns, "webhooks");
  const label = "h".repeat(40);
  const hosts = Array.from({ length: 20_000 }, (_, i) => `${label}-${i}.example.com`);
  const began = Date.now();
  await applyPolicy(plane, ns, "webhooks", { deny: [{ hosts }] });
  const policy = await untilCondition(plane, ns, "webhooks", "Accepted", "False", "TooLarge");
  console.log(`20,000 hosts were refused ${Date.now() - began} ms after kubectl apply`);
  assert.match(
    conditionOf(policy, "Accepted")!.message,
    /^spec: the policy document has 1\d{6} bytes; its ConfigMap has room for 1048576; use fewer hosts, or wildcards$/,
  );
  assert.equal(conditionOf(policy, "Programmed")!.status, "True");
  assert.equal((await document(ns, "webhooks"))!.metadata.resourceVersion, good!.metadata.resourceVersion);
});

test("PodIP annotates pods and assigns an address that a pod has", {
  skip,
}, async () => {
  const ns = "podip";
  await makeNamespace(plane, ns);
  const annotations = { "cni.example/pool": "egress" };
  await applyPolicy(plane, ns, "webhooks", {
    nat: { provider: "PodIP", podIP: { annotations } },
    staticIPs: [{ address: "2001:db8::60" }],
    proxy: { replicas: 1 },
  });
  await untilCondition(plane, ns, "webhooks", "IPsAssigned", "False", "Unassigned");
  await untilCondition(plane, ns, "webhooks", "ProxyAvailable", "True");
  const [pod] = await listOf<Pod>("Pod", ns);
  assert.equal(pod!.metadata.annotations!["cni.example/pool"], "egress");
  // As a kubelet reports what the network plugin gave.
  const podIPs = [{ ip: pod!.status!.podIP! }, { ip: "2001:db8::60" }];
  await plane.patch(`${pathOf("Pod", ns, pod!.metadata.name)}/status`, { status: { podIPs } });
  const policy = await untilCondition(plane, ns, "webhooks", "IPsAssigned", "True");
  assert.equal(policy.status!.staticIPs![0]!.state, "Assigned");
  assert.equal(policy.status!.staticIPs![0]!.node, pod!.spec!.nodeName);
});

test("keeps fields of other managers and removes its own unset ones", { skip }, async () => {
  const ns = "fields";
  await makeNamespace(plane, ns);
  const path = pathOf("Deployment", ns, "webhooks-egress");
  type Whole = Deployment & { spec: { template: { spec: { nodeSelector?: object; priorityClassName?: string } } } };
  const nodeSelector = { "kubernetes.io/hostname": "node-1" };
  await applyPolicy(plane, ns, "webhooks", { proxy: { replicas: 3, nodeSelector } });
  await untilCondition(plane, ns, "webhooks", "ProxyAvailable", "True");
  const service = pathOf("Service", ns, "webhooks-egress");
  await plane.patch(service, { metadata: { labels: { team: "payments" }, annotations: { note: "theirs" } } });
  // The number is the default again, and the selector is removed.
  await applyPolicy(plane, ns, "webhooks", {});
  const free = (found: Whole | undefined) =>
    found?.spec.template.spec.nodeSelector === undefined && found?.spec.replicas === 2;
  await plane.until<Whole>(path, free, "nodeSelector and replicas are gone");
  // As a HorizontalPodAutoscaler: through the scale subresource.
  await plane.patch(`${path}/scale`, { spec: { replicas: 4 } });
  for (const proxy of [{ nodeSelector }, { replicas: 1, nodeSelector }, {}]) {
    await applyPolicy(plane, ns, "webhooks", { proxy });
    const follows = (found: Whole | undefined) =>
      JSON.stringify(found?.spec.template.spec.nodeSelector) === JSON.stringify(proxy.nodeSelector);
    await plane.until<Whole>(path, follows, "the Deployment follows the policy");
    assert.equal((await plane.get<Whole>(path))!.spec.replicas, 4);
  }
  assert.match(
    conditionOf(await untilCondition(plane, ns, "webhooks", "ProxyAvailable", "True"), "ProxyAvailable")!.message,
    /^4 of 4 proxies are available; \S+ has set the number of replicas/,
  );
  await applyPolicy(plane, ns, "webhooks", { proxy: { serviceAnnotations: { ours: "1" } } });
  await plane.until<KubeObject>(service, (found) => found?.metadata.annotations?.ours === "1", "the annotation");
  await applyPolicy(plane, ns, "webhooks", {});
  const { metadata } = (await plane.until<KubeObject>(
    service,
    (found) => found?.metadata.annotations?.ours === undefined,
    "the annotation goes",
  ))!;
  assert.equal(metadata.labels!.team, "payments");
  assert.equal(metadata.annotations!.note, "theirs");
});

test("keeps 0 replicas, and takes the number back with an annotation", { skip }, async () => {
  const ns = "scaled";
  await makeNamespace(plane, ns);
  const path = pathOf("Deployment", ns, "webhooks-egress");
  const replicas = (count: number) => (found: Deployment | undefined) => found?.spec?.replicas === count;
  const run = async (...args: string[]) => {
    const { status, stderr } = await plane.kubectl([...args, "-n", ns]);
    assert.equal(status, 0, stderr);
  };
  const enforce = (value: string) => run("annotate", "egpol/webhooks", `egress.outrider.dev/enforce-replicas${value}`);
  await applyPolicy(plane, ns, "webhooks", {});
  await untilCondition(plane, ns, "webhooks", "ProxyAvailable", "True");
  for (const count of [0, 3, 0]) {
    await run("scale", "deployment/webhooks-egress", `--replicas=${count}`);
    const [status, reason] = count === 0 ? (["False", "ScaledToZero"] as const) : (["True", "Available"] as const);
    await untilCondition(plane, ns, "webhooks", "ProxyAvailable", status, reason);
    // Alerts distinguish it from a fleet that fails.
    if (count === 0) await untilCondition(plane, ns, "webhooks", "PolicyDistributed", "False", "ScaledToZero");
    // An edit applies the Deployment again.
    await applyPolicy(plane, ns, "webhooks", { proxy: { replicas: 1, podLabels: { edit: `e${count}` } } });
    type Labelled = Deployment & { spec: { template: { metadata: { labels: Record<string, string> } } } };
    const edited = (found: Labelled | undefined) => found?.spec.template.metadata.labels.edit === `e${count}`;
    assert.ok(replicas(count)(await plane.until<Labelled>(path, edited, "the edit is applied")), `${count} are kept`);
  }
  await enforce("=true");
  await plane.until<Deployment>(path, replicas(1), "the number of the policy counts");
  await enforce("-");
  await applyPolicy(plane, ns, "webhooks", { proxy: { replicas: 2 } });
  await plane.until<Deployment>(path, replicas(2), "a later number of the policy counts");
  await untilCondition(plane, ns, "webhooks", "ProxyAvailable", "True");
});

test("kubectl get -o wide, wait and describe show the state", { skip }, async () => {
  await makeNamespace(plane, LIVE);
  const run = async (...args: string[]) => {
    const { status, stdout, stderr } = await plane.kubectl([...args, "-n", LIVE]);
    assert.equal(status, 0, stderr);
    return stdout;
  };
  const began = Date.now();
  await applyPolicy(plane, LIVE, "webhooks", { proxy: { replicas: 1 } });
  assert.match(await run("wait", "egpol/webhooks", "--for=condition=Ready", "--timeout=30s"), /webhooks condition met/);
  console.log(`from the apply to Ready: ${Date.now() - began} ms`);
  const edited = Date.now();
  await applyPolicy(plane, LIVE, "webhooks", { proxy: { replicas: 1 }, deny: [{ hosts: ["a.example"] }] });
  await untilCondition(plane, LIVE, "webhooks", "PolicyDistributed", "True");
  console.log(`from an edit to PolicyDistributed: ${Date.now() - edited} ms`);
  const [head, row] = (await run("get", "egpol", "-o", "wide")).split("\n");
  assert.match(head!, /^NAME +READY +MODE +PROVIDER +IPS +VERIFIED +PROXIES +PODS +AGE +REASON +MESSAGE$/);
  assert.match(row!, /^webhooks +True +Enforce +External +1\/1 +\S+ +Ready +the fleet serves this policy$/);
  await applyPolicy(plane, LIVE, "webhooks", { proxy: { replicas: 1 }, ...INVALID });
  await untilCondition(plane, LIVE, "webhooks", "Ready", "False", "Invalid");
  const invalid = 'Accepted: spec.allow[0].hosts[0]: "a\u05d0.example" is not';
  await untilDescribed(
    /Warning +Invalid .*outrider-operator +Accepted: spec\.allow\[0\]\.hosts\[0\]: "a\u05d0\.example" is not a valid host name/,
  );
  // One line for what went well, however often, and one for what did not.
  type Event = KubeObject & { type: string; reason: string; message: string; count: number };
  const { items } = (await plane.get<{ items: Event[] }>(`/api/v1/namespaces/${LIVE}/events`))!;
  const recorded = items.filter(({ message }) => /^[A-Z]\w+: /.test(message) && !/^Scaled|^Created/.test(message));
  assert.deepEqual(
    recorded.map(({ type, reason, message }) => `${type} ${reason} ${message.slice(0, invalid.length)}`).sort(),
    [`Normal Ready Ready: the fleet serves this policy`, `Warning Invalid ${invalid}`],
  );
});

/** Events follow a moment after the status. */
async function untilDescribed(wanted: RegExp): Promise<void> {
  for (const began = Date.now(); ; ) {
    const { stdout } = await plane.kubectl(["describe", "egpol", "-n", LIVE, "webhooks"]);
    if (wanted.test(stdout)) return;
    if (Date.now() - began > 10_000) throw new Error(`not described: ${wanted}: ${stdout}`);
  }
}

test("--namespaces needs rights in these namespaces only", {
  skip,
  timeout: 180_000,
}, async () => {
  await operator.stop();
  const [own, other] = ["team-a", "team-c"] as const;
  const names = [own, "team-b"];
  for (const ns of [...names, other]) await namespaceForPods(ns);
  const rules = parseAllDocuments(readFileSync(MANIFEST, "utf8"))
    .map((part) => part.toJS() as { kind: string; rules: { resources: string[] }[] })
    .find(({ kind }) => kind === "ClusterRole")!
    .rules.filter(({ resources }) => !resources.some((name) => CLUSTER_WIDE.includes(name)));
  const account = { kind: "ServiceAccount", name: "outrider-operator", namespace: "outrider-system" };
  const rbac = "/apis/rbac.authorization.k8s.io/v1";
  const apiVersion = "rbac.authorization.k8s.io/v1";
  await plane.delete(`${rbac}/clusterrolebindings/outrider-operator`);
  for (const ns of names) {
    const metadata = { name: "outrider-operator", namespace: ns };
    await plane.apply(`${rbac}/namespaces/${ns}/roles/outrider-operator`, {
      apiVersion,
      kind: "Role",
      metadata,
      rules,
    });
    const roleRef = { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name: "outrider-operator" };
    const binding = { apiVersion, kind: "RoleBinding", metadata, roleRef, subjects: [account] };
    await plane.apply(`${rbac}/namespaces/${ns}/rolebindings/outrider-operator`, binding);
  }
  const audited = plane.audit().length;
  operator = await again({
    name: "namespaced",
    args: [...names.map((ns) => `--namespaces=${ns}`), "--discover-cidrs=off"],
  });
  for (const ns of [other, ...names]) await applyPolicy(plane, ns, "webhooks", {});
  for (const ns of names) await untilCondition(plane, ns, "webhooks", "ProxyAvailable", "True");
  // The operator does not watch nodes, so it cannot report a shortage.
  await applyPolicy(plane, own, "slots", kubeVIP(["203.0.113.9"]));
  await untilCondition(plane, own, "slots", "Programmed", "True");
  // A deleted namespace takes its policies with it, although the operator cannot see it and loses its rights there.
  await makeSender(own, "webhooks");
  await untilHeld(own, "webhooks");
  await plane.delete(`/api/v1/namespaces/${own}`);
  await plane.until(`/api/v1/namespaces/${own}`, gone, "the namespace goes");
  assert.equal((await plane.get<EgressPolicy>(policyPath(other, "webhooks")))!.status?.observedGeneration, -1);
  const refused = plane
    .audit()
    .slice(audited)
    .filter(({ user, path, code }) => user === OPERATOR && code === 403 && !path.includes(`/namespaces/${own}/`));
  assert.deepEqual(refused, []);
  const troubles = warningsOf(operator).filter((line) => !line.includes(`${own}/`));
  assert.deepEqual(troubles, []);
});

for (const [what, serviceCIDR, families] of [
  ["IPv6 alone", "fd00:10:96::/112", ["IPv6"]],
  ["IPv4 and IPv6", "10.96.0.0/16,fd00:10:96::/112", ["IPv4", "IPv6"]],
  ["IPv6 and IPv4", "fd00:10:96::/112,10.96.0.0/16", ["IPv6", "IPv4"]],
] as const) {
  test(`the client Service has an address of each family: ${what}`, { skip, timeout: 180_000 }, async () => {
    const two = await startControlPlane({ serviceCIDR });
    let second: Operator | undefined;
    try {
      await install(two);
      second = await startOperator(two);
      await second.untilLeading();
      await makeNamespace(two, "convoy");
      await applyPolicy(two, "convoy", "webhooks", {});
      const policy = await untilCondition(two, "convoy", "webhooks", "Programmed", "True");
      type Service = KubeObject & { spec: { clusterIP: string; clusterIPs: string[]; ipFamilies: string[] } };
      const { spec } = (await two.get<Service>(pathOf("Service", "convoy", "webhooks-egress")))!;
      assert.deepEqual(spec.ipFamilies, families);
      assert.deepEqual(
        spec.clusterIPs.map((ip) => (ip.includes(":") ? "IPv6" : "IPv4")),
        families,
      );
      const shown = await two.until<EgressPolicy>(
        policyPath("convoy", "webhooks"),
        (found) => found?.status?.endpoint?.clusterIP === spec.clusterIP,
        "the Service's address is in the status",
      );
      assert.equal(shown!.status!.endpoint!.host, policy.status!.endpoint!.host);
      // Unique local and private ranges are special-purpose: what proxies refuse anyway is not in the document.
      const path = pathOf("ConfigMap", "convoy", "webhooks-egress-policy");
      assert.deepEqual(blockedCIDRs(await two.get<ConfigMap>(path)), []);
      // A range of Services that is added, and is public.
      const range = { apiVersion: "networking.k8s.io/v1", kind: "ServiceCIDR", metadata: { name: "more" } };
      const cidrs = families[0] === "IPv6" ? ["2a00:1234:5678::/112"] : ["11.22.34.0/24"];
      await two.apply("/apis/networking.k8s.io/v1/servicecidrs/more", { ...range, spec: { cidrs } });
      const blocks = (found: ConfigMap | undefined) => blockedCIDRs(found).join() === cidrs.join();
      await two.until<ConfigMap>(path, blocks, "the new range is blocked");
    } finally {
      await second?.stop();
      await two.stop();
    }
  });
}
