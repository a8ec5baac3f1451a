import { createHash } from "node:crypto";
import { encodeDocument, MAX_STATIC_IPS } from "../../proxy/policy/document.ts";
import { readManifest } from "../../proxy/policy/policy-file.ts";
import type { EgressPolicy } from "../api/egresspolicy.ts";
import { type Accepted, packSpec } from "./resources/configmap.ts";
import { canonical } from "./slots.ts";

interface Memo {
  blocked: readonly string[];
  result: Accepted;
}

/** By spec: reading 20,000 hosts takes a tenth of a second, and most reconciles change none. */
const memos = new WeakMap<object, Memo>();

/** An address of a fleet that gives way to another one, while its proxies still serve. */
export interface Leaving {
  address: string;
  /** What is bound for it. */
  source: string;
}

/** A fleet that gives way to another one. */
export interface Former {
  leaving: readonly Leaving[];
  /**
   * The addresses by one of which proxies that bind none are proven, be they the old ones or the new ones: those of the other
   * fleet are none of theirs, and a family that they do not have cannot be proven by them. Undefined: all of the document's.
   */
  machine: ReadonlySet<string> | undefined;
}

/** Nothing gives way. */
export const NO_FORMER: Former = { leaving: [], machine: undefined };

/** The spec with what is leaving as Retiring: its proxies still have to be proven by it, and nobody may reach it. */
export function withFormer(spec: EgressPolicy["spec"], { leaving, machine }: Former): EgressPolicy["spec"] {
  if (leaving.length === 0 && machine === undefined) return spec;
  const sources = new Map(leaving.map(({ address, source }) => [address, source]));
  const bound = (address: string) => {
    const source = sources.get(address) ?? address;
    return source === address ? {} : { sourceAddress: source };
  };
  const own = (spec.staticIPs ?? []).map((ip) => ({ ...ip, ...bound(canonical(ip.address)) }));
  const known = new Set(own.map(({ address }) => canonical(address)));
  const others = [...sources.keys()].filter((address) => !known.has(address)).sort();
  const all = [...own, ...others.map((address) => ({ address, ...bound(address), phase: "Retiring" as const }))];
  // A proxy that binds a source is proven by that, whatever the phase.
  const staticIPs = all.map((ip) =>
    machine === undefined || machine.has(canonical(ip.address)) ? ip : { ...ip, phase: "Pending" as const },
  );
  // Of lists that were exchanged again and again before a proxy ran, the last ones do not fit: their gates close.
  return { ...spec, staticIPs: staticIPs.slice(0, MAX_STATIC_IPS) };
}

/**
 * The document of a policy's spec, as every proxy of its fleet loads it.
 * @throws PolicyError with the path of every wrong field
 */
export function documentOf(
  policy: EgressPolicy,
  blockedCIDRs: readonly string[],
  former: Former = NO_FORMER,
): Accepted {
  const { spec } = policy;
  const whole = withFormer(spec, former);
  const memo = whole === spec ? memos.get(spec) : undefined;
  if (memo !== undefined && memo.blocked === blockedCIDRs) return memo.result;
  const { status: _, ...manifest } = policy;
  const text = encodeDocument(readManifest({ ...manifest, spec: whole }, blockedCIDRs).document);
  const hash = `sha256:${createHash("sha256").update(text).digest("hex")}`;
  const result = { document: text, hash, spec: packSpec(spec) };
  if (whole === spec) memos.set(spec, { blocked: blockedCIDRs, result });
  return result;
}
