import type { Logger } from "pino";
import { ApiError, type Client } from "./client.ts";
import { type Clock, sleep, systemClock } from "./clock.ts";
import type { KubeMetrics } from "./metrics.ts";
import type { KubeObject, OwnerReference, Resource } from "./resource.ts";

/** Times of client-go's LeaderElectionConfig, as controllers use them. */
const LEASE_MS = 15 * 1000;
const RENEW_DEADLINE_MS = 10 * 1000;
const RETRY_MS = 2 * 1000;
/** Candidates retry after 1 to 2.2 retry periods (client-go's JitterFactor), so that not all retry at once. */
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

interface LeaseOptions {
  /**
   * A client of its own, so that renewals never wait behind other calls, and can be written before this process leads.
   */
  client: Client;
  namespace: string;
  name: string;
  /** Reads the owner of a Lease that this process acquires. Garbage collection deletes the Lease with its owner. */
  readOwner?: (() => Promise<OwnerReference>) | undefined;
  /** Must be unique: two processes with one identity would both lead. */
  identity: string;
  /** Another process has, or had, the lease. The program has to end, since the election does not continue. */
  onLost: () => void;
  /** The lease is renewed after a pause, so writes are allowed again. */
  onResumed?: (() => void) | undefined;
  log: Logger;
  metrics?: KubeMetrics | undefined;
  clock?: Clock | undefined;
  random?: (() => number) | undefined;
  leaseMs?: number | undefined;
  renewDeadlineMs?: number | undefined;
  retryMs?: number | undefined;
}

/** RFC 3339 with microseconds, as metav1.MicroTime requires. */
function microTime(): string {
  return new Date().toISOString().replace("Z", "000Z");
}

/**
 * Leader election with the rules of client-go's leaderelection: a lease has expired if this process saw no change of it
 * for its duration. Times that other processes wrote are never compared with the local clock.
 *
 * Difference to client-go: a leader that cannot renew pauses at its deadline and does not exit. While the API server is
 * down, no other process can lead either. If the lease still names this process afterwards, no other process led.
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
  /** The lease as last read or written, and since when it is unchanged by the local clock. */
  #seen: Lease | undefined;
  #changedAt = 0;
  /** When the last successful renewal was sent; undefined if this process does not lead. */
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

  /** False after the renewal deadline, also in a process that was stopped and has just continued. */
  get isLeader(): boolean {
    return this.#renewedAt !== undefined && this.#clock.now() - this.#renewedAt < this.#renewDeadlineMs;
  }

  /** Identity of the process that has the lease, as far as this one knows. */
  get holder(): string | undefined {
    return this.#seen?.spec?.holderIdentity || undefined;
  }

  /** Resolves once this process leads; never if it is stopped before. */
  start(): Promise<void> {
    this.#running ??= this.#run();
    return this.#leading.promise;
  }

  /**
   * Ends the election and releases the lease, so that the next leader need not wait. Call it after all writers have
   * stopped.
   */
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
      // Read again: an aborted renewal may have been written.
      this.#observe(await client.get<Lease>(LEASES, name, namespace, { signal }));
      const spec = this.#seen?.spec;
      if (spec?.holderIdentity === identity) await this.#write({ ...spec, ...free }, signal);
    } catch (error) {
      log.info({ lease: name, reason: String(error) }, "lease not released: it expires by itself");
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
      // As in client-go, but never after the lease has expired, when no process leads.
      const left = this.#changedAt + this.#durationOf(this.#seen?.spec ?? {}) - this.#clock.now();
      const wait = this.#retryMs * (1 + JITTER * random());
      await sleep(this.#clock, left > 0 ? Math.min(wait, left) : wait, this.#stop.signal);
      if (this.#stop.signal.aborted) return;
    }
  }

  /** Renews until another process has, or had, the lease. */
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
      if (this.#paused) log.warn({ lease: name }, "lease not renewed: writes are paused until it is");
      else {
        log.info({ lease: name }, "lease renewed, no other process had it: leading again");
        onResumed?.();
      }
    }
  }

  /** One attempt to acquire or renew the lease within `ms`. Returns whether this process leads. */
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

  /** Logs each new problem once. A conflict with another process is no problem. */
  #report(error: unknown): void {
    const { log, name } = this.#options;
    const { code, reason } = error instanceof ApiError ? error : { code: 0, reason: "Bug" };
    const problem = `${code} ${reason}`;
    const level = code === 409 || problem === this.#problem ? "debug" : "warn";
    this.#problem = problem;
    log[level]({ lease: name, reason: String(error) }, "lease not acquired, retrying");
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
      // Another process may have led, and deleted the lease, while this process paused.
      if (this.#renewedAt !== undefined && !this.isLeader) {
        this.#seen = undefined;
        return false;
      }
      const metadata = { name, namespace, ...(await this.#owned()) };
      const lease = { metadata, spec: { ...mine, acquireTime: now, leaseTransitions: 0 } };
      this.#observe(await client.create<Lease>(LEASES, lease, { signal }));
      this.#renewedAt = sentAt;
      return true;
    }
    const spec = this.#seen!.spec ?? {};
    const isMine = spec.holderIdentity === identity;
    // A leader only renews: if another process has the lease, that process has led in the meantime.
    if (!isMine && this.#renewedAt !== undefined) return false;
    if (!isMine && spec.holderIdentity && this.#clock.now() - this.#changedAt < this.#durationOf(spec)) return false;
    const taken = { acquireTime: now, leaseTransitions: (spec.leaseTransitions ?? 0) + 1 };
    // Also replaces the owner of a former installation, which may be deleted.
    if (!isMine) Object.assign(this.#seen!.metadata, await this.#owned());
    await this.#write({ ...spec, ...mine, ...(isMine ? {} : taken) }, signal);
    this.#renewedAt = sentAt;
    return true;
  }

  async #owned(): Promise<{ ownerReferences?: OwnerReference[] }> {
    const owner = await this.#options.readOwner?.();
    return owner === undefined ? {} : { ownerReferences: [owner] };
  }

  /** Duration that the holder wrote, in milliseconds. */
  #durationOf(spec: LeaseSpec): number {
    return spec.leaseDurationSeconds === undefined ? this.#leaseMs : spec.leaseDurationSeconds * 1000;
  }

  /** Fails with Conflict if the lease has changed since it was read. */
  async #write(spec: LeaseSpec, signal: AbortSignal): Promise<void> {
    this.#observe(await this.#options.client.replace<Lease>(LEASES, { ...this.#seen, spec }, { signal }));
  }

  #observe(lease: Lease): void {
    if (JSON.stringify(lease.spec) !== JSON.stringify(this.#seen?.spec)) this.#changedAt = this.#clock.now();
    this.#seen = lease;
  }
}
