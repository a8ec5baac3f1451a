import type { PolicyCondition } from "../../api/conditions.ts";
import type { EgressPolicy, EgressPolicyStatus } from "../../api/egresspolicy.ts";
import { RESOURCE } from "../../api/kinds.ts";
import { STATUS_MANAGER } from "../../api/names.ts";
import { ApiError, type Client } from "../../kube/client.ts";
import type { EventRecorder } from "../../kube/events.ts";
import { covers } from "../objects/compare.ts";
import { isReported, isTrouble } from "../status/condition-events.ts";
import { Announcer } from "./announcer.ts";

/** Attempts to write a status while others write the same policy. */
const MAX_ATTEMPTS = 5;

/** Writes the status of policies, and an event for each condition change that users should see. */
export class StatusWriter {
  readonly #client: Client;
  readonly #announcer: Announcer;
  /** The last written status of each policy, and the cached one that it replaced, by policy uid. */
  readonly #written = new Map<string, { status: EgressPolicyStatus; over: EgressPolicyStatus | undefined }>();

  constructor(client: Client, events: EventRecorder) {
    this.#client = client;
    this.#announcer = new Announcer(events);
  }

  /** Removes the state of a deleted policy. */
  forget(policyUid: string): void {
    this.#announcer.close(policyUid);
    this.#written.delete(policyUid);
  }

  /** Writes a status if it differs from the stored one. */
  async write(policy: EgressPolicy, status: EgressPolicyStatus): Promise<void> {
    const before = policy.status;
    if (isUnchanged(before, status)) return;
    const reported = this.#reported(policy);
    await this.#report(
      policy,
      (reported?.conditions ?? []) as PolicyCondition[],
      status.conditions as PolicyCondition[],
    );
    if (await this.#apply(policy, status)) this.#written.set(policy.metadata.uid!, { status, over: before });
    this.#announcer.close(policy.metadata.uid!);
  }

  /**
   * Applies a status. A policy that was deleted and created again has the same name: its status must not become that of the
   * former one. `metadata.uid` is no precondition for the status of a custom resource, `resourceVersion` is. If the cached
   * version is not the stored one, that of the policy with this uid is used. False: this policy does not exist anymore.
   */
  async #apply({ metadata }: EgressPolicy, status: EgressPolicyStatus): Promise<boolean> {
    const { name, namespace, uid } = metadata;
    let { resourceVersion } = metadata;
    const options = { fieldManager: STATUS_MANAGER, force: true, subresource: "status" as const };
    for (let attempt = 1; ; attempt++) {
      try {
        await this.#client.apply(RESOURCE.policy, { metadata: { name, namespace, resourceVersion }, status }, options);
        return true;
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        if (error.code === 404) return false;
        if (error.code !== 409 || attempt === MAX_ATTEMPTS) throw error;
      }
      // A list, since without webhooks the operator has no right to get policies.
      const scope = { namespace: namespace!, fieldSelector: `metadata.name=${name}`, metadataOnly: true };
      const [stored] = (await this.#client.list(RESOURCE.policy, scope)).items;
      if (stored === undefined || stored.metadata.uid !== uid) return false;
      resourceVersion = stored.metadata.resourceVersion;
    }
  }

  /** The status whose events are reported. Until the cache has the last written one, it still has the one before. */
  #reported({ metadata, status }: EgressPolicy): EgressPolicyStatus | undefined {
    const written = this.#written.get(metadata.uid!);
    return written !== undefined && isUnchanged(written.over, status) ? written.status : status;
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
function isUnchanged(before: EgressPolicyStatus | undefined, after: EgressPolicyStatus | undefined): boolean {
  return covers(before, after) && covers(after, before);
}
