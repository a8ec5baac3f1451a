import { createHash } from "node:crypto";
import { clientWarnings } from "../../../proxy/policy/client-warnings.ts";
import { encodeDocument, MAX_STATIC_IPS } from "../../../proxy/policy/document.ts";
import { readManifest } from "../../../proxy/policy/policy-file.ts";
import { upstreamWarnings } from "../../../proxy/policy/upstream-proxy.ts";
import type { EgressPolicy, EgressPolicySpec } from "../../api/egresspolicy.ts";
import { canonicalAddress } from "../../fleet/slots.ts";
import type { Accepted } from "../objects/configmap.ts";
import { externalWarnings } from "../objects/external.ts";
import { packSpec } from "../objects/record.ts";

interface Memo {
  blocked: readonly string[];
  result: Accepted;
}

/** Documents by spec: reading 20,000 hosts takes 0.1 s, and most reconciles change none of them. */
const documents = new WeakMap<object, Memo>();

/** An address of a former fleet whose proxies still serve. */
export interface FormerAddress {
  address: string;
  /** The address that its proxy binds. */
  source: string;
}

/** Addresses of a fleet that another one replaces. */
export interface Former {
  addresses: readonly FormerAddress[];
  /**
   * Addresses that prove proxies which bind none, of the old and of the new fleet. The other addresses belong to slots,
   * and may have a family that those proxies cannot use. Undefined: all addresses of the document.
   */
  unbound: ReadonlySet<string> | undefined;
}

/** No fleet is being replaced. */
const NO_FORMER: Former = { addresses: [], unbound: undefined };

/** The spec with the addresses of the former fleet as Retiring, so that its proxies can still be verified. */
export function withFormer(spec: EgressPolicySpec, { addresses, unbound }: Former): EgressPolicySpec {
  if (addresses.length === 0 && unbound === undefined) return spec;
  const sources = new Map(addresses.map(({ address, source }) => [address, source]));
  const bound = (address: string) => {
    const source = sources.get(address) ?? address;
    return source === address ? {} : { sourceAddress: source };
  };
  // A former proxy still sends from an address that is Pending again.
  const phaseOf = ({ address, phase }: { address: string; phase?: string }) =>
    phase === "Pending" && sources.has(canonicalAddress(address)) ? { phase: "Retiring" as const } : {};
  // A proxy takes the first entry with its source, and all may become Pending below.
  const byUse = [...(spec.staticIPs ?? [])].sort(
    (a, b) => Number(a.phase === "Pending") - Number(b.phase === "Pending"),
  );
  const own = byUse.map((ip) => ({ ...ip, ...bound(canonicalAddress(ip.address)), ...phaseOf(ip) }));
  const known = new Set(own.map(({ address }) => canonicalAddress(address)));
  const others = [...sources.keys()].filter((address) => !known.has(address)).sort();
  const all = [...own, ...others.map((address) => ({ address, ...bound(address), phase: "Retiring" as const }))];
  // A proxy that binds a source is verified by that source, whatever the phase.
  const staticIPs = all.map((ip) =>
    unbound === undefined || unbound.has(canonicalAddress(ip.address)) ? ip : { ...ip, phase: "Pending" as const },
  );
  // After several changes before a proxy started, the last addresses may exceed the limit. Their gates close.
  return { ...spec, staticIPs: staticIPs.slice(0, MAX_STATIC_IPS) };
}

/**
 * Document of a policy's spec, which every proxy of the fleet loads.
 * @throws PolicyError with the path of every wrong field
 */
export function documentOf(
  policy: EgressPolicy,
  blockedCIDRs: readonly string[],
  former: Former = NO_FORMER,
): Accepted {
  const { spec } = policy;
  const complete = withFormer(spec, former);
  const memo = complete === spec ? documents.get(spec) : undefined;
  if (memo !== undefined && memo.blocked === blockedCIDRs) return memo.result;
  const { status: _, ...manifest } = policy;
  const source = readManifest({ ...manifest, spec: complete }, blockedCIDRs).document;
  const text = encodeDocument(source);
  const hash = `sha256:${createHash("sha256").update(text).digest("hex")}`;
  const result = {
    document: text,
    hash,
    spec: packSpec(spec),
    warnings: [...externalWarnings(spec), ...clientWarnings(source), ...upstreamWarnings(source)],
  };
  if (complete === spec) documents.set(spec, { blocked: blockedCIDRs, result });
  return result;
}
