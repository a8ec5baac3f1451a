import { createHash } from "node:crypto";
import { encodeDocument, MAX_STATIC_IPS } from "../../proxy/policy/document.ts";
import { readManifest } from "../../proxy/policy/source.ts";
import type { EgressPolicy } from "../api/egresspolicy.ts";
import { type Accepted, packSpec } from "./resources/configmap.ts";
import { canonical } from "./slots.ts";

interface Memo {
  blocked: readonly string[];
  result: Accepted;
}

/** By spec: reading 20,000 hosts takes a tenth of a second, and most reconciles change none. */
const memos = new WeakMap<object, Memo>();

/** An address that the spec no longer uses, while proxies that have it still serve. */
export interface Leaving {
  address: string;
  /** What is bound for it. */
  source: string;
}

/** The spec with what is leaving as Retiring: its proxies still have to be proven by it, and nobody may reach it. */
function withLeaving(spec: EgressPolicy["spec"], leaving: readonly Leaving[]): EgressPolicy["spec"] {
  const gone = new Set(leaving.map(({ address }) => address));
  const staticIPs = [
    ...(spec.staticIPs ?? []).filter(({ address }) => !gone.has(canonical(address))),
    ...leaving.map(({ address, source }) => ({
      address,
      ...(source === address ? {} : { sourceAddress: source }),
      phase: "Retiring" as const,
    })),
  ];
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
  leaving: readonly Leaving[] = [],
): Accepted {
  const { spec } = policy;
  const memo = leaving.length === 0 ? memos.get(spec) : undefined;
  if (memo !== undefined && memo.blocked === blockedCIDRs) return memo.result;
  const { status: _, ...manifest } = policy;
  const whole = leaving.length === 0 ? manifest : { ...manifest, spec: withLeaving(spec, leaving) };
  const text = encodeDocument(readManifest(whole, blockedCIDRs).document);
  const hash = `sha256:${createHash("sha256").update(text).digest("hex")}`;
  const result = { document: text, hash, spec: packSpec(spec) };
  if (leaving.length === 0) memos.set(spec, { blocked: blockedCIDRs, result });
  return result;
}
