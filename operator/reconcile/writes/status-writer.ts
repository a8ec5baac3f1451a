import type { PolicyCondition } from "../../api/conditions.ts";
import type { EgressPolicy, EgressPolicyStatus } from "../../api/egresspolicy.ts";
import { RESOURCE } from "../../api/kinds.ts";
import { KIND, STATUS_MANAGER } from "../../api/names.ts";
import { ApiError, type Client } from "../../kube/client.ts";
import type { EventRecorder } from "../../kube/events.ts";
import { apiVersionOf } from "../../kube/resource.ts";
import { covers } from "../objects/compare.ts";
import { isReported, isTrouble } from "../status/condition-events.ts";
import { Announcer } from "./announcer.ts";

/** Writes the status of policies, and an event for each condition change that users should see. */
export class StatusWriter {
  readonly #client: Client;
  readonly #announcer: Announcer;

  constructor(client: Client, events: EventRecorder) {
    this.#client = client;
    this.#announcer = new Announcer(events);
  }

  /** Removes the state of a deleted policy. */
  forget(policyUid: string): void {
    this.#announcer.close(policyUid);
  }

  /** Writes a status if it differs from the stored one. */
  async write(policy: EgressPolicy, status: EgressPolicyStatus): Promise<void> {
    const before = policy.status;
    if (isUnchanged(before, status)) return;
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
      if (!(error instanceof ApiError && error.code === 404)) throw error;
    }
    this.#announcer.close(policy.metadata.uid!);
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
    const announcements = reported.map((condition) => {
      const { type, reason, message } = condition;
      return { type: isTrouble(condition) ? "Warning" : "Normal", reason, message: `${type}: ${message}` } as const;
    });
    await this.#announcer.announce(policy, announcements);
  }
}

/** Compares in both directions, so that removed fields count as a change. */
function isUnchanged(before: EgressPolicyStatus | undefined, after: EgressPolicyStatus): boolean {
  return covers(before, after) && covers(after, before);
}
