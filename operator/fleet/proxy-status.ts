import type { EgressPolicySpec } from "../api/egresspolicy.ts";
import type { Pod } from "../api/objects.ts";

/** Verification of one egress path, as `/status` reports it. Times are RFC 3339. */
interface ProofStatus {
  way: string;
  verified: boolean;
  expected: string[];
  observed: string[];
  provenAt: string | null;
  checkedAt: string | null;
  /** Error of the last round. Also set if one echo URL failed and another one gave the proof. */
  error: string | null;
}

/** Part of a proxy's `/status` that the operator reads. */
export interface ProxyStatus {
  /** Version of outrider; undefined if the answer has none. */
  version?: string;
  /** Hash of the policy document in force; null if there is none. */
  hash: string | null;
  /** Why the present policy file is not in force. */
  policyError: string | null;
  ready: boolean;
  sources: { address: string; assigned: boolean }[];
  /** One for each egress path: a source address or an address family. Empty if verification is off. */
  proofs: ProofStatus[];
}

/** State of one proxy, from its pod and its `/status`. */
export interface ProxyFacts {
  pod: Pod;
  slot: string;
  node: string | undefined;
  /** Canonical addresses of the pod. */
  ips: string[];
  ready: boolean;
  /** The pod is deleted and still exists. */
  terminating: boolean;
  /** Last answer; undefined while the proxy does not answer. */
  status: ProxyStatus | undefined;
  /** Why the proxy does not answer. */
  error: string | undefined;
  /** False before the first poll: nothing is known about the proxy yet. */
  polled: boolean;
  /** The answer is older than the last write of the policy document: it does not confirm this document. */
  outdated: boolean;
}

/**
 * Whether a proxy runs, or may run: it has a node, and the kubelet starts a container before it reports the phase. It may
 * have loaded a document that is older than its phase.
 */
export const mayRun = ({ pod, node }: ProxyFacts): boolean => pod.status?.phase === "Running" || node !== undefined;

/** Port of a proxy's `/status`; undefined if its pod does not name it. */
export function adminPort(pod: Pod): number | undefined {
  const ports = (pod.spec?.containers ?? []).flatMap((container) => container.ports ?? []);
  return ports.find(({ name }) => name === "admin")?.containerPort;
}

function fail(path: string): never {
  throw new Error(`/status has an unknown form at ${path}; the proxy may have another version`);
}

function textOrNull(value: unknown, path: string): string | null {
  return value === null || typeof value === "string" ? value : fail(path);
}

function flag(value: unknown, path: string): boolean {
  return typeof value === "boolean" ? value : fail(path);
}

/** Limit of a list. A proxy has at most 64 source addresses. */
const MAX_ENTRIES = 1000;

function list(value: unknown, path: string): Record<string, unknown>[] {
  if (!Array.isArray(value)) return fail(path);
  if (value.length > MAX_ENTRIES) throw new Error(`/status has more than ${MAX_ENTRIES} entries at ${path}`);
  return value as Record<string, unknown>[];
}

const texts = (value: unknown, path: string): string[] =>
  list(value, path).map((text) => (typeof text === "string" ? text : fail(path)));

/** Characters of a version that are kept. */
const MAX_VERSION = 64;

/** Parses the body of `/status`. @throws Error that names the field which has an unknown form */
export function readProxyStatus(body: string): ProxyStatus {
  const value = JSON.parse(body) as Record<string, unknown>;
  const policy = value.policy as { hash?: unknown } | null | undefined;
  const { version } = value;
  return {
    ...(typeof version === "string" ? { version: version.slice(0, MAX_VERSION) } : {}),
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
 * Whether a proxy has a policy, has bound its sources, and has all its proofs. With `spec`, proofs are not required if
 * the policy lets unverified proxies serve.
 */
export function isOpen(status: ProxyStatus | undefined, spec?: EgressPolicySpec): boolean {
  return (
    status !== undefined &&
    status.hash !== null &&
    status.sources.every((source) => source.assigned) &&
    (spec?.verification?.onUnverified === "Allow" || status.proofs.every((proof) => proof.verified))
  );
}
