import type { EgressPolicy, EgressPolicySpec } from "../api/egresspolicy.ts";
import { REASON } from "../api/names.ts";
import type { ConditionChange } from "./history.ts";
import { type ConditionView, type EventView, type FleetObjects, type FleetView, viewOf } from "./overview.ts";
import { type Moment, timelineOf } from "./timeline.ts";

/** Answers for the page of the operator. Pure. All lists and texts have limits. */

/** One policy in the list of all. */
export type PolicyRow = Pick<
  FleetView,
  "namespace" | "name" | "ready" | "inForce" | "deleting" | "mode" | "provider" | "available" | "verified" | "covered"
> & {
  /** Number of static IPs. */
  addresses: number;
  /** Reason and message of Ready. */
  reason: string;
  message: string;
  /** Last change of Ready. */
  since: string | null;
  /** Conditions that are False, without Ready. */
  problems: string[];
};

/** A list of at most {@link MAX_POLICIES} policies. */
export interface PolicyList {
  total: number;
  policies: PolicyRow[];
}

/** One policy in detail, with at most {@link MAX_ITEMS} entries in each list. */
export interface PolicyDetail extends FleetView {
  /** Newest first. */
  timeline: Moment[];
  /** Entries that each list lacks. */
  left: { addresses: number; proxies: number; pods: number };
  /** Number of covered pods, since the list begins with the others. Null like `pods`. */
  coveredPods: number | null;
}

/** Policies in a list. */
const MAX_POLICIES = 1000;
/** Entries of each list in a detail. A spec has at most 64 addresses. */
const MAX_ITEMS = 200;
/** Characters of a message in a list, and in a detail. */
const MAX_SHORT = 300;
const MAX_TEXT = 2000;

const cut = (text: string, limit: number): string => (text.length <= limit ? text : `${text.slice(0, limit - 1)}…`);

/** The count of verified addresses. The status counts them also without verification, where none can be proven. */
function verifiedOf({ conditions, verified }: FleetView): string {
  const isOff = conditions.some(({ type, reason }) => type === "EgressIPVerified" && reason === REASON.notRequested);
  return isOff ? "off" : verified;
}

/** The spec that the fleet runs, if it is not the newest one. */
type InForceOf = (policy: EgressPolicy) => EgressPolicySpec | undefined;

function rowOf(policy: EgressPolicy, inForceOf: InForceOf): PolicyRow {
  const nothing = { proxies: undefined, pods: undefined, events: undefined, namespaceLabels: undefined };
  const view = viewOf({ policy, ...nothing, inForce: inForceOf(policy) });
  const { namespace, name, ready, inForce, deleting, mode, provider, available, covered } = view;
  const summary = view.conditions.find(({ type }) => type === "Ready");
  const isProblem = ({ type, status }: ConditionView) => status === "False" && type !== "Ready";
  return {
    ...{ namespace, name, ready, inForce, deleting, mode, provider, available, verified: verifiedOf(view), covered },
    addresses: view.addresses.length,
    reason: cut(summary?.reason ?? "", MAX_SHORT),
    message: cut(summary?.message ?? "", MAX_SHORT),
    since: summary?.since ?? null,
    problems: view.conditions.filter(isProblem).map(({ type }) => type),
  };
}

/** The list of policies, by namespace and name. */
export function listOf(policies: readonly EgressPolicy[], inForceOf: InForceOf = () => undefined): PolicyList {
  const compare = (a: string | undefined, b: string | undefined) => (a === b ? 0 : (a ?? "") < (b ?? "") ? -1 : 1);
  const sorted = [...policies].sort(
    ({ metadata: a }, { metadata: b }) => compare(a.namespace, b.namespace) || compare(a.name, b.name),
  );
  return { total: policies.length, policies: sorted.slice(0, MAX_POLICIES).map((policy) => rowOf(policy, inForceOf)) };
}

/** One policy in detail. `history`: observed changes of its conditions, oldest first. */
export function detailOf(objects: FleetObjects, history: readonly ConditionChange[]): PolicyDetail {
  const view = viewOf(objects);
  const covered = (state: string) => state === "covered";
  const pods = view.pods === null ? null : [...view.pods].sort((a, b) => +covered(a.state) - +covered(b.state));
  const text = <T extends { message: string }>(one: T): T => ({ ...one, message: cut(one.message, MAX_TEXT) });
  const reason = <T extends { reason: string | null }>(one: T): T => ({
    ...one,
    reason: one.reason === null ? null : cut(one.reason, MAX_TEXT),
  });
  const conditions = view.conditions.map(text);
  const events: EventView[] | null = view.events?.map(text) ?? null;
  const timeline = timelineOf({
    ...{ conditions, history },
    events: events ?? [],
    changes: objects.published?.changes ?? [],
  });
  const lack = (list: readonly unknown[] | null) => Math.max(0, (list?.length ?? 0) - MAX_ITEMS);
  return {
    ...view,
    ...{ conditions, events, timeline, verified: verifiedOf(view) },
    addresses: view.addresses.slice(0, MAX_ITEMS),
    proxies: view.proxies?.slice(0, MAX_ITEMS) ?? null,
    pods: pods?.slice(0, MAX_ITEMS).map(reason) ?? null,
    coveredPods: pods?.filter(({ state }) => covered(state)).length ?? null,
    left: { addresses: lack(view.addresses), proxies: lack(view.proxies), pods: lack(pods) },
  };
}
