import { assignedByBinding } from "./binding.ts";
import type { Provider } from "./provider.ts";

/**
 * Nodes have the addresses: their own, or further ones on their interfaces. The slot's proxy, on the network of the node
 * that has its address, binds its sockets to it. Nothing has to be ready before an address comes, so readiness waits for
 * it and for its proof.
 */
export const nodeAddress: Provider = {
  name: "NodeAddress",
  slots: true,
  hostNetwork: true,
  exclusive: true,
  gated: false,
  pinned: true,
  podAnnotations: () => ({}),
  slotObjects: () => [],
  assignment: assignedByBinding,
};
