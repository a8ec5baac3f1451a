import type { EgressPolicySpec } from "../../api/egresspolicy.ts";
import { ANNOTATION, childName } from "../../api/names.ts";
import { providerOf } from "../../providers/index.ts";
import type { Facts } from "../facts/facts.ts";
import type { Accepted } from "../objects/configmap.ts";
import { judgeSpec, type Rejection } from "./accept.ts";
import { type Desired, desire } from "./desire.ts";
import { planRound } from "./disturbances.ts";
import { documentOf } from "./document.ts";
import { handoverOf } from "./handover.ts";
import { labelPatches, type PodPatch } from "./pod-labels.ts";
import { type ResolvedSpec, resolveSpec } from "./resolved-spec.ts";
import { servingOf } from "./serving.ts";
import { type FleetOptions, templateFingerprint, unitsOf } from "./units.ts";
import { planUpgrade } from "./upgrade.ts";

/** The spec that the fleet runs: the newest one, or the last accepted one. */
export interface Effective extends ResolvedSpec {
  /** Hash of its policy document. */
  hash: string;
}

/** Result of a decision about one policy. */
export interface Plan {
  /** Why the newest spec is rejected; undefined if it is accepted. */
  rejection: Rejection | undefined;
  /** The newest spec, if it is accepted. */
  accepted: Accepted | undefined;
  /** Undefined if there is none. */
  effective: Effective | undefined;
  /** Why the last accepted spec is rejected as well. Existing objects are left unchanged then. */
  keptRejection: Rejection | undefined;
  /** Undefined if no object is changed. */
  desired: Desired | undefined;
  /** Patches of pod labels that disturb no proxy. They do not depend on other writes, or on an accepted spec. */
  repairs: readonly PodPatch[];
}

/**
 * Pure. `kept` returns the last accepted spec of the record; it is called only if the newest one is rejected.
 */
export function decide(facts: Facts, kept: () => EgressPolicySpec | undefined, options: FleetOptions): Plan {
  const judged = judgeSpec(facts);
  const accepted = "accepted" in judged ? judged.accepted : undefined;
  const rejection = "accepted" in judged ? undefined : judged;
  const spec = accepted === undefined ? kept() : facts.policy.spec;
  const nothing = { rejection, accepted, effective: undefined, desired: undefined, repairs: [] };
  if (spec === undefined) return { ...nothing, keptRejection: undefined };
  const policy = { ...facts.policy, spec };
  // Validate the stored spec again: a grant may have been revoked.
  const again = accepted === undefined ? judgeSpec({ ...facts, policy }) : { accepted };
  if (!("accepted" in again)) return { ...nothing, keptRejection: again, ...unchanged(facts, spec) };
  const resolved = resolveSpec(facts, spec, providerOf(spec)!);
  const upgrade = planUpgrade(facts, resolved, unitsOf(facts, resolved, options), templateFingerprint(options));
  const { units } = upgrade;
  const round = planRound(facts, resolved, units);
  const handover = handoverOf(facts, resolved, round);
  const document = documentOf(policy, facts.blockedCIDRs, handover.former);
  const effective = { ...resolved, hash: document.hash };
  const { adminFrom } = options;
  const desired = desire(facts, resolved, { accepted: document, handover, upgrade, round, adminFrom });
  return { rejection, accepted, effective, keptRejection: undefined, desired, repairs: round.labels.correct };
}

/**
 * A fleet whose objects are left unchanged. Its proxies still serve, and pods that replace them need the labels by which
 * the Service selects. The fleet runs the stored document.
 */
function unchanged(facts: Facts, spec: EgressPolicySpec): Pick<Plan, "effective" | "repairs"> {
  const { policy, children, proxies } = facts;
  const provider = providerOf(spec);
  if (provider === undefined) return { effective: undefined, repairs: [] };
  const resolved = resolveSpec(facts, spec, provider);
  const { correct } = labelPatches(proxies, resolved, servingOf(facts, spec), new Set());
  const stored = children.configMaps.get(childName.document(policy.metadata.name))?.metadata.annotations;
  const hash = stored?.[ANNOTATION.hash];
  return { effective: isHash(hash) ? { ...resolved, hash } : undefined, repairs: correct };
}

/** Whether a text is a hash of a document. Users can edit the annotation. */
const isHash = (text: string | undefined): text is string => text !== undefined && /^sha256:[0-9a-f]{64}$/.test(text);
