import { parseAddress } from "../../../proxy/policy/cidr.ts";
import type { EgressPolicy } from "../../api/egresspolicy.ts";
import type { ConfigMap } from "../../api/objects.ts";
import type { ProxyFacts } from "../../fleet/proxy-status.ts";
import { canonical, usedAddresses } from "../../fleet/slots.ts";

/** The list that webhook receivers are given. */
export interface Published {
  /** Every address that they have to accept: active, pending and retiring ones. */
  all: string[];
  json: {
    ipv4: string[];
    ipv6: string[];
    /** The same addresses as networks. */
    cidrs: string[];
    /** Announced, not used yet. */
    pending: string[];
    /** On their way out, still used. */
    retiring: string[];
    /** RFC 3339; when the list changed last. */
    updatedAt: string;
  };
}

/** The list of before, or undefined where there is none that can be read: others may write there. */
export function publishedBefore(configMap: ConfigMap | undefined): Published["json"] | undefined {
  try {
    const list = JSON.parse(configMap?.data?.["ips.json"] ?? "null") as Partial<Published["json"]> | null;
    const isList = (value: unknown) =>
      Array.isArray(value) && value.every((one) => typeof one === "string" && parseAddress(one) !== null);
    const sound = isList(list?.ipv4) && isList(list?.ipv6) && isList(list?.pending) && isList(list?.retiring);
    return sound ? (list as Published["json"]) : undefined;
  } catch {
    return undefined;
  }
}

/** Addresses of the list of before that were in use, and that the spec no longer uses: it lacks them, or has them as Pending. */
export function noLongerUsed(spec: EgressPolicy["spec"], before: Published["json"] | undefined): string[] {
  if (before === undefined) return [];
  const kept = new Set([...usedAddresses(spec), ...before.pending]);
  return [...new Set([...before.ipv4, ...before.ipv6].map(canonical))].filter((address) => !kept.has(address));
}

/**
 * Those of {@link noLongerUsed}, while a proxy runs that does not know it yet, or that has the address itself: requests may
 * still leave from them. The list loses an address last, as it gains one first.
 */
export function stillUsed(
  spec: EgressPolicy["spec"],
  before: Published["json"] | undefined,
  proxies: readonly ProxyFacts[],
  hash: string,
): string[] {
  const late = proxies.some(({ pod, status }) => pod.status?.phase === "Running" && status?.hash !== hash);
  // On nodes' networks these are the nodes' addresses, whatever is bound.
  const own = new Set(proxies.filter(({ pod }) => pod.spec?.hostNetwork !== true).flatMap(({ ips }) => ips));
  return noLongerUsed(spec, before).filter((address) => late || own.has(address));
}

/**
 * What is published. `leaving`: addresses that the spec no longer uses while requests may leave from them, so receivers
 * still have to accept them. The time moves only when the list does: a settled policy writes nothing.
 */
export function publish(
  spec: EgressPolicy["spec"],
  leaving: readonly string[],
  before: Published["json"] | undefined,
  now: string,
): Published {
  const ips = spec.staticIPs ?? [];
  const inPhase = (phase: string) => ips.filter((ip) => ip.phase === phase).map((ip) => canonical(ip.address));
  const all = [...new Set([...ips.map((ip) => canonical(ip.address)), ...leaving])];
  const list = {
    ipv4: all.filter((address) => !address.includes(":")),
    ipv6: all.filter((address) => address.includes(":")),
    cidrs: all.map((address) => `${address}/${address.includes(":") ? 128 : 32}`),
    pending: inPhase("Pending").filter((address) => !leaving.includes(address)),
    retiring: [...new Set([...inPhase("Retiring"), ...leaving])],
  };
  const { updatedAt, ...old } = before ?? { updatedAt: now };
  const same = before !== undefined && JSON.stringify(old) === JSON.stringify(list);
  return { all, json: { ...list, updatedAt: same ? updatedAt : now } };
}

/** Active addresses that receivers had no notice of: they were not in the list before. */
export function addedWithoutNotice(spec: EgressPolicy["spec"], before: Published["json"] | undefined): string[] {
  if (before === undefined) return [];
  const known = new Set([...before.ipv4, ...before.ipv6]);
  const active = (spec.staticIPs ?? []).filter((ip) => (ip.phase ?? "Active") === "Active");
  return active.map((ip) => canonical(ip.address)).filter((address) => !known.has(address));
}
