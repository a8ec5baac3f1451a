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
  assert.equal(why([node("a", [IP]), node("b")], spec()), `no proxy runs yet on node a, which has ${IP}`);
  assert.equal(
    why([node("a", [IP]), node("b")], mapped),
    `no proxy runs yet on node a, which has 10.0.4.7 (for ${IP})`,
  );
  // The bound address decides if nodes list both addresses.
  assert.match(why([node("a", [IP]), node("b", ["10.0.4.7"])], mapped), /^no proxy runs yet on node b,/);
  assert.equal(
    why([node("a", [IP])], spec(), [proxy("a", IP)]),
    `the proxy on node a cannot bind ${IP}, although the node lists ${IP}; add the address to an interface of the node, or set sourceAddress if a router maps it`,
  );
  assert.match(why([node("a", [IP]), node("b")], spec(), [proxy("b", IP)]), /^no proxy runs yet on node a/);
  assert.equal(
    why([node("a", [IP]), node("b", [], { labels: { egress: "fixed" } })], spec(selecting)),
    `node a has ${IP}, but spec.nat.nodeAddress.nodeSelector does not select it`,
  );
  assert.equal(
    why([node("a")], spec()),
    `the only node for ${IP} is a, which does not have it; add the address to that node`,
  );
  assert.match(
    why([node("a"), node("b")], spec()),
    /^no node lists 203\.0\.113\.20; .*\(kubectl annotate node NODE egress\.outrider\.dev\/addresses=203\.0\.113\.20\)$/,
  );
  const slip = { ...node("b"), metadata: { name: "b", annotations: { "egress.outrider.dev/addresses": `${IP}/32` } } };
  assert.equal(
    why([node("a"), slip], spec()),
    `no node lists ${IP}; annotation egress.outrider.dev/addresses on node b contains an invalid address: ${IP}/32`,
  );
  const ending = { ...proxy("a", IP), slot: slotId("203.0.113.21") };
  ending.pod.spec = { hostNetwork: true };
  assert.equal(
    why([node("a", [IP]), node("b")], spec(), [ending]),
    `node a has ${IP} but can run only one proxy of a policy; the proxy starts after p has ended`,
  );
  assert.match(why([node("a", [], { unschedulable: true })], spec()), /^no node can run a proxy for 203\.0\.113\.20$/);
  assert.match(
    why(undefined, spec()),
    /the operator does not watch nodes .*; set spec\.proxy\.nodeSelector so that it selects only the node/,
  );
});

test("explains a shortage of nodes", () => {
  const two = spec({ staticIPs: [{ address: IP }, { address: "203.0.113.21" }] });
  const tainted = { taints: [{ key: "team", effect: "NoSchedule" }] };
  assert.match(
    shortage([node("a")], spec(selecting), nodeAddress)!,
    /^1 static IPs need 1 nodes, but 0 can run a proxy \(check spec\.nat\.nodeAddress\.nodeSelector, tolerations, cordoned nodes\)$/,
  );
  assert.match(
    shortage([node("a")], two, kubeVIP)!,
    /^2 static IPs need 2 nodes, but 1 can .*spec\.proxy\.nodeSelector/,
  );
  for (const state of [{ unschedulable: true }, tainted]) {
    const nodes = [node("a", [IP], state), node("b"), node("c")];
    assert.equal(
      shortage(nodes, two, nodeAddress),
      `node a has ${IP} but cannot run a proxy (check tolerations, cordoned nodes)`,
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
