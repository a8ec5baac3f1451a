import type { Finding } from "../api/conditions.ts";
import type { EgressPolicy } from "../api/egresspolicy.ts";
import { childName, REASON, SERVICE_PORT } from "../api/names.ts";
import type { ObjectMeta } from "../kube/resource.ts";
import { type Coverage, coverage, mayIgnoreProxy } from "../webhook/coverage.ts";
import { markerOf } from "../webhook/variables.ts";

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

const SHOWN = 3;

function named(pods: readonly Asking[]): string {
  const names = pods.map(({ pod }) => pod.metadata.name).sort();
  const rest = names.length - SHOWN;
  return rest > 0 ? `${names.slice(0, SHOWN).join(", ")} and ${rest} more` : names.join(", ");
}

/** How the pods that ask for a policy stand to what it injects now. Pure, by their metadata alone. */
export function judgeWorkloads(
  policy: EgressPolicy,
  spec: EgressPolicy["spec"],
  asking: readonly Asking[],
  clusterDomain: string,
): Workloads {
  const { name, namespace } = policy.metadata;
  const host = `${childName.fleet(name)}.${namespace}.svc.${clusterDomain}`;
  const wanted = markerOf({ policy: { ...policy, spec }, host, port: SERVICE_PORT });
  const unknown = (reason: Finding["reason"], message: string): Finding => ({ status: "Unknown", reason, message });
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
  const no = (reason: Finding["reason"], message: string): Workloads => {
    return {
      finding: { status: "False", reason, message: `${summary} pods send through the proxies; ${message}` },
      summary,
    };
  };
  if (missed.length > 0)
    return no(REASON.missed, `not injected: ${named(missed)}; make them anew, and see their events`);
  if (by.stale.length > 0) return no(REASON.outdated, `injected by older settings: ${named(by.stale)}; make them anew`);
  if (ignoring.length > 0) {
    const message = `${named(ignoring)}: ${mayIgnoreProxy(ignoring[0]!.pod)}`;
    return { finding: unknown(REASON.mayIgnoreProxy, message), summary };
  }
  return {
    finding: { status: "True", reason: REASON.injected, message: `${summary} pods send through the proxies` },
    summary,
  };
}
