import type { PolicyCondition } from "../api/conditions.ts";
import type { EgressPolicy, EgressPolicySpec } from "../api/egresspolicy.ts";
import { childName, REASON, type Reason } from "../api/names.ts";
import type { ConfigMap } from "../api/objects.ts";
import { judgeSpec, lastAccepted } from "./decision/accept.ts";
import type { Caches } from "./facts/caches.ts";
import type { Facts } from "./facts/facts.ts";
import { gather, type Surroundings } from "./facts/gather.ts";
import { unpackSpec } from "./objects/configmap.ts";

/** The policy that pods are injected with. */
export interface InForce {
  /** With the spec that its fleet runs. */
  policy: EgressPolicy;
  /** Why this is not the newest spec, or why no spec is in force. */
  rejected?: string | undefined;
}

/** Reasons for which a spec that was in force is rejected now, while its fleet still runs it. */
const FLEET_UNCHANGED: readonly Reason[] = [REASON.notGranted, REASON.conflicted];

/** Unpacked specs by ConfigMap, since memos of documents compare specs by identity. Undefined if it cannot be read. */
const unpacked = new WeakMap<ConfigMap, { spec: EgressPolicySpec | undefined }>();

function keptSpec({ policy, children }: Facts): EgressPolicySpec | undefined {
  const configMap = children.configMaps.get(childName.document(policy.metadata.name));
  const packed = lastAccepted(policy, children.configMaps);
  if (configMap === undefined || packed === undefined) return undefined;
  let known = unpacked.get(configMap);
  if (known === undefined) {
    try {
      known = { spec: unpackSpec(packed) };
    } catch {
      // The reconciler logs the problem.
      known = { spec: undefined };
    }
    unpacked.set(configMap, known);
  }
  return known.spec;
}

/**
 * The policy as its fleet runs it. While the newest spec is rejected, proxies run the last accepted one. A pod that is
 * injected by the newest spec could lack the password that they require. A spec that was not validated yet counts as
 * accepted, since validation takes only a moment.
 */
export function inForce(caches: Caches, policy: EgressPolicy, around: () => Surroundings): InForce {
  const conditions = (policy.status?.conditions ?? []) as readonly PolicyCondition[];
  const accepted = conditions.find(({ type }) => type === "Accepted");
  if (accepted?.status !== "False" || accepted.observedGeneration !== policy.metadata.generation) return { policy };
  const facts = gather(caches, policy, around());
  const spec = keptSpec(facts);
  if (spec === undefined) return { policy, rejected: accepted.message };
  const before = { ...policy, spec };
  // Others can write to the ConfigMap. A fleet that lost a grant, or an address to another policy, is left unchanged.
  const judged = judgeSpec({ ...facts, policy: before });
  const runs = "accepted" in judged || FLEET_UNCHANGED.includes(judged.reason);
  return { policy: runs ? before : policy, rejected: accepted.message };
}
