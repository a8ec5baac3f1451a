import { natGatewayService } from "../reconcile/objects/service.ts";
import { assignedByBinding } from "./binding.ts";
import type { Provider } from "./provider.ts";

const DEFAULT_CLASS = "kube-vip.io/kube-vip-class";

/**
 * kube-vip puts the address of a LoadBalancer Service on the node of its ready pod; the slot's proxy, on that node's
 * network, binds its sockets to it. kube-vip's own SNAT is not used: it leaks at every start and loses rules when
 * readiness flaps, while its Service status goes on claiming them.
 */
export const kubeVIP: Provider = {
  name: "KubeVIP",
  slots: true,
  hostNetwork: true,
  exclusive: true,
  gated: true,
  pinned: false,
  podAnnotations: () => ({}),
  slotObjects(policy, { nat }, slot) {
    const { loadBalancerClass = DEFAULT_CLASS, serviceAnnotations = {} } = nat.kubeVIP ?? {};
    return [natGatewayService(policy, slot, loadBalancerClass, serviceAnnotations)];
  },
  assignment: assignedByBinding,
};
