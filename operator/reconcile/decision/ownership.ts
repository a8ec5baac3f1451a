import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { keyOf } from "../../kube/resource.ts";
import { exclusiveAddresses } from "../../providers/exclusive.ts";
import { notGranted } from "../../providers/grants.ts";
import { providerOf } from "../../providers/index.ts";
import type { Facts, Holder } from "../facts/facts.ts";

/** Order of policies that request the same address: by creation, then by namespace and name (GEP-713). */
function isOlder(a: EgressPolicy, b: EgressPolicy): boolean {
  const key = ({ metadata }: EgressPolicy) => `${metadata.creationTimestamp} ${metadata.namespace}/${metadata.name}`;
  return key(a) < key(b);
}

const FIX = "; use another address, or remove it there";

/** Owners of exclusive addresses, as one decision sees them. */
class Owners {
  readonly #facts: Facts;
  #policies: readonly EgressPolicy[] | undefined;
  #reserved: ReadonlyMap<string, Holder> | undefined;

  constructor(facts: Facts) {
    this.#facts = facts;
  }

  /** All policies, oldest first. Sorted only if an address is not claimed. */
  get policies(): readonly EgressPolicy[] {
    this.#policies ??= [this.#facts.policy, ...this.#facts.others()].sort((a, b) => (isOlder(a, b) ? -1 : 1));
    return this.#policies;
  }

  /**
   * Owner of an address: the policy that holds it, else the one that has it in its last accepted spec, such as a
   * Pending address after a restart. Of several ones, which an earlier version allowed, the oldest policy.
   */
  of(address: string): Holder | undefined {
    const holders = this.#facts.holdersOf(address);
    if (holders.length === 0) {
      this.#reserved ??= reservedOf(this.#facts, this.policies);
      return this.#reserved.get(address);
    }
    if (holders.length === 1) return holders[0];
    const byKey = new Map(holders.map((holder) => [holder.policy, holder]));
    const oldest = this.policies.find((policy) => byKey.has(keyOf(policy)));
    return byKey.get(oldest === undefined ? [...byKey.keys()].sort()[0]! : keyOf(oldest));
  }
}

/** Addresses of last accepted specs. A grant may have been revoked; proxies that still run hold their addresses. */
function reservedOf({ acceptedSpecOf, grants }: Facts, policies: readonly EgressPolicy[]): ReadonlyMap<string, Holder> {
  const reserved = new Map<string, Holder>();
  for (const policy of policies) {
    const spec = acceptedSpecOf(policy);
    if (spec === undefined) continue;
    const addresses = exclusiveAddresses(spec);
    if (addresses.size === 0) continue;
    if (notGranted(grants, policy.metadata.namespace!, providerOf(spec)!, spec) !== undefined) continue;
    const holder = { policy: keyOf(policy), draining: false };
    for (const address of addresses.keys()) if (!reserved.has(address)) reserved.set(address, holder);
  }
  return reserved;
}

/** Older policies that wait for addresses, oldest first. */
function waitingBefore({ policy, acceptedSpecOf }: Facts, policies: readonly EgressPolicy[]): EgressPolicy[] {
  return policies.filter((other) => {
    if (!isOlder(other, policy) || other.metadata.deletionTimestamp !== undefined) return false;
    // An accepted spec holds its addresses already.
    return acceptedSpecOf(other) !== other.spec && exclusiveAddresses(other.spec).size > 0;
  });
}

/** The policies of a list that request one of the addresses, or an address of such a policy, and so on. */
function related(policies: readonly EgressPolicy[], addresses: readonly string[]): ReadonlySet<EgressPolicy> {
  const byAddress = new Map<string, EgressPolicy[]>();
  for (const policy of policies) {
    for (const address of exclusiveAddresses(policy.spec).keys()) {
      const known = byAddress.get(address);
      if (known === undefined) byAddress.set(address, [policy]);
      else known.push(policy);
    }
  }
  const found = new Set<EgressPolicy>();
  // A set that grows while it is iterated over: each address is visited once.
  const reached = new Set(addresses);
  for (const address of reached) {
    for (const policy of byAddress.get(address) ?? []) {
      if (found.has(policy)) continue;
      found.add(policy);
      for (const one of exclusiveAddresses(policy.spec).keys()) reached.add(one);
    }
  }
  return found;
}

/**
 * Older policies that win free addresses, by address: those that could be accepted now. Each takes all of its addresses
 * or none, in the order of age. So a policy that is rejected blocks no other, and the oldest policy whose addresses are
 * all free is always accepted. `free`: addresses that matter.
 */
function winnersOf(
  facts: Facts,
  owners: Owners,
  free: readonly string[],
  isValid: (policy: EgressPolicy) => boolean,
): ReadonlyMap<string, EgressPolicy> {
  const winners = new Map<string, EgressPolicy>();
  const waiting = waitingBefore(facts, owners.policies);
  const rivals = related(waiting, free);
  for (const rival of waiting.filter((one) => rivals.has(one))) {
    const wanted = [...exclusiveAddresses(rival.spec).keys()];
    const key = keyOf(rival);
    if (wanted.some((address) => winners.has(address)) || !isValid(rival)) continue;
    if (wanted.some((address) => (owners.of(address)?.policy ?? key) !== key)) continue;
    for (const address of wanted) winners.set(address, rival);
  }
  return winners;
}

/**
 * Why a policy may not have the exclusive addresses of its spec; undefined if each is free or its own. `isValid`:
 * whether a spec would be accepted if its addresses were free.
 */
export function conflictOf(facts: Facts, isValid: (policy: EgressPolicy) => boolean): string | undefined {
  const { policy } = facts;
  const own = keyOf(policy);
  const owners = new Owners(facts);
  const free: string[] = [];
  const wanted = exclusiveAddresses(policy.spec);
  for (const [address, field] of wanted) {
    const owner = owners.of(address);
    if (owner === undefined) free.push(address);
    else if (owner.policy !== own) {
      const until = owner.draining ? " until its proxies on this address have ended" : FIX;
      return `${field}: ${address} is held by policy ${owner.policy}${until}`;
    }
  }
  if (free.length === 0) return undefined;
  const winners = winnersOf(facts, owners, free, isValid);
  const lost = free.find((address) => winners.has(address));
  if (lost === undefined) return undefined;
  const winner = keyOf(winners.get(lost)!);
  return `${wanted.get(lost)}: ${lost} is requested by policy ${winner}, which is older${FIX}`;
}
