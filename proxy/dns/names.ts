import { countBound } from "../outcome/bounds.ts";
import { type Address, parseAddress } from "../policy/cidr.ts";
import { isLocalhost } from "../policy/host.ts";
import { conclude, type DnsAnswer } from "./answer.ts";
import { type Job, LookupQueue, zoneOf } from "./lookup-queue.ts";
import { DnsQuery, type Reply } from "./query.ts";
import { DnsServers } from "./servers.ts";

interface Entry {
  answer: DnsAnswer;
  expires: number;
  /** One family is missing, and its query still runs. */
  half: boolean;
  /** Its size for {@link MAX_CACHE_BYTES}. */
  bytes: number;
}

interface Waiter {
  done(answer: DnsAnswer): void;
  enough(addresses: readonly Address[]): boolean;
}

interface Flight extends Job {
  readonly host: string;
  readonly waiters: Set<Waiter>;
  /** The queue in which it waits or runs. */
  queue: LookupQueue<Flight>;
  /** Timer that ends the wait for a slot. */
  timer: NodeJS.Timeout | undefined;
  readonly began: number;
  query: DnsQuery | null;
  /** {@link Names.#generation} when the query started. */
  generation: number;
  /** Time of the half answer: the age of the complete one counts from there. Null: there was none. */
  halfAt: number | null;
}

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
/**
 * Limit of the lookups that wait for a late family only. They have no slot, so that a resolver without answers for one
 * record type does not delay other names. The oldest one above the limit ends without that family.
 */
const MAX_LATE = 128;
/** Slots that clients cannot use: for echo URLs, whose proof opens the gate, and for `/explain`. */
const OWN_IN_FLIGHT = 32;
const OWN_QUEUED = 1024;
/** The fraction of the time limit that a name may wait for a slot; the rest is for the queries. */
const QUEUE_TIME = 0.5;
/** The client key of lookups of this process itself. */
const OWN = "";
/** The addresses of `localhost` and of every name below it (RFC 6761 §6.3). */
const LOCALHOST: readonly Address[] = [parseAddress("127.0.0.1")!, parseAddress("::1")!];
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
  /** The file to read instead of /etc/resolv.conf. */
  resolvConf?: string;
}

/** For whom a name is looked up. */
interface LookupOptions {
  /** The client whose slots are used; absent for lookups of this process itself. */
  client?: string;
  /**
   * Whether the addresses of one family are enough while the other one is late. Default: never, so the answer is
   * complete, unless the time limit ends it.
   */
  enough?: (addresses: readonly Address[]) => boolean;
}

const never = (): boolean => false;

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
  /** Lookups with a half answer, the oldest one first: {@link MAX_LATE}. */
  readonly #late = new Set<Flight>();
  /** Zones whose last answer had addresses, the most recent one last. */
  readonly #known = new Set<string>();
  readonly #now: () => number;
  /** Number of changes of the servers. Answers of former servers are not cached. */
  #generation = 0;

  constructor(options: ResolveOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.#servers = new DnsServers(options.servers, options.resolvConf);
  }

  /** A reload may change the time limit. Running queries keep theirs. */
  setTimeout(timeoutSeconds: number): void {
    this.#options = { ...this.#options, timeoutSeconds };
  }

  /** A changed hosts file. */
  setHosts(hosts: ReadonlyMap<string, readonly Address[]>): void {
    this.#options = { ...this.#options, hosts };
  }

  /**
   * Reads resolv.conf again and forgets all answers when its servers have changed. Returns the addresses of the new
   * servers; null: no change. @throws Error when the file cannot be read or has no server
   */
  rereadServers(): readonly string[] | null {
    const changed = this.#servers.reread();
    if (changed === null) return null;
    this.#generation++;
    for (const [host, entry] of this.#cache) this.#forget(host, entry);
    return changed;
  }

  /** The addresses of a name that needs no DNS: of the hosts file, or of `localhost`. Undefined for all other names. */
  fixed(host: string): readonly Address[] | undefined {
    return this.#options.hosts.get(host) ?? (isLocalhost(host) ? LOCALHOST : undefined);
  }

  /** Calls `done` once: immediately when the answer is cached, else later. The returned function cancels the wait. */
  lookup(host: string, done: (answer: DnsAnswer) => void, options: LookupOptions = {}): () => void {
    const { client = OWN, enough = never } = options;
    const fixed = this.fixed(host);
    if (fixed !== undefined) {
      done({ addresses: fixed });
      return () => {};
    }
    const cached = this.#cached(host, enough);
    if (cached !== undefined) {
      this.counts.hit++;
      done(cached);
      return () => {};
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
    const waiter: Waiter = { done, enough };
    flight.waiters.add(waiter);
    if (flight.query === null && admitted === "start") this.#start(flight);
    return () => {
      flight.waiters.delete(waiter);
      // A running lookup continues, since its answer is cached; a waiting lookup has no other use than its waiters.
      if (flight.waiters.size === 0 && flight.query === null) this.#drop(flight);
    };
  }

  #cached(host: string, enough: Waiter["enough"]): DnsAnswer | undefined {
    const entry = this.#cache.get(host);
    if (entry === undefined) return undefined;
    if (entry.expires <= this.#now()) {
      this.#forget(host, entry);
      return undefined;
    }
    const { answer, half } = entry;
    if (half && !("addresses" in answer && enough(answer.addresses))) return undefined;
    // Moves it to the end: the least recently used entry is the first. While there is room for many more, it costs too much.
    if (this.#isHalfFull()) {
      this.#cache.delete(host);
      this.#cache.set(host, entry);
    }
    return answer;
  }

  #isHalfFull(): boolean {
    const { size } = this.#cache;
    return (
      size > MAX_ENTRIES / 2 ||
      this.#cachedAddresses > MAX_CACHED_ADDRESSES / 2 ||
      this.#cachedBytes > MAX_CACHE_BYTES / 2
    );
  }

  #makeFlight(host: string): Flight {
    const job = { zone: zoneOf(host), waitsFor: new Set<string>(), runsFor: null };
    const base = { host, waiters: new Set<Waiter>(), began: performance.now(), query: null };
    return { ...job, ...base, queue: this.#queue, timer: undefined, generation: 0, halfAt: null };
  }

  /** Requests a flight, which has not started, for a client. */
  #enter(flight: Flight, client: string): "start" | "wait" | "full" {
    const queue = client === OWN ? this.#own : this.#queue;
    // Names in zones that never answered take no slots from names in other zones, however many there are.
    const group = this.#known.has(flight.zone) ? client : `new ${client}`;
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
    flight.generation = this.#generation;
    flight.query = new DnsQuery(this.#servers, flight.host, ms, {
      half: (six, four) => this.#serveHalf(flight, six, four),
      done: (six, four) => {
        const { answer, seconds } = conclude(flight.host, timeoutSeconds, six, four);
        this.#learn(flight.zone, answer);
        if ("code" in answer && answer.code === "overloaded") countBound("open-files");
        if ("more" in answer) countBound("dns-addresses");
        this.#settle(flight, answer, seconds);
      },
    });
  }

  /** One family is late: waiters that the other one is enough for do not wait longer (RFC 8305 §3). The query continues. */
  #serveHalf(flight: Flight, six: Reply | null, four: Reply | null): void {
    const { answer, seconds } = conclude(flight.host, this.#options.timeoutSeconds, six, four);
    if ("code" in answer) return;
    this.#learn(flight.zone, answer);
    flight.halfAt = this.#now();
    this.#keep(flight, answer, seconds, true);
    for (const waiter of flight.waiters) {
      if (!waiter.enough(answer.addresses)) continue;
      flight.waiters.delete(waiter);
      waiter.done(answer);
    }
    this.#late.add(flight);
    this.#freeSlot(flight);
    if (this.#late.size > MAX_LATE) this.#late.values().next().value!.query!.end();
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
    if (seconds > 0) this.#keep(flight, answer, seconds, false);
    this.#drop(flight);
    for (const waiter of flight.waiters) waiter.done(answer);
    flight.waiters.clear();
  }

  /** Removes a flight and lets others start in its place. */
  #drop(flight: Flight): void {
    clearTimeout(flight.timer);
    if (this.#flights.get(flight.host) !== flight) return;
    this.#flights.delete(flight.host);
    this.#late.delete(flight);
    this.#freeSlot(flight);
  }

  #freeSlot(flight: Flight): void {
    const { queue } = flight;
    queue.leave(flight);
    for (let next = queue.next(); next !== null; next = queue.next()) this.#start(next);
  }

  #keep({ host, generation, halfAt }: Flight, answer: DnsAnswer, seconds: number, half: boolean): void {
    if (generation !== this.#generation) return;
    const addresses = "code" in answer ? 0 : answer.addresses.length;
    const text = host.length + ("code" in answer ? answer.reason.length : 0);
    const bytes = ENTRY_BYTES + text + addresses * ADDRESS_BYTES;
    const old = this.#cache.get(host);
    if (old !== undefined) this.#forget(host, old);
    const expires = (halfAt ?? this.#now()) + seconds * 1000;
    this.#cache.set(host, { answer, expires, half, bytes });
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
    this.#late.clear();
    for (const flight of flights) {
      clearTimeout(flight.timer);
      flight.query?.cancel();
      flight.queue.leave(flight);
      const reason = `cannot resolve ${flight.host}: shutting down`;
      const waiters = [...flight.waiters];
      flight.waiters.clear();
      for (const waiter of waiters) waiter.done({ code: "dns-failed", reason });
    }
  }
}
