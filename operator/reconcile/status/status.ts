import { boundedTexts } from "../../../proxy/policy/rules.ts";
import {
  counted,
  type Finding,
  joinNames,
  mergeConditions,
  no,
  type PolicyCondition,
  unknown,
  yes,
} from "../../api/conditions.ts";
import type { EgressPolicySpec, EgressPolicyStatus } from "../../api/egresspolicy.ts";
import {
  type ConditionType,
  childName,
  clientHost,
  LABEL,
  REASON,
  type Reason,
  SERVICE_PORT,
  SERVICE_TLS_PORT,
} from "../../api/names.ts";
import { isUnschedulable } from "../../api/objects.ts";
import { isOpen, type ProxyFacts, type ProxyStatus } from "../../fleet/proxy-status.ts";
import type { Slot } from "../../fleet/slots.ts";
import { isOnNode } from "../../providers/provider.ts";
import type { Effective, Plan } from "../decision/decide.ts";
import { unitName } from "../decision/units.ts";
import type { Facts, OtherUpgrades } from "../facts/facts.ts";
import { judgeNetworkPolicies } from "../network/network-policies.ts";
import { shortageOf, whyUnassigned } from "../placement/explain-unplaced.ts";
import { type AddressState, addressStates } from "./address-states.ts";
import { type Availability, availability } from "./availability.ts";
import { type PodsByClient, podsByClient } from "./clients.ts";
import { judgeWorkloads, type Workloads } from "./workloads.ts";

/** Result of applying the desired objects. */
export interface Applied {
  /** The first problem. */
  problem: { reason: Reason; message: string } | undefined;
  /** The first problem of a NetworkPolicy. */
  networkPolicy: { reason: Reason; message: string } | undefined;
  /** Objects that the API server stores differently than applied, by kind and name. */
  altered?: readonly string[];
}

/** Inputs of a status besides the facts. */
interface StatusInput {
  plan: Pick<Plan, "rejection" | "accepted" | "effective" | "keptRejection" | "desired">;
  applied: Applied;
  /** Whether the record of the policy is stored, now or before. */
  recorded: boolean;
  clusterDomain: string;
}

/** Findings by condition, without the summary. */
type Findings = Readonly<Record<Exclude<ConditionType, "Ready">, Finding>>;

/** Intermediate results that several conditions use. */
interface Observed {
  states: readonly AddressState[];
  /** States of the addresses in phase Active. */
  active: readonly AddressState[];
  fleet: Availability;
  /** Proxies without those of retiring slots. */
  proxies: readonly ProxyFacts[];
  ready: readonly ProxyFacts[];
  workloads: Workloads | undefined;
  clients: PodsByClient["counts"];
}

/** Pods named in the message of a deletion that waits: users have to act on them. */
const IN_USE_SHOWN = 10;

const nothing = "the operator has no valid spec; the condition Accepted has the reason";

const podNames = (proxies: readonly ProxyFacts[]) => joinNames(proxies.map(({ pod }) => pod));

function programmed(facts: Facts, { plan, applied }: StatusInput): Finding {
  const { effective, keptRejection, desired } = plan;
  if (keptRejection !== undefined) {
    return no(
      REASON.notAccepted,
      `the previously accepted spec is no longer valid either; existing objects are left unchanged: ${keptRejection.message}`,
    );
  }
  if (effective === undefined) return no(REASON.notAccepted, nothing);
  if (applied.problem !== undefined) return no(applied.problem.reason, applied.problem.message);
  // A serving proxy that could not be scheduled again, as on a cordoned node, is no shortage.
  const served = ({ id }: Slot) =>
    facts.proxies.some(({ slot, ready, terminating }) => slot === id && ready && !terminating);
  const placed = effective.provider.shape.kind === "Slots" && effective.slots.every(served);
  const shortage = placed ? undefined : shortageOf(facts.nodes, effective);
  if (shortage !== undefined) return no(REASON.notEnoughNodes, shortage);
  const { round, formerProxies = [] } = desired ?? {};
  const [first] = round?.waiting ?? [];
  const reasons: string[] = [];
  if (first !== undefined) {
    const rest = counted(round!.waiting.length, "proxy still waits", "proxies still wait");
    reasons.push(`the operator updates one proxy at a time; ${rest}`, `${unitName(first.unit)}: ${first.why}`);
  } else if (formerProxies.length > 0) {
    const old = counted(formerProxies.length, "old proxy still runs", "old proxies still run");
    reasons.push(`${old}: ${podNames(formerProxies)}`);
  }
  if (round?.held !== undefined) reasons.push(round.held);
  if (reasons.length > 0) return no(REASON.progressing, reasons.join("; "));
  const upgrade = upgradeWaits(desired?.upgrade.others);
  if (upgrade !== undefined) return upgrade;
  const { altered = [] } = applied;
  const note =
    altered.length === 0 ? "" : `; an admission plugin changes what the operator wants: ${altered.join(", ")}`;
  return yes(REASON.programmed, `all objects of the policy are applied${note}`);
}

/** That the fleet still has the pod template of a former operator; undefined if it does not wait for an upgrade. */
function upgradeWaits(others: OtherUpgrades | undefined): Finding | undefined {
  if (others === undefined) return undefined;
  const waits = "all objects are applied, but the upgrade of the proxies to the settings of this operator waits";
  const [first] = others.failed;
  if (first === undefined) {
    const count = counted(others.progressing, "fleet is", "fleets are");
    return yes(
      REASON.upgradeWaiting,
      `${waits}, since ${count} being upgraded (--max-upgrading-fleets ${others.limit})`,
    );
  }
  const rest = others.failed.length === 1 ? "" : ` and ${others.failed.length - 1} more`;
  const cause = `the upgraded fleet of policy ${first}${rest} did not become ready within its progress deadline`;
  const fix = "correct the image or that fleet, or set --max-upgrading-fleets=0 to upgrade all fleets at once";
  return yes(REASON.upgradePaused, `${waits}: ${cause}; ${fix}`);
}

/** Finding of conditions that follow from a fleet that its owner scaled to 0. Alerts distinguish it from a failing fleet. */
const scaledToZero = no(REASON.scaledToZero, "no proxy runs; the condition ProxyAvailable has the reason");
const isScaledToZero = ({ fleet }: Observed) => fleet.finding.reason === REASON.scaledToZero;

function distributed(observed: Observed, effective: Effective | undefined): Finding {
  const { ready } = observed;
  if (effective === undefined) return no(REASON.notAccepted, nothing);
  if (ready.length === 0 && isScaledToZero(observed)) return scaledToZero;
  if (ready.length === 0) {
    return no(REASON.noProxy, "no proxy is ready; ProxyAvailable, EgressIPVerified or IPsAssigned has the reason");
  }
  const late = ready.filter((proxy) => proxy.status?.hash !== effective.hash);
  if (late.length === 0) return yes(REASON.distributed, `every ready proxy runs policy document ${effective.hash}`);
  const why = late[0]!.status?.policyError ?? late[0]!.error;
  const total = counted(ready.length, "ready proxy runs", "ready proxies run");
  const count = `${ready.length - late.length} of ${total} policy document ${effective.hash}`;
  return no(REASON.propagating, `${count}; not confirmed by: ${podNames(late)}${why ? ` (${why})` : ""}`);
}

function verified(proxies: readonly ProxyFacts[], spec: EgressPolicySpec): Finding {
  if (spec.verification === undefined) return unknown(REASON.notRequested, "spec.verification is not set");
  // Where readiness waits for the proof, an unproven proxy is not ready: all proxies that answer count.
  const present = proxies.filter(({ terminating, status }) => !terminating && status !== undefined);
  for (const { pod, status } of present) {
    const wrong = status?.proofs.find((proof) => proof.observed.some((seen) => !proof.expected.includes(seen)));
    if (wrong === undefined || wrong.expected.length === 0) continue;
    const expected = wrong.expected.join(" or ");
    const fault = `proxy ${pod.metadata.name} sends from ${wrong.observed.join(", ")}; expected ${expected}`;
    return no(REASON.mismatch, `${fault}; correct the route or NAT of the proxy, or spec.staticIPs`);
  }
  const ready = proxies.filter((proxy) => proxy.ready);
  const judged = ready.length > 0 ? ready : present;
  const unproven = judged.filter(({ status }) => !isOpen(status));
  if (unproven.length > 0) {
    const error = unproven[0]!.status?.proofs.find((proof) => !proof.verified)?.error ?? unproven[0]!.error;
    const count = `${unproven.length} of ${counted(judged.length, "proxy has", "proxies have")} no valid proof`;
    const names = `${podNames(unproven)}${error ? ` (${error})` : ""}`;
    return no(REASON.unproven, `${count} of the source address: ${names}`);
  }
  if (ready.length === 0)
    return unknown(REASON.noProxy, "no proxy is ready; the condition ProxyAvailable has the reason");
  const isSilent = ({ provenAt, checkedAt }: ProxyStatus["proofs"][number]) => checkedAt !== provenAt;
  const silent = ready.filter(({ status }) => status?.proofs.some(isSilent));
  if (silent.length > 0) {
    const error = silent[0]!.status?.proofs.find(isSilent)?.error;
    const count = `${silent.length} of ${counted(ready.length, "ready proxy gets", "ready proxies get")}`;
    const fault = `${count} no answer from any echo URL: ${podNames(silent)} (${error})`;
    return yes(REASON.stale, `${fault}; the last proof of each proxy is still valid`);
  }
  return yes(REASON.verified, "every ready proxy sends from its published address");
}

/** Each proxy needs an address of its pool. Unused addresses of the pool are no problem. */
function pooled(proxies: readonly ProxyFacts[], slots: readonly Slot[]): Finding {
  const sources = new Set(slots.map(({ source }) => source));
  const placed = proxies.filter(({ terminating, ips }) => !terminating && ips.length > 0);
  if (placed.length === 0) return no(REASON.unassigned, "no proxy pod has an IP address yet");
  const strays = placed.filter(({ ips }) => !ips.some((ip) => sources.has(ip)));
  if (strays.length === 0) return yes(REASON.assigned, "every proxy has a static IP");
  const count = `${strays.length} of ${counted(placed.length, "proxy has", "proxies have")} no address of spec.staticIPs`;
  const fix = "enlarge the address pool, or correct spec.nat.podIP.annotations or spec.staticIPs";
  return no(REASON.unassigned, `${count}: ${podNames(strays)}; ${fix}`);
}

function assigned(facts: Facts, effective: Effective | undefined, observed: Observed): Finding {
  const { states, active } = observed;
  if (effective === undefined) return no(REASON.notAccepted, nothing);
  if (states.length === 0) return unknown(REASON.notRequested, "spec.staticIPs is empty");
  const { shape } = effective.provider;
  switch (shape.kind) {
    case "Deployment":
      switch (shape.address) {
        case "outside":
          return yes(REASON.outside, "the static IPs are assigned outside of the cluster");
        case "of-pod":
          return isScaledToZero(observed) ? scaledToZero : pooled(facts.proxies, effective.slots);
      }
      break;
    case "Slots": {
      const missing = active.filter(({ state, slot }) => state === "Unassigned" && slot !== undefined);
      if (missing.length === 0) return yes(REASON.assigned, "every Active static IP is assigned to a proxy");
      const total = counted(active.length, "static IP is", "static IPs are");
      const addresses = missing.map(({ address }) => address).join(", ");
      const all = `${missing.length} of ${total} not assigned to a proxy: ${addresses}`;
      switch (shape.address) {
        case "follows-ready-pod":
          return no(
            REASON.unassigned,
            `${all}; kube-vip assigns a static IP to the node of the ready proxy of its slot, so look at this proxy`,
          );
        case "on-node": {
          const placement = effective.placements.get(missing[0]!.slot!)!;
          return no(REASON.unassigned, `${all}; ${whyUnassigned(facts, effective.spec, placement)}`);
        }
      }
    }
  }
}

/** Conditions that make a policy not ready, in the order in which a user should look at them. */
const BLOCKING: readonly (keyof Findings)[] = [
  "Accepted",
  "Programmed",
  "EgressIPVerified",
  "ProxyAvailable",
  "PolicyDistributed",
  "IPsAssigned",
  "NetworkPolicyApplied",
];

/** The order if a proxy lacks its address, or the node that has it: that is why it is neither ready nor verified. */
const BLOCKING_UNBOUND: readonly (keyof Findings)[] = [
  "Accepted",
  "Programmed",
  "IPsAssigned",
  ...BLOCKING.filter((type) => !["Accepted", "Programmed", "IPsAssigned"].includes(type)),
];

/** Condition Ready. */
function summary(facts: Facts, effective: Effective | undefined, findings: Findings, observed: Observed): Finding {
  if (facts.policy.metadata.deletionTimestamp !== undefined) {
    const pods = counted(facts.injected.length, "injected pod has", "injected pods have");
    const names = joinNames(facts.injected, IN_USE_SHOWN);
    const fix = `remove ${LABEL.policy} from their pod templates, which restarts the pods`;
    return no(REASON.inUse, `the deletion waits until ${pods} ended: ${names}; ${fix}`);
  }
  const onNode = effective !== undefined && isOnNode(effective.provider.shape);
  const unbound = observed.proxies.some(({ terminating, status, pod }) => {
    if (terminating) return false;
    return (onNode && isUnschedulable(pod)) || (status?.sources.some((source) => !source.assigned) ?? false);
  });
  // A wrong source address is worse than a missing one.
  const order = unbound && findings.EgressIPVerified.reason !== REASON.mismatch ? BLOCKING_UNBOUND : BLOCKING;
  const isBlocking = (type: keyof Findings) => findings[type].status === "False";
  // Progress is the least important message.
  const isProgress = (type: keyof Findings) => type === "Programmed" && findings[type].reason === REASON.progressing;
  const blocking = order.find((type) => isBlocking(type) && !isProgress(type)) ?? order.find(isBlocking);
  if (blocking === undefined) return yes(REASON.ready, "the fleet serves this policy");
  const { reason, message } = findings[blocking];
  return no(reason, `${blocking}: ${message}`);
}

function observe(facts: Facts, effective: Effective | undefined, now: string, host: string): Observed {
  const states = effective === undefined ? [] : addressStates(facts, effective, now);
  const phases = new Map((effective?.spec.staticIPs ?? []).map(({ address, phase }) => [address, phase]));
  // The proxies of retiring slots need not become available.
  const retiring = new Set(
    states.flatMap(({ state, slot }) => (state === "Retiring" && slot !== undefined ? [slot] : [])),
  );
  const { counts, strangers } =
    effective === undefined ? { counts: undefined, strangers: [] } : podsByClient(facts, effective.spec);
  return {
    states,
    active: states.filter(({ address }) => (phases.get(address) ?? "Active") === "Active"),
    fleet: availability(facts, effective, retiring),
    proxies: facts.proxies.filter(({ slot }) => !retiring.has(slot)),
    ready: facts.proxies.filter((proxy) => proxy.ready),
    workloads: effective === undefined ? undefined : judgeWorkloads(facts, effective.spec, host, strangers),
    clients: counts,
  };
}

/** Warnings shown of an accepted spec. */
const WARNINGS_SHOWN = 5;

function inForceText(warnings: readonly string[]): string {
  const text = "the spec is in force";
  return warnings.length === 0 ? text : `${text}; warning: ${boundedTexts(warnings, WARNINGS_SHOWN).join("; ")}`;
}

function findingsOf(facts: Facts, input: StatusInput, observed: Observed): Findings {
  const { rejection, accepted, effective, desired } = input.plan;
  const { fleet, workloads } = observed;
  const notAccepted = unknown(REASON.notAccepted, nothing);
  return {
    Accepted:
      rejection === undefined
        ? yes(REASON.accepted, inForceText(accepted?.warnings ?? []))
        : no(rejection.reason, rejection.message),
    Programmed: programmed(facts, input),
    PolicyDistributed: distributed(observed, effective),
    ProxyAvailable: effective === undefined && fleet.wanted === 0 ? no(REASON.notAccepted, nothing) : fleet.finding,
    IPsAssigned: assigned(facts, effective, observed),
    EgressIPVerified: effective === undefined ? notAccepted : verified(observed.proxies, effective.spec),
    WorkloadsInjected: workloads?.finding ?? notAccepted,
    NetworkPolicyApplied:
      effective === undefined || desired === undefined
        ? notAccepted
        : judgeNetworkPolicies(facts, effective, desired.networkPolicies, input.applied.networkPolicy),
  };
}

/** Pure: the complete status. */
export function statusOf(facts: Facts, input: StatusInput): EgressPolicyStatus {
  const { policy } = facts;
  const { effective } = input.plan;
  const generation = policy.metadata.generation ?? 0;
  const now = new Date(facts.now).toISOString().replace(/\.\d+Z$/, "Z");
  const host = clientHost(policy.metadata, input.clusterDomain);
  const observed = observe(facts, effective, now, host);
  const findings = findingsOf(facts, input, observed);
  const Ready = summary(facts, effective, findings, observed);
  const before = (policy.status?.conditions ?? []) as readonly PolicyCondition[];
  return {
    observedGeneration: generation,
    ready: Ready.status,
    conditions: mergeConditions(before, { ...findings, Ready }, generation, now),
    ...(input.recorded ? { recorded: true } : {}),
    ...(effective === undefined ? {} : fleetStatus(facts, effective, observed, host)),
  } as EgressPolicyStatus;
}

/** Part of the status that exists once a spec was accepted. */
function fleetStatus(
  facts: Facts,
  { hash, spec }: Effective,
  observed: Observed,
  host: string,
): Pick<EgressPolicyStatus, "staticIPs" | "clients" | "endpoint" | "summary"> {
  const { states, active, fleet, workloads, clients } = observed;
  const clusterIP = facts.children.services.get(childName.fleet(facts.policy.metadata.name))?.spec?.clusterIP;
  const proven = states.filter(({ state }) => state === "Verified").length;
  return {
    staticIPs: [...states],
    ...(clients && { clients }),
    endpoint: {
      host,
      port: SERVICE_PORT,
      ...(spec.proxy?.tls && { tlsPort: SERVICE_TLS_PORT }),
      ...(clusterIP === undefined ? {} : { clusterIP }),
    },
    summary: {
      staticIPs: states.map(({ address }) => address).join(","),
      verified: states.length === 0 ? "" : `${proven}/${active.length}`,
      proxies: `${fleet.available}/${fleet.wanted}`,
      workloads: workloads?.summary ?? "",
      policyHash: hash,
    },
  };
}
