import type { Logger } from "../cli/log.ts";
import { formatAddress, parseAddress } from "../policy/cidr.ts";
import type { PolicyDocument, Verification } from "../policy/document.ts";
import type { Route } from "./route.ts";
import type { Source } from "./source-address.ts";

/** The state of an egress path. Times in milliseconds: `…At` since the epoch, others monotonic. */
interface Proof {
  route: Route;
  /** Canonical addresses, one of which every answer must contain; empty: any answer is right. */
  expected: ReadonlySet<string>;
  /** Start of the last good round (monotonic); null: never proven, or a wrong answer since. */
  since: number | null;
  provenAt: number | null;
  checkedAt: number | null;
  observed: string[];
  error: string | null;
  /** The last answer of each echo URL; failures included. */
  answers: Map<string, { at: number } & Answer>;
}

/** An address, or why there is none. */
type Answer = { address: string } | { error: string };

/** The last answer of an echo URL on an egress path. `at`: RFC 3339. */
export type EchoAnswer = { way: string; url: string; at: string } & Answer;

/** The part of `/status` about one egress path. Times are RFC 3339. */
interface ProofStatus {
  /** Key of the route. Operators of other versions read it under this name. */
  way: string;
  family: 4 | 6;
  verified: boolean;
  expected: string[];
  observed: string[];
  provenAt: string | null;
  checkedAt: string | null;
  /** Error of the last round, also when one echo URL failed and another one gave the proof. */
  error: string | null;
}

/** Requests one echo URL on one egress path and returns the address that it saw. Rejects without an answer. */
export type Ask = (url: URL, route: Route, timeoutMs: number) => Promise<string>;

/** Dependencies of a {@link Verifier}. */
interface VerifierOptions {
  ask: Ask;
  log: Logger;
  /** Called for a wrong address: connections opened since then (monotonic ms) may have left from it. */
  onWrong: (route: string, since: number) => void;
  /**
   * Called for an address that is no longer expected: connections opened until then (monotonic ms) may have left from
   * it.
   */
  onRemoved: (route: string, until: number) => void;
  /** Milliseconds, monotonic. */
  now?: () => number;
  /** Random number from 0 to 1. */
  random?: () => number;
}

/**
 * Rounds begin after 80 to 100 % of the interval, so that the proxies of a fleet do not send in step and none is late.
 */
const JITTER = 0.2;
/** Without a proof the next round comes sooner. */
const UNPROVEN_INTERVAL_MS = 2000;

/** Egress paths of a document (each source, or each family of its static IPs) with the addresses that must be seen. */
export function routesOf(
  document: PolicyDocument,
  sources: readonly Source[],
): { route: Route; expected: Set<string> }[] {
  const canonical = (text: string) => formatAddress(parseAddress(text)!);
  if (sources.length > 0) {
    return sources.map((source) => {
      const own = document.staticIPs.filter((ip) => canonical(ip.sourceAddress ?? ip.address) === source.address);
      // The router maps the source to a Pending address later. It counts if the document makes all addresses Pending.
      const mapped = own.find(({ phase }) => phase !== "Pending") ?? own[0];
      const expected = new Set([mapped === undefined ? source.address : canonical(mapped.address)]);
      return { route: { key: source.address, family: source.family, source }, expected };
    });
  }
  const seen = document.staticIPs.filter((ip) => ip.phase !== "Pending").map((ip) => parseAddress(ip.address)!);
  const families = seen.length === 0 ? ([4] as const) : ([4, 6] as const);
  // The upstream proxy chooses the family of a name that it resolves.
  const any = document.upstreamProxy?.resolve === "Upstream";
  return families
    .map((family) => ({
      route: { key: `ipv${family}`, family },
      expected: new Set(seen.filter((address) => any || address.family === family).map(formatAddress)),
    }))
    .filter(({ expected }) => seen.length === 0 || expected.size > 0);
}

/**
 * Proves from which addresses requests leave by requesting echo URLs. A round with at least one right answer and no
 * wrong one is a proof. A wrong answer ends a proof immediately. Without answers a proof holds for `staleAfterSeconds`.
 */
export class Verifier {
  readonly #options: VerifierOptions;
  readonly #now: () => number;
  readonly #random: () => number;
  #proofs = new Map<string, Proof>();
  /** The upstream proxy of the proofs. */
  #via: string | null = null;
  #settings: Verification | null = null;
  /** Answers of an older round do not count after a new configuration. */
  #generation = 0;
  #timer: NodeJS.Timeout | undefined;
  #running = false;
  #again = false;
  /** When each egress path last used an address that is wrong, or has become wrong (monotonic ms). */
  readonly #wrongAt = new Map<string, number>();
  /**
   * Until when connections may have left from an address, by egress path (monotonic ms): infinite while the last round
   * saw it. Kept across policies without verification.
   */
  readonly #usedUntil = new Map<string, Map<string, number>>();
  /** Number of wrong answers since the start. */
  mismatches = 0;

  constructor(options: VerifierOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.#random = options.random ?? Math.random;
  }

  /**
   * Applies the verification settings of a document. A proof is kept across a reload when its address is still right
   * and the upstream proxy is the same.
   */
  configure(document: PolicyDocument, sources: readonly Source[]): void {
    const via = document.upstreamProxy?.url ?? null;
    const before = via === this.#via ? this.#proofs : new Map<string, Proof>();
    this.#via = via;
    this.#generation++;
    this.#settings = document.verification ?? null;
    this.#proofs = new Map();
    if (this.#settings === null) {
      clearTimeout(this.#timer);
      return;
    }
    for (const { route, expected } of routesOf(document, sources)) {
      const old = before.get(route.key);
      const fresh: Proof = {
        route,
        expected,
        since: null,
        provenAt: null,
        checkedAt: null,
        observed: [],
        error: "not checked yet",
        answers: new Map(),
      };
      const holds = old?.observed.every((address) => expected.size === 0 || expected.has(address)) ?? false;
      const proof = old !== undefined && holds ? { ...old, route, expected } : fresh;
      const { echoURLs } = this.#settings;
      proof.answers = new Map([...proof.answers].filter(([url]) => echoURLs.includes(url)));
      this.#proofs.set(route.key, proof);
      this.#remove(route.key, expected);
    }
    this.checkNow();
  }

  /** Resets connections that may have left from an address that is no longer expected. */
  #remove(key: string, wanted: ReadonlySet<string>): void {
    if (wanted.size === 0) return;
    const used = this.#usedOf(key);
    for (const [address, last] of used) {
      if (wanted.has(address)) continue;
      const until = Math.min(last, this.#now());
      used.delete(address);
      this.#wrongAt.set(key, Math.max(this.#wrongAt.get(key) ?? until, until));
      this.#options.onRemoved(key, until);
    }
  }

  #usedOf(key: string): Map<string, number> {
    const used = this.#usedUntil.get(key) ?? new Map<string, number>();
    this.#usedUntil.set(key, used);
    return used;
  }

  /** Whether requests may leave on this egress path. */
  open(key: string): boolean {
    return this.#settings === null || this.#settings.onUnverified === "Allow" || this.verified(key);
  }

  /** Whether a wrong address was seen since a moment (monotonic ms): an older connection may have left from it. */
  wrongSince(key: string, moment: number): boolean {
    return this.#settings?.onUnverified === "Block" && (this.#wrongAt.get(key) ?? Number.NEGATIVE_INFINITY) >= moment;
  }

  /** Whether this egress path is proven now. */
  verified(key: string): boolean {
    if (this.#settings === null) return true;
    const since = this.#proofs.get(key)?.since ?? null;
    return since !== null && this.#now() - since < this.#settings.staleAfterSeconds * 1000;
  }

  /** Why an egress path is not proven, for the sender. */
  reason(key: string): string {
    const proof = this.#proofs.get(key);
    if (proof === undefined) return `there is no proven ${key} address`;
    const wanted = [...proof.expected].join(" or ");
    const wrong = proof.observed.find((address) => proof.expected.size > 0 && !proof.expected.has(address));
    if (wrong !== undefined) return `requests leave from ${wrong}, not from ${wanted}`;
    return `the source address ${wanted || key} is not proven${proof.provenAt === null ? " yet" : " any more"}`;
  }

  /** Every egress path with its observed and expected addresses. */
  status(): ProofStatus[] {
    const time = (ms: number | null) => (ms === null ? null : new Date(ms).toISOString());
    return [...this.#proofs.values()].map((proof) => ({
      way: proof.route.key,
      family: proof.route.family,
      verified: this.verified(proof.route.key),
      expected: [...proof.expected],
      observed: proof.observed,
      provenAt: time(proof.provenAt),
      checkedAt: time(proof.checkedAt),
      error: proof.error,
    }));
  }

  /** The last answer of every echo URL on every egress path: what it saw, or why it did not answer. */
  echoAnswers(): EchoAnswer[] {
    return [...this.#proofs.values()].flatMap(({ route, answers }) =>
      [...answers].map(([url, { at, ...answer }]) => ({
        way: route.key,
        url,
        at: new Date(at).toISOString(),
        ...answer,
      })),
    );
  }

  /** Starts a round now, or another one after the current round. */
  checkNow(): void {
    if (this.#settings === null) return;
    clearTimeout(this.#timer);
    if (this.#running) {
      this.#again = true;
      return;
    }
    this.#running = true;
    const began = this.#now();
    void this.#round().finally(() => {
      this.#running = false;
      const settings = this.#settings;
      if (settings === null) return;
      const proven = [...this.#proofs.values()].every((proof) => this.verified(proof.route.key));
      const interval = settings.intervalSeconds * 1000 * (1 - JITTER * this.#random());
      const wait = proven ? interval : Math.min(interval, UNPROVEN_INTERVAL_MS);
      const delay = this.#again ? 0 : Math.max(0, wait - (this.#now() - began));
      this.#again = false;
      this.#timer = setTimeout(() => this.checkNow(), delay);
    });
  }

  async #round(): Promise<void> {
    const generation = this.#generation;
    await Promise.all([...this.#proofs.values()].map((proof) => this.#prove(proof, generation)));
  }

  async #prove(proof: Proof, generation: number): Promise<void> {
    const { echoURLs, timeoutSeconds } = this.#settings!;
    const began = this.#now();
    const right: string[] = [];
    const errors: string[] = [];
    let wrong = false;
    await Promise.all(
      echoURLs.map(async (text) => {
        try {
          const address = await this.#options.ask(new URL(text), proof.route, timeoutSeconds * 1000);
          if (generation !== this.#generation) return;
          proof.answers.set(text, { at: Date.now(), address });
          if (proof.expected.size === 0 || proof.expected.has(address)) right.push(address);
          else {
            wrong = true;
            this.#wrong(proof, text, address);
          }
        } catch (error) {
          const { message } = error as Error;
          proof.answers.set(text, { at: Date.now(), error: message });
          errors.push(`${text}: ${message}`);
        }
      }),
    );
    if (generation !== this.#generation) return;
    const { log } = this.#options;
    const before = this.verified(proof.route.key);
    proof.checkedAt = Date.now();
    if (wrong) return;
    proof.error = errors.length > 0 ? errors.join("; ") : null;
    if (right.length === 0) {
      log.warn({ way: proof.route.key, error: proof.error }, "no echo URL answers");
      return;
    }
    proof.since = began;
    proof.provenAt = proof.checkedAt;
    proof.observed = [...new Set(right)];
    const used = this.#usedOf(proof.route.key);
    for (const [address, until] of used) used.set(address, Math.min(until, this.#now()));
    for (const address of right) used.set(address, Number.POSITIVE_INFINITY);
    if (!before) log.info({ way: proof.route.key, observed: proof.observed }, "source address proven");
  }

  /** The gate closes before the end of the round. */
  #wrong(proof: Proof, url: string, address: string): void {
    const since = proof.since ?? 0;
    this.#wrongAt.set(proof.route.key, this.#now());
    this.mismatches++;
    proof.since = null;
    proof.observed = [address];
    proof.error = `${url} saw ${address}`;
    this.#options.log.error(
      { way: proof.route.key, observed: address, expected: [...proof.expected], url },
      "wrong source",
    );
    this.#options.onWrong(proof.route.key, since);
  }

  stop(): void {
    this.#settings = null;
    clearTimeout(this.#timer);
  }
}
