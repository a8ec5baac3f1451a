import { createHash } from "node:crypto";
import { createSocket } from "node:dgram";
import { networkInterfaces } from "node:os";
import { type Address, formatAddress, parseAddress } from "./policy/cidr.ts";

/** One address that upstream sockets are bound to. */
export interface Source {
  address: string;
  family: 4 | 6;
  /** On an interface of this machine and bindable: both, since a bind alone succeeds for foreign addresses too (ip_nonlocal_bind). */
  assigned: boolean;
}

/** Addresses of this machine's interfaces, sorted. */
export function ownAddresses(): string[] {
  const all = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  return [...new Set(all.map((entry) => entry.address.replace(/%.*/, "")))].sort();
}

/** Whether a socket can be bound to an address: a datagram socket, which takes no port from the upstream sockets. */
function canBind(source: Source): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createSocket(source.family === 4 ? "udp4" : "udp6");
    const done = (can: boolean) => socket.close(() => resolve(can));
    socket.once("error", () => done(false));
    socket.bind({ address: source.address, port: 0, exclusive: true }, () => done(true));
  });
}

/**
 * The addresses of `--source-address`. A destination host keeps its source as long as the list is the same: an address
 * that is gone is never replaced by another one.
 */
export class Sources {
  readonly list: readonly Source[];

  constructor(addresses: readonly string[]) {
    this.list = addresses.map((text): Source => {
      const address = parseAddress(text)!;
      return { address: formatAddress(address), family: address.family, assigned: false };
    });
  }

  /** The source for a destination host, or null where no source has that family. Rendezvous hashing (Thaler, Ravishankar 1998). */
  pick(host: string, family: Address["family"]): Source | null {
    const fitting = this.list.filter((source) => source.family === family);
    if (fitting.length < 2) return fitting[0] ?? null;
    const weight = (source: Source) => createHash("md5").update(`${source.address} ${host}`).digest("hex");
    return fitting.reduce((best, source) => (weight(source) > weight(best) ? source : best));
  }

  /** What logs and `/status` show. */
  status(): { address: string; assigned: boolean }[] {
    return this.list.map(({ address, assigned }) => ({ address, assigned }));
  }

  /** Looks at interfaces and binds again; true when an address came or went. */
  async check(own: readonly string[]): Promise<boolean> {
    let changed = false;
    for (const source of this.list) {
      const assigned = own.includes(source.address) && (await canBind(source));
      if (assigned !== source.assigned) changed = true;
      source.assigned = assigned;
    }
    return changed;
  }
}
