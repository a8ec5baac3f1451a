import type { Assignment, Provider } from "./provider.ts";

/** Routable pod addresses, from a pool that pod annotations choose. An address is assigned when a pod has it. */
export const podIP: Provider = {
  name: "PodIP",
  shape: { kind: "Deployment", address: "of-pod" },
  podAnnotations: (spec) => spec.nat?.podIP?.annotations ?? {},
  slotObjects: () => [],
  assignment(_address, source, proxies): Assignment {
    const holder = proxies.find((proxy) => !proxy.terminating && proxy.ips.includes(source));
    if (holder === undefined) return { assigned: false };
    return { assigned: true, ...(holder.node === undefined ? {} : { node: holder.node }) };
  },
};
