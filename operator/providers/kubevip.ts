import type { V1ServiceSpec } from "@kubernetes/client-node";
import type { EgressPolicy } from "../api/egresspolicy.ts";
import { childName, LABEL } from "../api/names.ts";
import { childMeta, podSelector } from "../fleet/metadata.ts";
import type { Slot } from "../fleet/slots.ts";
import type { KubeObject } from "../kube/resource.ts";
import { assignedByBinding } from "./binding.ts";
import type { Provider } from "./provider.ts";

const DEFAULT_CLASS = "kube-vip.io/kube-vip-class";
/** Annotation of Services: the addresses that kube-vip assigns to them. */
export const LOAD_BALANCER_IPS = "kube-vip.io/loadbalancerIPs";
/** No program listens on this port: the Service holds an address and forwards nothing. */
const SINK_PORT = 65_534;

/**
 * kube-vip assigns the address of a LoadBalancer Service to the node of its ready pod. The proxy of the slot runs on
 * the network of that node and binds its sockets to the address. kube-vip's own SNAT is not used: it leaks at every
 * start and loses rules when readiness flaps, while its Service status still reports them.
 */
export const kubeVIP: Provider = {
  name: "KubeVIP",
  shape: { kind: "Slots", address: "follows-ready-pod" },
  podAnnotations: () => ({}),
  slotObjects(policy, { nat }, slot) {
    const { loadBalancerClass = DEFAULT_CLASS, serviceAnnotations = {} } = nat.kubeVIP ?? {};
    return [natGatewayService(policy, slot, loadBalancerClass, serviceAnnotations)];
  },
  assignment: assignedByBinding,
};

/**
 * Service that assigns the address of a slot to the node of its ready pod. `externalTrafficPolicy: Local` keeps the
 * address where the proxy is. The Service opens no way in: it has no node ports, only a sink port, and a label by which
 * kube-proxy ignores it.
 */
function natGatewayService(
  policy: EgressPolicy,
  slot: Slot,
  loadBalancerClass: string,
  annotations: Record<string, string>,
): KubeObject & { spec: V1ServiceSpec } {
  const labels = { [LABEL.slot]: slot.id, "service.kubernetes.io/service-proxy-name": "egress" };
  const metadata = childMeta(policy, childName.slot(policy.metadata.name, slot.id), labels);
  return {
    apiVersion: "v1",
    kind: "Service",
    metadata: { ...metadata, annotations: { ...annotations, [LOAD_BALANCER_IPS]: slot.source } },
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
  };
}
