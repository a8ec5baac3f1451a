import type { V1ServiceSpec } from "@kubernetes/client-node";
import type { EgressPolicy, EgressPolicySpec } from "../../api/egresspolicy.ts";
import { childName, SERVICE_TLS_PORT } from "../../api/names.ts";
import { childMeta } from "../../fleet/metadata.ts";
import type { KubeObject } from "../../kube/resource.ts";
import type { NetworkPolicy } from "./networkpolicy.ts";
import { type Selector, servicePort } from "./service.ts";

/** Name of the container's port for clients outside of the cluster. Pods without it are no endpoints of their Service. */
const PORT = "external";

/** Networks of a list in a fixed order: another order in the spec restarts no proxy. */
const ordered = (cidrs: readonly string[]): string[] => [...new Set(cidrs)].sort();

/** Options of a proxy with this port. */
export function externalArguments({ proxy }: EgressPolicySpec): string[] {
  const external = proxy?.external;
  if (external === undefined) return [];
  const { port, sourceRanges, proxyProtocolFrom = [] } = external;
  return [
    `--listen-external=:${port}`,
    ...ordered(sourceRanges).map((cidr) => `--external-from=${cidr}`),
    ...(proxyProtocolFrom.length === 0 ? [] : ["--proxy-protocol=required"]),
    ...ordered(proxyProtocolFrom).map((cidr) => `--proxy-protocol-from=${cidr}`),
  ];
}

/**
 * The Service for clients outside of the cluster, if the spec has one. `externalTrafficPolicy: Local` keeps the addresses of
 * clients. `selector`: that of the client Service, so that both have the same proxies.
 */
export function externalService(
  policy: EgressPolicy,
  { proxy }: EgressPolicySpec,
  selector: Selector,
): (KubeObject & { spec: V1ServiceSpec })[] {
  const external = proxy?.external;
  if (external === undefined) return [];
  const { loadBalancerClass, sourceRanges, serviceAnnotations: annotations } = external;
  const metadata = childMeta(policy, childName.external(policy.metadata.name));
  return [
    {
      apiVersion: "v1",
      kind: "Service",
      metadata: { ...metadata, ...(annotations && { annotations }) },
      spec: {
        type: "LoadBalancer",
        ...(loadBalancerClass === undefined ? {} : { loadBalancerClass }),
        externalTrafficPolicy: "Local",
        loadBalancerSourceRanges: sourceRanges,
        ipFamilyPolicy: "PreferDualStack",
        selector: { ...selector },
        ports: [servicePort(PORT, SERVICE_TLS_PORT)],
      },
    },
  ];
}

/**
 * Rules that let clients outside of the cluster, and their load balancers, reach the proxies. `ports`: the port of the spec,
 * and those of older pods.
 */
export function externalIngress(
  { proxy }: EgressPolicySpec,
  ports: readonly number[],
): NetworkPolicy["spec"]["ingress"] {
  const external = proxy?.external;
  // A rule without ports would open all of them.
  if (external === undefined || ports.length === 0) return [];
  const cidrs = [...new Set([...external.sourceRanges, ...(external.proxyProtocolFrom ?? [])])];
  return [
    {
      from: cidrs.map((cidr) => ({ ipBlock: { cidr } })),
      ports: ports.map((port) => ({ protocol: "TCP", port })),
    },
  ];
}

/** Warnings about a spec. */
export function externalWarnings({ proxy }: EgressPolicySpec): string[] {
  const everywhere = proxy?.external?.sourceRanges.find((cidr) => cidr.endsWith("/0"));
  if (everywhere === undefined) return [];
  return [
    `spec.proxy.external.sourceRanges: ${everywhere} is every address, so only passwords and client certificates protect the proxies; list the networks of your clients`,
  ];
}
