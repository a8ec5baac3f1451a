import type { Condition } from "../api/conditions.ts";
import type { EgressPolicy } from "../api/egresspolicy.ts";
import { childName, REASON, type Reason } from "../api/names.ts";
import type { ConfigMap } from "../api/objects.ts";
import { judgeSpec, lastAccepted } from "./decision/accept.ts";
import type { World } from "./facts/caches.ts";
import type { Facts } from "./facts/facts.ts";
import { gather, type Surroundings } from "./facts/gather.ts";
import { unpackSpec } from "./objects/configmap.ts";

type Spec = EgressPolicy["spec"];

/** What pods are injected by. */
export interface InForce {
  /** With the spec that its fleet runs. */
  policy: EgressPolicy;
  /** Why that is not the newest spec, or why there is none that runs. */
  refused?: string | undefined;
}

/** Why a spec that was in force is refused now, although its fleet goes on by it. */
const LEFT_STANDING: readonly Reason[] = [REASON.notGranted, REASON.conflicted];

/** By ConfigMap, so that what is kept is one object: documents are remembered by it. Undefined: it cannot be read. */
const unpacked = new WeakMap<ConfigMap, { spec: Spec | undefined }>();

function kept({ policy, children }: Facts): Spec | undefined {
  const configMap = children.configMaps.get(childName.document(policy.metadata.name));
  const packed = lastAccepted(policy, children.configMaps);
  if (configMap === undefined || packed === undefined) return undefined;
  let known = unpacked.get(configMap);
  if (known === undefined) {
    try {
      known = { spec: unpackSpec(packed) };
    } catch {
      // The reconciler tells of it.
      known = { spec: undefined };
    }
    unpacked.set(configMap, known);
  }
  return known.spec;
}

/**
 * The policy as its fleet runs it. A newest spec that is refused stands in the API all the same, while proxies go on with the
 * one that was accepted before: a pod that was injected by the newest could lack the password that they ask for. One that
 * nobody judged yet counts as accepted: that lasts for a moment.
 */
export function inForce(world: World, policy: EgressPolicy, around: () => Surroundings): InForce {
  const conditions = (policy.status?.conditions ?? []) as readonly Condition[];
  const accepted = conditions.find(({ type }) => type === "Accepted");
  if (accepted?.status !== "False" || accepted.observedGeneration !== policy.metadata.generation) return { policy };
  const facts = gather(world, policy, around());
  const spec = kept(facts);
  const before = spec === undefined ? undefined : { ...policy, spec };
  if (before === undefined) return { policy, refused: accepted.message };
  // It lies where others may write. A fleet that lost a grant, or an address to another policy, is left as it stands.
  const judged = judgeSpec({ ...facts, policy: before });
  const runs = "accepted" in judged || LEFT_STANDING.includes(judged.reason);
  return { policy: runs ? before : policy, refused: accepted.message };
}
