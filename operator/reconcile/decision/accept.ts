import { PolicyError } from "../../../proxy/policy/rules.ts";
import type { EgressPolicy, EgressPolicySpec } from "../../api/egresspolicy.ts";
import { childName, REASON, type Reason, SPEC_KEY } from "../../api/names.ts";
import type { ConfigMap } from "../../api/objects.ts";
import { canonicalAddress, slotId } from "../../fleet/slots.ts";
import { notGranted } from "../../providers/grants.ts";
import { PROVIDER_NAMES, providerOf } from "../../providers/index.ts";
import type { Facts } from "../facts/facts.ts";
import { type Accepted, configMapBytes, MAX_CONFIGMAP_BYTES } from "../objects/configmap.ts";
import { documentOf } from "./document.ts";
import { conflictOf } from "./ownership.ts";

/** Why a spec is rejected. The user has to fix it. */
export interface Rejection {
  reason: Reason;
  message: string;
}

/** An accepted spec, or why it is rejected. */
export type Verdict = { accepted: Accepted } | Rejection;

/** Results of {@link validate} by spec. */
const validated = new WeakMap<EgressPolicySpec, { blocked: readonly string[]; result: Verdict }>();

/** An address, or the id of a slot, that two slots of one spec share. A Pending address has no slot yet. */
function repeated(spec: EgressPolicySpec): string | undefined {
  const taken = new Map<string, string>();
  for (const [i, ip] of (spec.staticIPs ?? []).entries()) {
    if (ip.phase === "Pending") continue;
    const own = new Set([ip.address, ip.sourceAddress ?? ip.address].map(canonicalAddress)).add(slotId(ip.address));
    const path = `spec.staticIPs[${i}]`;
    for (const one of own) {
      const other = taken.get(one);
      if (other !== undefined) return `${path}: ${one} is also used by ${other}; each slot needs addresses of its own`;
    }
    for (const one of own) taken.set(one, path);
  }
  return undefined;
}

/** Validates the spec of a policy by itself: without grants, and without other policies. */
function validate(policy: EgressPolicy, blockedCIDRs: readonly string[]): Verdict {
  const { spec } = policy;
  const provider = providerOf(spec);
  if (provider === undefined) {
    const known = PROVIDER_NAMES.join(", ");
    return {
      reason: REASON.unsupported,
      message: `spec.nat.provider: this version does not support ${spec.nat?.provider}; use one of ${known}`,
    };
  }
  let accepted: Accepted;
  try {
    accepted = documentOf(policy, blockedCIDRs);
  } catch (error) {
    if (!(error instanceof PolicyError)) throw error;
    return { reason: REASON.invalid, message: error.message };
  }
  const bytes = configMapBytes(accepted);
  if (bytes > MAX_CONFIGMAP_BYTES) {
    const document = Buffer.byteLength(accepted.document);
    return {
      reason: REASON.tooLarge,
      message: `spec: the policy document has ${document} bytes, and ${bytes} with the stored spec; a ConfigMap holds at most ${MAX_CONFIGMAP_BYTES}; use fewer hosts, or wildcards`,
    };
  }
  const twice = provider.shape.kind === "Slots" ? repeated(spec) : undefined;
  return twice === undefined ? { accepted } : { reason: REASON.invalid, message: twice };
}

/** Validates a spec, and whether its namespace may use its provider and addresses. */
function validateGranted(policy: EgressPolicy, { blockedCIDRs, grants }: Facts): Verdict {
  const { spec } = policy;
  const known = validated.get(spec);
  const result = known?.blocked === blockedCIDRs ? known.result : validate(policy, blockedCIDRs);
  if (result !== known?.result) validated.set(spec, { blocked: blockedCIDRs, result });
  if (!("accepted" in result)) return result;
  const refused = notGranted(grants, policy.metadata.namespace!, providerOf(spec)!, spec);
  return refused === undefined ? result : { reason: REASON.notGranted, message: refused };
}

/** Decides whether the spec of a policy is accepted. */
export function judgeSpec(facts: Facts): Verdict {
  const result = validateGranted(facts.policy, facts);
  if (!("accepted" in result)) return result;
  const conflict = conflictOf(facts, (other) => "accepted" in validateGranted(other, facts));
  return conflict === undefined ? result : { reason: REASON.conflicted, message: conflict };
}

/** The last accepted spec as the ConfigMap of a policy stores it; undefined if none was accepted yet. */
export function lastAccepted(policy: EgressPolicy, configMaps: ReadonlyMap<string, ConfigMap>): string | undefined {
  return configMaps.get(childName.document(policy.metadata.name))?.binaryData?.[SPEC_KEY];
}
