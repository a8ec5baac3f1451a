import { createServer } from "node:net";

/** Loopback addresses that one control plane has for itself on this machine: 127.N.0.0/16. */
export interface Block {
  /** For example `127.77.`. */
  prefix: string;
  release(): void;
}

/** Limit of simulated nodes: each has a /20 for its pods, and the last /20 is for servers and the nodes themselves. */
export const MAX_NODES = 15;
const FIRST = 16;
const LAST = 254;
/** A listener on this port of a block owns the block; the kernel releases it with its process. */
const CLAIM_PORT = 4749;

export const podCIDR = (prefix: string, node: number): string => `${prefix}${16 * node}.0/20`;
export const nodeAddress = (prefix: string, node: number): string => `${prefix}255.${1 + node}`;
/**
 * ClusterIPs. No component routes them to pods. Connections to them, such as those of an API server to a webhook's
 * Service, reach only this machine, where a test may listen on them.
 */
export const serviceRange = (prefix: string): string => `${prefix}240.0/21`;
/** Listen addresses of etcd and the API server, which do not conflict with other control planes or ephemeral ports. */
export const serverAddress = (prefix: string): string => `${prefix}255.250`;

/**
 * Claims a block. Simulated pods have an address but no network. Connections to them must not leave this machine, so
 * pods, nodes and servers have loopback addresses, and no two control planes share one.
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
