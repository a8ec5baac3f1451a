import { PolicyError } from "../../../proxy/policy/rules.ts";
import type { EgressPolicy, EgressPolicySpec } from "../../api/egresspolicy.ts";
import { childName, REASON, type Reason, SPEC_KEY } from "../../api/names.ts";
import type { ConfigMap } from "../../api/objects.ts";
import { type Slot, slotsOf } from "../../fleet/slots.ts";
import { notGranted } from "../../providers/grants.ts";
import { PROVIDER_NAMES, providerOf } from "../../providers/index.ts";
import type { Facts } from "../facts/facts.ts";
import { type Accepted, configMapBytes, MAX_CONFIGMAP_BYTES } from "../objects/configmap.ts";
import { documentOf } from "./document.ts";

/** Why a spec is rejected. The user has to fix it. */
export interface Rejection {
  reason: Reason;
  message: string;
}

/** Order of policies that request the same address: by creation, then by namespace and name (GEP-713). */
export function isOlder(a: EgressPolicy, b: EgressPolicy): boolean {
  const key = ({ metadata }: EgressPolicy) => `${metadata.creationTimestamp} ${metadata.namespace}/${metadata.name}`;
  return key(a) < key(b);
}

/** A policy that may have slots, with the addresses that it requests. */
interface Rival {
  policy: EgressPolicy;
  addresses: ReadonlySet<string>;
}

/** Other policies that request slots. A policy without a grant cannot have an address, so it does not count. */
function rivalsOf({ others, grants }: Facts): Rival[] {
  return others.flatMap((policy): Rival[] => {
    const provider = providerOf(policy.spec);
    if (provider?.shape.kind !== "Slots") return [];
    if (notGranted(grants, policy.metadata.namespace!, provider, policy.spec) !== undefined) return [];
    return [{ policy, addresses: new Set(slotsOf(policy.spec).flatMap(({ address, source }) => [address, source])) }];
  });
}

/**
 * An address that another policy has. A policy that has a slot for an address keeps it. If no policy has one, the
 * oldest policy that requests the address gets it.
 */
function conflict(facts: Facts, slots: readonly Slot[]): { address: string; winner: EgressPolicy } | undefined {
  const { policy, others, holderOf } = facts;
  const rivals = rivalsOf(facts);
  for (const slot of slots) {
    const own = [slot.address, slot.source];
    const holder = own.map(holderOf).find((uid) => uid !== undefined);
    if (holder === policy.metadata.uid) continue;
    const older = rivals
      .filter(({ addresses }) => own.some((address) => addresses.has(address)))
      .map((rival) => rival.policy)
      .filter((other) => isOlder(other, policy));
    const [first, ...rest] = older;
    const oldest = rest.reduce((found, other) => (isOlder(other, found ?? other) ? other : found), first);
    const winner = others.find((other) => other.metadata.uid === holder) ?? oldest;
    if (winner !== undefined) return { address: slot.address, winner };
  }
  return undefined;
}

/** An address that two slots of one spec share. */
function repeated(slots: readonly Slot[]): string | undefined {
  const taken = new Set<string>();
  for (const { id, address, source } of slots) {
    const own = new Set([id, address, source]);
    if ([...own].some((one) => taken.has(one))) return source;
    for (const one of own) taken.add(one);
  }
  return undefined;
}

/** Whether the addresses of slots conflict with each other, or with another policy. */
function judgeSlots(facts: Facts, spec: EgressPolicySpec): Rejection | undefined {
  const slots = slotsOf(spec);
  const lost = conflict(facts, slots);
  if (lost !== undefined) {
    const { namespace, name } = lost.winner.metadata;
    return {
      reason: REASON.conflicted,
      message: `spec.staticIPs: ${lost.address} belongs to policy ${namespace}/${name}`,
    };
  }
  const twice = repeated(slots);
  if (twice !== undefined)
    return { reason: REASON.invalid, message: `spec.staticIPs: ${twice} occurs twice; remove one` };
  return undefined;
}

/** Validates the spec of a policy. */
export function judgeSpec(facts: Facts): { accepted: Accepted } | Rejection {
  const { policy, grants } = facts;
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
      message: `spec: the policy document has ${document} bytes, and ${bytes} with the stored spec; a ConfigMap holds at most ${MAX_CONFIGMAP_BYTES}; use fewer hosts, or wildcards`,
    };
  }
  const refused = notGranted(grants, policy.metadata.namespace!, provider, spec);
  if (refused !== undefined) return { reason: REASON.notGranted, message: refused };
  return (provider.shape.kind === "Slots" ? judgeSlots(facts, spec) : undefined) ?? { accepted };
}

/** The last accepted spec as the ConfigMap of a policy stores it; undefined if none was accepted yet. */
export function lastAccepted(policy: EgressPolicy, configMaps: ReadonlyMap<string, ConfigMap>): string | undefined {
  return configMaps.get(childName.document(policy.metadata.name))?.binaryData?.[SPEC_KEY];
}
