import type { Logger } from "pino";
import { ApiError, type Client } from "./client.ts";
import { type Clock, sleep, systemClock } from "./clock.ts";
import type { KubeMetrics } from "./metrics.ts";
import type { KubeObject, Resource } from "./resource.ts";

/** client-go's LeaderElectionConfig as controllers use it. */
const LEASE_MS = 15 * 1000;
const RENEW_DEADLINE_MS = 10 * 1000;
const RETRY_MS = 2 * 1000;
/** Who waits for the lease asks after 1 to 2.2 retry periods (client-go's JitterFactor), so that not all ask at once. */
const JITTER = 1.2;

const LEASES: Resource = {
  group: "coordination.k8s.io",
  version: "v1",
  kind: "Lease",
  plural: "leases",
  namespaced: true,
};

interface LeaseSpec {
  holderIdentity?: string;
  leaseDurationSeconds?: number;
  acquireTime?: string;
  renewTime?: string;
  leaseTransitions?: number;
}
type Lease = KubeObject & { spec?: LeaseSpec };

export interface LeaseOptions {
  /** Its own, so that renewals never wait behind other calls, and may be written before this program leads. */
  client: Client;
  namespace: string;
  name: string;
  /** Unlike that of any other process: two with one identity would both lead. */
  identity: string;
  /** Somebody else has the lease, or had it: the program has to end; nothing is tried again. */
  onLost: () => void;
  /** The lease is renewed after a pause: writes that were refused meanwhile may be done now. */
  onResumed?: (() => void) | undefined;
  log: Logger;
  metrics?: KubeMetrics | undefined;
  clock?: Clock | undefined;
  random?: (() => number) | undefined;
  leaseMs?: number | undefined;
  renewDeadlineMs?: number | undefined;
  retryMs?: number | undefined;
}

/** RFC 3339 with microseconds (metav1.MicroTime refuses anything else). */
function microTime(): string {
  return new Date().toISOString().replace("Z", "000Z");
}

/**
 * One leader among many processes, with the rules of client-go's leaderelection: a lease has ended when this process
 * saw no change of it for its whole duration. Times written by others are never compared with the local clock.
 *
 * Unlike there, a leader that cannot renew pauses at its deadline and does not end: while the API server is down nobody
 * else can lead either, and a lease that still has this process's name when it is back was nobody else's meanwhile.
 */
export class LeaseElection {
  readonly #options: LeaseOptions;
  readonly #clock: Clock;
  readonly #leaseMs: number;
  readonly #renewDeadlineMs: number;
  readonly #retryMs: number;
  readonly #stop = new AbortController();
  readonly #leading = Promise.withResolvers<void>();
  #running: Promise<void> | undefined;
  /** The lease as last read or written, and since when it is like that by the local clock. */
  #seen: Lease | undefined;
  #changedAt = 0;
  /** When the last successful renewal was sent; undefined: this process does not lead. */
  #renewedAt: number | undefined;
  #paused = false;
  #problem = "";

  constructor(options: LeaseOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#leaseMs = options.leaseMs ?? LEASE_MS;
    this.#renewDeadlineMs = options.renewDeadlineMs ?? RENEW_DEADLINE_MS;
    this.#retryMs = options.retryMs ?? RETRY_MS;
    options.metrics?.leader.set({ name: options.name }, 0);
  }

  /** False as soon as the renewal deadline is over, also in a process that was stopped and has not noticed yet. */
  get isLeader(): boolean {
    return this.#renewedAt !== undefined && this.#clock.now() - this.#renewedAt < this.#renewDeadlineMs;
  }

  /** Resolves once this process leads (never, when it is stopped before). */
  start(): Promise<void> {
    this.#running ??= this.#run();
    return this.#leading.promise;
  }

  /** Ends the election and hands the lease back, so that the next leader need not wait. Call it after everything that writes has stopped. */
  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
    if (!this.isLeader) return;
    this.#follow();
    const { client, namespace, name, identity, log } = this.#options;
    const now = microTime();
    const free = { holderIdentity: "", leaseDurationSeconds: 1, acquireTime: now, renewTime: now };
    const signal = AbortSignal.timeout(this.#retryMs);
    try {
      // Read again: a renewal that the stop cut off may have arrived.
      this.#observe(await client.get<Lease>(LEASES, name, namespace, { signal }));
      const spec = this.#seen?.spec;
      if (spec?.holderIdentity === identity) await this.#write({ ...spec, ...free }, signal);
    } catch (error) {
      log.info({ lease: name, reason: String(error) }, "lease not handed back: it ends by itself");
    }
  }

  async #run(): Promise<void> {
    await this.#acquire();
    if (this.#stop.signal.aborted) return;
    const { name, identity, log, metrics, onLost } = this.#options;
    log.info({ lease: name, identity }, "leading");
    metrics?.leader.set({ name }, 1);
    this.#leading.resolve();
    await this.#renew();
    if (this.#stop.signal.aborted) return;
    this.#follow();
    log.error({ lease: name, holder: this.#seen?.spec?.holderIdentity }, "lease lost");
    onLost();
  }

  #follow(): void {
    this.#renewedAt = undefined;
    this.#options.metrics?.leader.set({ name: this.#options.name }, 0);
  }

  async #acquire(): Promise<void> {
    const random = this.#options.random ?? Math.random;
    while (!(await this.#try(this.#renewDeadlineMs))) {
      // As client-go, but not beyond the end of the lease: nobody leads from then on.
      const left = this.#changedAt + this.#durationOf(this.#seen?.spec ?? {}) - this.#clock.now();
      const wait = this.#retryMs * (1 + JITTER * random());
      await sleep(this.#clock, left > 0 ? Math.min(wait, left) : wait, this.#stop.signal);
      if (this.#stop.signal.aborted) return;
    }
  }

  /** Ends when somebody else has the lease, or had it. */
  async #renew(): Promise<void> {
    const { name, identity, log, metrics, onResumed } = this.#options;
    for (;;) {
      await sleep(this.#clock, this.#retryMs, this.#stop.signal);
      if (this.#stop.signal.aborted) return;
      const left = this.#renewDeadlineMs - (this.#clock.now() - this.#renewedAt!);
      await this.#try(left > 0 ? left : this.#renewDeadlineMs);
      if (this.#stop.signal.aborted || this.#seen?.spec?.holderIdentity !== identity) return;
      if (this.#paused !== this.isLeader) continue;
      this.#paused = !this.#paused;
      metrics?.leader.set({ name }, this.#paused ? 0 : 1);
      if (this.#paused) log.warn({ lease: name }, "lease not renewed: nothing is written until it is");
      else {
        log.info({ lease: name }, "lease renewed, and was nobody else's meanwhile: leading again");
        onResumed?.();
      }
    }
  }

  /** One try to get or keep the lease within that many milliseconds; true: this process leads. */
  async #try(ms: number): Promise<boolean> {
    const ended = new AbortController();
    const end = () => ended.abort();
    const cancel = this.#clock.after(ms, end);
    this.#stop.signal.addEventListener("abort", end);
    if (this.#stop.signal.aborted) end();
    try {
      const got = await this.#acquireOrRenew(ended.signal);
      this.#problem = "";
      return got;
    } catch (error) {
      if (!this.#stop.signal.aborted) this.#report(error);
      return false;
    } finally {
      cancel();
      this.#stop.signal.removeEventListener("abort", end);
    }
  }

  /** Says each new problem once. That somebody else was faster is none. */
  #report(error: unknown): void {
    const { log, name } = this.#options;
    const { code, reason } = error instanceof ApiError ? error : { code: 0, reason: "Bug" };
    const problem = `${code} ${reason}`;
    const level = code === 409 || problem === this.#problem ? "debug" : "warn";
    this.#problem = problem;
    log[level]({ lease: name, reason: String(error) }, "lease not got, tried again");
  }

  async #acquireOrRenew(signal: AbortSignal): Promise<boolean> {
    const { namespace, name, identity, client } = this.#options;
    const sentAt = this.#clock.now();
    const now = microTime();
    const mine = { holderIdentity: identity, leaseDurationSeconds: Math.ceil(this.#leaseMs / 1000), renewTime: now };
    try {
      this.#observe(await client.get<Lease>(LEASES, name, namespace, { signal }));
    } catch (error) {
      if (!(error instanceof ApiError) || error.code !== 404) throw error;
      // Who deleted it while this process paused may have led before.
      if (this.#renewedAt !== undefined && !this.isLeader) {
        this.#seen = undefined;
        return false;
      }
      const lease = { metadata: { name, namespace }, spec: { ...mine, acquireTime: now, leaseTransitions: 0 } };
      this.#observe(await client.create<Lease>(LEASES, lease, { signal }));
      this.#renewedAt = sentAt;
      return true;
    }
    const spec = this.#seen!.spec ?? {};
    const isMine = spec.holderIdentity === identity;
    // A leader renews; it takes nothing from others, who led meanwhile.
    if (!isMine && this.#renewedAt !== undefined) return false;
    if (!isMine && spec.holderIdentity && this.#clock.now() - this.#changedAt < this.#durationOf(spec)) return false;
    const taken = { acquireTime: now, leaseTransitions: (spec.leaseTransitions ?? 0) + 1 };
    await this.#write({ ...spec, ...mine, ...(isMine ? {} : taken) }, signal);
    this.#renewedAt = sentAt;
    return true;
  }

  /** The holder's own duration, in milliseconds of this clock. */
  #durationOf(spec: LeaseSpec): number {
    return spec.leaseDurationSeconds === undefined ? this.#leaseMs : spec.leaseDurationSeconds * 1000;
  }

  /** Only if nobody wrote it since it was read: else a Conflict. */
  async #write(spec: LeaseSpec, signal: AbortSignal): Promise<void> {
    this.#observe(await this.#options.client.replace<Lease>(LEASES, { ...this.#seen, spec }, { signal }));
  }

  #observe(lease: Lease): void {
    if (JSON.stringify(lease.spec) !== JSON.stringify(this.#seen?.spec)) this.#changedAt = this.#clock.now();
    this.#seen = lease;
  }
}
