import type { EgressPolicy } from "../../api/egresspolicy.ts";
import type { EventRecorder } from "../../kube/events.ts";

/** Longest wait for events before the write that makes them known. Events are less important than the fleet. */
const EVENT_WAIT_MS = 5000;

/** An event of a policy. */
interface Announcement {
  type: "Normal" | "Warning";
  reason: string;
  message: string;
}

/**
 * Reports events before the write that makes their cause known, so that a process that ends between the two reports them
 * again. While the API server rejects this write, retries do not repeat them.
 */
export class Announcer {
  readonly #events: Pick<EventRecorder, "event" | "flush">;
  /** Events whose write has not succeeded yet, by policy uid. */
  readonly #open = new Map<string, Set<string>>();

  constructor(events: Pick<EventRecorder, "event" | "flush">) {
    this.#events = events;
  }

  async announce(policy: EgressPolicy, announcements: readonly Announcement[]): Promise<void> {
    const open = this.#open.get(policy.metadata.uid!) ?? new Set();
    const fresh = announcements.filter((one) => !open.has(JSON.stringify(one)));
    if (fresh.length === 0) return;
    for (const one of fresh) {
      open.add(JSON.stringify(one));
      this.#events.event(policy, one.type, one.reason, one.message);
    }
    this.#open.set(policy.metadata.uid!, open);
    await this.#events.flush(EVENT_WAIT_MS);
  }

  /** The write has succeeded, or the policy is deleted: a later event with the same text is a new one. */
  close(policyUid: string): void {
    this.#open.delete(policyUid);
  }
}
