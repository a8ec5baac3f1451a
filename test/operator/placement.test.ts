import assert from "node:assert/strict";
import { test } from "node:test";
import { isDeepStrictEqual } from "node:util";
import type { EgressPolicySpec } from "../../operator/api/egresspolicy.ts";
import { ANNOTATION } from "../../operator/api/names.ts";
import type { Deployment, Node } from "../../operator/api/objects.ts";
import type { ProxyFacts } from "../../operator/fleet/proxy-status.ts";
import { slotId, slotsOf } from "../../operator/fleet/slots.ts";
import { canTake, reachableAddresses, selectorOf, unusable } from "../../operator/reconcile/placement/nodes.ts";
import {
  affinityOf,
  annotatedAddresses,
  misannotated,
  placementsOf,
} from "../../operator/reconcile/placement/placement.ts";
import { A, B, C, factsOf, NAME, node, open, podOf, settled, specOf } from "./worlds.ts";

/** Nodes on which slots run, and the nodes that a policy can use. */

const annotated = (name: string, text: string): Node => ({
  ...node(name, "10.0.0.1"),
  metadata: { name, annotations: { [ANNOTATION.addresses]: text } },
});
const SPEC = specOf("NodeAddress", [A]);
const DEPLOYMENT = `${NAME}-egress-${slotId(A)}`;
const BEFORE = { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: ["that of before"] } };

/** Affinity of the slot of A in a fleet whose proxy on node a has these facts, while nodes list A elsewhere. */
function affinity(facts: Partial<ProxyFacts>[], nodes: readonly Node[], change: (deployment: Deployment) => void) {
  const world = settled(SPEC);
  const deployment = structuredClone(world.deployments.get(DEPLOYMENT)!);
  deployment.spec!.template!.spec!.affinity = { nodeAffinity: BEFORE };
  change(deployment);
  world.deployments.set(DEPLOYMENT, deployment);
  world.proxies = facts.map((one) => ({ ...podOf(deployment), ...one }));
  const placement = placementsOf(nodes, SPEC, slotsOf(SPEC)).get(slotId(A))!;
  return affinityOf({ ...factsOf(world, SPEC), nodes }, SPEC, placement, DEPLOYMENT);
}
const keeps = (
  facts: Partial<ProxyFacts>[],
  nodes = [node("b", A)],
  change: (deployment: Deployment) => void = () => {},
) => isDeepStrictEqual(affinity(facts, nodes, change), BEFORE);

const closed = (assigned: boolean) => ({
  status: { ...open(A), hash: null, sources: [{ address: A, assigned }] },
});

test("a slot keeps its affinity while its proxy serves, whatever nodes list", () => {
  assert.ok(keeps([{}]));
  assert.ok(keeps([{ ready: false }]));
  assert.ok(keeps([{}], []));
  // Proxies of the same slot that end, of another slot, or without a node, do not count.
  assert.ok(keeps([{ terminating: true }, {}]));
  assert.ok(!keeps([{ terminating: true }]));
  assert.ok(!keeps([{ slot: slotId(B) }]));
  assert.ok(!keeps([{ node: undefined }]));
  assert.ok(!keeps([]));
});

test("a slot keeps its affinity before the first poll of its proxy", () => {
  assert.ok(keeps([{ polled: false, ready: false, status: undefined }]));
  assert.ok(!keeps([{ ready: false, status: undefined }]));
});

test("a slot that does not serve follows its address to another node", () => {
  const [here, elsewhere, nowhere] = [[node("a", A)], [node("b", A)], [node("b", B)]];
  for (const facts of [
    { ready: true, status: undefined },
    { ready: false, ...closed(true) },
  ]) {
    assert.ok(!keeps([facts], elsewhere));
    assert.ok(keeps([facts], here));
    assert.ok(keeps([facts], nowhere));
  }
  assert.ok(!keeps([{ ready: false, ...closed(false) }], here));
  assert.ok(!keeps([{ ready: false, status: undefined }], here));
  // It has bound another address only.
  const sources = [{ address: B, assigned: true }];
  assert.ok(!keeps([{ ready: false, status: { ...open(A), sources } }], here));
  const both = [...sources, { address: A, assigned: true }];
  assert.ok(keeps([{ status: { ...open(A), sources: both } }], elsewhere));
});

test("a slot with another source address moves", () => {
  const otherSource = (deployment: Deployment) => {
    deployment.metadata.annotations![ANNOTATION.source] = B;
  };
  assert.ok(!keeps([{}], undefined, otherSource));
  const noAnnotation = (deployment: Deployment) => {
    delete deployment.metadata.annotations;
  };
  assert.ok(!keeps([{}], undefined, noAnnotation));
});

test("a slot without an affinity keeps none", () => {
  assert.equal(
    affinity([{}], [node("b", A)], ({ spec }) => {
      delete spec!.template!.spec!.affinity;
    }),
    undefined,
  );
  for (const field of ["spec", "template", "pod"] as const) {
    const without = (deployment: Deployment) => {
      if (field === "spec") delete deployment.spec;
      else if (field === "template") delete deployment.spec!.template;
      else delete deployment.spec!.template!.spec;
    };
    const world = settled(SPEC);
    const [proxy] = world.proxies;
    const deployment = structuredClone(world.deployments.get(DEPLOYMENT)!);
    without(deployment);
    world.deployments.set(DEPLOYMENT, deployment);
    const placement = placementsOf([node("b", A)], SPEC, slotsOf(SPEC)).get(slotId(A))!;
    assert.equal(affinityOf({ ...factsOf(world, SPEC), proxies: [proxy!] }, SPEC, placement, DEPLOYMENT), undefined);
  }
});

test("a slot may run on any node while no node lists an address", () => {
  assert.equal(
    affinity([], [], () => {}),
    undefined,
  );
  assert.equal(
    affinity([], [node("b", B)], () => {}),
    undefined,
  );
});

test("slots without a node avoid the nodes of others, in the order of names", () => {
  const spec = specOf("NodeAddress", [A, B, C]);
  const placements = placementsOf([node("z", A), node("b", B), node("a", A)], spec, slotsOf(spec));
  const of = (address: string) => placements.get(slotId(address))!;
  assert.deepEqual([of(A).nodes, of(A).avoid], [["a", "z"], []]);
  assert.deepEqual([of(C).nodes, of(C).avoid], [[], ["a", "b", "z"]]);
});

test("reads the addresses of nodes", () => {
  const named: Node = { ...node("n", A), status: { addresses: [{ type: "Hostname", address: A }] } };
  const nodesOf = (nodes: Node[]) => placementsOf(nodes, SPEC, slotsOf(SPEC)).get(slotId(A))!.nodes;
  assert.deepEqual(nodesOf([named]), []);
  assert.deepEqual(nodesOf([{ apiVersion: "v1", kind: "Node", metadata: { name: "new" } }]), []);
  assert.deepEqual(nodesOf([annotated("a", ` ${B} ,${A}`)]), ["a"]);
  assert.deepEqual(annotatedAddresses(annotated("a", `${A}, ,2001:DB8::1,a.example`)), [A, "2001:db8::1"]);
  assert.deepEqual(misannotated(annotated("a", `${A},a.example,${B}/32`)), ["a.example", `${B}/32`]);
});

const tainted = (...taints: NonNullable<NonNullable<Node["spec"]>["taints"]>): Node => ({
  ...node("a", A),
  spec: { taints },
});
const tolerating = (...tolerations: object[]): EgressPolicySpec => specOf("NodeAddress", [A], { tolerations });

test("tolerations match taints as in Kubernetes", () => {
  const gpu = { key: "gpu", value: "yes", effect: "NoSchedule" };
  const valueless = { key: "gpu", effect: "NoSchedule" };
  for (const [toleration, taint, expected] of [
    [{ key: "gpu", operator: "Exists" }, gpu, true],
    [{ key: "gpu", operator: "Equal", value: "yes" }, gpu, true],
    [{ key: "gpu", value: "yes" }, gpu, true],
    [{ key: "gpu", value: "no" }, gpu, false],
    [{ key: "gpu" }, gpu, false],
    [{ key: "gpu" }, valueless, true],
    [{ key: "gpu", value: "" }, valueless, true],
    [{ key: "gpu", value: "yes" }, valueless, false],
    [{ key: "team", operator: "Exists" }, gpu, false],
    [{ key: "team", value: "yes" }, gpu, false],
    [{ operator: "Exists" }, gpu, true],
    [{ key: "", operator: "Exists" }, gpu, true],
    [{ value: "yes" }, gpu, false],
    [{ key: "", value: "yes" }, gpu, false],
    [{ key: "gpu", operator: "Exists", effect: "NoSchedule" }, gpu, true],
    [{ key: "gpu", operator: "Exists", effect: "NoExecute" }, gpu, false],
  ] as const) {
    const spec = tolerating(toleration);
    assert.equal(canTake(tainted(taint), spec), expected, JSON.stringify([toleration, taint]));
  }
  assert.ok(!canTake(tainted(gpu), SPEC));
  assert.ok(!canTake(tainted({ key: "node.kubernetes.io/not-ready", effect: "NoExecute" }), SPEC));
  assert.ok(
    !canTake(tainted(gpu, { key: "team", effect: "NoSchedule" }), tolerating({ key: "gpu", operator: "Exists" })),
  );
});

test("PreferNoSchedule excludes no node", () => {
  const soft = tainted({ key: "gpu", effect: "PreferNoSchedule" });
  assert.ok(canTake(soft, SPEC));
  assert.deepEqual(reachableAddresses([soft], SPEC), [A]);
});

test("lists unusable nodes by reason, in a fixed order", () => {
  const gpu = tainted({ key: "gpu", effect: "NoSchedule" });
  const cordoned = { ...node("b", B), spec: { unschedulable: true } };
  assert.deepEqual(unusable([gpu, cordoned, node("c", C)], SPEC), [
    "cordoned: b",
    "with a taint that spec.proxy.tolerations does not tolerate: a",
  ]);
});

test("a proxy can be reached on a node with a temporary taint", () => {
  const temporary = (key: string) => tainted({ key, effect: "NoSchedule" });
  assert.deepEqual(reachableAddresses([temporary("node.kubernetes.io/unschedulable")], SPEC), [A]);
  assert.deepEqual(reachableAddresses([temporary("example.com/node.kubernetes.io/")], SPEC), []);
});

test("a proxy can be reached on the internal addresses of a node, else on the external ones", () => {
  const has = (...addresses: [type: string, address: string][]): Node => ({
    ...node("a", A),
    status: { addresses: addresses.map(([type, address]) => ({ type, address })) },
  });
  assert.deepEqual(reachableAddresses([has(["ExternalIP", A], ["Hostname", "a"], ["InternalIP", B])], SPEC), [B]);
  assert.deepEqual(reachableAddresses([has(["Hostname", "a"], ["ExternalIP", A])], SPEC), [A]);
  const { status: _, ...bare } = has();
  assert.deepEqual(reachableAddresses([bare], SPEC), []);
});

test("the field that selects nodes is that of the provider, else that of the proxies", () => {
  const own = {
    nat: { provider: "NodeAddress", nodeAddress: { nodeSelector: { role: "egress" } } },
  } as unknown as EgressPolicySpec;
  assert.deepEqual(selectorOf(own), { field: "spec.nat.nodeAddress.nodeSelector", labels: { role: "egress" } });
  assert.deepEqual(selectorOf(specOf("KubeVIP", [A], { nodeSelector: { role: "proxy" } })), {
    field: "spec.proxy.nodeSelector",
    labels: { role: "proxy" },
  });
  assert.deepEqual(selectorOf({} as EgressPolicySpec), { field: "spec.proxy.nodeSelector", labels: {} });
});
