import type { PortRange } from "../../../proxy/policy/rules.ts";
import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { RESOURCE } from "../../api/kinds.ts";
import { childName, LABEL } from "../../api/names.ts";
import { childMeta } from "../../fleet/metadata.ts";
import { apiVersionOf, type KubeObject } from "../../kube/resource.ts";
import type { Opening } from "../network/reach.ts";

/** networking/v1 NetworkPolicyPort. */
interface Port {
  protocol: string;
  port?: number | string;
  endPort?: number;
}

/** networking/v1 NetworkPolicy, as it is written: with every default, so that whatever else stands there is somebody's edit. */
export interface NetworkPolicy extends KubeObject {
  spec: {
    podSelector: object;
    policyTypes: ("Ingress" | "Egress")[];
    ingress: { from?: object[]; ports: Port[] }[];
    egress: { to?: object[]; ports?: Port[] }[];
  };
}

/** Ports that proxies listen on: the spec's, and during a roll-out those of older pods. */
export interface FleetPorts {
  proxy: readonly number[];
  admin: readonly number[];
}

/** Cilium takes no rule with more than 40. */
const PORTS_IN_A_RULE = 20;

/** 5353 is where OpenShift's DNS pods listen. Anywhere: node-local caches are at link-local addresses or at the node's. */
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

/** Egress rules that open what proxies may dial. */
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

/**
 * Who reaches the proxies, and what they reach. Clients are the pods that were injected, and those that carry the policy's
 * name as a label, such as senders that are configured by hand. Kubelets, which probe, are let in by every network plugin.
 * `adminFrom`: the namespaces whose pods reach the admin port; undefined: whoever can.
 */
export function proxyNetworkPolicy(
  policy: EgressPolicy,
  ports: FleetPorts,
  adminFrom: readonly string[] | undefined,
  reach: NetworkPolicy["spec"]["egress"],
): NetworkPolicy {
  const { name } = policy.metadata;
  const namespaces = { matchExpressions: [{ key: LABEL.namespace, operator: "In", values: adminFrom }] };
  return networkPolicy(policy, childName.fleet(name), {
    podSelector: { matchLabels: { [LABEL.fleet]: name } },
    policyTypes: ["Ingress", "Egress"],
    ingress: [
      { from: [podsWith(LABEL.injected, name), podsWith(LABEL.policy, name)], ports: ports.proxy.map(tcp) },
      {
        ...(adminFrom === undefined ? {} : { from: [{ namespaceSelector: namespaces }] }),
        ports: ports.admin.map(tcp),
      },
    ],
    egress: [DNS, ...reach],
  });
}

/**
 * Injected pods leave through the proxies alone, beside DNS and what the policy adds. `addresses`: networks of proxies that no
 * label selects, since they are on nodes' networks. Packets are matched behind the Service, at the pods' own ports.
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
