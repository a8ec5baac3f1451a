import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { childName, LABEL, SERVICE_PORT } from "../../api/names.ts";
import { childMeta, podSelector } from "../../fleet/metadata.ts";
import type { Slot } from "../../fleet/slots.ts";
import type { KubeObject } from "../../kube/resource.ts";
import { type Provider, servingLabels } from "../../providers/provider.ts";

/** Nothing listens here: a NAT gateway Service owns an address, and forwards nothing. */
const SINK_PORT = 65_534;

/**
 * The Service that senders use as their proxy. On nodes' networks proxies listen on one address of the node alone, and
 * endpoints of the other family would refuse connections.
 */
export function clientService(
  policy: EgressPolicy,
  spec: EgressPolicy["spec"],
  provider: Pick<Provider, "slots" | "gated" | "hostNetwork">,
): KubeObject {
  const name = policy.metadata.name;
  const annotations = spec.proxy?.serviceAnnotations;
  return {
    apiVersion: "v1",
    kind: "Service",
    metadata: { ...childMeta(policy, childName.fleet(name)), ...(annotations === undefined ? {} : { annotations }) },
    spec: {
      type: "ClusterIP",
      ipFamilyPolicy: provider.hostNetwork ? "SingleStack" : "PreferDualStack",
      selector: { [LABEL.fleet]: name, ...servingLabels(provider) },
      ports: [{ name: "proxy", port: SERVICE_PORT, targetPort: "proxy", protocol: "TCP" }],
    },
  } as KubeObject;
}

/**
 * The NAT gateway Service of a slot: a load balancer that puts the reserved address on the node of the slot's ready pod.
 * Local, so that the address is where the proxy is; without node ports and with a sink port, so that it is no way in.
 * kube-proxy is told to leave it alone.
 */
export function natGatewayService(
  policy: EgressPolicy,
  slot: Slot,
  loadBalancerClass: string,
  annotations: Record<string, string>,
): KubeObject {
  const labels = { [LABEL.slot]: slot.id, "service.kubernetes.io/service-proxy-name": "egress" };
  const metadata = childMeta(policy, childName.slot(policy.metadata.name, slot.id), labels);
  return {
    apiVersion: "v1",
    kind: "Service",
    metadata: { ...metadata, annotations: { ...annotations, "kube-vip.io/loadbalancerIPs": slot.source } },
    spec: {
      type: "LoadBalancer",
      loadBalancerClass,
      externalTrafficPolicy: "Local",
      allocateLoadBalancerNodePorts: false,
      ipFamilyPolicy: "SingleStack",
      ipFamilies: [slot.source.includes(":") ? "IPv6" : "IPv4"],
      selector: podSelector(policy, slot.id),
      ports: [{ name: "sink", port: SINK_PORT, targetPort: SINK_PORT, protocol: "TCP" }],
    },
  } as KubeObject;
}
