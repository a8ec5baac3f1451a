import { createHash } from "node:crypto";
import { createSocket } from "node:dgram";
import { closeSync, openSync, readSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { countBound } from "../outcome/bounds.ts";
import { type Address, formatAddress, parseAddress } from "../policy/cidr.ts";
import { isExhausted } from "../sockets/descriptors.ts";

/** One address that upstream sockets are bound to. */
export interface Source {
  address: string;
  family: 4 | 6;
  /** On an interface of this machine and bindable: both, since a bind alone succeeds for foreign addresses too (ip_nonlocal_bind). */
  assigned: boolean;
}

let lastAssigned: string[] | undefined;
let lastReached: ReadonlySet<4 | 6> | undefined;

/**
 * Addresses of the interfaces that are up and have a carrier, sorted: sources may be bound to them. Others do not
 * count, since kube-proxy in IPVS mode puts every LoadBalancer IP on the interface kube-ipvs0, which is down, of every
 * node. Without a free file descriptor: the last known addresses.
 */
export function assignedAddresses(): string[] {
  try {
    const all = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
    lastAssigned = [...new Set(all.map((entry) => entry.address.replace(/%.*/, "")))].sort();
    lastReached = reachedFamilies(lastAssigned);
  } catch (error) {
    if (lastAssigned === undefined || !isExhausted(error)) throw error;
  }
  return lastAssigned;
}

/** Loopback and link-local addresses: a machine without other ones of a family reaches nothing outside with it. */
const INSIDE = /^(127\.|169\.254\.|::1$|fe[89ab])/i;

/**
 * The families with which a machine with these addresses surely reaches other networks. Unique local IPv6 addresses do
 * not count, since many machines have them without a route to the outside. Both, when it has loopback only.
 */
export function reachedFamilies(addresses: readonly string[]): ReadonlySet<4 | 6> {
  const outside = addresses.filter((text) => !INSIDE.test(text));
  if (outside.length === 0) return new Set([4, 6]);
  const families = outside.flatMap((text): (4 | 6)[] => (text.includes(":") ? (/^[23]/.test(text) ? [6] : []) : [4]));
  return new Set(families);
}

/** Whether this machine surely reaches the family of an address. As of the last {@link assignedAddresses}. */
export function reaches({ family }: Address): boolean {
  if (lastReached === undefined) assignedAddresses();
  return lastReached!.has(family);
}

/** Limit in bytes of one table in /proc: some 25,000 local addresses. A longer table is truncated. */
const MAX_TABLE_BYTES = 4 * 1024 * 1024;
/** Shared by all reads: two tables are read twice a second. */
const chunk = Buffer.allocUnsafeSlow(65_536);

/** The text of a table in /proc up to {@link MAX_TABLE_BYTES}; empty when the kernel does not have it. @throws Error */
function readTable(file: string): string {
  let fd: number;
  try {
    fd = openSync(file, "r");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return "";
    throw error;
  }
  try {
    let text = "";
    while (text.length < MAX_TABLE_BYTES) {
      const read = readSync(fd, chunk);
      if (read === 0) return text;
      text += chunk.toString("latin1", 0, read);
    }
    countBound("local-routes");
    return text;
  } finally {
    closeSync(fd);
  }
}

/** Routing tables that every packet passes; others need a policy rule. */
const COMMON_TABLES: ReadonlySet<string> = new Set(["Main:", "Local:"]);

/**
 * IPv4 networks with a local route in any table, from /proc/net/fib_trie: leaves (`|-- 10.9.0.0`) with their routes
 * (`/24 host LOCAL`). 0.0.0.0/0 in a table of its own does not count: transparent proxies have it, for marked packets.
 */
export function localNetworks4(text: string): string[] {
  const found = new Set<string>();
  let isCommon = false;
  let base = "";
  for (const line of text.split("\n")) {
    if (line !== "" && !line.startsWith(" ")) isCommon = COMMON_TABLES.has(line);
    const leaf = line.indexOf("|-- ");
    if (leaf !== -1) base = line.slice(leaf + 4);
    else {
      const prefix = /^ +\/(\d+) \w+ LOCAL/.exec(line)?.[1];
      if (prefix !== undefined && (isCommon || prefix !== "0")) found.add(`${base}/${prefix}`);
    }
  }
  return [...found];
}

/** Flags of linux/ipv6_route.h: routes of addresses of this machine, and of its anycast addresses. */
const RTF_LOCAL = 0x80000000;
const RTF_ANYCAST = 0x00100000;

/**
 * IPv6 networks with a local route, from /proc/net/ipv6_route, which lists the routes of all tables without their
 * names. `::/0` does not count: transparent proxies have it in a table of their own.
 */
export function localNetworks6(text: string): string[] {
  const found = new Set<string>();
  for (const line of text.split("\n")) {
    const fields = line.split(/ +/);
    const [base = "", prefix = "", , , , , , , flags = ""] = fields;
    const isLocal = (Number.parseInt(flags, 16) & (RTF_LOCAL | RTF_ANYCAST)) !== 0;
    const length = Number.parseInt(prefix, 16);
    if (base.length !== 32 || !isLocal || !(length > 0)) continue;
    found.add(`${formatAddress(parseAddress(base.match(/.{4}/g)!.join(":"))!)}/${length}`);
  }
  return [...found];
}

/** Maximum fraction of the time for reading the tables: machines with very many routes are read less often. */
const READING_SHARE = 0.01;

let lastOwn: string[] | undefined;
/** The tables and addresses of the last reading. */
let lastRead: readonly string[] = [];
let nextReading = Number.NEGATIVE_INFINITY;

/**
 * Addresses and networks whose packets stay on this machine, sorted. They are the kernel's local routes, including
 * interfaces that are down or without a carrier and AnyIP routes (`ip route add local 10.9.0.0/24 dev lo`). Without
 * /proc they are the addresses of interfaces. Without a free file descriptor: the last known ones.
 */
export function ownNetworks(): string[] {
  const began = performance.now();
  if (lastOwn !== undefined && began < nextReading) return lastOwn;
  try {
    const trie = readTable("/proc/net/fib_trie");
    const routes6 = readTable("/proc/net/ipv6_route");
    const read = [trie, routes6, ...assignedAddresses()];
    // Nearly always nothing has changed, and parsing costs more than reading.
    if (lastOwn === undefined || read.some((text, i) => text !== lastRead[i]) || read.length !== lastRead.length) {
      const [, , ...addresses] = read;
      lastOwn = [...new Set([...localNetworks4(trie), ...localNetworks6(routes6), ...addresses])].sort();
      lastRead = read;
    }
  } catch (error) {
    if (lastOwn === undefined || !isExhausted(error)) throw error;
  }
  nextReading = performance.now() + (performance.now() - began) / READING_SHARE;
  return lastOwn;
}

/**
 * Whether a socket can be bound to an address. Uses a datagram socket, which takes no port from upstream sockets. Null:
 * unknown, because no file descriptor is left.
 */
function canBind(source: Source): Promise<boolean | null> {
  return new Promise((resolve) => {
    const socket = createSocket(source.family === 4 ? "udp4" : "udp6");
    const done = (can: boolean | null) => socket.close(() => resolve(can));
    socket.once("error", (error) => done(isExhausted(error) ? null : false));
    socket.bind({ address: source.address, port: 0, exclusive: true }, () => done(true));
  });
}

/**
 * The addresses of `--source-address`. A destination host keeps its source as long as the list is the same. No other
 * address replaces a missing one.
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

  /** The state for logs and `/status`. */
  status(): { address: string; assigned: boolean }[] {
    return this.list.map(({ address, assigned }) => ({ address, assigned }));
  }

  /**
   * Checks again whether the addresses can be bound; true when an address came or went. `present`: {@link
   * assignedAddresses}.
   */
  async check(present: readonly string[]): Promise<boolean> {
    let changed = false;
    for (const source of this.list) {
      const assigned = present.includes(source.address) && ((await canBind(source)) ?? source.assigned);
      if (assigned !== source.assigned) changed = true;
      source.assigned = assigned;
    }
    return changed;
  }
}
