import { LABEL } from "../../api/names.ts";
import type { Deployment } from "../../api/objects.ts";
import { isUpgrading, upgradeOf } from "../objects/upgrade-marks.ts";
import { type Caches, ownerOf } from "./caches.ts";
import type { OtherUpgrades } from "./facts.ts";

/** Number of fleets by the state of their upgrade. A failed one is also in progress. */
export interface UpgradeCounts {
  waiting: number;
  progressing: number;
  failed: number;
}

interface UpgradesOptions {
  /** Fingerprint of this operator's templates. */
  operator: string;
  /** Most fleets that are upgraded at the same time; 0: no limit. */
  limit: number;
}

/**
 * Upgrades of all fleets, from the marks of their Deployments. Memory only bridges the time until the cache shows a write
 * of this process, and knows which policies to reconcile when an upgrade has ended.
 */
export class FleetUpgrades {
  readonly #caches: Pick<Caches, "deployments">;
  readonly #options: UpgradesOptions;
  /** Keys of policies whose upgrade this process is writing. */
  readonly #reserved = new Set<string>();
  /** By the key of each policy that waits: whether a failed fleet is the reason. */
  readonly #waiting = new Map<string, boolean>();

  constructor(caches: Pick<Caches, "deployments">, options: UpgradesOptions) {
    this.#caches = caches;
    this.#options = options;
  }

  /** Upgrades of the fleets of other policies than `key` (namespace/name). `now`: milliseconds since the epoch. */
  others(key: string, now: number): OtherUpgrades {
    const found = this.#found();
    found.delete(key);
    const states = [...found].map(([other, deployments]) => ({
      key: other,
      state: upgradeOf(deployments, this.#options.operator, now),
    }));
    const deadlines = states.flatMap(({ state }) => (state === undefined || state.failed ? [] : state.deadline));
    const open = deadlines.filter((time) => time > now);
    const pending = [...this.#reserved].filter((other) => other !== key && !found.has(other));
    return {
      limit: this.#options.limit,
      progressing: found.size + pending.length,
      failed: states.flatMap((one) => (one.state?.failed ? one.key : [])).sort(),
      deadline: open.length === 0 ? undefined : Math.min(...open),
      reserved: this.#reserved.has(key),
    };
  }

  /** Reserves an upgrade for a policy, or releases it, before the decision of another policy. */
  reserve(key: string, reserved: boolean): void {
    if (reserved) this.#reserved.add(key);
    else this.#reserved.delete(key);
  }

  /** Notes whether a policy waits. `paused`: because of a failed fleet; undefined: it does not wait. */
  wait(key: string, paused: boolean | undefined): void {
    if (paused === undefined) this.#waiting.delete(key);
    else this.#waiting.set(key, paused);
  }

  /** Removes the state of a deleted policy. */
  forget(key: string): void {
    this.#reserved.delete(key);
    this.#waiting.delete(key);
  }

  /** Policies to reconcile after a change: the next ones to upgrade, or all of those whose reason has changed. */
  due(now: number): string[] {
    if (this.#waiting.size === 0) return [];
    const paused = this.#counts(now).failed > 0;
    const waiting = [...this.#waiting];
    const next = paused ? [] : waiting.slice(0, this.#options.limit);
    const stale = waiting.filter(([, before]) => before !== paused);
    return [...new Set([...next, ...stale].map(([key]) => key))];
  }

  counts(now: number): UpgradeCounts {
    return { ...this.#counts(now), waiting: this.#waiting.size };
  }

  #counts(now: number): Omit<UpgradeCounts, "waiting"> {
    const found = [...this.#found().values()];
    const failed = found.filter((deployments) => upgradeOf(deployments, this.#options.operator, now)?.failed);
    return { progressing: found.length, failed: failed.length };
  }

  /** Deployments of the fleets whose upgrade is in progress, by the key of the policy. */
  #found(): Map<string, Deployment[]> {
    const upgrading = this.#caches.deployments.list().filter(isUpgrading);
    const found = new Map<string, Deployment[]>();
    for (const deployment of upgrading) {
      const key = ownerOf(deployment, LABEL.policy);
      if (key !== undefined) found.set(key, [...(found.get(key) ?? []), deployment]);
    }
    return found;
  }
}
