import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { aggregate, blockedRanges } from "../../operator/reconcile/network/cluster-ranges.ts";
import { cidr, contains, v4 } from "../../proxy/policy/cidr.ts";

const node = (name: string, podCIDRs: string[], addresses: string[] = []) => ({
  apiVersion: "v1",
  kind: "Node",
  metadata: { name },
  spec: { podCIDRs },
  status: { addresses: addresses.map((address) => ({ type: "InternalIP", address })) },
});

test("omits special-purpose ranges and aggregates the others", () => {
  const ranges = blockedRanges({
    nodes: [
      node("a", ["10.244.0.0/24", "34.118.0.0/25"], ["10.0.0.2", "a", "8.8.4.1", "2a00:1::5"]),
      node("b", ["34.118.0.128/25", "2a00:1:2::/64"], ["8.8.4.0"]),
      { apiVersion: "v1", kind: "Node", metadata: { name: "c" }, spec: { podCIDR: "34.119.0.0/24" } },
    ],
    serviceCIDRs: [
      {
        apiVersion: "networking.k8s.io/v1",
        kind: "ServiceCIDR",
        metadata: { name: "kubernetes" },
        spec: { cidrs: ["10.96.0.0/16", "34.118.0.0/24"] },
      },
    ],
    apiServers: [
      {
        apiVersion: "discovery.k8s.io/v1",
        kind: "EndpointSlice",
        metadata: { name: "kubernetes" },
        endpoints: [{ addresses: ["52.1.2.3"] }],
      },
    ],
    configured: ["100.64.0.0/10", "52.1.2.0/30"],
  });
  assert.deepEqual(ranges, [
    "8.8.4.0/31",
    "34.118.0.0/24",
    "34.119.0.0/24",
    "52.1.2.0/30",
    "2a00:1::5/128",
    "2a00:1:2::/64",
  ]);
});

test("includes the annotated addresses of nodes", () => {
  const more = node("a", [], ["8.8.4.1"]);
  const annotations = { "egress.outrider.dev/addresses": "9.9.9.9,2a00:1::0007, 203.0.113.20 , nonsense" };
  const nodes = [{ ...more, metadata: { name: "a", annotations } }];
  assert.deepEqual(blockedRanges({ nodes, serviceCIDRs: [], apiServers: [], configured: [] }), [
    "8.8.4.1/32",
    "9.9.9.9/32",
    "2a00:1::7/128",
  ]);
});

test("ignores the order of nodes and keeps partly special ranges", () => {
  const of = (texts: string[]) =>
    blockedRanges({ nodes: [node("a", texts)], serviceCIDRs: [], apiServers: [], configured: [] });
  assert.deepEqual(of(["9.0.0.0/8", "8.0.0.0/8"]), of(["8.0.0.0/8", "9.0.0.0/8"]));
  assert.deepEqual(of(["10.0.0.0/7"]), ["10.0.0.0/7"]);
  assert.deepEqual(of(["192.0.0.0/28"]), ["192.0.0.0/28"]);
});

test("aggregated networks contain exactly the same addresses", () => {
  const network = fc.tuple(fc.integer({ min: 0, max: 255 }), fc.integer({ min: 24, max: 32 })).map(([byte, prefix]) => {
    const base = (byte & ~((1 << (32 - prefix)) - 1)) >>> 0;
    return cidr(`8.8.8.${base}/${prefix}`);
  });
  fc.assert(
    fc.property(fc.array(network, { maxLength: 20 }), (networks) => {
      const joined = aggregate(networks);
      for (let byte = 0; byte < 256; byte++) {
        const address = v4(0x08080800 + byte);
        const inside = (list: typeof networks) => list.some((one) => contains(one, address));
        assert.equal(inside(joined), inside(networks), `8.8.8.${byte}`);
        assert.ok(joined.filter((one) => contains(one, address)).length <= 1, "an address is in two networks");
      }
    }),
  );
});
