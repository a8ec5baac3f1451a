import { canonical } from "../reconcile/slots.ts";
import type { Assignment, Provider } from "./provider.ts";

/** Pods whose own addresses are routed (an annotation picks the pool): an address is assigned when a pod has it. */
export const podIP: Provider = {
  name: "PodIP",
  slots: false,
  hostNetwork: false,
  exclusive: false,
  gated: false,
  podAnnotations: (spec) => spec.nat?.podIP?.annotations ?? {},
  slotObjects: () => [],
  stray(spec, proxies) {
    const own = new Set((spec.staticIPs ?? []).map((ip) => canonical(ip.sourceAddress ?? ip.address)));
    if (own.size === 0) return undefined;
    const found = proxies.find(({ leaving, ips }) => !leaving && ips.length > 0 && !ips.some((ip) => own.has(ip)));
    if (found === undefined) return undefined;
    return `${found.pod.metadata.name} has ${found.ips.join(", ")}, which is not in spec.staticIPs`;
  },
  assignment(_address, source, proxies): Assignment {
    const holder = proxies.find((proxy) => !proxy.leaving && proxy.ips.includes(source));
    if (holder === undefined) return { assigned: false };
    return { assigned: true, ...(holder.node === undefined ? {} : { node: holder.node }) };
  },
};
