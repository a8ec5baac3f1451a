import type { V1NetworkPolicyPeer } from "@kubernetes/client-node";
import type { PortRange } from "../../../proxy/policy/rules.ts";
import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { RESOURCE } from "../../api/kinds.ts";
import { childName, LABEL } from "../../api/names.ts";
import { childMeta } from "../../fleet/metadata.ts";
import { apiVersionOf, type KubeObject } from "../../kube/resource.ts";

/** networking/v1 NetworkPolicyPort. */
interface Port {
  protocol: string;
  port?: number | string;
  endPort?: number;
}

/**
 * networking/v1 NetworkPolicy with every default written out. Any other field is an edit by another program or user.
 */
export interface NetworkPolicy extends KubeObject {
  spec: {
    podSelector: { matchLabels: Record<string, string> };
    policyTypes: ("Ingress" | "Egress")[];
    ingress: { from?: V1NetworkPolicyPeer[]; ports: Port[] }[];
    egress: { to?: V1NetworkPolicyPeer[]; ports?: Port[] }[];
  };
}

/** A network without some networks inside of it. */
export interface Block {
  cidr: string;
  except: string[];
}

/** Networks that proxies may connect to, on some ports. */
export interface Opening {
  blocks: Block[];
  ports: PortRange[];
}

/** Ports that proxies listen on: those of the spec, and during a rolling update those of older pods. */
export interface FleetPorts {
  /** For clients, with and without TLS. */
  proxy: readonly number[];
  /** For clients outside of the cluster. */
  external: readonly number[];
  admin: readonly number[];
}

/** Ports in one rule. Cilium rejects a rule with more than 40. */
const PORTS_IN_A_RULE = 20;

/**
 * DNS. OpenShift's DNS pods listen on 5353. No destination, since node-local caches have link-local addresses or the
 * address of the node.
 */
const DNS = {
  ports: [53, 5353].flatMap((port): Port[] => [
    { protocol: "UDP", port },
    { protocol: "TCP", port },
  ]),
};

const tcp = (port: number): Port => ({ protocol: "TCP", port });

function portOf([low, high]: PortRange): Port {
  if (low === 1 && high === 65_535) return { protocol: "TCP" };
  return low === high ? tcp(low) : { protocol: "TCP", port: low, endPort: high };
}

/** Egress rules for the networks that proxies may connect to. */
export function egressRules(reach: readonly Opening[]): NetworkPolicy["spec"]["egress"] {
  return reach.flatMap(({ blocks, ports }) => {
    const to = blocks.map(({ cidr, except }) => ({ ipBlock: { cidr, ...(except.length === 0 ? {} : { except }) } }));
    const chunks = Math.ceil(ports.length / PORTS_IN_A_RULE);
    return Array.from({ length: chunks }, (_, i) => ({
      to,
      ports: ports.slice(i * PORTS_IN_A_RULE, (i + 1) * PORTS_IN_A_RULE).map(portOf),
    }));
  });
}

const podsWith = (label: string, value: string) => ({ podSelector: { matchLabels: { [label]: value } } });

function networkPolicy(policy: EgressPolicy, name: string, spec: NetworkPolicy["spec"]): NetworkPolicy {
  const apiVersion = apiVersionOf(RESOURCE.networkPolicy);
  return { apiVersion, kind: RESOURCE.networkPolicy.kind, metadata: childMeta(policy, name), spec };
}

/** Peers of the admin port: pods of these namespaces. Without peers the rule allows every source. */
function adminPeers(namespaces: readonly string[] | undefined): { from?: V1NetworkPolicyPeer[] } {
  if (namespaces === undefined) return {};
  const expression = { key: LABEL.namespace, operator: "In", values: [...namespaces] };
  return { from: [{ namespaceSelector: { matchExpressions: [expression] } }] };
}

/**
 * NetworkPolicy of the proxies: which pods reach them, and what they reach. Clients are injected pods and pods that
 * have the policy's name as a label, such as senders that are configured by hand. Every network plugin allows the
 * probes of kubelets. `adminFrom`: namespaces whose pods reach the admin port; undefined: no restriction. `external`: rules
 * for clients outside of the cluster.
 */
export function proxyNetworkPolicy(
  policy: EgressPolicy,
  ports: FleetPorts,
  adminFrom: readonly string[] | undefined,
  external: NetworkPolicy["spec"]["ingress"],
  reach: NetworkPolicy["spec"]["egress"],
): NetworkPolicy {
  const { name } = policy.metadata;
  return networkPolicy(policy, childName.fleet(name), {
    podSelector: { matchLabels: { [LABEL.fleet]: name } },
    policyTypes: ["Ingress", "Egress"],
    ingress: [
      { from: [podsWith(LABEL.injected, name), podsWith(LABEL.policy, name)], ports: ports.proxy.map(tcp) },
      { ...adminPeers(adminFrom), ports: ports.admin.map(tcp) },
      ...external,
    ],
    egress: [DNS, ...reach],
  });
}

/**
 * NetworkPolicy of the senders: injected pods reach only the proxies, DNS and `additionalEgress`. `addresses`: networks
 * of proxies on node networks, which no label selects. The ports are those of the pods, since network plugins match
 * packets after the Service has translated them.
 */
export function sendersNetworkPolicy(
  policy: EgressPolicy,
  additionalEgress: EgressPolicy["spec"]["networkPolicy"]["additionalEgress"] = [],
  ports: FleetPorts,
  addresses: readonly string[],
): NetworkPolicy {
  const { name } = policy.metadata;
  const proxies = [podsWith(LABEL.fleet, name), ...addresses.map((cidr) => ({ ipBlock: { cidr } }))];
  return networkPolicy(policy, childName.senders(name), {
    podSelector: { matchLabels: { [LABEL.injected]: name } },
    policyTypes: ["Egress"],
    ingress: [],
    egress: [
      { to: proxies, ports: ports.proxy.map(tcp) },
      DNS,
      ...additionalEgress.map(({ to, ports }) => ({
        to,
        ...(ports === undefined ? {} : { ports: ports.map((port) => ({ ...port, protocol: port.protocol ?? "TCP" })) }),
      })),
    ],
  });
}
