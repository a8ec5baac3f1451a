import { createSocket } from "node:dgram";
import { Resolver } from "node:dns";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { countBound } from "./bounds.ts";
import { outOfFiles } from "./descriptors.ts";
import { type Code, UsageError } from "./errors.ts";
import { type Address, parseAddress } from "./policy/cidr.ts";
import { canonicalHost } from "./policy/host.ts";

/** The answer to one name: addresses (IPv6 and IPv4 in turn, RFC 8305 §4), or why there are none. */
export type Answer =
  | { addresses: readonly Address[] }
  | { code: Extract<Code, "dns-nxdomain" | "dns-failed" | "dns-timeout" | "overloaded">; reason: string };

interface Entry {
  answer: Answer;
  expires: number;
}

interface Flight {
  waiters: Set<(answer: Answer) => void>;
  timer: NodeJS.Timeout | null;
}

const MIN_TTL_SECONDS = 5;
const MAX_TTL_SECONDS = 300;
const NEGATIVE_SECONDS = 5;
const MAX_ENTRIES = 10_000;
/** More at once than this lose packets on the way to the resolver; the rest waits its turn. */
const MAX_IN_FLIGHT = 256;
const TRIES = 2;

/** Whom to ask, for how long. */
export interface ResolveOptions {
  /** `IP:port`, in order of use; empty: what resolv.conf names. */
  servers: readonly string[];
  timeoutSeconds: number;
  /** Overrides, as of a hosts file. */
  hosts: ReadonlyMap<string, readonly Address[]>;
  /** Milliseconds, monotonic. */
  now?: () => number;
}

/** Reads a hosts file (`address name…`, `#` comments). @throws UsageError naming file and line */
export function readHosts(file: string): Map<string, Address[]> {
  const hosts = new Map<string, Address[]>();
  let lines: string[];
  try {
    lines = readFileSync(file, "utf8").split("\n");
  } catch (error) {
    throw new UsageError(`--hosts ${file}: ${(error as Error).message}`);
  }
  for (const [i, line] of lines.entries()) {
    const [text, ...names] = line.replace(/#.*/, "").trim().split(/\s+/);
    if (text === undefined || text === "") continue;
    const address = parseAddress(text);
    if (address === null) throw new UsageError(`--hosts ${file}:${i + 1}: "${text}" is not an IP address`);
    if (names.length === 0) throw new UsageError(`--hosts ${file}:${i + 1}: no name behind ${text}`);
    for (const name of names) {
      const host = canonicalHost(name);
      if (host === null) throw new UsageError(`--hosts ${file}:${i + 1}: "${name}" is not a host name`);
      hosts.set(host, [...(hosts.get(host) ?? []), address]);
    }
  }
  return hosts;
}

/**
 * Whether this machine has a route to every resolver of the command line: connecting a datagram socket sends nothing.
 * One that is silent is no mistake of the command line, it may be back in a moment. @throws UsageError naming the resolver
 */
export async function requireRoutes(servers: readonly string[]): Promise<void> {
  for (const text of servers) {
    const [, host, port] = /^\[?([^\]]+)\]?:(\d+)$/.exec(text) as unknown as [string, string, string];
    const socket = createSocket(host.includes(":") ? "udp6" : "udp4");
    try {
      socket.connect(Number(port), host);
      await once(socket, "connect");
    } catch (error) {
      throw new UsageError(`--resolver ${text}: this machine has no route to it (${(error as Error).message})`);
    } finally {
      socket.close();
    }
  }
}

function interleave(six: readonly Address[], four: readonly Address[]): Address[] {
  const mixed: Address[] = [];
  for (let i = 0; i < Math.max(six.length, four.length); i++) {
    if (i < six.length) mixed.push(six[i]!);
    if (i < four.length) mixed.push(four[i]!);
  }
  return mixed;
}

/**
 * Names to addresses: c-ares (no search list, no thread pool, TCP fallback), answers cached for their TTL, one query in
 * flight a name. Answers are never used past their time, and whoever uses one vets its addresses again.
 */
export class Names {
  #resolver: Resolver;
  #options: ResolveOptions;
  readonly #cache = new Map<string, Entry>();
  readonly #flights = new Map<string, Flight>();
  /** Answers of the cache, queries made, and waits for a query that was under way. */
  readonly counts = { hit: 0, miss: 0, shared: 0 };
  readonly #queue: string[] = [];
  #running = 0;
  readonly #now: () => number;

  constructor(options: ResolveOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.#resolver = this.#makeResolver();
  }

  /** A reload may change the time for one name. Queries under way keep theirs. */
  setTimeout(timeoutSeconds: number): void {
    if (timeoutSeconds === this.#options.timeoutSeconds) return;
    this.#options = { ...this.#options, timeoutSeconds };
    this.#resolver = this.#makeResolver();
  }

  #makeResolver(): Resolver {
    const servers = this.#options.servers;
    // Every server gets its turn within the time limit.
    const turns = Math.max(1, servers.length) * TRIES;
    const timeout = Math.max(100, Math.floor((this.#options.timeoutSeconds * 1000) / turns));
    const resolver = new Resolver({ timeout, tries: TRIES });
    if (servers.length > 0) resolver.setServers(servers);
    return resolver;
  }

  /** Calls `done` once: at once when the answer is known, else later. The returned function drops the waiter. */
  lookup(host: string, done: (answer: Answer) => void): () => void {
    const fixed = this.#options.hosts.get(host);
    if (fixed !== undefined) {
      done({ addresses: fixed });
      return () => {};
    }
    const entry = this.#cache.get(host);
    if (entry !== undefined) {
      this.#cache.delete(host);
      if (entry.expires > this.#now()) {
        this.#cache.set(host, entry);
        this.counts.hit++;
        done(entry.answer);
        return () => {};
      }
    }
    let flight = this.#flights.get(host);
    if (flight !== undefined) this.counts.shared++;
    else {
      this.counts.miss++;
      flight = { waiters: new Set(), timer: null };
      this.#flights.set(host, flight);
      // Set before the query starts: time in the queue counts.
      flight.timer = setTimeout(() => {
        this.#settle(host, { code: "dns-timeout", reason: this.#late(host) }, NEGATIVE_SECONDS);
      }, this.#options.timeoutSeconds * 1000);
      if (this.#running < MAX_IN_FLIGHT) this.#query(host);
      else this.#queue.push(host);
    }
    const { waiters } = flight;
    const waiter = (answer: Answer) => done(answer);
    waiters.add(waiter);
    return () => waiters.delete(waiter);
  }

  #late(host: string): string {
    return `no answer for ${host} within ${this.#options.timeoutSeconds} s`;
  }

  #query(host: string): void {
    this.#running++;
    let open = 2;
    const found: { six: Address[]; four: Address[] } = { six: [], four: [] };
    const errors: string[] = [];
    let ttl = MAX_TTL_SECONDS;
    const one =
      (family: "six" | "four") =>
      (error: NodeJS.ErrnoException | null, records: { address: string; ttl: number }[]) => {
        if (error !== null) errors.push(error.code ?? "EUNKNOWN");
        else {
          for (const record of records) {
            const address = parseAddress(record.address);
            if (address !== null) found[family].push(address);
            ttl = Math.min(ttl, record.ttl);
          }
        }
        if (--open > 0) return;
        this.#running--;
        this.#conclude(host, interleave(found.six, found.four), errors, ttl);
        // Names whose time ran out while they queued are skipped.
        for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) {
          if (!this.#flights.has(next)) continue;
          this.#query(next);
          break;
        }
      };
    this.#resolver.resolve6(host, { ttl: true }, one("six"));
    this.#resolver.resolve4(host, { ttl: true }, one("four"));
  }

  #conclude(host: string, addresses: Address[], errors: readonly string[], ttl: number): void {
    if (addresses.length > 0) {
      // Half an answer is used, but not for long.
      const whole = errors.every((code) => code === "ENODATA" || code === "ENOTFOUND");
      this.#settle(host, { addresses }, whole ? Math.max(MIN_TTL_SECONDS, ttl) : MIN_TTL_SECONDS);
      return;
    }
    const failed = errors.find((code) => code !== "ENODATA" && code !== "ENOTFOUND");
    // c-ares reports ECONNREFUSED for sockets that cannot be opened; a resolver that is made now could not read resolv.conf.
    if (failed === "ECONNREFUSED" && outOfFiles()) {
      countBound("open-files");
      this.#settle(host, { code: "overloaded", reason: "this proxy has no file descriptor left" }, 0);
      return;
    }
    // c-ares that started before the network did may be stuck with dead servers (nodejs/node#13076).
    if (failed === "ECONNREFUSED") this.#resolver = this.#makeResolver();
    if (failed === "ETIMEOUT") {
      this.#settle(host, { code: "dns-timeout", reason: this.#late(host) }, NEGATIVE_SECONDS);
    } else if (failed !== undefined) {
      const what = failed === "ECONNREFUSED" ? "no resolver answers" : `the resolver failed (${failed.slice(1)})`;
      this.#settle(host, { code: "dns-failed", reason: `cannot resolve ${host}: ${what}` }, NEGATIVE_SECONDS);
    } else {
      const reason = errors.includes("ENOTFOUND") ? `${host} does not exist` : `${host} has no address`;
      this.#settle(host, { code: "dns-nxdomain", reason }, NEGATIVE_SECONDS);
    }
  }

  #settle(host: string, answer: Answer, seconds: number): void {
    const flight = this.#flights.get(host);
    if (flight === undefined) return;
    this.#flights.delete(host);
    if (flight.timer !== null) clearTimeout(flight.timer);
    this.#cache.set(host, { answer, expires: this.#now() + seconds * 1000 });
    if (this.#cache.size > MAX_ENTRIES) this.#cache.delete(this.#cache.keys().next().value!);
    for (const waiter of flight.waiters) waiter(answer);
  }

  /** Ends all queries; waiters are told that they failed. */
  close(): void {
    this.#resolver.cancel();
    for (const host of [...this.#flights.keys()]) {
      this.#settle(host, { code: "dns-failed", reason: `cannot resolve ${host}: shutting down` }, 0);
    }
  }
}
