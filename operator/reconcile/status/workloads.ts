import { counted, type Finding, joinNames, no, unknown, yes } from "../../api/conditions.ts";
import type { EgressPolicySpec } from "../../api/egresspolicy.ts";
import { ANNOTATION, LABEL, REASON, SERVICE_PORT } from "../../api/names.ts";
import { isRefused, needsCertificate } from "../../injection/clients.ts";
import { type Coverage, coverage, mayIgnoreProxy } from "../../injection/coverage.ts";
import { isMirror } from "../../injection/pod.ts";
import { expectedBy } from "../../injection/variables.ts";
import type { Facts, RequestingPod } from "../facts/facts.ts";
import { strangersText } from "./clients.ts";

/** Injection state of the pods that request a policy. */
export interface Workloads {
  finding: Finding;
  /** `covered/all`; empty if no pod requests the policy. */
  summary: string;
}

/** Limit of a quoted annotation, which users can write and which may be much longer. */
const MAX_REASON_CHARS = 500;

/** Start of the reason of a container in {@link ANNOTATION.skipped}: `agent=` in `agent=HTTPS_PROXY is already set`. */
const CONTAINER = /(^|; )([a-z0-9-]+)=/g;

const requestingPods = (pods: readonly RequestingPod[]) => joinNames(pods.map(({ pod }) => pod));

const restart = (pods: readonly RequestingPod[]) => (pods.length === 1 ? "restart it" : "restart them");

/**
 * Missed pods: static pods, those with a reason that admission wrote on them, those whose client has no rules, and those
 * older than the webhook.
 */
function whyMissed(missed: readonly RequestingPod[], spec: EgressPolicySpec): string {
  const reasonOf = ({ pod }: RequestingPod) => pod.metadata.annotations?.[ANNOTATION.skipped];
  const fixed = missed.filter(({ pod }) => isMirror(pod));
  const others = missed.filter((one) => !fixed.includes(one));
  const left = others.filter((one) => reasonOf(one) !== undefined);
  const isInjected = ({ pod }: RequestingPod) => pod.metadata.annotations?.[ANNOTATION.injected] !== undefined;
  const refused = others.filter((one) => !left.includes(one) && isInjected(one) && isRefused(one.pod, spec));
  const early = others.filter((one) => !left.includes(one) && !refused.includes(one));
  const parts: string[] = [];
  if (refused.length > 0) {
    const what = `the proxies refuse ${counted(refused.length, "pod", "pods")}: ${requestingPods(refused)}`;
    const why = needsCertificate(spec)
      ? "authentication.mode TLS needs a client certificate; configure their senders, or use BasicOrTLS"
      : `spec.clients has neither their client nor default; add default to it, or set the annotation ${ANNOTATION.client}`;
    parts.push(`${what} (${why})`);
  }
  if (early.length > 0) {
    const what = `${counted(early.length, "pod is", "pods are")} not injected: ${requestingPods(early)}`;
    const cause = "created before the webhook ran, or before the label or annotation was added";
    parts.push(`${what} (${cause}; ${restart(early)})`);
  }
  if (left.length > 0) {
    const [first] = [...left].sort((a, b) => (a.pod.metadata.name < b.pod.metadata.name ? -1 : 1));
    const reason = reasonOf(first!)!.slice(0, MAX_REASON_CHARS).replace(CONTAINER, "$1container $2: ");
    const what = `the webhook skipped ${counted(left.length, "pod, or a container of it", "pods, or containers of them")}`;
    const fix = `correct this, then ${restart(left)}`;
    parts.push(`${what}: ${requestingPods(left)}; reason in pod ${first!.pod.metadata.name}: ${reason} (${fix})`);
  }
  if (fixed.length > 0) {
    const what = counted(fixed.length, "pod is a static pod", "pods are static pods");
    const fix = "set the variables there, or use a DaemonSet";
    parts.push(`${what}: ${requestingPods(fixed)} (their containers run from files of the node; ${fix})`);
  }
  return parts.join("; ");
}

/**
 * Compares requesting pods with what the policy injects now, by their metadata. `host`: of the client Service.
 * `strangers`: pods that name a client which the spec does not list. Pure.
 */
export function judgeWorkloads(
  { policy, requesting }: Pick<Facts, "policy" | "requesting">,
  spec: EgressPolicySpec,
  host: string,
  strangers: readonly RequestingPod[],
): Workloads {
  const expectedOf = expectedBy({ policy: { ...policy, spec }, host, port: SERVICE_PORT });
  if (spec.injection.mode === "None") {
    return { finding: unknown(REASON.notRequested, "spec.injection.mode is None"), summary: "" };
  }
  const by: Record<Coverage, RequestingPod[]> = { covered: [], stale: [], missed: [], none: [] };
  for (const one of requesting) by[coverage(one.pod, expectedOf, one.namespaceLabels)].push(one);
  const all = by.covered.length + by.stale.length + by.missed.length;
  if (all === 0) {
    const how = `label or annotation ${LABEL.policy}: ${policy.metadata.name}`;
    return { finding: unknown(REASON.noWorkload, `no pod requests this policy (${how})`), summary: "" };
  }
  const summary = `${by.covered.length}/${all}`;
  const ignoring = by.missed.filter(({ pod }) => mayIgnoreProxy(pod) !== undefined);
  const missed = by.missed.filter((one) => !ignoring.includes(one));
  const current = `${by.covered.length} of ${counted(all, "pod has", "pods have")} the current proxy settings`;
  if (missed.length > 0) return { finding: no(REASON.missed, `${current}; ${whyMissed(missed, spec)}`), summary };
  const unlisted = strangersText(strangers);
  if (unlisted !== undefined) return { finding: no(REASON.clientUnlisted, `${current}; ${unlisted}`), summary };
  if (by.stale.length > 0) {
    const what = counted(by.stale.length, "pod has", "pods have");
    const message = `${current}; ${what} outdated ones: ${requestingPods(by.stale)} (${restart(by.stale)})`;
    return { finding: no(REASON.outdated, message), summary };
  }
  if (ignoring.length > 0) {
    const what = counted(ignoring.length, "injected pod", "injected pods");
    const message = `${what} may ignore the proxy settings: ${requestingPods(ignoring)} (${mayIgnoreProxy(ignoring[0]!.pod)})`;
    return { finding: unknown(REASON.mayIgnoreProxy, message), summary };
  }
  return { finding: yes(REASON.injected, current), summary };
}
