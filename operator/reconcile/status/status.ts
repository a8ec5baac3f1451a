import { type Condition, type Finding, mergeConditions, named, no, unknown, yes } from "../../api/conditions.ts";
import type { EgressPolicy, EgressPolicyStatus } from "../../api/egresspolicy.ts";
import { type ConditionType, childName, clientHost, REASON, type Reason, SERVICE_PORT } from "../../api/names.ts";
import { isUnschedulable } from "../../api/objects.ts";
import { isOpen, type ProxyFacts, type ProxyStatus } from "../../fleet/proxy-status.ts";
import { type Slot, slotsOf } from "../../fleet/slots.ts";
import type { Provider } from "../../providers/provider.ts";
import type { Refusal } from "../decision/accept.ts";
import type { Facts } from "../facts/facts.ts";
import { judgeNetworkPolicies, type NetworkPolicies } from "../network/network-policies.ts";
import { shortageOf, whyUnassigned } from "../placement/explain-unplaced.ts";
import { addressStates } from "./address-states.ts";
import { availability } from "./availability.ts";
import { judgeWorkloads } from "./workloads.ts";

type Spec = EgressPolicy["spec"];

/** What became of applying the desired objects. */
export interface Applied {
  /** The first thing that stands in the way. */
  problem: { reason: Reason; message: string } | undefined;
  /** The same of NetworkPolicies. */
  networkPolicy: { reason: Reason; message: string } | undefined;
}

/** All that a status is made from. */
export interface Verdict {
  refusal: Refusal | undefined;
  /** What is reconciled; undefined: nothing was ever accepted. */
  effective: { spec: Spec; hash: string; provider: Provider } | undefined;
  applied: Applied;
  /** Why the spec that was accepted before is refused as well. */
  stands: Refusal | undefined;
  /** Deployments of slots that are changed after others. */
  waiting: readonly string[];
  /** Proxies of what served before that have not ended. */
  formerProxies: readonly ProxyFacts[];
  /** Of the desired ones; undefined where nothing is reconciled. */
  networkPolicies: NetworkPolicies | undefined;
  clusterDomain: string;
}

/** Pods that a deletion waits for are what somebody has to act on: more of them are named. */
const IN_USE_SHOWN = 10;

const nothing = "no spec was accepted yet";

const podsOf = (proxies: readonly ProxyFacts[]) => named(proxies.map(({ pod }) => pod));

function programmed(facts: Facts, { effective, applied, stands, waiting, formerProxies }: Verdict): Finding {
  if (stands !== undefined) {
    return no(
      REASON.notAccepted,
      `what was accepted before is refused as well, and left as it stands: ${stands.message}`,
    );
  }
  if (effective === undefined) return no(REASON.notAccepted, nothing);
  if (applied.problem !== undefined) return no(applied.problem.reason, applied.problem.message);
  // A proxy that serves where no other one could be placed now, as on a cordoned node, is no shortage.
  const served = ({ id }: Slot) => facts.proxies.some(({ slot, ready, leaving }) => slot === id && ready && !leaving);
  const placed = effective.provider.slots && slotsOf(effective.spec).every(served);
  const shortage = placed ? undefined : shortageOf(facts.nodes, effective.spec, effective.provider);
  if (shortage !== undefined) return no(REASON.notEnoughNodes, shortage);
  if (waiting.length > 0) {
    return no(REASON.progressing, `slots are changed one after the other; ${waiting.length} wait`);
  }
  if (formerProxies.length > 0) {
    return no(REASON.progressing, `what served before has not ended: ${podsOf(formerProxies)}`);
  }
  return yes(REASON.programmed, "all objects are applied");
}

function distributed(ready: readonly ProxyFacts[], { effective }: Verdict): Finding {
  if (effective === undefined) return no(REASON.notAccepted, nothing);
  if (ready.length === 0) return no(REASON.noProxy, "no proxy is ready");
  const late = ready.filter((proxy) => proxy.status?.hash !== effective.hash);
  if (late.length === 0) return yes(REASON.distributed, `every ready proxy runs ${effective.hash}`);
  const why = late[0]!.status?.policyError ?? late[0]!.error;
  const count = `${ready.length - late.length} of ${ready.length} ready proxies run ${effective.hash}`;
  return no(REASON.propagating, `${count}; not yet: ${podsOf(late)}${why ? ` (${why})` : ""}`);
}

function verified(proxies: readonly ProxyFacts[], spec: Spec): Finding {
  if (spec.verification === undefined) return unknown(REASON.notRequested, "spec.verification is not set");
  // An unproven proxy is not ready where readiness waits for the proof: all that answer are looked at.
  const present = proxies.filter(({ leaving, status }) => !leaving && status !== undefined);
  for (const { pod, status } of present) {
    const wrong = status?.proofs.find((proof) => proof.observed.some((seen) => !proof.expected.includes(seen)));
    if (wrong === undefined || wrong.expected.length === 0) continue;
    const expected = wrong.expected.join(" or ");
    return no(REASON.mismatch, `${pod.metadata.name} leaves from ${wrong.observed.join(", ")}, not from ${expected}`);
  }
  const ready = proxies.filter((proxy) => proxy.ready);
  const unproven = (ready.length > 0 ? ready : present).filter(({ status }) => !isOpen(status));
  if (unproven.length > 0) {
    const error = unproven[0]!.status?.proofs.find((proof) => !proof.verified)?.error ?? unproven[0]!.error;
    return no(REASON.unproven, `not proven: ${podsOf(unproven)}${error ? ` (${error})` : ""}`);
  }
  if (ready.length === 0) return unknown(REASON.noProxy, "no proxy is ready");
  const isSilent = ({ provenAt, checkedAt }: ProxyStatus["proofs"][number]) => checkedAt !== provenAt;
  const silent = ready.filter(({ status }) => status?.proofs.some(isSilent));
  if (silent.length > 0) {
    const error = silent[0]!.status?.proofs.find(isSilent)?.error;
    return yes(REASON.stale, `the last proof holds, but no echo URL gives an answer: ${podsOf(silent)} (${error})`);
  }
  return yes(REASON.verified, `every ready proxy leaves from a published address`);
}

/** Where pods take any address of a pool, each pod has to have one; that some are free is as it should be. */
function pooled(proxies: readonly ProxyFacts[], spec: Spec): Finding {
  const sources = new Set(slotsOf(spec).map(({ source }) => source));
  const placed = proxies.filter(({ leaving, ips }) => !leaving && ips.length > 0);
  if (placed.length === 0) return no(REASON.unassigned, "no proxy has an address yet");
  const strays = placed.filter(({ ips }) => !ips.some((ip) => sources.has(ip)));
  if (strays.length === 0) return yes(REASON.assigned, "every proxy has a static IP");
  return no(REASON.unassigned, `none of the static IPs is that of ${podsOf(strays)}`);
}

/** What keeps a policy from being ready, in the order in which a person should look. */
const BLOCKING: readonly ConditionType[] = [
  "Accepted",
  "Programmed",
  "EgressIPVerified",
  "ProxyAvailable",
  "PolicyDistributed",
  "IPsAssigned",
  "NetworkPolicyApplied",
];

/** The same where a proxy lacks its address, or the node that has it: it is not ready, and not proven, for want of that. */
const BLOCKING_UNBOUND: readonly ConditionType[] = [
  "Accepted",
  "Programmed",
  "IPsAssigned",
  ...BLOCKING.filter((type) => !["Accepted", "Programmed", "IPsAssigned"].includes(type)),
];

/** Pure: the whole status. */
export function judge(facts: Facts, verdict: Verdict): EgressPolicyStatus {
  const { policy } = facts;
  const { effective, refusal } = verdict;
  const generation = policy.metadata.generation ?? 0;
  const now = new Date(facts.now).toISOString().replace(/\.\d+Z$/, "Z");
  const ready = facts.proxies.filter((proxy) => proxy.ready);
  const states = effective === undefined ? [] : addressStates(facts, effective.spec, effective.provider, now);
  const phases = new Map((effective?.spec.staticIPs ?? []).map(({ address, phase }) => [address, phase]));
  const active = states.filter(({ address }) => (phases.get(address) ?? "Active") === "Active");
  // What happens to a slot on its way out is nothing to wait for.
  const retiring = new Set(
    states.flatMap(({ state, slot }) => (state === "Retiring" && slot !== undefined ? [slot] : [])),
  );
  const fleet = availability(facts, effective?.spec, retiring);
  const inUse = facts.proxies.filter(({ slot }) => !retiring.has(slot));
  const missing = active.filter(({ state, slot }) => state === "Unassigned" && slot !== undefined);
  const assigned = (): Finding => {
    if (effective === undefined) return no(REASON.notAccepted, nothing);
    if (states.length === 0) return unknown(REASON.notRequested, "spec.staticIPs is empty");
    if (effective.provider.name === "External")
      return yes(REASON.outside, "addresses are assigned outside of the cluster");
    if (!effective.provider.slots) return pooled(facts.proxies, effective.spec);
    if (missing.length === 0) return yes(REASON.assigned, "every address is on a node");
    const all = `no proxy has ${missing.map(({ address }) => address).join(", ")}`;
    if (!effective.provider.pinned) return no(REASON.unassigned, all);
    return no(REASON.unassigned, `${all}; ${whyUnassigned(facts, effective.spec, missing[0]!.address)}`);
  };
  const host = clientHost(policy.metadata, verdict.clusterDomain);
  const workloads = effective === undefined ? undefined : judgeWorkloads(policy, effective.spec, facts.asking, host);
  const findings: Record<Exclude<ConditionType, "Ready">, Finding> = {
    Accepted:
      refusal === undefined ? yes(REASON.accepted, "the spec is in force") : no(refusal.reason, refusal.message),
    Programmed: programmed(facts, verdict),
    PolicyDistributed: distributed(ready, verdict),
    ProxyAvailable: effective === undefined && fleet.wanted === 0 ? no(REASON.notAccepted, nothing) : fleet.finding,
    IPsAssigned: assigned(),
    EgressIPVerified: effective === undefined ? unknown(REASON.notAccepted, nothing) : verified(inUse, effective.spec),
    WorkloadsInjected: workloads?.finding ?? unknown(REASON.notAccepted, nothing),
    NetworkPolicyApplied:
      effective === undefined || verdict.networkPolicies === undefined
        ? unknown(REASON.notAccepted, nothing)
        : judgeNetworkPolicies(
            facts,
            effective.spec,
            effective.provider,
            verdict.networkPolicies,
            verdict.applied.networkPolicy,
          ),
  };
  const summary = (): Finding => {
    if (policy.metadata.deletionTimestamp !== undefined) {
      return no(REASON.inUse, `deletion waits for pods that use this fleet: ${named(facts.injected, IN_USE_SHOWN)}`);
    }
    const pinned = effective?.provider.pinned ?? false;
    const unbound = inUse.some(({ leaving, status, pod }) => {
      if (leaving) return false;
      return (pinned && isUnschedulable(pod)) || (status?.sources.some(({ assigned }) => !assigned) ?? false);
    });
    // That one leaves from a wrong address is worse than that another one does not leave.
    const order = unbound && findings.EgressIPVerified.reason !== REASON.mismatch ? BLOCKING_UNBOUND : BLOCKING;
    const isBlocking = (type: ConditionType) => type !== "Ready" && findings[type].status === "False";
    // That something goes on is the least of what there is to say.
    const goesOn = (type: ConditionType) => type === "Programmed" && findings[type].reason === REASON.progressing;
    const blocking = order.find((type) => isBlocking(type) && !goesOn(type)) ?? order.find(isBlocking);
    if (blocking === undefined || blocking === "Ready") return yes(REASON.ready, "the fleet serves this policy");
    const { reason, message } = findings[blocking];
    return no(reason, `${blocking}: ${message}`);
  };
  const before = (policy.status?.conditions ?? []) as readonly Condition[];
  const name = policy.metadata.name;
  const clusterIP = facts.children.services.get(childName.fleet(name))?.spec?.clusterIP;
  const proven = states.filter(({ state }) => state === "Verified").length;
  return {
    observedGeneration: generation,
    conditions: mergeConditions(before, { ...findings, Ready: summary() }, generation, now),
    ...(effective === undefined
      ? {}
      : {
          staticIPs: states,
          endpoint: { host, port: SERVICE_PORT, ...(clusterIP === undefined ? {} : { clusterIP }) },
          summary: {
            staticIPs: states.map(({ address }) => address).join(","),
            verified: states.length === 0 ? "" : `${proven}/${active.length}`,
            proxies: `${fleet.available}/${fleet.wanted}`,
            workloads: workloads?.summary ?? "",
            policyHash: effective.hash,
          },
        }),
  } as EgressPolicyStatus;
}
