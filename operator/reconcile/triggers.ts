import type { EgressPolicy, EgressPolicySpec } from "../api/egresspolicy.ts";
import { LABEL } from "../api/names.ts";
import type { Pod } from "../api/objects.ts";
import { SHARED } from "../fleet/slots.ts";
import type { Controller } from "../kube/controller.ts";
import { type KubeObject, keyOf } from "../kube/resource.ts";
import { providerOf } from "../providers/index.ts";
import { type CacheListeners, type Caches, ownerOf } from "./facts/caches.ts";
import type { FleetUpgrades } from "./facts/fleet-upgrades.ts";
import type { StatusScraper } from "./facts/status-scraper.ts";
import type { BlockedRanges } from "./network/blocked-ranges.ts";
import { recordOwner } from "./objects/record.ts";
import type { PolicyReconciler } from "./reconciler.ts";
import type { PolicyRecords } from "./writes/records.ts";

/** Delay that joins the events which follow one write (a Deployment, its pods, their statuses) into one reconcile. */
const COALESCE_MS = 200;

/** Parts of the operator that a change concerns. */
interface TriggerTargets {
  caches: Pick<Caches, "policies" | "records" | "deployments" | "proxies">;
  /** False before every cache has its first complete list. */
  hasSynced(): boolean;
  ranges: Pick<BlockedRanges, "update">;
  scraper: Pick<StatusScraper, "see" | "forget">;
  records: Pick<PolicyRecords, "lost" | "forget">;
  upgrades: Pick<FleetUpgrades, "due">;
  reconciler: Pick<PolicyReconciler, "forget" | "waiting" | "acceptedSpecOf">;
  controller: Pick<Controller, "enqueue" | "enqueueAfter">;
}

/** Decides which policies a change enqueues. */
export class Triggers implements CacheListeners {
  readonly #targets: () => TriggerTargets;

  /** `targets` is called with the first change: the caches, which are targets, need these listeners first. */
  constructor(targets: () => TriggerTargets) {
    this.#targets = targets;
  }

  /** Enqueues every policy, and every deleted one that still has a record. */
  all(): void {
    const { caches, controller } = this.#targets();
    const recorded = caches.records.list().map(recordOwner);
    const keys = new Set([...caches.policies.list().map(keyOf), ...recorded]);
    for (const key of keys) if (key !== undefined) controller.enqueue(key);
  }

  /** Enqueues the policies of a kind. */
  #some(which: (policy: EgressPolicy) => boolean): void {
    const { caches, controller } = this.#targets();
    for (const policy of caches.policies.list()) if (which(policy)) controller.enqueue(keyOf(policy));
  }

  readonly policy: CacheListeners["policy"] = (event, policy, before) => {
    const { controller, reconciler, records } = this.#targets();
    controller.enqueue(keyOf(policy));
    if (event === "deleted") {
      reconciler.forget(policy);
      records.forget(policy.metadata.uid!);
    }
    // It may have been an older policy that requests an address. Its generation also changes when its deletion begins.
    if (event !== "updated" || before?.metadata.generation !== policy.metadata.generation) this.waiting();
  };

  readonly record: CacheListeners["record"] = (event, record, before) => {
    const { caches, records } = this.#targets();
    const owner = recordOwner(before ?? record);
    if (owner === undefined) return;
    const policy = caches.policies.get(owner);
    if (event === "deleted" && policy !== undefined) records.lost(record, policy.metadata.uid!);
    this.child(owner);
  };

  readonly child = (owner: string): void => this.#targets().controller.enqueueAfter(owner, COALESCE_MS);

  readonly proxy: CacheListeners["proxy"] = (event, pod: Pod) => {
    const { scraper } = this.#targets();
    const owner = ownerOf(pod, LABEL.fleet);
    if (event === "deleted" || owner === undefined) scraper.forget(pod);
    else scraper.see(pod, owner);
  };

  readonly upgraded = (): void => {
    const { controller, upgrades } = this.#targets();
    for (const key of upgrades.due(Date.now())) controller.enqueue(key);
  };

  readonly released = (): void => this.waiting();

  /** Enqueues the policies that wait for an address of another one. */
  waiting(): void {
    const { controller, reconciler } = this.#targets();
    for (const key of reconciler.waiting) controller.enqueue(key);
  }

  /** Slots run on nodes; a Deployment for all addresses does not depend on the list of nodes. */
  readonly nodes = (): void => this.#some((policy) => this.#hasSlots(policy));

  /** Whether a policy requests slots, has them by its last accepted spec, or still runs some of a former spec. */
  #hasSlots(policy: EgressPolicy): boolean {
    const { caches, reconciler } = this.#targets();
    if (usesSlots(policy.spec)) return true;
    const accepted = reconciler.acceptedSpecOf(policy);
    if (accepted !== undefined && usesSlots(accepted)) return true;
    const isSlot = ({ metadata }: KubeObject) => (metadata.labels?.[LABEL.slot] ?? SHARED) !== SHARED;
    const key = keyOf(policy);
    return caches.deployments.by("owner", key).some(isSlot) || caches.proxies.by("owner", key).some(isSlot);
  }

  readonly ranges = (): void => {
    const { hasSynced, ranges } = this.#targets();
    if (hasSynced() && ranges.update()) this.all();
  };

  readonly namespace = (name: string): void => {
    this.#some(({ metadata }) => metadata.namespace === name);
    // No policy of a namespace that terminates blocks others.
    this.waiting();
  };
}

const usesSlots = (spec: EgressPolicySpec): boolean => providerOf(spec)?.shape.kind === "Slots";
