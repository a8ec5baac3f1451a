import type { PolicyCondition } from "../api/conditions.ts";
import type { EgressPolicy } from "../api/egresspolicy.ts";
import type { Caches } from "./facts/caches.ts";
import { configMapsOf } from "./facts/gather.ts";
import type { PolicyRecords } from "./writes/records.ts";

/** The policy that pods are injected with. */
export interface InForce {
  /** With the spec that its fleet runs. */
  policy: EgressPolicy;
  /** Why this is not the newest spec, or why no spec is in force. */
  rejected?: string | undefined;
}

/**
 * The policy as its fleet runs it. While the newest spec is rejected, proxies run the last accepted one. A pod that is
 * injected by the newest spec could lack the password that they require. A spec that was not validated yet counts as
 * accepted, since validation takes only a moment. The last accepted spec may be rejected, too, after a grant was revoked or
 * by an older operator. Its fleet is left unchanged then, so pods still need its settings.
 */
export function inForce(caches: Caches, policy: EgressPolicy, records: Pick<PolicyRecords, "read" | "spec">): InForce {
  const conditions = (policy.status?.conditions ?? []) as readonly PolicyCondition[];
  const accepted = conditions.find(({ type }) => type === "Accepted");
  if (accepted?.status !== "False" || accepted.observedGeneration !== policy.metadata.generation) return { policy };
  const spec = records.spec(policy, records.read(policy, configMapsOf(caches, policy)));
  return { policy: spec === undefined ? policy : { ...policy, spec }, rejected: accepted.message };
}
