import type { EgressPolicySpec } from "../../api/egresspolicy.ts";
import { type Deployment, isSeen, isUnschedulable, whyNotRunning } from "../../api/objects.ts";
import { adminPort, isOpen, type ProxyFacts } from "../../fleet/proxy-status.ts";
import { canonicalAddress } from "../../fleet/slots.ts";
import type { Facts } from "../facts/facts.ts";
import { indexByAddress, nodesWith } from "../placement/placement.ts";
import type { ResolvedSpec } from "./resolved-spec.ts";
import { isUp, type Serving } from "./serving.ts";
import type { Unit } from "./units.ts";

/** A slot, or a shared fleet, that does not surely serve with its newest settings. */
export interface Down {
  unit: Unit;
  why: string;
  /** Newest time at which its state changed, in milliseconds since the epoch. */
  since: number;
  /**
   * Whether others wait for it without limit: its proxy does not run with the newest settings, and the same settings
   * could take all proxies down.
   */
  endless: boolean;
  /**
   * The same for the last serving proxy of a fleet. It also waits without limit for a slot that served and lost its
   * address or its node, unless no node has the address any more: the newest settings may be the cause.
   */
  endlessForLast: boolean;
  /** False if it surely never served. */
  served: boolean;
  /** Time until which it may return to service by itself, in milliseconds since the epoch. 0: it does not. */
  returnsUntil: number;
}

/**
 * Time for which a running proxy that lost its readiness, its address or its proof may return by itself. An echo server
 * that misses one round, or probes of a loaded node, must not make several slots restart at once.
 */
const MOMENT_MS = 30_000;

/** Delay of the first status after the creation of a Deployment. Shorter than the start and the restart of a proxy. */
const FIRST_STATUS_MS = 5000;

/**
 * Time that others wait for a slot whose proxy runs and lacks its address or its proof, or has no node. The rollout of
 * the others cannot be the cause. Longer than kube-vip needs to move an address, or an echo server to answer.
 */
export const PATIENCE_MS = 300_000;

/** Times of an RFC 3339 text, in milliseconds since the epoch. */
const times = (...texts: (string | undefined)[]): number[] =>
  texts.flatMap((text) => (text === undefined ? [] : [Date.parse(text)])).filter((time) => !Number.isNaN(time));

const progressOf = (deployment: Deployment) =>
  deployment.status?.conditions?.find(({ type }) => type === "Progressing");

/**
 * Newest time at which the state of a slot changed. It comes from objects only, so that a restart of the operator does
 * not extend the wait.
 */
function downSince(facts: Facts, spec: EgressPolicySpec, { slot, label }: Unit, deployment: Deployment): number {
  if (!isSeen(deployment)) return facts.now;
  const state = facts.policy.status?.staticIPs?.find(({ address }) => canonicalAddress(address) === slot?.address);
  // The status does not show the loss yet.
  const served: (string | undefined)[] = spec.verification === undefined ? ["Verified", "Assigned"] : ["Verified"];
  if (served.includes(state?.state) && facts.proxies.some((one) => one.slot === label && isClosed(one, spec))) {
    return facts.now;
  }
  const lost = state?.state === "Unassigned" || state?.state === "Mismatch" ? state.lastTransitionTime : undefined;
  const pods = facts.proxies.filter((proxy) => proxy.slot === label).map(({ pod }) => pod);
  const found = [
    ...times(lost, deployment.metadata.creationTimestamp, progressOf(deployment)?.lastUpdateTime),
    ...pods.flatMap(({ metadata, status }) =>
      times(
        metadata.creationTimestamp,
        metadata.deletionTimestamp,
        status?.conditions?.find(({ type }) => type === "Ready")?.lastTransitionTime,
      ),
    ),
  ];
  return found.length === 0 ? facts.now : Math.max(...found);
}

/** Whether a proxy runs with a policy and lacks its address or its proof. */
const isClosed = ({ terminating, status }: ProxyFacts, spec: EgressPolicySpec): boolean =>
  !terminating && status !== undefined && status.hash !== null && !isOpen(status, spec);

/** That the operator cannot read `/status` of a proxy, and the fix. */
export const unreadable = ({ pod, error }: ProxyFacts): string =>
  `the operator cannot read /status of ${pod.metadata.name}${error === undefined ? "" : ` (${error})`}; make port ${adminPort(pod)} of the proxy reachable for the operator`;

const NOT_RUNNING = "its proxy does not run yet";

function reasonOf(own: readonly ProxyFacts[], serving: Serving): string {
  const [proxy] = own;
  if (proxy === undefined) return NOT_RUNNING;
  const { name } = proxy.pod.metadata;
  if (proxy.ready && proxy.status === undefined) return unreadable(proxy);
  const unbound = proxy.status?.sources.find((source) => !source.assigned);
  if (unbound !== undefined) return `${name} does not have ${unbound.address}`;
  if (proxy.ready && serving.surely.includes(proxy)) return "its Deployment is not rolled out";
  const proof = proxy.status?.proofs.find(({ verified }) => !verified);
  if (proof !== undefined) return `${name} is not verified${proof.error === null ? "" : `: ${proof.error}`}`;
  const why = whyNotRunning(proxy.pod);
  return why === undefined ? `${name} does not serve yet` : `${name} does not run: ${why}`;
}

/** Why a slot does not surely serve; undefined if it does. Pure. */
export function downOf(
  facts: Facts,
  { spec, placements }: ResolvedSpec,
  serving: Serving,
  unit: Unit,
): Down | undefined {
  const { label, name } = unit;
  if (isUp(facts, serving, name, label)) return undefined;
  const deployment = facts.children.deployments.get(name);
  if (deployment === undefined) {
    const limits = { since: facts.now, endless: false, endlessForLast: false, returnsUntil: 0 };
    return { unit, why: NOT_RUNNING, served: false, ...limits };
  }
  const own = facts.proxies.filter((proxy) => proxy.slot === label && !proxy.terminating);
  // Without a list of nodes, the proxy has to run somewhere to find out.
  const unlisted = facts.nodes !== undefined && placements.get(label)?.nodes.length === 0;
  const inService = serving.inService.some(({ slot }) => slot === label);
  const addressMissing =
    unlisted || own.some(({ pod, status }) => isUnschedulable(pod) || (status !== undefined && !isOpen(status, spec)));
  const endless = !addressMissing && !inService;
  const served = hasServed(facts, unit, deployment);
  const since = downSince(facts, spec, unit, deployment);
  const returns = served && isCompleted(deployment) && own.some(({ pod }) => pod.status?.phase === "Running");
  return {
    unit,
    why: reasonOf(own, serving),
    since,
    endless,
    endlessForLast: endless || (served && !inService && !(placements.has(label) && isOnNoNode(facts, unit))),
    served,
    returnsUntil: returns ? since + MOMENT_MS : 0,
  };
}

/** Whether the newest template was available once. */
const isCompleted = (deployment: Deployment) => progressOf(deployment)?.reason === "NewReplicaSetAvailable";

/** Whether no node lists the address of a slot, whatever nodes the policy selects. */
function isOnNoNode({ nodes }: Facts, { slot }: Unit): boolean {
  return nodes !== undefined && slot !== undefined && nodesWith(indexByAddress(nodes), slot).length === 0;
}

/** False if the first rollout has not completed, or if the address was Unassigned ever since. */
function hasServed({ policy }: Facts, { slot }: Unit, deployment: Deployment): boolean {
  if (deployment.metadata.generation === 1 && !isCompleted(deployment)) return false;
  const state = policy.status?.staticIPs?.find(({ address }) => canonicalAddress(address) === slot?.address);
  if (state?.state !== "Unassigned") return true;
  const [created, unassigned] = [times(deployment.metadata.creationTimestamp), times(state.lastTransitionTime)];
  return !(unassigned[0]! <= created[0]! + FIRST_STATUS_MS);
}
