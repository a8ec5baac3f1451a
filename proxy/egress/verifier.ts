import type { Logger } from "../cli/log.ts";
import { formatAddress, parseAddress } from "../policy/cidr.ts";
import type { PolicyDocument, Verification } from "../policy/document.ts";
import type { Source } from "./source-address.ts";

/** One way out that is proven by itself: a source address, or a family where the machine chooses the source. */
export interface Way {
  /** The source address, or `ipv4`, `ipv6`. */
  key: string;
  family: 4 | 6;
  /** What is bound; absent: the machine chooses. */
  source?: Source;
}

/** What a way is known for. Times in milliseconds: `…At` since the epoch, others monotonic. */
interface Proof {
  way: Way;
  /** Canonical addresses, one of which every answer must be; empty: nothing is expected, any answer is right. */
  expected: ReadonlySet<string>;
  /** When the last good round began (monotonic); null: never proven, or proven wrong since. */
  since: number | null;
  provenAt: number | null;
  checkedAt: number | null;
  observed: string[];
  error: string | null;
}

/** What `/status` shows of one way. Times are RFC 3339. */
export interface ProofStatus {
  way: string;
  family: 4 | 6;
  verified: boolean;
  expected: string[];
  observed: string[];
  provenAt: string | null;
  checkedAt: string | null;
  /** Of the last round: also where one echo URL failed and another one gave the proof. */
  error: string | null;
}

/** Asks one echo URL by one way: the address that it saw. Rejects when there is no answer. */
export type Ask = (url: URL, way: Way, timeoutMs: number) => Promise<string>;

/** What a {@link Verifier} needs of the world. */
export interface VerifierOptions {
  ask: Ask;
  log: Logger;
  /** A wrong address was seen: what was opened since then (monotonic ms) may have left from it. */
  onWrong: (way: string, since: number) => void;
  /** An address is expected no longer: what was opened until then (monotonic ms) may have left from it. */
  onRemoved: (way: string, until: number) => void;
  /** Milliseconds, monotonic. */
  now?: () => number;
  /** From 0 to 1. */
  random?: () => number;
}

/** Rounds begin after 80 to 100 % of the interval, so that a fleet does not ask in step and none is late. */
const JITTER = 0.2;
/** Without a proof the next round comes sooner. */
const UNPROVEN_INTERVAL_MS = 2000;

/** Ways out of a document: each source, or each family of its static IPs; what each must be seen as. */
export function waysOf(document: PolicyDocument, sources: readonly Source[]): { way: Way; expected: Set<string> }[] {
  const canonical = (text: string) => formatAddress(parseAddress(text)!);
  if (sources.length > 0) {
    return sources.map((source) => {
      const mapped = document.staticIPs.find((ip) => canonical(ip.sourceAddress ?? ip.address) === source.address);
      const expected = new Set([mapped === undefined ? source.address : canonical(mapped.address)]);
      return { way: { key: source.address, family: source.family, source }, expected };
    });
  }
  const seen = document.staticIPs.filter((ip) => ip.phase !== "Pending").map((ip) => parseAddress(ip.address)!);
  const families = seen.length === 0 ? ([4] as const) : ([4, 6] as const);
  return families
    .map((family) => ({
      way: { key: `ipv${family}`, family },
      expected: new Set(seen.filter((address) => address.family === family).map(formatAddress)),
    }))
    .filter(({ expected }) => seen.length === 0 || expected.size > 0);
}

/**
 * Proves where requests leave from by asking echo URLs. A round is a proof with at least one right answer and no wrong
 * one; a wrong answer ends a proof at once; silence lets it stand for `staleAfterSeconds`.
 */
export class Verifier {
  readonly #options: VerifierOptions;
  readonly #now: () => number;
  readonly #random: () => number;
  #proofs = new Map<string, Proof>();
  #settings: Verification | null = null;
  /** Answers of an older round count for nothing after a new configuration. */
  #generation = 0;
  #timer: NodeJS.Timeout | undefined;
  #running = false;
  #again = false;
  /** When each way was seen last with an address that is wrong, or is so by now (monotonic ms). */
  readonly #wrongAt = new Map<string, number>();
  /**
   * Until when connections may have left from an address, by way (monotonic ms): endless while the last round saw it. It
   * outlives a policy that asks for no proof.
   */
  readonly #usedUntil = new Map<string, Map<string, number>>();
  /** Wrong answers since start. */
  mismatches = 0;

  constructor(options: VerifierOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.#random = options.random ?? Math.random;
  }

  /** Takes a document's demands. A proof outlives a reload when what it saw is still right. */
  configure(document: PolicyDocument, sources: readonly Source[]): void {
    const before = this.#proofs;
    this.#generation++;
    this.#settings = document.verification ?? null;
    this.#proofs = new Map();
    if (this.#settings === null) {
      clearTimeout(this.#timer);
      return;
    }
    for (const { way, expected } of waysOf(document, sources)) {
      const old = before.get(way.key);
      const fresh: Proof = {
        way,
        expected,
        since: null,
        provenAt: null,
        checkedAt: null,
        observed: [],
        error: "not asked yet",
      };
      const holds = old?.observed.every((address) => expected.size === 0 || expected.has(address)) ?? false;
      this.#proofs.set(way.key, old !== undefined && holds ? { ...old, way, expected } : fresh);
      this.#remove(way.key, expected);
    }
    this.checkNow();
  }

  /** Connections that may have left from an address that is expected no longer end. */
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

  /** Whether requests may leave by this way. */
  open(key: string): boolean {
    return this.#settings === null || this.#settings.onUnverified === "Allow" || this.verified(key);
  }

  /** Whether a wrong address was seen since a moment (monotonic ms): a connection begun before it may have left from there. */
  wrongSince(key: string, moment: number): boolean {
    return this.#settings?.onUnverified === "Block" && (this.#wrongAt.get(key) ?? Number.NEGATIVE_INFINITY) >= moment;
  }

  /** Whether this way is proven now. */
  verified(key: string): boolean {
    if (this.#settings === null) return true;
    const since = this.#proofs.get(key)?.since ?? null;
    return since !== null && this.#now() - since < this.#settings.staleAfterSeconds * 1000;
  }

  /** Why a way is not proven, for the sender. */
  reason(key: string): string {
    const proof = this.#proofs.get(key);
    if (proof === undefined) return `there is no proven ${key} address`;
    const wanted = [...proof.expected].join(" or ");
    const wrong = proof.observed.find((address) => proof.expected.size > 0 && !proof.expected.has(address));
    if (wrong !== undefined) return `requests leave from ${wrong}, not from ${wanted}`;
    return `the source address ${wanted || key} is not proven${proof.provenAt === null ? " yet" : " any more"}`;
  }

  /** Every way with what was seen and expected. */
  status(): ProofStatus[] {
    const time = (ms: number | null) => (ms === null ? null : new Date(ms).toISOString());
    return [...this.#proofs.values()].map((proof) => ({
      way: proof.way.key,
      family: proof.way.family,
      verified: this.verified(proof.way.key),
      expected: [...proof.expected],
      observed: proof.observed,
      provenAt: time(proof.provenAt),
      checkedAt: time(proof.checkedAt),
      error: proof.error,
    }));
  }

  /** Starts a round now; one more follows where one is under way. */
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
      const proven = [...this.#proofs.values()].every((proof) => this.verified(proof.way.key));
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
          const address = await this.#options.ask(new URL(text), proof.way, timeoutSeconds * 1000);
          if (generation !== this.#generation) return;
          if (proof.expected.size === 0 || proof.expected.has(address)) right.push(address);
          else {
            wrong = true;
            this.#wrong(proof, text, address);
          }
        } catch (error) {
          errors.push(`${text}: ${(error as Error).message}`);
        }
      }),
    );
    if (generation !== this.#generation) return;
    const { log } = this.#options;
    const before = this.verified(proof.way.key);
    proof.checkedAt = Date.now();
    if (wrong) return;
    proof.error = errors.length > 0 ? errors.join("; ") : null;
    if (right.length === 0) {
      log.warn({ way: proof.way.key, error: proof.error }, "no echo URL answers");
      return;
    }
    proof.since = began;
    proof.provenAt = proof.checkedAt;
    proof.observed = [...new Set(right)];
    const used = this.#usedOf(proof.way.key);
    for (const [address, until] of used) used.set(address, Math.min(until, this.#now()));
    for (const address of right) used.set(address, Number.POSITIVE_INFINITY);
    if (!before) log.info({ way: proof.way.key, observed: proof.observed }, "source address proven");
  }

  /** The gate closes before the round is over. */
  #wrong(proof: Proof, url: string, address: string): void {
    const since = proof.since ?? 0;
    this.#wrongAt.set(proof.way.key, this.#now());
    this.mismatches++;
    proof.since = null;
    proof.observed = [address];
    proof.error = `${url} saw ${address}`;
    this.#options.log.error(
      { way: proof.way.key, observed: address, expected: [...proof.expected], url },
      "wrong source",
    );
    this.#options.onWrong(proof.way.key, since);
  }

  stop(): void {
    this.#settings = null;
    clearTimeout(this.#timer);
  }
}
