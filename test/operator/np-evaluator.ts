import assert from "node:assert/strict";
import { type V4 as FAMILY, within } from "../policy/evaluator.ts";

/**
 * A naive evaluator of NetworkPolicies, from the description of networking.k8s.io/v1: rules are ORed, in a rule peers are ORed
 * and ports are ORed, what is absent or empty does not restrict. Addresses are those of `test/policy/evaluator.ts`.
 */
export type Address = typeof FAMILY;

interface Port {
  protocol?: string;
  port?: number | string;
  endPort?: number;
}
interface Selector {
  matchLabels?: Record<string, string>;
  matchExpressions?: { key: string; operator: string; values?: string[] }[];
}
interface Peer {
  ipBlock?: { cidr: string; except?: string[] };
  podSelector?: Selector;
  namespaceSelector?: Selector;
}
interface Spec {
  podSelector: Selector;
  policyTypes: string[];
  ingress?: { from?: Peer[]; ports?: Port[] }[];
  egress?: { to?: Peer[]; ports?: Port[] }[];
}

/** Source or destination of a packet: a pod by its labels, or an address of no pod. */
export type Party = Address | { pod: Record<string, string>; namespace: string };

function selects(selector: Selector, labels: Record<string, string>): boolean {
  const { matchLabels = {}, matchExpressions = [] } = selector;
  return (
    Object.entries(matchLabels).every(([key, value]) => labels[key] === value) &&
    matchExpressions.every(({ key, operator, values }) => {
      assert.equal(operator, "In");
      return labels[key] !== undefined && values!.includes(labels[key]);
    })
  );
}

function isPeer({ ipBlock, podSelector, namespaceSelector }: Peer, party: Party, own: string): boolean {
  if (typeof party === "bigint") {
    if (ipBlock === undefined) return false;
    return within(party, ipBlock.cidr) && !(ipBlock.except ?? []).some((cidr) => within(party, cidr));
  }
  if (ipBlock !== undefined) return false;
  const there =
    namespaceSelector === undefined
      ? party.namespace === own
      : selects(namespaceSelector, { "kubernetes.io/metadata.name": party.namespace });
  return there && selects(podSelector ?? {}, party.pod);
}

const isPort = ({ protocol = "TCP", port, endPort }: Port, wanted: string, number: number): boolean =>
  protocol === wanted &&
  (port === undefined || (Number(port) <= number && number <= (endPort === undefined ? Number(port) : endPort)));

const isOpen = (list: readonly object[] | undefined): boolean => list === undefined || list.length === 0;

/** Whether a NetworkPolicy allows packets to (`from`) or from (`to`) a selected pod. */
export function lets(
  policy: object,
  way: "from" | "to",
  party: Party,
  port: number,
  protocol: "TCP" | "UDP" = "TCP",
): boolean {
  const { metadata, spec } = policy as { metadata: { namespace: string }; spec: Spec };
  if (!spec.policyTypes.includes(way === "to" ? "Egress" : "Ingress")) return true;
  const rules =
    way === "to"
      ? (spec.egress ?? []).map(({ to, ports }) => ({ peers: to, ports }))
      : (spec.ingress ?? []).map(({ from, ports }) => ({ peers: from, ports }));
  return rules.some(
    ({ peers, ports }) =>
      (isOpen(ports) || ports!.some((one) => isPort(one, protocol, port))) &&
      (isOpen(peers) || peers!.some((peer) => isPeer(peer, party, metadata.namespace))),
  );
}

/** Fails for blocks that the API server rejects: with host bits, in another family, not strictly inside theirs. */
export function assertBlocks(policy: object): void {
  const { spec } = policy as { spec: Spec };
  const peers = [
    ...(spec.egress ?? []).flatMap(({ to }) => to ?? []),
    ...(spec.ingress ?? []).flatMap(({ from }) => from ?? []),
  ];
  for (const { ipBlock } of peers) {
    if (ipBlock === undefined) continue;
    for (const except of ipBlock.except ?? []) {
      const [length, outer] = [except, ipBlock.cidr].map((cidr) => Number(cidr.split("/")[1]));
      assert.ok(length! > outer!, `${except} in ${ipBlock.cidr}`);
    }
    for (const cidr of [ipBlock.cidr, ...(ipBlock.except ?? [])])
      assert.doesNotMatch(cidr, /^::ffff:[0-9a-f.]+(:[0-9a-f]+)?\/(9[6-9]|1)/);
  }
  const ports = [...(spec.egress ?? []), ...(spec.ingress ?? [])].flatMap(({ ports }) => ports ?? []);
  for (const { port, endPort } of ports) if (endPort !== undefined) assert.ok(Number(port) < endPort);
}
