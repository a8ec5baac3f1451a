import type { Assignment, Provider } from "./provider.ts";

/** Pods whose own addresses are routed (an annotation picks the pool): an address is assigned when a pod has it. */
export const podIP: Provider = {
  name: "PodIP",
  slots: false,
  hostNetwork: false,
  exclusive: false,
  gated: false,
  pinned: false,
  podAnnotations: (spec) => spec.nat?.podIP?.annotations ?? {},
  slotObjects: () => [],
  assignment(_address, source, proxies): Assignment {
    const holder = proxies.find((proxy) => !proxy.leaving && proxy.ips.includes(source));
    if (holder === undefined) return { assigned: false };
    return { assigned: true, ...(holder.node === undefined ? {} : { node: holder.node }) };
  },
};
