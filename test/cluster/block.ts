import { createServer } from "node:net";

/** Loopback addresses that one control plane owns alone on this machine: 127.N.0.0/16. */
export interface Block {
  /** Such as `127.77.`. */
  prefix: string;
  release(): void;
}

/** Simulated nodes that fit: each has a /20 for its pods, and the last /20 is for servers and the nodes themselves. */
export const MAX_NODES = 15;
const FIRST = 16;
const LAST = 254;
/** A listener on this port of a block owns the block; the kernel gives it up with its process. */
const CLAIM_PORT = 4749;

export const podCIDR = (prefix: string, node: number): string => `${prefix}${16 * node}.0/20`;
export const nodeAddress = (prefix: string, node: number): string => `${prefix}255.${1 + node}`;
/**
 * ClusterIPs. Nothing carries them to pods; what connects to one, as an API server does to a webhook's Service, reaches this
 * machine only: a test may listen on it.
 */
export const serviceRange = (prefix: string): string => `${prefix}240.0/21`;
/** Where etcd and the API server listen: no other control plane, and no ephemeral port, can be in their way. */
export const serverAddress = (prefix: string): string => `${prefix}255.250`;

/**
 * Claims a block. Simulated pods have an address but no network; what connects to them must not leave this machine, so pods,
 * nodes and servers have loopback addresses, and no two control planes share one.
 */
export async function claimBlock(random: () => number = Math.random): Promise<Block> {
  const count = LAST - FIRST + 1;
  const start = Math.floor(random() * count);
  for (let i = 0; i < count; i++) {
    const prefix = `127.${FIRST + ((start + i) % count)}.`;
    const claim = createServer((socket) => socket.destroy());
    const owned = await new Promise<boolean>((resolve, reject) => {
      claim.once("error", (error: NodeJS.ErrnoException) => {
        if (error.code === "EADDRINUSE") resolve(false);
        else reject(error);
      });
      claim.listen(CLAIM_PORT, serverAddress(prefix), () => resolve(true));
    });
    if (!owned) continue;
    claim.unref();
    return { prefix, release: () => claim.close() };
  }
  throw new Error(
    `all ${count} blocks of loopback addresses are taken: what listens on port ${CLAIM_PORT} everywhere?`,
  );
}
