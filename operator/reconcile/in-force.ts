import type { PolicyCondition } from "../api/conditions.ts";
import type { EgressPolicy } from "../api/egresspolicy.ts";
import { REASON, type Reason } from "../api/names.ts";
import { judgeSpec } from "./decision/accept.ts";
import type { Caches } from "./facts/caches.ts";
import { gather, type Surroundings } from "./facts/gather.ts";
import type { PolicyRecords } from "./writes/records.ts";

/** The policy that pods are injected with. */
export interface InForce {
  /** With the spec that its fleet runs. */
  policy: EgressPolicy;
  /** Why this is not the newest spec, or why no spec is in force. */
  rejected?: string | undefined;
}

/** Reasons for which a spec that was in force is rejected now, while its fleet still runs it. */
const FLEET_UNCHANGED: readonly Reason[] = [REASON.notGranted, REASON.conflicted];

/**
 * The policy as its fleet runs it. While the newest spec is rejected, proxies run the last accepted one. A pod that is
 * injected by the newest spec could lack the password that they require. A spec that was not validated yet counts as
 * accepted, since validation takes only a moment.
 */
export function inForce(
  caches: Caches,
  policy: EgressPolicy,
  records: Pick<PolicyRecords, "read" | "spec">,
  around: () => Omit<Surroundings, "records">,
): InForce {
  const conditions = (policy.status?.conditions ?? []) as readonly PolicyCondition[];
  const accepted = conditions.find(({ type }) => type === "Accepted");
  if (accepted?.status !== "False" || accepted.observedGeneration !== policy.metadata.generation) return { policy };
  const facts = gather(caches, policy, { ...around(), records });
  const spec = records.spec(policy, facts.record);
  if (spec === undefined) return { policy, rejected: accepted.message };
  const before = { ...policy, spec };
  // A fleet that lost a grant, or an address to another policy, is left unchanged.
  const judged = judgeSpec({ ...facts, policy: before });
  const runs = "accepted" in judged || FLEET_UNCHANGED.includes(judged.reason);
  return { policy: runs ? before : policy, rejected: accepted.message };
}
