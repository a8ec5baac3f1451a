import { wideningOf } from "../../../proxy/policy/diff/widening.ts";
import { PolicyError } from "../../../proxy/policy/rules.ts";
import { joinNames } from "../../api/conditions.ts";
import type { EgressPolicy, EgressPolicySpec } from "../../api/egresspolicy.ts";
import { GROUP, KIND, REASON, type Reason, VERSION } from "../../api/names.ts";
import { canonicalAddress, slotId } from "../../fleet/slots.ts";
import { notGranted } from "../../providers/grants.ts";
import { PROVIDER_NAMES, providerOf } from "../../providers/index.ts";
import type { Facts } from "../facts/facts.ts";
import { type Accepted, MAX_CONFIGMAP_BYTES } from "../objects/configmap.ts";
import { MAX_SPEC_BYTES } from "../objects/record.ts";
import { documentOf } from "./document.ts";
import { conflictOf } from "./ownership.ts";

/** Why a spec is rejected. The user has to fix it. */
export interface Rejection {
  reason: Reason;
  message: string;
}

/** An accepted spec, or why it is rejected. */
export type Verdict = { accepted: Accepted } | Rejection;

/** Results of {@link validate} by spec. */
const validated = new WeakMap<EgressPolicySpec, { blocked: readonly string[]; result: Verdict }>();

type StaticIP = NonNullable<EgressPolicySpec["staticIPs"]>[number];

/**
 * What only one entry of `staticIPs` may have, with the field of each. A Pending address has no slot yet, so it may have
 * the source of another entry, whose slot it replaces later.
 */
function ownOf({ address, sourceAddress, phase }: StaticIP, path: string): ReadonlyMap<string, string> {
  const own = new Map([[canonicalAddress(address), `${path}.address`]]);
  if (phase === "Pending") return own;
  const source = canonicalAddress(sourceAddress ?? address);
  if (!own.has(source)) own.set(source, `${path}.sourceAddress`);
  return own.set(`slot id ${slotId(address)}`, `${path}.address`);
}

/** An address, or the id of a slot, that two entries of one spec share. */
function repeated(spec: EgressPolicySpec): string | undefined {
  const taken = new Map<string, string>();
  for (const [i, ip] of (spec.staticIPs ?? []).entries()) {
    const own = ownOf(ip, `spec.staticIPs[${i}]`);
    for (const [one, field] of own) {
      const other = taken.get(one);
      if (other !== undefined) return `${field}: ${one} is also ${other}; use each address in one slot only`;
    }
    for (const [one, field] of own) taken.set(one, field);
  }
  return undefined;
}

/** Whether the document or the packed spec does not fit into its ConfigMap. */
function tooLarge({ document, spec }: Accepted): Rejection | undefined {
  const stored = [
    { what: "the policy document", bytes: Buffer.byteLength(document), limit: MAX_CONFIGMAP_BYTES },
    { what: "the compressed spec", bytes: Buffer.byteLength(spec, "base64"), limit: MAX_SPEC_BYTES },
  ];
  const excess = stored.find(({ bytes, limit }) => bytes > limit);
  if (excess === undefined) return undefined;
  const { what, bytes, limit } = excess;
  return {
    reason: REASON.tooLarge,
    message: `spec: ${what} has ${bytes} bytes; its ConfigMap has room for ${limit}; use fewer hosts, or wildcards`,
  };
}

/** Validates the spec of a policy by itself: without grants, and without other policies. */
function validate(policy: EgressPolicy, blockedCIDRs: readonly string[]): Verdict {
  const { spec } = policy;
  const provider = providerOf(spec);
  if (provider === undefined) {
    const known = PROVIDER_NAMES.join(", ");
    return {
      reason: REASON.unsupported,
      message: `spec.nat.provider: this version does not support ${spec.nat?.provider}; use one of ${known}`,
    };
  }
  let accepted: Accepted;
  try {
    accepted = documentOf(policy, blockedCIDRs);
  } catch (error) {
    if (!(error instanceof PolicyError)) throw error;
    return { reason: REASON.invalid, message: error.numbered };
  }
  const excess = tooLarge(accepted);
  if (excess !== undefined) return excess;
  const twice = provider.shape.kind === "Slots" ? repeated(spec) : undefined;
  return twice === undefined ? { accepted } : { reason: REASON.invalid, message: twice };
}

/** Warning about an edit that removes the clients of a policy; undefined for other edits. */
export function clientsRemoved(before: EgressPolicySpec | undefined, now: EgressPolicySpec): string | undefined {
  if (before?.clients === undefined || now.clients !== undefined || now.authentication.mode === "None")
    return undefined;
  const names = joinNames(before.clients.map(({ name }) => ({ metadata: { name } })));
  return `spec.clients was removed, and authentication stays: each client that authenticates now has the rules of the policy (before: ${names})`;
}

/** events.k8s.io allows 1024. */
const MAX_EVENT_CHARS = 1000;

/** Warning about an edit that opens more than the allow lists of the policy say; undefined for other edits. */
export function reachWidened(
  policy: EgressPolicy,
  before: EgressPolicySpec,
  blockedCIDRs: readonly string[],
): string | undefined {
  const manifest = (spec: EgressPolicySpec) => {
    const { name, namespace } = policy.metadata;
    return { apiVersion: `${GROUP}/${VERSION}`, kind: KIND, metadata: { name, namespace }, spec };
  };
  return wideningOf(manifest(before), manifest(policy.spec), blockedCIDRs)?.slice(0, MAX_EVENT_CHARS);
}

/** Repository of an image: without tag and digest. */
const repositoryOf = (image: string): string => image.replace(/@.*$/, "").replace(/:[^/:]*$/, "");

/**
 * Whether the image of a policy is of another repository than that of the operator. Proxies may run on the networks of
 * nodes and have addresses that others trust, so users of policies must not choose the program.
 */
function otherRepository({ proxy }: EgressPolicySpec, image: string): string | undefined {
  const [own, granted] = [proxy?.image, repositoryOf(image)];
  if (own === undefined || repositoryOf(own) === granted) return undefined;
  return `spec.proxy.image: ${own} is not of the repository ${granted} of the operator's --proxy-image; use a tag or digest of ${granted}`;
}

/** Validates a spec, and whether its namespace may use its provider and addresses. */
function validateGranted(policy: EgressPolicy, { blockedCIDRs, grants, image }: Facts): Verdict {
  const { spec } = policy;
  const known = validated.get(spec);
  const result = known?.blocked === blockedCIDRs ? known.result : validate(policy, blockedCIDRs);
  if (result !== known?.result) validated.set(spec, { blocked: blockedCIDRs, result });
  if (!("accepted" in result)) return result;
  const refused =
    notGranted(grants, policy.metadata.namespace!, providerOf(spec)!, spec) ?? otherRepository(spec, image);
  return refused === undefined ? result : { reason: REASON.notGranted, message: refused };
}

/** Decides whether the spec of a policy is accepted. */
export function judgeSpec(facts: Facts): Verdict {
  const result = validateGranted(facts.policy, facts);
  if (!("accepted" in result)) return result;
  const conflict = conflictOf(facts, (other) => "accepted" in validateGranted(other, facts));
  return conflict === undefined ? result : { reason: REASON.conflicted, message: conflict };
}
