import type { Provider } from "./provider.ts";

/** A cloud NAT gateway or a firewall that stands outside translates: there is nothing to make, only to verify. */
export const external: Provider = {
  name: "External",
  slots: false,
  hostNetwork: false,
  exclusive: false,
  gated: false,
  pinned: false,
  podAnnotations: () => ({}),
  slotObjects: () => [],
  assignment: () => ({ assigned: true }),
};
