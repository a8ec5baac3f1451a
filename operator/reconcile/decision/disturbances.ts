import { childName, LABEL } from "../../api/names.ts";
import { type Deployment, isUnschedulable } from "../../api/objects.ts";
import { adminPort, type ProxyFacts } from "../../fleet/proxy-status.ts";
import { lastingSlots, SHARED } from "../../fleet/slots.ts";
import { isOnNode } from "../../providers/provider.ts";
import type { Facts } from "../facts/facts.ts";
import { proxyPorts } from "../objects/deployment.ts";
import { clientSelector, isClientSelector, matches, type Selector } from "../objects/service.ts";
import { type Down, downOf, PATIENCE_MS } from "./down-slots.ts";
import { type LabelPatches, labelPatches } from "./pod-labels.ts";
import { type ResolvedSpec, wantedSlots } from "./resolved-spec.ts";
import { type Serving, servingOf } from "./serving.ts";
import { type Unit, unitName } from "./units.ts";

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
  /** Why old proxies are kept, if a user has to act. */
  held: string | undefined;
  /** Time at which a wait ends without an event, in milliseconds since the epoch. */
  recheckAt: number | undefined;
}

/** A unit whose change waits. */
export interface Wait {
  unit: Unit;
  why: string;
}

/** Why a disturbance waits. `until`: end of the wait without an event. */
interface Block {
  why: string;
  until?: number | undefined;
}

/** Inputs of the rules. */
interface View {
  facts: Facts;
  resolved: ResolvedSpec;
  units: readonly Unit[];
  serving: Serving;
  /** Units that do not surely serve, by slot label. */
  down: ReadonlyMap<string, Down>;
  /** Slot labels of the units that have to serve: the lasting slots, or the retiring ones if there are no others. */
  core: ReadonlySet<string>;
}

/** Proxies that one disturbance takes away. */
interface Target {
  /** Slot label. */
  label: string;
  /** Labels of slots that need the deletion, so it does not wait for them. */
  stuck: ReadonlySet<string>;
  isDeletion: boolean;
}

const slotLabel = ({ metadata }: Deployment): string => metadata.labels?.[LABEL.slot] ?? "";

function viewOf(facts: Facts, resolved: ResolvedSpec, units: readonly Unit[]): View {
  const serving = servingOf(facts, resolved.spec);
  const lasting = lastingSlots(resolved.slots);
  const labels = units.map(({ label }) => label);
  const core = labels.filter((label) => label === SHARED || lasting.has(label));
  const down = units.flatMap((unit) => downOf(facts, resolved, serving, unit) ?? []);
  return {
    ...{ facts, resolved, units, serving },
    down: new Map(down.map((one) => [one.unit.label, one])),
    core: new Set(core.length > 0 ? core : labels),
  };
}

/**
 * Whether the fleet of the spec serves without the proxies of other fleets: every lasting slot surely serves with its
 * newest settings. If all slots are retiring, one is enough.
 */
function isComplete({ units, core, down, resolved }: View): boolean {
  const needed = units.filter(({ label }) => core.has(label));
  const serves = ({ label, changes }: Unit) => !changes && !down.has(label);
  const allRetiring = needed.every(({ slot }) => slot?.retiring === true);
  if (needed.length === 0 || wantedSlots(resolved).length === 0) return false;
  return allRetiring ? needed.some(serves) : needed.every(serves);
}

const hasAnswer = ({ status }: ProxyFacts) => status !== undefined;

const unreadable = ({ pod, error }: ProxyFacts) =>
  `the operator cannot read /status of ${pod.metadata.name}${error === undefined ? "" : ` (${error})`}`;

/**
 * Whether the proxies of a unit would stay out of the client Service after a restart: the Service selects by a label
 * that follows an answer, and they do not answer. A change of the admin port is no such case, since it may be the cure.
 */
function isLostByRestart({ resolved, serving }: View, label: string): ProxyFacts | undefined {
  const { shape } = resolved.provider;
  if (shape.kind !== "Slots" || isOnNode(shape)) return undefined;
  const own = serving.inService.filter(({ slot }) => slot === label);
  if (own.some(hasAnswer)) return undefined;
  return own.find(({ pod }) => adminPort(pod) === proxyPorts(resolved.spec).adminPort);
}

const endOf = ({ since, endless }: Down): number => (endless ? Number.POSITIVE_INFINITY : since + PATIENCE_MS);

/** Other units that are down, except those that need this disturbance. */
function othersDown({ units, down }: View, { label, stuck }: Target): Down[] {
  return units
    .flatMap((unit) => down.get(unit.label) ?? [])
    .filter(({ unit }) => unit.label !== label && !stuck.has(unit.label));
}

/** A slot that has to serve again before another one is disturbed. A slot that never served is no reason to wait. */
function awaited(view: View, target: Target): Block | undefined {
  const found = othersDown(view, target)
    .filter(({ unit, served }) => view.core.has(unit.label) && (served || target.isDeletion))
    .find((one) => endOf(one) > view.facts.now);
  return found && waitFor(found, endOf(found));
}

/** A slot that may soon serve in place of the last serving proxy. A deletion waits for a lasting one without limit. */
function successor(view: View, target: Target): Block | undefined {
  const end = (one: Down): number => {
    if (!view.core.has(one.unit.label)) return one.since + PATIENCE_MS;
    return target.isDeletion ? Number.POSITIVE_INFINITY : endOf(one);
  };
  const found = othersDown(view, target).find((one) => end(one) > view.facts.now);
  return found && waitFor(found, end(found));
}

const waitFor = ({ unit, why }: Down, until: number): Block => ({
  why: `it waits for ${unitName(unit)}: ${why}`,
  until: Number.isFinite(until) ? until : undefined,
});

/** Why the proxies of a target must not be disturbed now; undefined if they may. */
function blockOf(view: View, target: Target): Block | undefined {
  const { serving, down, core } = view;
  const first = awaited(view, target);
  if (first !== undefined) return first;
  const lost = target.isDeletion ? undefined : isLostByRestart(view, target.label);
  const remaining = serving.surely.some(({ slot }) => slot !== target.label);
  const others = [...core].filter((label) => label !== target.label);
  if (lost !== undefined && (!remaining || others.some((label) => down.has(label)))) {
    const port = adminPort(lost.pod);
    const fix = `without it, a restarted proxy gets no requests; make port ${port} of the proxy reachable for the operator, or change spec.proxy.adminPort`;
    return { why: `${unreadable(lost)}; ${fix}` };
  }
  return remaining ? undefined : successor(view, target);
}

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

/** Decides which disturbances happen in this reconcile. Pure. */
export function planRound(facts: Facts, resolved: ResolvedSpec, units: readonly Unit[]): Round {
  const view = viewOf(facts, resolved, units);
  const { serving } = view;
  const complete = isComplete(view);
  // A proxy that was not polled may be the only one that serves.
  let free = serving.unpolled.length === 0;
  const spend = (isNeeded: boolean): boolean => {
    if (!isNeeded) return true;
    const granted = free;
    free = false;
    return granted;
  };
  const inService = (label: string) => serving.inService.some(({ slot }) => slot === label);

  const desired = clientSelector(facts.policy.metadata.name, resolved.provider.shape);
  const stored = serving.selector;
  const pending =
    stored !== undefined && isClientSelector(stored, facts.policy.metadata.name) && !same(stored, desired);
  const dropped = serving.inService.filter(({ pod }) => !matches(desired, pod.metadata.labels));
  const moves = !pending || dropped.length === 0 || (complete && spend(true));

  const changing = new Set(units.filter(({ changes }) => changes).map(({ label }) => label));
  const labels = labelPatches(facts.proxies, resolved, serving, changing);
  if (labels.retire.length > 0 && !spend(true)) labels.retire = [];

  const blocks: Block[] = [];
  const waits = (block: Block | undefined): block is Block => {
    if (block !== undefined) blocks.push(block);
    return block !== undefined;
  };

  const waiting = units.flatMap((unit): Wait[] => {
    const { slot, label, changes } = unit;
    if (!changes || !inService(label)) return [];
    // A Deployment of several proxies is updated without a gap, if the Service selects the new ones from their start.
    if (slot === undefined && !pending) return [];
    if (pending) return [{ unit, why: "it waits for a change of the client Service" }];
    const block = blockOf(view, { label, stuck: new Set(), isDeletion: false });
    if (waits(block)) return [{ unit, why: block.why }];
    return spend(true) ? [] : [{ unit, why: "it waits for another proxy" }];
  });

  const wanted = new Set(wantedSlots(resolved).map((slot) => slot?.id ?? SHARED));
  const extra = [...facts.children.deployments.values()].filter((deployment) => !wanted.has(slotLabel(deployment)));
  const remove = (): Deployment[] => {
    const served = extra.some((deployment) => inService(slotLabel(deployment)));
    if (complete) return spend(served) ? extra : [];
    // A new slot without a node would wait forever for the node of an old slot.
    const stuck = stuckSlots(view);
    const obstacle = extra.find((deployment) => {
      if (![...stuck].some((slot) => isInTheWay(view, deployment, slot))) return false;
      const label = slotLabel(deployment);
      return !inService(label) || !waits(blockOf(view, { label, stuck, isDeletion: true }));
    });
    return obstacle !== undefined && spend(inService(slotLabel(obstacle))) ? [obstacle] : [];
  };
  const removed = pending ? [] : remove();

  return {
    selector: moves || stored === undefined ? desired : stored,
    labels,
    waiting,
    remove: removed,
    held: heldBy(view, moves ? [] : dropped, extra.length > removed.length),
    recheckAt: blocks.reduce<number | undefined>(
      (first, { until }) => (until === undefined ? first : Math.min(until, first ?? until)),
      undefined,
    ),
  };
}

/** Why old proxies or the old selector stay, if a user has to act. */
function heldBy({ facts, units }: View, dropped: readonly ProxyFacts[], keepsOld: boolean): string | undefined {
  const silent = dropped.find(({ polled, status }) => polled && status === undefined);
  if (silent !== undefined) {
    const service = childName.fleet(facts.policy.metadata.name);
    return `Service ${service} keeps its selector, since ${unreadable(silent)}; make port ${adminPort(silent.pod)} of the proxy reachable for the operator`;
  }
  if (!keepsOld || units.length > 0) return undefined;
  return "spec.staticIPs has no address in phase Active; the old proxies serve until an Active address has a proxy that serves";
}
