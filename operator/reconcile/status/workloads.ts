import { type Finding, named, no, unknown, yes } from "../../api/conditions.ts";
import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { ANNOTATION, REASON, SERVICE_PORT } from "../../api/names.ts";
import { type Coverage, coverage, mayIgnoreProxy } from "../../injection/coverage.ts";
import { markerOf } from "../../injection/variables.ts";
import type { ObjectMeta } from "../../kube/resource.ts";

/** What is known of the pods that ask for a policy. */
export interface Workloads {
  finding: Finding;
  /** `covered/all`; empty where none asks. */
  summary: string;
}

/** A pod by its metadata, and the labels of its namespace. */
export interface Asking {
  pod: { metadata: ObjectMeta };
  namespaceLabels: Readonly<Record<string, string>> | undefined;
}

/** An annotation, which anybody may write, has room for much more. */
const MAX_REASON_CHARS = 500;

const podsOf = (asking: readonly Asking[]) => named(asking.map(({ pod }) => pod));

/** Which pods were not injected, and why: what admission has written on them, else that it was not asked. */
function whyMissed(missed: readonly Asking[]): string {
  const reasonOf = ({ pod }: Asking) => pod.metadata.annotations?.[ANNOTATION.skipped];
  const left = missed.filter((one) => reasonOf(one) !== undefined);
  const early = missed.filter((one) => !left.includes(one));
  const parts = early.length === 0 ? [] : [`not injected: ${podsOf(early)}; make them anew`];
  if (left.length > 0) {
    const [first] = [...left].sort((a, b) => (a.pod.metadata.name < b.pod.metadata.name ? -1 : 1));
    const reason = reasonOf(first!)!.slice(0, MAX_REASON_CHARS);
    parts.push(
      `left as they were: ${podsOf(left)} (${first!.pod.metadata.name}: ${reason}); mend that, and make them anew`,
    );
  }
  return parts.join("; ");
}

/** How the pods that ask for a policy stand to what it injects now. `host`: of the client Service. Pure, by their metadata alone. */
export function judgeWorkloads(
  policy: EgressPolicy,
  spec: EgressPolicy["spec"],
  asking: readonly Asking[],
  host: string,
): Workloads {
  const wanted = markerOf({ policy: { ...policy, spec }, host, port: SERVICE_PORT });
  if (wanted === undefined) {
    return { finding: unknown(REASON.notRequested, "spec.injection.mode is None"), summary: "" };
  }
  const by: Record<Coverage, Asking[]> = { covered: [], stale: [], missed: [], none: [] };
  for (const one of asking) by[coverage(one.pod, wanted, one.namespaceLabels)].push(one);
  const all = by.covered.length + by.stale.length + by.missed.length;
  if (all === 0) return { finding: unknown(REASON.noWorkload, "no pod asks for this policy"), summary: "" };
  const summary = `${by.covered.length}/${all}`;
  const ignoring = by.missed.filter(({ pod }) => mayIgnoreProxy(pod) !== undefined);
  const missed = by.missed.filter((one) => !ignoring.includes(one));
  const lacking = (reason: Finding["reason"], message: string): Workloads => ({
    finding: no(reason, `${summary} pods ${message}`),
    summary,
  });
  if (missed.length > 0) return lacking(REASON.missed, `send through the proxies; ${whyMissed(missed)}`);
  if (by.stale.length > 0) {
    const older = `have what is injected now; older settings: ${podsOf(by.stale)}; make them anew`;
    return lacking(REASON.outdated, older);
  }
  if (ignoring.length > 0) {
    const message = `${podsOf(ignoring)}: ${mayIgnoreProxy(ignoring[0]!.pod)}`;
    return { finding: unknown(REASON.mayIgnoreProxy, message), summary };
  }
  return { finding: yes(REASON.injected, `${summary} pods send through the proxies`), summary };
}
