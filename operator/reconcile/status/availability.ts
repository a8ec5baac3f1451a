import { type Finding, no, yes } from "../../api/conditions.ts";
import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { LABEL, REASON } from "../../api/names.ts";
import { type Deployment, whyNotRunning } from "../../api/objects.ts";
import type { ProxyFacts } from "../../fleet/proxy-status.ts";
import type { Facts } from "../facts/facts.ts";

type Spec = EgressPolicy["spec"];

/** How many proxies a fleet should have and has, and whether they are as the policy says now. */
export interface Availability {
  wanted: number;
  available: number;
  finding: Finding;
}

const isSeen = ({ metadata, status }: Deployment) => (status?.observedGeneration ?? 0) >= (metadata.generation ?? 0);

/** Whether a Deployment's pods are those of its newest template, all there, and none of an older one is left. */
export function isRolledOut(deployment: Deployment): boolean {
  const { spec, status } = deployment;
  const replicas = spec?.replicas ?? 1;
  const newest = status?.updatedReplicas ?? 0;
  if (!isSeen(deployment) || newest !== replicas || (status?.replicas ?? 0) !== newest) return false;
  return (status?.availableReplicas ?? 0) >= replicas;
}

/** Why a proxy does not run, in the words of the scheduler or the kubelet: nobody should have to look for the pod. */
function trouble({ pod, ready, leaving }: ProxyFacts, spec: Spec | undefined): string | undefined {
  if (ready || leaving) return undefined;
  const why = whyNotRunning(pod);
  if (why !== "ContainerCreating") return why === undefined ? undefined : `${pod.metadata.name}: ${why}`;
  // Every container is created for a moment; the kubelet tells of a volume that it waits for in events alone.
  const secret = spec?.authentication?.mode === "Basic" ? spec.authentication.secretRef?.name : undefined;
  return secret === undefined ? undefined : `${pod.metadata.name}: ${why}, which takes Secret ${secret}`;
}

const total = (deployments: readonly Deployment[], count: (one: Deployment) => number | undefined): number =>
  deployments.reduce((sum, one) => sum + (count(one) ?? 0), 0);

const wantedOf = (deployments: readonly Deployment[]) => total(deployments, ({ spec }) => spec?.replicas ?? 1);
const availableOf = (deployments: readonly Deployment[]) =>
  total(deployments, ({ status }) => status?.availableReplicas);

/** What the first Deployment of which a condition says so tells. */
function toldBy(
  deployments: readonly Deployment[],
  type: string,
  value: string,
): { reason: string | undefined; text: string } | undefined {
  for (const { metadata, status } of deployments) {
    const found = status?.conditions?.find((condition) => condition.type === type && condition.status === value);
    if (found !== undefined)
      return { reason: found.reason, text: `${metadata.name}: ${found.message ?? found.reason}` };
  }
  return undefined;
}

/** Old proxies that go on serving are no fleet as the policy says: they may ask for no password where it wants one. */
function judge(deployments: readonly Deployment[], proxies: readonly ProxyFacts[], spec: Spec | undefined): Finding {
  const failure = toldBy(deployments, "ReplicaFailure", "True");
  if (failure !== undefined) return no(REASON.replicaFailure, failure.text);
  if (!deployments.every(isSeen)) return no(REASON.progressing, "a Deployment was changed, and is not rolled out yet");
  const wanted = wantedOf(deployments);
  const available = `${availableOf(deployments)} of ${wanted} proxies are available`;
  if (deployments.every(isRolledOut)) return yes(REASON.available, available);
  const newest = total(deployments, ({ status }) => status?.updatedReplicas);
  const older = total(deployments, ({ status }) => status?.replicas) - newest;
  const stuck = toldBy(deployments, "Progressing", "False");
  const told = [
    available,
    ...(older === 0 ? [] : [`${newest} as the policy says now, ${older} as it said before`]),
    ...(stuck === undefined ? [] : [stuck.text]),
    ...proxies.flatMap((proxy) => trouble(proxy, spec) ?? []).slice(0, 1),
  ].join("; ");
  // Kubernetes gives a roll-out ten minutes, then says this.
  return no(stuck?.reason === REASON.deadlineExceeded ? REASON.deadlineExceeded : REASON.progressing, told);
}

/** Of a fleet. `retiring`: slots on their way out, whose proxies are nothing to wait for beside others. */
export function availability(facts: Facts, spec: Spec | undefined, retiring: ReadonlySet<string>): Availability {
  const all = [...facts.children.deployments.values()];
  const lasting = all.filter(({ metadata }) => !retiring.has(metadata.labels?.[LABEL.slot] ?? ""));
  const wanted = wantedOf(all);
  const finding = (): Finding => {
    if (all.length === 0) return no(REASON.unavailable, "there is no Deployment");
    if (wanted === 0) return no(REASON.unavailable, "the fleet has 0 replicas");
    if (lasting.length === 0) return judge(all, facts.proxies, spec);
    const proxies = facts.proxies.filter(({ slot }) => !retiring.has(slot));
    return judge(lasting, proxies, spec);
  };
  return { wanted, available: availableOf(all), finding: finding() };
}
