import type { EgressPolicy } from "../api/egresspolicy.ts";
import type { Pod } from "../api/objects.ts";

/** What a proxy says of one way out, as far as the operator looks. Times are RFC 3339. */
interface ProofStatus {
  way: string;
  verified: boolean;
  expected: string[];
  observed: string[];
  provenAt: string | null;
  checkedAt: string | null;
  /** Of the last round: also where one echo URL failed and another one gave the proof. */
  error: string | null;
}

/** What `/status` of a proxy says, as far as the operator looks. */
export interface ProxyStatus {
  /** Hash of the policy in force; null: none. */
  hash: string | null;
  /** Why the file that stands there is not in force. */
  policyError: string | null;
  ready: boolean;
  sources: { address: string; assigned: boolean }[];
  /** One for each way out: a source address, or a family. Empty: nothing is verified. */
  proofs: ProofStatus[];
}

/** One proxy of a fleet, as its pod and its own answer say. */
export interface ProxyFacts {
  pod: Pod;
  slot: string;
  node: string | undefined;
  /** The pod's own addresses, canonical. */
  ips: string[];
  ready: boolean;
  /** Deleted, and not gone yet. */
  leaving: boolean;
  /** Its last answer; undefined while it gives none. */
  status: ProxyStatus | undefined;
  /** Why it gives none. */
  error: string | undefined;
  /** False: it was not asked yet, so nothing can be said of it. */
  asked: boolean;
}

function fail(path: string): never {
  throw new Error(`its /status is not understood at ${path}; is the proxy of another version?`);
}

function textOrNull(value: unknown, path: string): string | null {
  return value === null || typeof value === "string" ? value : fail(path);
}

function flag(value: unknown, path: string): boolean {
  return typeof value === "boolean" ? value : fail(path);
}

function list(value: unknown, path: string): Record<string, unknown>[] {
  return Array.isArray(value) ? (value as Record<string, unknown>[]) : fail(path);
}

const texts = (value: unknown, path: string): string[] =>
  list(value, path).map((text) => (typeof text === "string" ? text : fail(path)));

/** Reads the body of `/status`. @throws Error on anything that is not as a proxy says it */
export function readProxyStatus(body: string): ProxyStatus {
  const value = JSON.parse(body) as Record<string, unknown>;
  const policy = value.policy as { hash?: unknown } | null | undefined;
  return {
    hash: policy === null ? null : textOrNull(policy?.hash, "policy.hash"),
    policyError: textOrNull(value.policyError, "policyError"),
    ready: flag(value.ready, "ready"),
    sources: list(value.sources, "sources").map((source) => ({
      address: textOrNull(source.address, "sources.address") ?? fail("sources.address"),
      assigned: flag(source.assigned, "sources.assigned"),
    })),
    proofs: list(value.verification, "verification").map((proof) => ({
      way: textOrNull(proof.way, "verification.way") ?? fail("verification.way"),
      verified: flag(proof.verified, "verification.verified"),
      expected: texts(proof.expected, "verification.expected"),
      observed: texts(proof.observed, "verification.observed"),
      provenAt: textOrNull(proof.provenAt, "verification.provenAt"),
      checkedAt: textOrNull(proof.checkedAt, "verification.checkedAt"),
      error: textOrNull(proof.error, "verification.error"),
    })),
  };
}

/**
 * Whether a proxy has a policy, its sources are bound, and all is proven that is to be. `spec`: where the policy lets
 * unproven ones serve, a proof is not asked for.
 */
export function isOpen(status: ProxyStatus | undefined, spec?: EgressPolicy["spec"]): boolean {
  return (
    status !== undefined &&
    status.hash !== null &&
    status.sources.every((source) => source.assigned) &&
    (spec?.verification?.onUnverified === "Allow" || status.proofs.every((proof) => proof.verified))
  );
}
