import type { EgressPolicySpec } from "../api/egresspolicy.ts";
import { canonicalAddress } from "../fleet/slots.ts";
import { providerOf } from "./index.ts";

/** Addresses by spec: reading them takes 0.1 ms, and a decision may need those of many policies. */
const memo = new WeakMap<EgressPolicySpec, ReadonlyMap<string, string>>();

/**
 * Addresses of a spec that no other policy may have, with the field of each: its static IPs and the addresses that
 * proxies bind. Pending ones are among them, since they are published. Empty for providers without slots.
 */
export function exclusiveAddresses(spec: EgressPolicySpec): ReadonlyMap<string, string> {
  const known = memo.get(spec);
  if (known !== undefined) return known;
  const found = new Map<string, string>();
  const ips = providerOf(spec)?.shape.kind === "Slots" ? (spec.staticIPs ?? []) : [];
  for (const [i, ip] of ips.entries()) {
    for (const key of ["address", "sourceAddress"] as const) {
      const address = ip[key] === undefined ? undefined : canonicalAddress(ip[key]);
      if (address !== undefined && !found.has(address)) found.set(address, `spec.staticIPs[${i}].${key}`);
    }
  }
  memo.set(spec, found);
  return found;
}
