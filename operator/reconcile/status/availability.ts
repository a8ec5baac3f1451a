import { counted, type Finding, no, yes } from "../../api/conditions.ts";
import type { EgressPolicySpec } from "../../api/egresspolicy.ts";
import { ANNOTATION, REASON } from "../../api/names.ts";
import { type Deployment, isRolledOut, isSeen, whyNotRunning } from "../../api/objects.ts";
import { slotLabel } from "../../fleet/metadata.ts";
import type { ProxyFacts } from "../../fleet/proxy-status.ts";
import type { Effective } from "../decision/decide.ts";
import type { Facts } from "../facts/facts.ts";
import { proxyFiles } from "../objects/proxy-files.ts";
import { enforcesReplicas, replicasSetBy } from "../objects/replicas.ts";

/** Wanted and available proxies of a fleet, and whether all of them have the newest settings. */
export interface Availability {
  wanted: number;
  available: number;
  finding: Finding;
}

/**
 * Why a proxy does not run, in the words of the scheduler or the kubelet, so that users need not search for the pod.
 */
function trouble({ pod, ready, terminating }: ProxyFacts, spec: EgressPolicySpec | undefined): string | undefined {
  if (ready || terminating) return undefined;
  const why = whyNotRunning(pod);
  if (why !== "ContainerCreating") return why === undefined ? undefined : `proxy ${pod.metadata.name}: ${why}`;
  // A missing Secret also shows as ContainerCreating: the kubelet reports a volume that it waits for in events only.
  const needed = spec === undefined ? [] : [...new Set(proxyFiles(spec).map(({ from }) => from))];
  return needed.length === 0 ? undefined : `proxy ${pod.metadata.name}: ${why} (needs ${needed.join(", ")})`;
}

const total = (deployments: readonly Deployment[], count: (one: Deployment) => number | undefined): number =>
  deployments.reduce((sum, one) => sum + (count(one) ?? 0), 0);

const replicasOf = (deployments: readonly Deployment[]) => total(deployments, ({ spec }) => spec?.replicas ?? 1);
const availableOf = (deployments: readonly Deployment[]) =>
  total(deployments, ({ status }) => status?.availableReplicas);

/** First Deployment whose condition has this status, with its message. */
function conditionOf(
  deployments: readonly Deployment[],
  type: string,
  value: string,
): { reason: string | undefined; text: string } | undefined {
  for (const { metadata, status } of deployments) {
    const found = status?.conditions?.find((condition) => condition.type === type && condition.status === value);
    if (found !== undefined)
      return { reason: found.reason, text: `Deployment ${metadata.name}: ${found.message ?? found.reason}` };
  }
  return undefined;
}

const newerAndOlder = (newest: number, older: number) =>
  `${counted(newest, "proxy has", "proxies have")} the new settings, ${counted(older, "has", "have")} the old ones`;

/** Old proxies that still serve do not make a fleet available: they may not require the password of the new spec. */
function judgeRollout(
  deployments: readonly Deployment[],
  proxies: readonly ProxyFacts[],
  spec: EgressPolicySpec | undefined,
): Finding {
  const failure = conditionOf(deployments, "ReplicaFailure", "True");
  if (failure !== undefined) return no(REASON.replicaFailure, failure.text);
  const unseen = deployments.find((one) => !isSeen(one));
  if (unseen !== undefined) {
    const message = `the Deployment controller has not processed the newest spec of ${unseen.metadata.name} yet`;
    return no(REASON.progressing, message);
  }
  const wanted = replicasOf(deployments);
  const available = `${availableOf(deployments)} of ${counted(wanted, "proxy is", "proxies are")} available`;
  if (deployments.every(isRolledOut)) return yes(REASON.available, available);
  const newest = total(deployments, ({ status }) => status?.updatedReplicas);
  const older = total(deployments, ({ status }) => status?.replicas) - newest;
  const stuck = conditionOf(deployments, "Progressing", "False");
  const message = [
    available,
    ...(older === 0 ? [] : [newerAndOlder(newest, older)]),
    ...(stuck === undefined ? [] : [stuck.text]),
    ...proxies.flatMap((proxy) => trouble(proxy, spec) ?? []).slice(0, 1),
  ].join("; ");
  // Kubernetes sets this reason after ten minutes without progress.
  return no(stuck?.reason === REASON.deadlineExceeded ? REASON.deadlineExceeded : REASON.progressing, message);
}

const NO_DEPLOYMENT =
  "no Deployment of the proxies exists yet; the operator will create it, unless Programmed names an obstacle";
const ALL_PENDING = "no proxy runs, since all static IPs are Pending; set the phase of one to Active";

const handBack = ({ metadata: { name, namespace } }: Facts["policy"]) =>
  `kubectl annotate egpol ${name} -n ${namespace} ${ANNOTATION.enforceReplicas}=true`;

/** Says that another manager has set the number of replicas; undefined if the operator has. */
function foreignNumber({ policy }: Facts, deployments: readonly Deployment[]): string | undefined {
  const [manager] = deployments.flatMap((one) => replicasSetBy(one) ?? []);
  if (manager === undefined || enforcesReplicas(policy)) return undefined;
  return `${manager} has set the number of replicas, so spec.proxy.replicas has no effect; to undo this: ${handBack(policy)}`;
}

function scaledToZero({ policy }: Facts, [one]: readonly Deployment[]): Finding {
  const { name, namespace } = one!.metadata;
  const scale = `kubectl scale deployment ${name} -n ${namespace ?? policy.metadata.namespace} --replicas=N`;
  const fix = `to start proxies: ${scale}, or for the number of the policy: ${handBack(policy)}`;
  return no(REASON.scaledToZero, `the Deployment of the proxies was scaled to 0 replicas, so senders fail; ${fix}`);
}

/**
 * Availability of a fleet. `retiring`: ids of slots whose proxies need not become available, unless there are no
 * others.
 */
export function availability(
  facts: Facts,
  effective: Effective | undefined,
  retiring: ReadonlySet<string>,
): Availability {
  const all = [...facts.children.deployments.values()];
  const lasting = all.filter((deployment) => !retiring.has(slotLabel(deployment)));
  const wanted = replicasOf(all);
  const allPending = effective?.provider.shape.kind === "Slots" && effective.slots.length === 0;
  const finding = (): Finding => {
    if (all.length === 0) return no(REASON.unavailable, allPending ? ALL_PENDING : NO_DEPLOYMENT);
    if (wanted === 0) return scaledToZero(facts, all);
    const judged = lasting.length === 0 ? all : lasting;
    const proxies = lasting.length === 0 ? facts.proxies : facts.proxies.filter(({ slot }) => !retiring.has(slot));
    const rollout = judgeRollout(judged, proxies, effective?.spec);
    const foreign = effective?.provider.shape.kind === "Slots" ? undefined : foreignNumber(facts, all);
    return foreign === undefined ? rollout : { ...rollout, message: `${rollout.message}; ${foreign}` };
  };
  return { wanted, available: availableOf(all), finding: finding() };
}
