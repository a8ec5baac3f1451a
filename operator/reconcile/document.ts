import { createHash } from "node:crypto";
import { encodeDocument } from "../../proxy/policy/document.ts";
import { readManifest } from "../../proxy/policy/source.ts";
import type { EgressPolicy } from "../api/egresspolicy.ts";
import { type Accepted, packSpec } from "./resources/configmap.ts";

interface Memo {
  blocked: readonly string[];
  result: Accepted;
}

/** By spec: reading 20,000 hosts takes a tenth of a second, and most reconciles change none. */
const memos = new WeakMap<object, Memo>();

/**
 * The document of a policy's spec, as every proxy of its fleet loads it.
 * @throws PolicyError with the path of every wrong field
 */
export function documentOf(policy: EgressPolicy, blockedCIDRs: readonly string[]): Accepted {
  const { spec } = policy;
  const memo = memos.get(spec);
  if (memo !== undefined && memo.blocked === blockedCIDRs) return memo.result;
  const { status: _, ...manifest } = policy;
  const text = encodeDocument(readManifest(manifest, blockedCIDRs).document);
  const hash = `sha256:${createHash("sha256").update(text).digest("hex")}`;
  const result = { document: text, hash, spec: packSpec(spec) };
  memos.set(spec, { blocked: blockedCIDRs, result });
  return result;
}
