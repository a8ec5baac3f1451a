import { childName } from "../../api/names.ts";
import { type Deployment, isRolledOut, isUnschedulable } from "../../api/objects.ts";
import { slotLabel } from "../../fleet/metadata.ts";
import type { ProxyFacts } from "../../fleet/proxy-status.ts";
import { SHARED } from "../../fleet/slots.ts";
import { isOnNode } from "../../providers/provider.ts";
import type { Facts } from "../facts/facts.ts";
import { clientSelector, isClientSelector, matches, type Selector } from "../objects/service.ts";
import { unreadable } from "./down-slots.ts";
import { type LabelPatches, labelPatches } from "./pod-labels.ts";
import { type ResolvedSpec, wantedLabels } from "./resolved-spec.ts";
import { mayBeOpen } from "./serving.ts";
import { type Unit, unitName } from "./units.ts";
import { type Block, blockOf, isComplete, type View, viewOf } from "./waits.ts";

/**
 * A disturbance is a write that can take a proxy which may serve out of the client Service: a change of its template,
 * the deletion of its Deployment, the removal of a label, a change of the Service's selector. All disturbances of a
 * fleet share one budget: at most one in a reconcile, and none that would leave the Service without a proxy that surely
 * serves. Exception: the fleet has no other proxy to wait for. Creations and repairs never wait.
 *
 * The decision uses objects and answers of proxies only, so it is the same after a crash (docs/adr/0017).
 */
export interface Round {
  /** Selector that the client Service has after this reconcile. */
  selector: Selector;
  labels: LabelPatches;
  /** Units whose changes wait. */
  waiting: Wait[];
  /** Deployments that the spec no longer needs, and that are deleted now. */
  remove: Deployment[];
  /** Why old proxies are kept. */
  held: string | undefined;
  /** Time at which a wait ends without an event, in milliseconds since the epoch. */
  recheckAt: number | undefined;
}

/** A unit whose change waits. */
export interface Wait {
  unit: Unit;
  why: string;
}

/** The one disturbance that a reconcile may make, and the reasons for which others wait. */
class Budget {
  #left: boolean;
  readonly blocks: Block[] = [];

  /** `left`: false allows no disturbance. */
  constructor(left: boolean) {
    this.#left = left;
  }

  /** Whether the disturbance happens. Then no other one does. */
  spend(): boolean {
    const granted = this.#left;
    this.#left = false;
    return granted;
  }

  /** Records why a disturbance waits. */
  note(block: Block): string {
    this.blocks.push(block);
    return block.why;
  }
}

const isIn = ({ serving }: View, label: string): boolean => serving.inService.some(({ slot }) => slot === label);

/** Whether an old Deployment uses a node that a slot needs. The Deployment of a shared fleet uses no ports of nodes. */
function isInTheWay({ facts, resolved }: View, deployment: Deployment, slot: string): boolean {
  if (slot === SHARED || slotLabel(deployment) === SHARED) return false;
  if (!isOnNode(resolved.provider.shape)) return true;
  const needed = resolved.placements.get(slot)?.nodes ?? [];
  if (needed.length === 0) return true;
  const own = facts.proxies.filter((proxy) => proxy.slot === slotLabel(deployment));
  return own.some(({ node }) => node !== undefined && needed.includes(node));
}

/** Slots without a node. A slot whose own proxy still ends is not among them: it waits for the ports of that proxy. */
function stuckSlots({ facts, units }: View): ReadonlySet<string> {
  const ending = new Set(facts.proxies.filter(({ terminating }) => terminating).map(({ slot }) => slot));
  const wanted = new Set(units.map(({ label }) => label));
  return new Set(
    facts.proxies
      .filter(({ slot, pod }) => wanted.has(slot) && !ending.has(slot) && isUnschedulable(pod))
      .map(({ slot }) => slot),
  );
}

const same = (a: Selector, b: Selector): boolean => matches(a, b) && matches(b, a);

/** Selector of the client Service after a reconcile. */
interface Selection {
  selector: Selector;
  /** Whether the stored Service still has a selector of another fleet. */
  pending: boolean;
  /** Serving proxies because of which the stored selector is kept. */
  dropped: readonly ProxyFacts[];
}

/**
 * Whether the Service waits for proxies of the old fleet that do not serve yet: they may become ready at any moment, also
 * between this decision and the write. Not if the new fleet already serves, or needs the nodes of the old one.
 */
function awaitsOld(view: View, stored: Selector, desired: Selector): boolean {
  const { facts, resolved } = view;
  const isSelected = ({ pod }: ProxyFacts, selector: Selector) => matches(selector, pod.metadata.labels);
  const isNew = (proxy: ProxyFacts) => isSelected(proxy, desired);
  if (facts.proxies.some((proxy) => isNew(proxy) && proxy.ready && mayBeOpen(proxy, resolved.spec))) return false;
  // A proxy of an old slot may get the label that the stored Service selects by.
  const wanted = wantedLabels(resolved);
  const isOld = (proxy: ProxyFacts) => !isNew(proxy) && (isSelected(proxy, stored) || !wanted.has(proxy.slot));
  return facts.proxies.some((proxy) => !proxy.terminating && isOld(proxy)) && stuckSlots(view).size === 0;
}

/** The Service leaves its selector if it loses no proxy that may serve, or if the new fleet is complete. */
function planSelector(view: View, complete: boolean, budget: Budget): Selection {
  const { facts, resolved, serving } = view;
  const { name } = facts.policy.metadata;
  const desired = clientSelector(name, resolved.provider.shape);
  const stored = serving.selector;
  // A selector that a user has edited is repaired.
  if (stored === undefined || !isClientSelector(stored, name) || same(stored, desired)) {
    return { selector: desired, pending: false, dropped: [] };
  }
  const dropped = serving.inService.filter(({ pod }) => !matches(desired, pod.metadata.labels));
  const free = dropped.length === 0 && !awaitsOld(view, stored, desired);
  const moves = free || (complete && budget.spend());
  return { selector: moves ? desired : stored, pending: true, dropped: moves ? [] : dropped };
}

/** Slots whose settings change, or whose old proxy is about to end since they have changed. */
function changingSlots({ facts, units }: View): ReadonlySet<string> {
  const isBeingReplaced = ({ name }: Unit) => {
    const stored = facts.children.deployments.get(name);
    return stored !== undefined && !isRolledOut(stored);
  };
  return new Set(units.filter((unit) => unit.changes || isBeingReplaced(unit)).map(({ label }) => label));
}

function planLabels(view: View, budget: Budget): LabelPatches {
  const { facts, resolved, serving } = view;
  const changing = changingSlots(view);
  const labels = labelPatches(facts.proxies, resolved, serving, changing);
  return labels.retire.length === 0 || budget.spend() ? labels : { ...labels, retire: [] };
}

/** Units whose change waits. */
function planChanges(view: View, pending: boolean, budget: Budget): Wait[] {
  return view.units.flatMap((unit): Wait[] => {
    const { slot, label, changes } = unit;
    const returnsUntil = view.down.get(label)?.returnsUntil ?? 0;
    const returns = !isIn(view, label) && returnsUntil > view.facts.now;
    if (!changes || (!isIn(view, label) && !returns)) return [];
    // The Service selects new proxies of a shared fleet from their start, so its rolling update has no gap.
    if (slot === undefined && !pending) return [];
    // Slots could come back without the label that the Service selects then.
    if (slot !== undefined && pending) return [{ unit, why: "it waits for a change of the client Service" }];
    const block = blockOf(view, { label, stuck: new Set(), isDeletion: false });
    if (block !== undefined) {
      const until = returns ? Math.min(returnsUntil, block.until ?? returnsUntil) : block.until;
      return [{ unit, why: budget.note({ why: block.why, until }) }];
    }
    return budget.spend() ? [] : [{ unit, why: "it waits for another proxy" }];
  });
}

/** Old Deployments to delete: all of them once the fleet is complete. */
function planRemoval(view: View, extra: readonly Deployment[], complete: boolean, budget: Budget): Deployment[] {
  const granted = (deployments: readonly Deployment[]) =>
    !deployments.some((one) => isIn(view, slotLabel(one))) || budget.spend() ? [...deployments] : [];
  if (complete) return granted(extra);
  // A new slot without a node would wait forever for the node of an old slot.
  const stuck = stuckSlots(view);
  for (const deployment of extra) {
    if (![...stuck].some((slot) => isInTheWay(view, deployment, slot))) continue;
    const label = slotLabel(deployment);
    const block = isIn(view, label) ? blockOf(view, { label, stuck, isDeletion: true }) : undefined;
    if (block === undefined) return granted([deployment]);
    budget.note(block);
  }
  return [];
}

/** Decides which disturbances happen in this reconcile. Pure. */
export function planRound(facts: Facts, resolved: ResolvedSpec, units: readonly Unit[]): Round {
  const view = viewOf(facts, resolved, units);
  const complete = isComplete(view);
  // A proxy that was not polled may be the only one that serves.
  const budget = new Budget(view.serving.unpolled.length === 0);
  const { selector, pending, dropped } = planSelector(view, complete, budget);
  const labels = planLabels(view, budget);
  const waiting = planChanges(view, pending, budget);
  const wanted = wantedLabels(resolved);
  const extra = [...facts.children.deployments.values()].filter((deployment) => !wanted.has(slotLabel(deployment)));
  const remove = pending ? [] : planRemoval(view, extra, complete, budget);
  const ends = budget.blocks.flatMap(({ until }) => until ?? []);
  return {
    selector,
    labels,
    waiting,
    remove,
    held: heldBy(view, dropped, extra.length > remove.length),
    recheckAt: ends.length === 0 ? undefined : Math.min(...ends),
  };
}

/** Why old proxies or the old selector stay. */
function heldBy(
  { facts, units, core, down }: View,
  dropped: readonly ProxyFacts[],
  keepsOld: boolean,
): string | undefined {
  const silent = dropped.find(({ polled, status }) => polled && status === undefined);
  if (silent !== undefined) {
    const service = childName.fleet(facts.policy.metadata.name);
    return `Service ${service} keeps its selector, since ${unreadable(silent)}`;
  }
  if (!keepsOld) return undefined;
  if (units.length === 0) {
    return "spec.staticIPs has no address in phase Active; the old proxies serve until an Active address has a proxy that serves";
  }
  const [first] = units.flatMap(({ label }) => (core.has(label) ? (down.get(label) ?? []) : []));
  return (
    first && `the operator keeps old proxies until ${unitName(first.unit)} serves; it does not serve yet: ${first.why}`
  );
}
