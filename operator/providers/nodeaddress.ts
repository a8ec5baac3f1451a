import { assignedByBinding } from "./binding.ts";
import type { Provider } from "./provider.ts";

/**
 * Nodes have the addresses: their own ones, or further ones on their interfaces. The proxy of a slot runs on the
 * network of the node that has its address, and binds its sockets to it. The address does not depend on readiness, so
 * readiness waits for the address and its proof.
 */
export const nodeAddress: Provider = {
  name: "NodeAddress",
  shape: { kind: "Slots", address: "on-node" },
  podAnnotations: () => ({}),
  slotObjects: () => [],
  assignment: assignedByBinding,
};
