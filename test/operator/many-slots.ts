import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import type { Node } from "../../operator/api/objects.ts";
import { parseGrants } from "../../operator/providers/grants.ts";
import type { Facts } from "../../operator/reconcile/facts/facts.ts";
import { withDefaults } from "../harness/defaults.ts";
import { NO_UPGRADES } from "./worlds.ts";

const addressOf = (i: number): string => `203.0.${113 + (i >> 8)}.${i & 255}`;

function policyOf(slots: number): EgressPolicy {
  const spec = withDefaults({
    nat: { provider: "NodeAddress" },
    authentication: { mode: "Basic", secretRef: { name: "passwords" } },
    staticIPs: Array.from({ length: slots }, (_, i) => ({ address: addressOf(i) })),
  });
  const metadata = { name: "webhooks", namespace: "convoy", uid: "uid", generation: 1 };
  return { apiVersion: "egress.outrider.dev/v1alpha1", kind: "EgressPolicy", metadata, spec };
}

/** Nodes with an internal address each. The first ones have the static IPs. */
function nodesOf(count: number, slots: number): Node[] {
  return Array.from({ length: count }, (_, i) => ({
    apiVersion: "v1",
    kind: "Node",
    metadata: {
      name: `node-${i}`,
      ...(i < slots && { annotations: { "egress.outrider.dev/addresses": addressOf(i) } }),
    },
    status: { addresses: [{ type: "InternalIP", address: `10.0.${i >> 8}.${i & 255}` }] },
  }));
}

/** Facts of a policy with many slots whose addresses are on nodes, for a test that counts and a benchmark. */
export function manySlots(slots: number, nodes: number): Facts {
  return {
    now: 0,
    policy: policyOf(slots),
    record: { spec: undefined, published: undefined },
    namespaceTerminating: false,
    image: "outrider:1",
    upgrades: () => NO_UPGRADES,
    others: () => [],
    holdersOf: () => [],
    acceptedSpecOf: () => undefined,
    grants: parseGrants("grants: [{namespaces: ['*'], providers: [NodeAddress], staticIPs: [203.0.112.0/20]}]"),
    blockedCIDRs: [],
    children: { configMaps: new Map(), services: new Map(), deployments: new Map(), others: [] },
    proxies: [],
    injected: [],
    requesting: [],
    nodes: nodesOf(nodes, slots),
  };
}
