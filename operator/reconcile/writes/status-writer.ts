import type { PolicyCondition } from "../../api/conditions.ts";
import type { EgressPolicy, EgressPolicyStatus } from "../../api/egresspolicy.ts";
import { RESOURCE } from "../../api/kinds.ts";
import { KIND, STATUS_MANAGER } from "../../api/names.ts";
import { ApiError, type Client } from "../../kube/client.ts";
import type { EventRecorder } from "../../kube/events.ts";
import { apiVersionOf } from "../../kube/resource.ts";
import { covers } from "../objects/compare.ts";
import { isReported, isTrouble } from "../status/condition-events.ts";

/** Longest wait for events before the write that makes them known. Events are less important than the fleet. */
export const EVENT_WAIT_MS = 5000;

/** Writes the status of policies, and an event for each condition change that users should see. */
export class StatusWriter {
  readonly #client: Client;
  readonly #events: EventRecorder;

  constructor(client: Client, events: EventRecorder) {
    this.#client = client;
    this.#events = events;
  }

  /** Writes a status if it differs from the stored one. */
  async write(policy: EgressPolicy, status: EgressPolicyStatus): Promise<void> {
    const before = policy.status;
    if (isUnchanged(before, status)) return;
    // Before the status: a process that ends between the two finds the difference again.
    await this.#report(policy, (before?.conditions ?? []) as PolicyCondition[], status.conditions as PolicyCondition[]);
    const { name, namespace } = policy.metadata;
    const object = { apiVersion: apiVersionOf(RESOURCE.policy), kind: KIND, metadata: { name, namespace }, status };
    try {
      await this.#client.apply(RESOURCE.policy, object, {
        fieldManager: STATUS_MANAGER,
        force: true,
        subresource: "status",
      });
    } catch (error) {
      if (error instanceof ApiError && error.code === 404) return;
      throw error;
    }
  }

  async #report(
    policy: EgressPolicy,
    before: readonly PolicyCondition[],
    after: readonly PolicyCondition[],
  ): Promise<void> {
    const reported = after.filter((condition) =>
      isReported(
        condition,
        before.find(({ type }) => type === condition.type),
      ),
    );
    if (reported.length === 0) return;
    for (const condition of reported) {
      const { type, reason, message } = condition;
      this.#events.event(policy, isTrouble(condition) ? "Warning" : "Normal", reason, `${type}: ${message}`);
    }
    await this.#events.flush(EVENT_WAIT_MS);
  }
}

/** Compares in both directions, so that removed fields count as a change. */
function isUnchanged(before: EgressPolicyStatus | undefined, after: EgressPolicyStatus): boolean {
  return covers(before, after) && covers(after, before);
}
