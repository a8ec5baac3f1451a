import type { PolicyCondition } from "../api/conditions.ts";
import type { EgressPolicy } from "../api/egresspolicy.ts";

/** One change of the status or reason of a condition. */
export interface ConditionChange {
  /** Time of the change (RFC 3339): that of the status, or of its observation if only the reason changed. */
  at: string;
  type: string;
  /** Status before; null: the condition is new. */
  before: string | null;
  status: string;
  reason: string;
  message: string;
}

/** Changes kept of one policy. */
export const MAX_CHANGES = 50;
/** Changes kept of all policies: about 10 MB at most. */
export const MAX_ALL_CHANGES = 10_000;
/** Characters kept of a message. */
const MAX_MESSAGE = 500;

interface Entry {
  conditions: ReadonlyMap<string, Pick<PolicyCondition, "status" | "reason">>;
  changes: ConditionChange[];
}

/**
 * Changes of the conditions of policies since the start of this process, from watched objects. The status itself has only
 * the last change of each condition, and Events expire after an hour. In memory: a restart begins a new history.
 */
export class ConditionHistory {
  /** By uid of the policy. The policy that changed last is the last one. */
  readonly #entries = new Map<string, Entry>();
  readonly #limit: number;
  #count = 0;

  constructor(limit = MAX_ALL_CHANGES) {
    this.#limit = limit;
  }

  /** Compares a policy with its last observed state. `now`: milliseconds since the epoch. */
  observe({ metadata, status }: EgressPolicy, now: number): void {
    const uid = metadata.uid!;
    const found = (status?.conditions ?? []) as readonly PolicyCondition[];
    const conditions = new Map(found.map(({ type, status, reason }) => [type as string, { status, reason }]));
    const entry = this.#entries.get(uid);
    if (entry === undefined) {
      this.#entries.set(uid, { conditions, changes: [] });
      return;
    }
    const changes = found.flatMap((condition): ConditionChange[] => {
      const { type, status, reason, message, lastTransitionTime } = condition;
      const before = entry.conditions.get(type);
      if (before?.status === status && before.reason === reason) return [];
      const at = before?.status === status ? new Date(now).toISOString() : lastTransitionTime;
      return [{ at, type, before: before?.status ?? null, status, reason, message: message.slice(0, MAX_MESSAGE) }];
    });
    entry.conditions = conditions;
    if (changes.length > 0) this.#add(uid, entry, changes);
  }

  /** Removes a deleted policy. */
  forget({ metadata }: EgressPolicy): void {
    this.#count -= this.#entries.get(metadata.uid!)?.changes.length ?? 0;
    this.#entries.delete(metadata.uid!);
  }

  /** Changes of a policy, oldest first. */
  of({ metadata }: EgressPolicy): readonly ConditionChange[] {
    return this.#entries.get(metadata.uid!)?.changes ?? [];
  }

  #add(uid: string, entry: Entry, changes: readonly ConditionChange[]): void {
    const kept = [...entry.changes, ...changes].slice(-MAX_CHANGES);
    this.#count += kept.length - entry.changes.length;
    entry.changes = kept;
    this.#entries.delete(uid);
    this.#entries.set(uid, entry);
    for (const other of this.#entries.values()) {
      if (this.#count <= this.#limit) return;
      this.#count -= other.changes.length;
      other.changes = [];
    }
  }
}
