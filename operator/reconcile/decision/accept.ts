import { PolicyError } from "../../../proxy/policy/rules.ts";
import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { childName, REASON, type Reason, SPEC_KEY } from "../../api/names.ts";
import type { ConfigMap } from "../../api/objects.ts";
import { type Slot, slotsOf } from "../../fleet/slots.ts";
import { notGranted } from "../../providers/grants.ts";
import { PROVIDER_NAMES, providerOf } from "../../providers/index.ts";
import type { Facts } from "../facts/facts.ts";
import { type Accepted, configMapBytes, MAX_CONFIGMAP_BYTES } from "../objects/configmap.ts";
import { documentOf } from "./document.ts";

type Spec = EgressPolicy["spec"];

/** Why a spec is not taken: the user's to mend. */
export interface Refusal {
  reason: Reason;
  message: string;
}

/** Older first; the same second: by namespace and name (GEP-713). */
export function isOlder(a: EgressPolicy, b: EgressPolicy): boolean {
  const key = ({ metadata }: EgressPolicy) => `${metadata.creationTimestamp} ${metadata.namespace}/${metadata.name}`;
  return key(a) < key(b);
}

/**
 * The policy that keeps an exclusive address from this one. Whoever has a slot for it keeps it; where nobody does, the
 * oldest policy that asks for it.
 */
function conflict(
  { policy, others, holderOf, grants }: Facts,
  spec: Spec,
): { address: string; winner: EgressPolicy } | undefined {
  // Who has no grant cannot have an address, and so keeps nobody from it.
  const rivals = others.filter((other) => {
    const provider = providerOf(other.spec);
    if (provider === undefined || !provider.exclusive) return false;
    return notGranted(grants, other.metadata.namespace!, provider, other.spec) === undefined;
  });
  for (const slot of slotsOf(spec)) {
    const own = [slot.address, slot.source];
    const holder = own.map(holderOf).find((uid) => uid !== undefined);
    if (holder === policy.metadata.uid) continue;
    const asking = rivals.filter((other) =>
      slotsOf(other.spec).some(({ address, source }) => own.includes(address) || own.includes(source)),
    );
    const winner =
      others.find((other) => other.metadata.uid === holder) ??
      asking
        .filter((other) => isOlder(other, policy))
        .reduce<EgressPolicy | undefined>(
          (oldest, other) => (oldest === undefined || isOlder(other, oldest) ? other : oldest),
          undefined,
        );
    if (winner !== undefined) return { address: slot.address, winner };
  }
  return undefined;
}

/** An address that two slots would have. */
function repeated(slots: readonly Slot[]): string | undefined {
  const taken = new Set<string>();
  for (const { id, address, source } of slots) {
    const own = new Set([id, address, source]);
    if ([...own].some((one) => taken.has(one))) return source;
    for (const one of own) taken.add(one);
  }
  return undefined;
}

/** Judges the spec as it stands now. */
export function judgeSpec(facts: Facts): { accepted: Accepted } | Refusal {
  const { policy, grants } = facts;
  const { spec } = policy;
  const provider = providerOf(spec);
  if (provider === undefined) {
    const known = PROVIDER_NAMES.join(", ");
    return {
      reason: REASON.unsupported,
      message: `spec.nat.provider: ${spec.nat?.provider} is not in this version; use one of ${known}`,
    };
  }
  let accepted: Accepted;
  try {
    accepted = documentOf(policy, facts.blockedCIDRs);
  } catch (error) {
    if (!(error instanceof PolicyError)) throw error;
    return { reason: REASON.invalid, message: error.message };
  }
  const bytes = configMapBytes(accepted);
  if (bytes > MAX_CONFIGMAP_BYTES) {
    const document = Buffer.byteLength(accepted.document);
    return {
      reason: REASON.tooLarge,
      message: `spec: its document has ${document} bytes and ${bytes} with the spec that is kept beside it; at most ${MAX_CONFIGMAP_BYTES} fit into a ConfigMap; use fewer hosts, or wildcards`,
    };
  }
  const refused = notGranted(grants, policy.metadata.namespace!, provider, spec);
  if (refused !== undefined) return { reason: REASON.notGranted, message: refused };
  if (provider.exclusive) {
    const lost = conflict(facts, spec);
    if (lost !== undefined) {
      const { namespace, name } = lost.winner.metadata;
      return {
        reason: REASON.conflicted,
        message: `spec.staticIPs: ${lost.address} belongs to policy ${namespace}/${name}`,
      };
    }
    const twice = repeated(slotsOf(spec));
    if (twice !== undefined) return { reason: REASON.invalid, message: `spec.staticIPs: ${twice} is there twice` };
  }
  return { accepted };
}

/** The last accepted spec as the ConfigMap of a policy carries it; undefined where none was accepted yet. */
export function lastAccepted(policy: EgressPolicy, configMaps: ReadonlyMap<string, ConfigMap>): string | undefined {
  return configMaps.get(childName.document(policy.metadata.name))?.binaryData?.[SPEC_KEY];
}
