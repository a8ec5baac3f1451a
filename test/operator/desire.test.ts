import assert from "node:assert/strict";
import { test } from "node:test";
import type { EgressPolicy, EgressPolicySpec } from "../../operator/api/egresspolicy.ts";
import { childName } from "../../operator/api/names.ts";
import type { Deployment, Pod, Service } from "../../operator/api/objects.ts";
import { slotId } from "../../operator/fleet/slots.ts";
import { decide } from "../../operator/reconcile/decision/decide.ts";
import { lagging } from "../../operator/reconcile/decision/desire.ts";
import { servingOf } from "../../operator/reconcile/decision/serving.ts";
import type { Facts } from "../../operator/reconcile/facts/facts.ts";
import { withDefaults } from "../harness/defaults.ts";
import {
  A,
  apply,
  B,
  C,
  edited,
  factsOf,
  NAME,
  OPTIONS,
  open,
  plan,
  podOf,
  settled,
  specOf,
  type World,
  withProxies,
} from "./worlds.ts";

/** Objects of a policy: which ones exist, are deleted, or stay, and the list that they publish. */

const slotName = (address: string) => childName.slot(NAME, slotId(address));
const removalsOf = (world: World, spec: EgressPolicySpec, others: Facts["children"]["others"] = []) => {
  const facts = factsOf(world, spec);
  const { desired } = decide({ ...facts, children: { ...facts.children, others } }, () => undefined, OPTIONS);
  return desired!.removals.map(({ kind, metadata }) => `${kind} ${metadata.name}`);
};
/** All proxies have the newest policy. */
function upToDate(world: World, spec: EgressPolicySpec): World {
  const { hash } = plan(world, spec).effective!;
  return withProxies(world, ({ status }) => (status === undefined ? {} : { status: { ...status, hash } }));
}
const publishedIn = (world: World, spec: EgressPolicySpec) => {
  const { ipv4, retiring } = plan(upToDate(world, spec), spec).desired!.published.json;
  return { ipv4, retiring };
};

test("addresses of an old fleet stay published while it serves", () => {
  const world = settled(specOf("External", [B, A]));
  assert.deepEqual(publishedIn(world, specOf("KubeVIP", [C])), { ipv4: [C, A, B], retiring: [A, B] });
  // An address that the new fleet uses is Active.
  assert.deepEqual(publishedIn(world, specOf("KubeVIP", [A])), { ipv4: [A, B], retiring: [B] });
  const spec = specOf("KubeVIP", [A, B]);
  assert.deepEqual(publishedIn(world, spec), { ipv4: [A, B], retiring: [] });
});

test("the Service of an old slot is deleted after its proxy has ended", () => {
  const spec = specOf("KubeVIP", [A]);
  const world = settled(specOf("KubeVIP", [A, B]));
  const deletes = (one: World) => removalsOf(one, spec);
  assert.deepEqual(deletes(world), [`Deployment ${slotName(B)}`]);
  const deployments = new Map(world.deployments);
  deployments.delete(slotName(B));
  assert.deepEqual(deletes({ ...world, deployments }), []);
  const proxies = world.proxies.filter(({ slot }) => slot === slotId(A));
  assert.deepEqual(deletes({ ...world, deployments, proxies }), [`Service ${slotName(B)}`]);
  // Without its Deployment being deleted: the new slot does not serve yet.
  const other = specOf("KubeVIP", [C]);
  const starting = apply({ ...world, proxies: [] }, other, () => false);
  assert.deepEqual(removalsOf({ ...world, deployments: starting.deployments, proxies: [] }, other), []);
});

test("deletes objects that the policy no longer needs", () => {
  const world = settled(specOf("External", [A]));
  const named = (kind: string, name: string, labels?: Record<string, string>) => ({
    ...{ apiVersion: "v1", kind },
    metadata: { name, ...(labels && { labels }) },
  });
  world.services.set("old", named("Service", "old") as Service);
  const others = [named("NetworkPolicy", "other"), named("PodDisruptionBudget", childName.fleet(NAME))];
  assert.deepEqual(removalsOf(world, specOf("External", [A]), others), ["Service old", "NetworkPolicy other"]);
});

test("a NetworkPolicy of senders that would be too large is left unchanged", () => {
  const senders = { apiVersion: "networking.k8s.io/v1", kind: "NetworkPolicy" };
  const existing = { ...senders, metadata: { name: childName.senders(NAME) } };
  const networks = Array.from({ length: 20_000 }, (_, i) => ({ ipBlock: { cidr: `10.${i >> 8}.${i & 255}.0/24` } }));
  const specWith = (to: object[]): EgressPolicySpec => {
    const base = specOf("External", [A]);
    const networkPolicy = { ...base.networkPolicy, senders: "Enabled", additionalEgress: [{ to }] };
    return { ...base, networkPolicy } as EgressPolicySpec;
  };
  const deletes = (spec: EgressPolicySpec) => removalsOf(settled(specOf("External", [A])), spec, [existing]);
  assert.deepEqual(deletes(specWith(networks)), []);
  assert.deepEqual(deletes(specWith(networks.slice(0, 1))), []);
  assert.deepEqual(deletes(specOf("External", [A])), ["NetworkPolicy webhooks-egress-senders"]);
});

test("a running proxy with another document lags", () => {
  const [deployment] = settled(specOf("External", [A])).deployments.values();
  const proxy = podOf(deployment!);
  const found = (...proxies: Parameters<typeof lagging>[0]) => lagging(proxies, "sha256:2").length;
  const current = { ...proxy, status: { ...open(undefined), hash: "sha256:2" } };
  assert.equal(found(proxy, current), 1);
  assert.equal(found({ ...proxy, status: { ...open(undefined), hash: null } }), 1);
  assert.equal(found(current), 0);
  assert.equal(found({ ...proxy, status: undefined }), 0);
  assert.equal(found({ ...proxy, terminating: true }), 0);
  assert.equal(found({ ...proxy, pod: { ...proxy.pod, status: { phase: "Pending" } } }), 0);
  const { status: _, ...created } = proxy.pod;
  assert.equal(found({ ...proxy, pod: created as Pod }), 0);
});

test("a ready proxy that is closed is not in service", () => {
  const spec = specOf("KubeVIP", [A, B]);
  const world = settled(spec);
  const closed = { ...open(A), sources: [{ address: A, assigned: false }] };
  const half = withProxies(world, ({ slot }) => (slot === slotId(A) ? { status: closed } : {}));
  const serving = servingOf(factsOf(half, spec), spec);
  assert.deepEqual(
    serving.inService.map(({ slot }) => slot),
    [slotId(B)],
  );
  assert.deepEqual(serving.surely, serving.inService);
});

test("a Service without a selector selects every proxy", () => {
  const spec = specOf("KubeVIP", [A, B]);
  const world = settled(spec);
  const name = childName.fleet(NAME);
  const unlabelled = withProxies(world, ({ pod }) => ({ pod: { ...pod, metadata: { name: pod.metadata.name } } }));
  const { spec: _, ...bare } = world.services.get(name)!;
  unlabelled.services.set(name, bare);
  assert.equal(servingOf(factsOf(unlabelled, spec), spec).inService.length, 2);
});

test("a spec without settings of the proxies gets two replicas", () => {
  const { proxy: _, ...rest } = withDefaults({ staticIPs: [{ address: A }] });
  const spec = rest as EgressPolicy["spec"];
  const { desired } = plan(settled(specOf("External", [A])), spec);
  const deployment = desired!.objects.find(({ kind }) => kind === "Deployment") as Deployment;
  assert.equal(deployment.spec!.replicas, 2);
});

test("slots listen for TLS on the addresses of their nodes", () => {
  const spec = specOf("KubeVIP", [A], { tls: { secretRef: { name: "certificate" } } });
  const { desired } = plan(settled(spec), spec);
  const deployment = desired!.objects.find(({ kind }) => kind === "Deployment") as Deployment;
  const text = JSON.stringify(deployment);
  assert.ok(text.includes('"--listen-tls=[$(NODE_IP)]:4751"'), text);
  assert.ok(!text.includes("--tls-client"), text);
  const service = desired!.objects.find(
    ({ kind, metadata }) => kind === "Service" && metadata.name === childName.fleet(NAME),
  );
  const ports = (service as { spec?: { ports?: { port: number }[] } }).spec!.ports!;
  assert.deepEqual(
    ports.map(({ port }) => port),
    [4750, 4751],
  );
});

test("another order of the addresses of external clients restarts no proxy", () => {
  const template = (sourceRanges: string[], proxyProtocolFrom: string[]) => {
    const tls = { port: 4751, secretRef: { name: "certificate" } };
    const spec = specOf("External", [A], { tls, external: { port: 4752, sourceRanges, proxyProtocolFrom } });
    const { desired } = plan(settled(spec), spec);
    return (desired!.objects.find(({ kind }) => kind === "Deployment") as Deployment).spec;
  };
  const [one, two] = ["198.51.100.0/24", "192.0.2.0/24"];
  const [three, four] = ["10.9.0.2/32", "10.9.0.1/32"];
  assert.deepEqual(template([one!, two!], [three!, four!]), template([two!, one!, two!], [four!, three!]));
});

test("a Deployment without annotations has older settings", () => {
  const world = settled(specOf("KubeVIP", [A]));
  const before = world.deployments.get(slotName(A))!;
  const { annotations: _, ...metadata } = before.metadata;
  world.deployments.set(slotName(A), { ...before, metadata });
  const { desired } = plan(world, specOf("KubeVIP", [A]));
  assert.ok(desired!.objects.some(({ metadata: { name } }) => name === slotName(A)));
  assert.deepEqual(desired!.round.waiting, []);
});

test("objects of a slot whose change waits are only created", () => {
  const spec = specOf("KubeVIP", [A, B], edited);
  const world = settled(specOf("KubeVIP", [A, B]));
  const writes = () =>
    plan(world, spec)
      .desired!.objects.filter(({ metadata }) => metadata.name === slotName(B))
      .map(({ kind }) => kind);
  assert.deepEqual(writes(), []);
  world.services.delete(slotName(B));
  assert.deepEqual(writes(), ["Service"]);
});
