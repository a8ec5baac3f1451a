import { type Finding, joinNames, no, unknown, yes } from "../../api/conditions.ts";
import type { EgressPolicySpec } from "../../api/egresspolicy.ts";
import { ANNOTATION, REASON, SERVICE_PORT } from "../../api/names.ts";
import { type Coverage, coverage, mayIgnoreProxy } from "../../injection/coverage.ts";
import { markerOf } from "../../injection/variables.ts";
import type { Facts, RequestingPod } from "../facts/facts.ts";

/** Injection state of the pods that request a policy. */
export interface Workloads {
  finding: Finding;
  /** `covered/all`; empty if no pod requests the policy. */
  summary: string;
}

/** Limit of a quoted annotation, which users can write and which may be much longer. */
const MAX_REASON_CHARS = 500;

const requestingPods = (pods: readonly RequestingPod[]) => joinNames(pods.map(({ pod }) => pod));

/** Missed pods with the reason that admission wrote on them, or that they are older than the webhook. */
function whyMissed(missed: readonly RequestingPod[]): string {
  const reasonOf = ({ pod }: RequestingPod) => pod.metadata.annotations?.[ANNOTATION.skipped];
  const left = missed.filter((one) => reasonOf(one) !== undefined);
  const early = missed.filter((one) => !left.includes(one));
  const parts =
    early.length === 0
      ? []
      : [`not injected: ${requestingPods(early)} (created before the webhook ran; restart the pods)`];
  if (left.length > 0) {
    const [first] = [...left].sort((a, b) => (a.pod.metadata.name < b.pod.metadata.name ? -1 : 1));
    const reason = reasonOf(first!)!.slice(0, MAX_REASON_CHARS);
    parts.push(
      `skipped: ${requestingPods(left)} (${first!.pod.metadata.name}: ${reason}); fix this and restart the pods`,
    );
  }
  return parts.join("; ");
}

/**
 * Compares requesting pods with what the policy injects now, by their metadata. `host`: of the client Service. Pure.
 */
export function judgeWorkloads(
  { policy, requesting }: Pick<Facts, "policy" | "requesting">,
  spec: EgressPolicySpec,
  host: string,
): Workloads {
  const wanted = markerOf({ policy: { ...policy, spec }, host, port: SERVICE_PORT });
  if (wanted === undefined) {
    return { finding: unknown(REASON.notRequested, "spec.injection.mode is None"), summary: "" };
  }
  const by: Record<Coverage, RequestingPod[]> = { covered: [], stale: [], missed: [], none: [] };
  for (const one of requesting) by[coverage(one.pod, wanted, one.namespaceLabels)].push(one);
  const all = by.covered.length + by.stale.length + by.missed.length;
  if (all === 0) return { finding: unknown(REASON.noWorkload, "no pod requests this policy"), summary: "" };
  const summary = `${by.covered.length}/${all}`;
  const ignoring = by.missed.filter(({ pod }) => mayIgnoreProxy(pod) !== undefined);
  const missed = by.missed.filter((one) => !ignoring.includes(one));
  const lacking = (reason: Finding["reason"], message: string): Workloads => ({
    finding: no(reason, `${summary} pods ${message}`),
    summary,
  });
  if (missed.length > 0) return lacking(REASON.missed, `send through the proxies; ${whyMissed(missed)}`);
  if (by.stale.length > 0) {
    const older = `have the current settings; outdated: ${requestingPods(by.stale)}; restart them`;
    return lacking(REASON.outdated, older);
  }
  if (ignoring.length > 0) {
    const message = `${requestingPods(ignoring)}: ${mayIgnoreProxy(ignoring[0]!.pod)}`;
    return { finding: unknown(REASON.mayIgnoreProxy, message), summary };
  }
  return { finding: yes(REASON.injected, `${summary} pods send through the proxies`), summary };
}
