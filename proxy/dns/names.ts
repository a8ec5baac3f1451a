import { countBound } from "../outcome/bounds.ts";
import type { Code } from "../outcome/refusals.ts";
import type { Address } from "../policy/cidr.ts";
import { type Job, LookupQueue, zoneOf } from "./lookup-queue.ts";
import type { Records } from "./message.ts";
import { DnsQuery, type Reply, type ReplyError } from "./query.ts";
import { DnsServers } from "./servers.ts";

/**
 * The answer for one name: addresses (IPv6 and IPv4 in turn, RFC 8305 §4), or the reason why there are none. `more`:
 * the number of addresses of the DNS answer beyond those.
 */
export type DnsAnswer =
  | { addresses: readonly Address[]; more?: number }
  | { code: Extract<Code, "dns-nxdomain" | "dns-failed" | "dns-timeout" | "overloaded">; reason: string };

interface Entry {
  answer: DnsAnswer;
  expires: number;
  /** Its size for {@link MAX_CACHE_BYTES}. */
  bytes: number;
}

interface Flight extends Job {
  readonly host: string;
  readonly waiters: Set<(answer: DnsAnswer) => void>;
  /** The queue in which it waits or runs. */
  queue: LookupQueue<Flight>;
  /** Timer that ends the wait for a slot. */
  timer: NodeJS.Timeout | undefined;
  readonly began: number;
  query: DnsQuery | null;
}

const MIN_TTL_SECONDS = 5;
const MAX_TTL_SECONDS = 300;
const NEGATIVE_SECONDS = 5;
/** Limit of the names in the cache. */
const MAX_ENTRIES = 10_000;
/** Limit of the addresses in the cache: five per name on average; one name may have 32. */
const MAX_CACHED_ADDRESSES = 50_000;
/** Limit in bytes of the cache, estimated: names, reasons and addresses. */
const MAX_CACHE_BYTES = 8 * 1024 * 1024;
/** Estimated bytes of an entry without its text and addresses, and of an address: objects of V8 on a 64-bit machine. */
const ENTRY_BYTES = 300;
const ADDRESS_BYTES = 120;

/** Limit of concurrent lookups of clients: more lose packets on the way to the resolver. */
const MAX_IN_FLIGHT = 256;
/** Limit of the lookups of clients that wait for a slot. Each holds a request of its client. */
const MAX_QUEUED = 8192;
/** Slots that clients cannot use: for echo URLs, whose proof opens the gate, and for `/explain`. */
const OWN_IN_FLIGHT = 32;
const OWN_QUEUED = 1024;
/** The fraction of the time limit that a name may wait for a slot; the rest is for the queries. */
const QUEUE_TIME = 0.5;
/** The client key of lookups of this process itself. */
const OWN = "";
/** Limit of the remembered zones that gave addresses. */
const MAX_KNOWN_ZONES = 4096;

/** Resolvers and time limits. */
interface ResolveOptions {
  /** `IP:port`, in order of use; empty: the servers of resolv.conf. */
  servers: readonly string[];
  timeoutSeconds: number;
  /** Fixed addresses of names, from a hosts file. */
  hosts: ReadonlyMap<string, readonly Address[]>;
  /** Milliseconds, monotonic. */
  now?: () => number;
}

function interleave(six: readonly Address[], four: readonly Address[]): Address[] {
  const mixed: Address[] = [];
  for (let i = 0; i < Math.max(six.length, four.length); i++) {
    if (i < six.length) mixed.push(six[i]!);
    if (i < four.length) mixed.push(four[i]!);
  }
  return mixed;
}

const NOTHING: Records = { addresses: [], more: 0, ttl: MAX_TTL_SECONDS };

/** An answer and the time for which it is cached; 0: not cached. */
interface Conclusion {
  answer: DnsAnswer;
  seconds: number;
}

function conclude(host: string, timeoutSeconds: number, six: Reply, four: Reply): Conclusion {
  const replies = [six, four];
  const errors = replies.flatMap((reply) => ("error" in reply ? [reply.error] : []));
  const [found6, found4] = replies.map((reply) => ("error" in reply ? NOTHING : reply)) as [Records, Records];
  const failed = errors.find((error) => error !== "NXDOMAIN");
  const addresses = interleave(found6.addresses, found4.addresses);
  if (addresses.length > 0) {
    const more = found6.more + found4.more;
    const ttl = Math.min(MAX_TTL_SECONDS, found6.ttl, found4.ttl);
    // Half an answer is used, but cached for a short time only.
    const seconds = failed === undefined ? Math.max(MIN_TTL_SECONDS, ttl) : MIN_TTL_SECONDS;
    return { answer: more > 0 ? { addresses, more } : { addresses }, seconds };
  }
  if (failed === undefined) {
    const reason = errors.length > 0 ? `${host} does not exist` : `${host} has no address`;
    return { answer: { code: "dns-nxdomain", reason }, seconds: NEGATIVE_SECONDS };
  }
  return conclusionOf(failed, host, timeoutSeconds);
}

function conclusionOf(failed: ReplyError, host: string, timeoutSeconds: number): Conclusion {
  if (failed === "TIMEOUT") {
    const reason = `no answer for ${host} within ${timeoutSeconds} s`;
    return { answer: { code: "dns-timeout", reason }, seconds: NEGATIVE_SECONDS };
  }
  if (failed === "NOFILES") {
    const reason = `cannot resolve ${host}: this proxy has no file descriptor left`;
    return { answer: { code: "overloaded", reason }, seconds: 0 };
  }
  const what = failed === "CONNREFUSED" ? "no resolver answers" : `the resolver failed (${failed})`;
  return { answer: { code: "dns-failed", reason: `cannot resolve ${host}: ${what}` }, seconds: NEGATIVE_SECONDS };
}

/**
 * Resolves names to addresses: a stub resolver of its own (no search list, no thread pool, TCP when truncated). It
 * caches answers for their TTL and runs one lookup per name at a time. Expired answers are never used. Callers vet the
 * addresses for each request.
 */
export class Names {
  #options: ResolveOptions;
  readonly #servers: DnsServers;
  readonly #cache = new Map<string, Entry>();
  #cachedAddresses = 0;
  #cachedBytes = 0;
  readonly #flights = new Map<string, Flight>();
  /** Counts of cached answers, of queries, and of waits for a query that was already running. */
  readonly counts = { hit: 0, miss: 0, shared: 0 };
  readonly #queue = new LookupQueue<Flight>(MAX_IN_FLIGHT, MAX_QUEUED);
  readonly #own = new LookupQueue<Flight>(OWN_IN_FLIGHT, OWN_QUEUED);
  /** Zones whose last answer had addresses, the most recent one last. */
  readonly #known = new Set<string>();
  readonly #now: () => number;

  constructor(options: ResolveOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.#servers = new DnsServers(options.servers);
  }

  /** A reload may change the time limit. Running queries keep theirs. */
  setTimeout(timeoutSeconds: number): void {
    this.#options = { ...this.#options, timeoutSeconds };
  }

  /**
   * Calls `done` once: immediately when the answer is cached, else later. The returned function cancels the wait.
   * `client`: the client whose slots are used; absent for lookups of this process itself.
   */
  lookup(host: string, done: (answer: DnsAnswer) => void, client = OWN): () => void {
    const fixed = this.#options.hosts.get(host);
    if (fixed !== undefined) {
      done({ addresses: fixed });
      return () => {};
    }
    const entry = this.#cache.get(host);
    if (entry !== undefined) {
      if (entry.expires > this.#now()) {
        // Moves it to the end: the least recently used entry is the first.
        this.#cache.delete(host);
        this.#cache.set(host, entry);
        this.counts.hit++;
        done(entry.answer);
        return () => {};
      }
      this.#forget(host, entry);
    }
    const flight = this.#flights.get(host) ?? this.#makeFlight(host);
    const admitted = flight.query === null ? this.#enter(flight, client) : "start";
    if (admitted === "full") {
      countBound("dns-queue");
      done({ code: "overloaded", reason: `too many names are being resolved; ${host} was not looked up` });
      return () => {};
    }
    if (this.#flights.has(host)) this.counts.shared++;
    else {
      this.counts.miss++;
      this.#flights.set(host, flight);
    }
    const waiter = (answer: DnsAnswer) => done(answer);
    flight.waiters.add(waiter);
    if (flight.query === null && admitted === "start") this.#start(flight);
    return () => {
      flight.waiters.delete(waiter);
      // A running lookup continues, since its answer is cached; a waiting lookup has no other use than its waiters.
      if (flight.waiters.size === 0 && flight.query === null) this.#drop(flight);
    };
  }

  #makeFlight(host: string): Flight {
    const job = { zone: zoneOf(host), waitsFor: new Set<string>(), runsFor: null };
    const base = { host, waiters: new Set<(answer: DnsAnswer) => void>(), began: performance.now(), query: null };
    const flight: Flight = { ...job, ...base, queue: this.#queue, timer: undefined };
    return flight;
  }

  /** Requests a flight, which has not started, for a client. */
  #enter(flight: Flight, client: string): "start" | "wait" | "full" {
    const queue = client === OWN ? this.#own : this.#queue;
    // Names in zones that never answered take no slots from names in other zones, however many there are.
    const group = this.#known.has(flight.zone) ? client : `${client} new`;
    if (queue !== flight.queue) {
      // This process needs the name as well: from now on the lookup uses the slots of this process.
      if (client !== OWN) return "wait";
      flight.queue.leave(flight);
      flight.queue = queue;
    }
    const admitted = queue.enter(flight, group);
    if (admitted === "wait") {
      flight.timer ??= setTimeout(() => this.#giveUp(flight), this.#options.timeoutSeconds * 1000 * QUEUE_TIME);
    }
    return admitted;
  }

  #start(flight: Flight): void {
    clearTimeout(flight.timer);
    const { timeoutSeconds } = this.#options;
    const waited = performance.now() - flight.began;
    const ms = Math.max(timeoutSeconds * 1000 * (1 - QUEUE_TIME), timeoutSeconds * 1000 - waited);
    flight.query = new DnsQuery(this.#servers, flight.host, ms, (six, four) => {
      const { answer, seconds } = conclude(flight.host, timeoutSeconds, six, four);
      this.#learn(flight.zone, answer);
      if ("code" in answer && answer.code === "overloaded") countBound("open-files");
      if ("more" in answer) countBound("dns-addresses");
      if ([six, four].some((reply) => "error" in reply && reply.error === "CONNREFUSED")) this.#servers.forget();
      this.#settle(flight, answer, seconds);
    });
  }

  #learn(zone: string, answer: DnsAnswer): void {
    const { code } = "code" in answer ? answer : { code: null };
    // A name that does not exist proves nothing about its zone: anyone can invent names.
    if (code === "dns-nxdomain" || code === "overloaded") return;
    this.#known.delete(zone);
    if (code !== null) return;
    this.#known.add(zone);
    if (this.#known.size > MAX_KNOWN_ZONES) this.#known.delete(this.#known.values().next().value!);
  }

  /** It never got a slot. Nothing is known about the name, so nothing is cached. */
  #giveUp(flight: Flight): void {
    countBound("dns-queue");
    const reason = `too many names are being resolved; ${flight.host} was not looked up`;
    this.#settle(flight, { code: "overloaded", reason }, 0);
  }

  #settle(flight: Flight, answer: DnsAnswer, seconds: number): void {
    if (seconds > 0) this.#keep(flight.host, answer, seconds);
    this.#drop(flight);
    for (const waiter of flight.waiters) waiter(answer);
  }

  /** Removes a flight and lets others start in its place. */
  #drop(flight: Flight): void {
    clearTimeout(flight.timer);
    if (this.#flights.get(flight.host) !== flight) return;
    this.#flights.delete(flight.host);
    const { queue } = flight;
    queue.leave(flight);
    for (let next = queue.next(); next !== null; next = queue.next()) this.#start(next);
  }

  #keep(host: string, answer: DnsAnswer, seconds: number): void {
    const addresses = "code" in answer ? 0 : answer.addresses.length;
    const text = host.length + ("code" in answer ? answer.reason.length : 0);
    const bytes = ENTRY_BYTES + text + addresses * ADDRESS_BYTES;
    const old = this.#cache.get(host);
    if (old !== undefined) this.#forget(host, old);
    this.#cache.set(host, { answer, expires: this.#now() + seconds * 1000, bytes });
    this.#cachedAddresses += addresses;
    this.#cachedBytes += bytes;
    for (const [oldest, entry] of this.#cache) {
      const fits = this.#cachedAddresses <= MAX_CACHED_ADDRESSES && this.#cachedBytes <= MAX_CACHE_BYTES;
      if (fits && this.#cache.size <= MAX_ENTRIES) break;
      this.#forget(oldest, entry);
    }
  }

  #forget(host: string, { answer, bytes }: Entry): void {
    this.#cache.delete(host);
    this.#cachedBytes -= bytes;
    if (!("code" in answer)) this.#cachedAddresses -= answer.addresses.length;
  }

  /** Ends all lookups; waiters get a failure. */
  close(): void {
    const flights = [...this.#flights.values()];
    this.#flights.clear();
    for (const flight of flights) {
      clearTimeout(flight.timer);
      flight.query?.cancel();
      flight.queue.leave(flight);
      const reason = `cannot resolve ${flight.host}: shutting down`;
      for (const waiter of flight.waiters) waiter({ code: "dns-failed", reason });
    }
  }
}
