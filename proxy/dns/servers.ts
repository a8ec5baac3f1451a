import { createSocket } from "node:dgram";
import { once } from "node:events";
import { UsageError } from "../cli/usage-error.ts";
import { readSmallFile } from "../config/files.ts";
import { parseAddress } from "../policy/cidr.ts";

/** The resolver file of this machine (resolv.conf(5)). */
export const RESOLV_CONF = "/etc/resolv.conf";
const DNS_PORT = 53;
/** Without a name server, the C library queries this machine (resolv.conf(5)). */
const DEFAULT_HOSTS: readonly string[] = ["127.0.0.1"];
/** Limit of the name servers that are used of resolv.conf, as in the C library (resolv.conf(5), MAXNS). */
const MAX_NAME_SERVERS = 3;
/** Limit in bytes of resolv.conf. */
const MAX_RESOLV_CONF_BYTES = 65_536;
/** Consecutive failed queries after which a server is tried last: two names, since each has two queries. */
const FAILED_QUERIES = 4;
/** Milliseconds for which it is tried last. Then it gets another chance, which a single failure ends. */
const PASS_OVER_MS = 10_000;

/** One resolver. */
export interface DnsServer {
  readonly host: string;
  readonly port: number;
  readonly family: 4 | 6;
  /** Failed queries since the last usable answer. */
  failures: number;
  /** It is tried last until this time (monotonic ms). */
  passOverUntil: number;
}

function makeServer(host: string, port: number): DnsServer {
  return { host, port, family: host.includes(":") ? 6 : 4, failures: 0, passOverUntil: 0 };
}

function splitServer(text: string): { host: string; port: number } {
  const [, host, port] = /^\[?([^\]]+)\]?:(\d+)$/.exec(text) as unknown as [string, string, string];
  return { host, port: Number(port) };
}

/** The `nameserver` lines of resolv.conf; other options are not used. */
export function readResolvConf(text: string): string[] {
  const found: string[] = [];
  for (const line of text.split("\n")) {
    const host = /^\s*nameserver\s+(\S+)/.exec(line)?.[1];
    // A link-local server has an interface name as its zone (`fe80::1%eth0`).
    if (host === undefined || parseAddress(host.replace(/%.*$/, "")) === null) continue;
    if (found.length < MAX_NAME_SERVERS) found.push(host);
  }
  return found;
}

/** The name servers of resolv.conf; empty when it has none, or when there is no such file. @throws Error */
function readNameServers(file: string): string[] {
  try {
    const bytes = readSmallFile(file, { maxBytes: MAX_RESOLV_CONF_BYTES });
    return readResolvConf(bytes.toString("latin1"));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

/**
 * The resolvers in order of use. A server that fails is tried last for a while: it is silent, unreachable, or answers
 * with an error such as SERVFAIL or REFUSED.
 */
export class DnsServers {
  readonly #resolvConf: string;
  #list: readonly DnsServer[] | null = null;

  /** `given`: `IP:port`; empty: the servers of resolv.conf, which is read at the first query. */
  constructor(given: readonly string[], resolvConf = RESOLV_CONF) {
    this.#resolvConf = resolvConf;
    if (given.length === 0) return;
    this.#list = given.map((text) => {
      const { host, port } = splitServer(text);
      return makeServer(host, port);
    });
  }

  /** The servers in the order in which to try them. @throws Error when resolv.conf cannot be read */
  inOrder(now: number): readonly DnsServer[] {
    this.#list ??= this.#first();
    const late = this.#list.filter((server) => server.passOverUntil > now);
    if (late.length === 0 || late.length === this.#list.length) return this.#list;
    return [...this.#list.filter((server) => server.passOverUntil <= now), ...late];
  }

  answered(server: DnsServer): void {
    server.failures = 0;
    server.passOverUntil = 0;
  }

  failed(server: DnsServer, now: number): void {
    if (++server.failures >= FAILED_QUERIES) server.passOverUntil = now + PASS_OVER_MS;
  }

  /**
   * Reads resolv.conf again. Returns the addresses of the new servers; null when they are the same as before. @throws
   * Error when it cannot be read or has no server any longer: it may be half written, so the last servers stay in use
   */
  reread(): readonly string[] | null {
    // Without a query so far, the first one reads the file.
    if (this.#list === null) return null;
    const hosts = readNameServers(this.#resolvConf);
    const same = (hosts.length > 0 ? hosts : DEFAULT_HOSTS).join() === this.#list.map(({ host }) => host).join();
    if (same) return null;
    if (hosts.length === 0) throw new Error("no name server");
    this.#list = hosts.map((host) => makeServer(host, DNS_PORT));
    return hosts;
  }

  #first(): DnsServer[] {
    const hosts = readNameServers(this.#resolvConf);
    return (hosts.length > 0 ? hosts : DEFAULT_HOSTS).map((host) => makeServer(host, DNS_PORT));
  }
}

/**
 * Checks that this machine has a route to every resolver of the command line: connecting a datagram socket sends nothing.
 * A silent resolver is not an error, since it may answer later. @throws UsageError naming the resolver
 */
export async function requireRoutes(servers: readonly string[]): Promise<void> {
  for (const text of servers) {
    const { host, port } = splitServer(text);
    const socket = createSocket(host.includes(":") ? "udp6" : "udp4");
    try {
      socket.connect(port, host);
      await once(socket, "connect");
    } catch (error) {
      throw new UsageError(`--resolver ${text}: this machine has no route to it (${(error as Error).message})`);
    } finally {
      socket.close();
    }
  }
}
