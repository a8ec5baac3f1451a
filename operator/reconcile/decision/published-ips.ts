import type { EgressPolicySpec } from "../../api/egresspolicy.ts";
import { mayRun, type ProxyFacts } from "../../fleet/proxy-status.ts";
import { canonicalAddress, usedAddresses } from "../../fleet/slots.ts";
import {
  type AddressChange,
  type AddressState,
  MAX_CHANGES,
  type PublishedIPs,
  type PublishedList,
  statesOf,
} from "../objects/published/list.ts";

/** Published addresses that were in use and that the spec no longer uses: they are removed, or Pending again. */
export function noLongerUsed(spec: EgressPolicySpec, before: PublishedList | undefined): string[] {
  if (before === undefined) return [];
  const kept = new Set([...usedAddresses(spec), ...before.pending]);
  return [...new Set([...before.ipv4, ...before.ipv6].map(canonicalAddress))].filter((address) => !kept.has(address));
}

/** Hashes of policy documents. */
interface Hashes {
  desired: string;
  /** Of the stored document, which proxies may be about to load; undefined: there is none. */
  stored: string | undefined;
}

/**
 * Addresses of {@link noLongerUsed} that requests may still leave from: a proxy has not confirmed the new policy yet, or
 * has the address itself. An address is published before it is used and removed after every proxy has stopped
 * using it.
 */
export function stillUsed(
  spec: EgressPolicySpec,
  before: PublishedList | undefined,
  proxies: readonly ProxyFacts[],
  { desired, stored = desired }: Hashes,
): string[] {
  const isLate = (proxy: ProxyFacts) => mayRun(proxy) && (proxy.outdated || proxy.status?.hash !== desired);
  // A proxy that the cache does not have yet may load the stored document.
  const late = stored !== desired || proxies.some(isLate);
  // On node networks the addresses of a pod are those of its node, whatever the proxy binds.
  const own = new Set(proxies.filter(({ pod }) => pod.spec?.hostNetwork !== true).flatMap(({ ips }) => ips));
  return noLongerUsed(spec, before).filter((address) => late || own.has(address));
}

/**
 * The list to publish. `leaving`: addresses that the spec no longer uses and that requests may still leave from, so
 * receivers still have to accept them. `updatedAt` and `changes` change only with the list, so that a settled policy writes
 * nothing. A list of an older operator has no changes: those before it are unknown.
 */
export function publish(
  spec: EgressPolicySpec,
  leaving: readonly string[],
  before: PublishedList | undefined,
  now: string,
): PublishedIPs {
  const ips = spec.staticIPs ?? [];
  const inPhase = (phase: string) => ips.filter((ip) => ip.phase === phase).map((ip) => canonicalAddress(ip.address));
  const all = [...new Set([...ips.map((ip) => canonicalAddress(ip.address)), ...leaving])];
  const list = {
    ipv4: all.filter((address) => !address.includes(":")),
    ipv6: all.filter((address) => address.includes(":")),
    cidrs: all.map((address) => `${address}/${address.includes(":") ? 128 : 32}`),
    pending: inPhase("Pending").filter((address) => !leaving.includes(address)),
    retiring: [...new Set([...inPhase("Retiring"), ...leaving])],
  };
  const { updatedAt, changes, ...old } = before ?? { updatedAt: now, changes: [] };
  const same = before !== undefined && updatedAt !== "" && JSON.stringify(old) === JSON.stringify(list);
  const added = changesOf(before === undefined ? new Map() : statesOf(before), statesOf(list), now);
  return {
    all,
    json: {
      ...list,
      updatedAt: same ? updatedAt : now,
      changes: [...added, ...changes].slice(0, MAX_CHANGES),
    },
  };
}

/** Changes between the states of two lists: removed addresses first. */
function changesOf(
  before: ReadonlyMap<string, AddressState>,
  after: ReadonlyMap<string, AddressState>,
  since: string,
): AddressChange[] {
  const removed = [...before.keys()].filter((address) => !after.has(address));
  const others = [...after].filter(([address, state]) => before.get(address) !== state);
  return [
    ...removed.map((address) => ({ address, state: "Removed" as const, since })),
    ...others.map(([address, state]) => ({ address, state, since })),
  ];
}

/** Active addresses that were not published before, so receivers had no notice. */
export function addedWithoutNotice(spec: EgressPolicySpec, before: PublishedList | undefined): string[] {
  if (before === undefined) return [];
  const known = new Set([...before.ipv4, ...before.ipv6]);
  const active = (spec.staticIPs ?? []).filter((ip) => (ip.phase ?? "Active") === "Active");
  return active.map((ip) => canonicalAddress(ip.address)).filter((address) => !known.has(address));
}
