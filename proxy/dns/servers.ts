import { createSocket } from "node:dgram";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { UsageError } from "../cli/usage-error.ts";
import { parseAddress } from "../policy/cidr.ts";

const RESOLV_CONF = "/etc/resolv.conf";
const DNS_PORT = 53;
/** Limit of the name servers that are used of resolv.conf, as in the C library (resolv.conf(5), MAXNS). */
const MAX_NAME_SERVERS = 3;
/** Consecutive unanswered queries after which a server is tried last. */
const SILENT_QUERIES = 8;
/** Milliseconds for which it is tried last; then it gets another chance. */
const PASS_OVER_MS = 10_000;

/** One resolver. */
export interface DnsServer {
  readonly host: string;
  readonly port: number;
  readonly family: 4 | 6;
  /** Unanswered queries since the last answer. */
  silent: number;
  /** It is tried last until this time (monotonic ms). */
  passOverUntil: number;
}

function makeServer(host: string, port: number): DnsServer {
  return { host, port, family: host.includes(":") ? 6 : 4, silent: 0, passOverUntil: 0 };
}

function splitServer(text: string): { host: string; port: number } {
  const [, host, port] = /^\[?([^\]]+)\]?:(\d+)$/.exec(text) as unknown as [string, string, string];
  return { host, port: Number(port) };
}

/** The `nameserver` lines of resolv.conf; other options are not used. Default: this machine. */
export function readResolvConf(text: string): string[] {
  const found: string[] = [];
  for (const line of text.split("\n")) {
    const host = /^\s*nameserver\s+(\S+)/.exec(line)?.[1];
    // A link-local server has an interface name as its zone (`fe80::1%eth0`).
    if (host === undefined || parseAddress(host.replace(/%.*$/, "")) === null) continue;
    if (found.length < MAX_NAME_SERVERS) found.push(host);
  }
  return found.length > 0 ? found : ["127.0.0.1"];
}

/** The resolvers in order of use. A server that does not answer is tried last for a while. */
export class DnsServers {
  readonly #given: readonly string[];
  #list: DnsServer[] | null = null;

  /** `given`: `IP:port`; empty: the servers of resolv.conf, which is read at the first query. */
  constructor(given: readonly string[]) {
    this.#given = given;
  }

  /** The servers in the order in which to try them. */
  inOrder(now: number): readonly DnsServer[] {
    this.#list ??= this.#read();
    const late = this.#list.filter((server) => server.passOverUntil > now);
    if (late.length === 0 || late.length === this.#list.length) return this.#list;
    return [...this.#list.filter((server) => server.passOverUntil <= now), ...late];
  }

  answered(server: DnsServer): void {
    server.silent = 0;
    server.passOverUntil = 0;
  }

  failed(server: DnsServer, now: number): void {
    if (++server.silent < SILENT_QUERIES) return;
    server.silent = 0;
    server.passOverUntil = now + PASS_OVER_MS;
  }

  /**
   * Reads resolv.conf again at the next query: a process that started before its network may know the wrong servers.
   */
  forget(): void {
    if (this.#given.length === 0) this.#list = null;
  }

  #read(): DnsServer[] {
    if (this.#given.length > 0) {
      return this.#given.map((text) => {
        const { host, port } = splitServer(text);
        return makeServer(host, port);
      });
    }
    let text = "";
    try {
      text = readFileSync(RESOLV_CONF, "utf8");
    } catch (error) {
      // Without the file the C library also queries this machine.
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
    return readResolvConf(text).map((host) => makeServer(host, DNS_PORT));
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
