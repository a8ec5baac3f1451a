import type { Provider } from "./provider.ts";

/** A NAT gateway or firewall outside of the cluster. The operator creates nothing for it and only verifies. */
export const external: Provider = {
  name: "External",
  shape: { kind: "Deployment", address: "outside" },
  podAnnotations: () => ({}),
  slotObjects: () => [],
  assignment: () => ({ assigned: true }),
};
