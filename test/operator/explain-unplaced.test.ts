import assert from "node:assert/strict";
import { test } from "node:test";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import type { Node } from "../../operator/api/objects.ts";
import type { ProxyFacts } from "../../operator/fleet/proxy-status.ts";
import { slotId, slotsOf } from "../../operator/fleet/slots.ts";
import { kubeVIP } from "../../operator/providers/kubevip.ts";
import { nodeAddress } from "../../operator/providers/nodeaddress.ts";
import type { Provider } from "../../operator/providers/provider.ts";
import type { Facts } from "../../operator/reconcile/facts/facts.ts";
import { shortageOf, whyUnassigned } from "../../operator/reconcile/placement/explain-unplaced.ts";
import { placementsOf } from "../../operator/reconcile/placement/placement.ts";

/** Messages about slots without a node or without their address. Golden files and node tests cover the rest. */

type Spec = EgressPolicy["spec"];
const IP = "203.0.113.20";
const spec = (more: object = {}) =>
  ({ nat: { provider: "NodeAddress" }, staticIPs: [{ address: IP }], ...more }) as Spec;
const selecting = { nat: { provider: "NodeAddress", nodeAddress: { nodeSelector: { egress: "fixed" } } } };

const node = (
  name: string,
  addresses: string[] = [],
  rest: Node["spec"] & { labels?: Record<string, string> } = {},
) => {
  const { labels = {}, ...nodeSpec } = rest;
  const listed = addresses.map((address) => ({ type: "ExternalIP", address }));
  return { apiVersion: "v1", kind: "Node", metadata: { name, labels }, spec: nodeSpec, status: { addresses: listed } };
};
const proxy = (on: string, source: string) =>
  ({
    pod: { apiVersion: "v1", kind: "Pod", metadata: { name: "p" } },
    slot: slotId(IP),
    node: on,
    terminating: false,
    status: { sources: [{ address: source, assigned: false }] },
  }) as unknown as ProxyFacts;
const why = (nodes: Node[] | undefined, wanted: Spec, proxies: ProxyFacts[] = []) =>
  whyUnassigned({ nodes, proxies } as unknown as Facts, wanted, placed(nodes, wanted).get(slotId(IP))!);

const placed = (nodes: readonly Node[] | undefined, wanted: Spec) => placementsOf(nodes ?? [], wanted, slotsOf(wanted));
const shortage = (nodes: Node[] | undefined, wanted: Spec, provider: Provider) =>
  shortageOf(nodes, { spec: wanted, provider, slots: slotsOf(wanted), placements: placed(nodes, wanted) });

test("explains why no proxy has an address", () => {
  const mapped = spec({ staticIPs: [{ address: IP, sourceAddress: "10.0.4.7" }] });
  assert.equal(why([node("a", [IP]), node("b")], spec()), `node a has ${IP}, but its proxy does not run there yet`);
  assert.equal(
    why([node("a", [IP]), node("b")], mapped),
    `node a has 10.0.4.7 (for ${IP}), but its proxy does not run there yet`,
  );
  // The bound address decides if nodes list both addresses.
  assert.match(
    why([node("a", [IP]), node("b", ["10.0.4.7"])], mapped),
    /^node b has 10\.0\.4\.7 .*, but its proxy does/,
  );
  assert.equal(
    why([node("a", [IP])], spec(), [proxy("a", IP)]),
    `the proxy on node a cannot bind ${IP}, although the node lists ${IP}; add the address to an interface of the node, or set sourceAddress if a router maps it`,
  );
  assert.match(
    why([node("a", [IP]), node("b")], spec(), [proxy("b", IP)]),
    /^node a has .*, but its proxy does not run/,
  );
  assert.match(
    why([node("b", [IP]), node("a", [IP])], spec()),
    /^nodes a, b have 203\.0\.113\.20, but its proxy does not/,
  );
  assert.equal(
    why([node("a", [IP]), node("b", [], { labels: { egress: "fixed" } })], spec(selecting)),
    `node a has ${IP}, but not the labels of spec.nat.nodeAddress.nodeSelector; label a node that has the address, or change spec.nat.nodeAddress.nodeSelector`,
  );
  assert.equal(
    why([node("a")], spec()),
    `only node a can run the proxy for ${IP}, and it does not have the address; add the address to that node`,
  );
  assert.match(
    why([node("a"), node("b")], spec()),
    /^no node lists 203\.0\.113\.20; .*\(kubectl annotate node NODE egress\.outrider\.dev\/addresses=203\.0\.113\.20\)$/,
  );
  const slip = { ...node("b"), metadata: { name: "b", annotations: { "egress.outrider.dev/addresses": `${IP}/32` } } };
  assert.equal(
    why([node("a"), slip], spec()),
    `no node lists ${IP}; annotation egress.outrider.dev/addresses on node b contains an invalid address: ${IP}/32; correct the annotation`,
  );
  const ending = { ...proxy("a", IP), slot: slotId("203.0.113.21") };
  ending.pod.spec = { hostNetwork: true };
  assert.equal(
    why([node("a", [IP]), node("b")], spec(), [ending]),
    `node a has ${IP}, but still runs proxy p, and a node can run only one proxy of a policy; the new proxy starts after p has ended`,
  );
  const two = spec({ staticIPs: [{ address: IP }, { address: "203.0.113.21" }] });
  assert.equal(
    why([node("a", [], { unschedulable: true }), node("b", ["203.0.113.21"])], two),
    `no node lists ${IP}, and no other node can run its proxy; needed for other static IPs: b; cordoned: a; add a node that has the address`,
  );
  assert.match(
    why(undefined, spec()),
    /the operator does not watch nodes .*; set spec\.proxy\.nodeSelector so that it selects only the node/,
  );
});

test("explains why a proxy does not run on the node of its address", () => {
  const unscheduled = (slot: string, message: string) => {
    const conditions = [{ type: "PodScheduled", status: "False", message }];
    const { node: _, status: __, ...rest } = proxy("a", IP);
    return { ...rest, slot, pod: { ...rest.pod, status: { phase: "Pending", conditions } } } as unknown as ProxyFacts;
  };
  const other = slotId("203.0.113.21");
  const message = `node a has ${IP}, but its proxy does not run there yet`;
  const nodes = [node("a", [IP]), node("b")];
  assert.equal(
    why(nodes, spec(), [unscheduled(other, "1/2 nodes"), unscheduled(slotId(IP), "0/2 nodes are available")]),
    `${message}: 0/2 nodes are available`,
  );
  assert.equal(why(nodes, spec(), [unscheduled(other, "0/2 nodes are available")]), message);
  const starting = { ...proxy("a", IP), status: undefined };
  assert.equal(
    why(nodes, spec(), [starting, unscheduled(slotId(IP), "0/2 nodes are available")]),
    `${message}: 0/2 nodes are available`,
  );
  assert.equal(why(nodes, spec(), [starting]), message);
  // Its own proxy, or a pod network, is no obstacle.
  const own = { ...starting, pod: { ...starting.pod, spec: { hostNetwork: true } } };
  assert.equal(why(nodes, spec(), [own]), message);
  assert.equal(
    why(nodes, spec(), [{ ...own, slot: other, pod: { ...own.pod, spec: { hostNetwork: false } } }]),
    message,
  );
  assert.equal(why(nodes, spec(), [{ ...starting, slot: other }]), message);
  assert.equal(why(nodes, spec(), [{ ...own, slot: other, node: undefined }]), message);
  assert.equal(why(nodes, spec(), [{ ...proxy("a", IP), terminating: true }]), message);
});

test("names nodes that the policy does not select, in the order of names", () => {
  const nodes = [node("z", [IP]), node("a", [IP]), node("m", [], { labels: { egress: "fixed" } })];
  assert.match(why(nodes, spec(selecting)), /^nodes a, z have 203\.0\.113\.20, but not the labels of /);
});

test("names only obstacles that exist", () => {
  assert.equal(
    why([node("a", [], { unschedulable: true })], spec()),
    `no node lists ${IP}, and no other node can run its proxy; cordoned: a; add a node that has the address`,
  );
  const cordoned = { unschedulable: true };
  const two = [node("a", [IP], cordoned), node("b", [IP]), node("c", [], cordoned)];
  assert.equal(shortage(two, spec(), nodeAddress), undefined);
  const none = [node("a", [IP], cordoned), node("b"), node("c", [], cordoned)];
  assert.match(shortage(none, spec(), nodeAddress)!, /can run a proxy; cordoned: a; make such a node usable/);
});

test("explains a shortage of nodes", () => {
  const two = spec({ staticIPs: [{ address: IP }, { address: "203.0.113.21" }] });
  const tainted = { taints: [{ key: "team", effect: "NoSchedule" }] };
  assert.equal(
    shortage([node("a")], spec(selecting), nodeAddress),
    "too few nodes for 1 static IP: 0 of 1 node can run a proxy; not selected by spec.nat.nodeAddress.nodeSelector: a; add nodes, or make these usable",
  );
  assert.equal(
    shortage([node("a")], two, kubeVIP),
    "too few nodes for 2 static IPs: 1 of 1 node can run a proxy; add nodes",
  );
  const mixed = [node("a"), node("c", [], { unschedulable: true }), node("b", [], tainted)];
  assert.equal(
    shortage(mixed, two, kubeVIP),
    "too few nodes for 2 static IPs: 1 of 3 nodes can run a proxy; cordoned: c; with a taint that spec.proxy.tolerations does not tolerate: b; add nodes, or make these usable",
  );
  const states = [
    { state: { unschedulable: true }, reason: "cordoned" },
    { state: tainted, reason: "with a taint that spec.proxy.tolerations does not tolerate" },
  ];
  for (const { state, reason } of states) {
    const nodes = [node("a", [IP], state), node("b"), node("c")];
    assert.equal(
      shortage(nodes, two, nodeAddress),
      `no node that has ${IP} can run a proxy; ${reason}: a; make such a node usable, or move the address to another node`,
    );
    assert.equal(shortage(nodes, two, kubeVIP), undefined);
  }
  const tolerating = { ...two, proxy: { tolerations: [{ key: "team", operator: "Exists" }] } } as Spec;
  assert.equal(shortage([node("a", [IP], tainted), node("b")], tolerating, nodeAddress), undefined);
  assert.match(
    shortage([node("a", [IP, "203.0.113.21"]), node("b")], two, nodeAddress)!,
    /^203\.0\.113\.20 and 203\.0\.113\.21 are both on node a, .*; move one to another node, or to a policy with other ports$/,
  );
  assert.equal(shortage([node("a", [IP, "203.0.113.21"]), node("b", [IP])], two, nodeAddress), undefined);
  assert.equal(shortage(undefined, two, nodeAddress), undefined);
});
