import { adminPort, type ProxyFacts } from "../../fleet/proxy-status.ts";
import { lastingSlots, SHARED } from "../../fleet/slots.ts";
import { isOnNode } from "../../providers/provider.ts";
import type { Facts } from "../facts/facts.ts";
import { proxyPorts } from "../objects/deployment.ts";
import { type Down, downOf, PATIENCE_MS, unreadable } from "./down-slots.ts";
import type { ResolvedSpec } from "./resolved-spec.ts";
import { type Serving, servingOf } from "./serving.ts";
import { type Unit, unitName } from "./units.ts";

/** Why a disturbance waits. `until`: end of the wait without an event. */
export interface Block {
  why: string;
  until?: number | undefined;
}

/** Inputs of the rules. */
export interface View {
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
export interface Target {
  /** Slot label. */
  label: string;
  /** Labels of slots that need the deletion, so it does not wait for them. */
  stuck: ReadonlySet<string>;
  isDeletion: boolean;
}

/** Pure. */
export function viewOf(facts: Facts, resolved: ResolvedSpec, units: readonly Unit[]): View {
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
export function isComplete({ units, core, down }: View): boolean {
  const needed = units.filter(({ label }) => core.has(label));
  const serves = ({ label, changes }: Unit) => !changes && !down.has(label);
  const allRetiring = needed.every(({ slot }) => slot?.retiring === true);
  if (needed.length === 0) return false;
  return allRetiring ? needed.some(serves) : needed.every(serves);
}

const hasAnswer = ({ status }: ProxyFacts) => status !== undefined;

/**
 * A proxy of a unit that would stay out of the client Service after a restart: the Service selects by a label that
 * follows an answer, and the proxy does not answer. A change of the admin port is no such case, since it may restore the
 * answers.
 */
function lostByRestart({ resolved, serving }: View, label: string): ProxyFacts | undefined {
  const { shape } = resolved.provider;
  if (shape.kind !== "Slots" || isOnNode(shape)) return undefined;
  const own = serving.inService.filter(({ slot }) => slot === label);
  if (own.some(hasAnswer)) return undefined;
  return own.find(({ pod }) => adminPort(pod) === proxyPorts(resolved.spec).admin);
}

const endOf = ({ since }: Down, endless: boolean): number => (endless ? Number.POSITIVE_INFINITY : since + PATIENCE_MS);

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
    .find((one) => endOf(one, one.endless) > view.facts.now);
  return found && waitFor(found, endOf(found, found.endless));
}

/** A slot that may soon serve in place of the last serving proxy. A deletion waits for a lasting one without limit. */
function successor(view: View, target: Target): Block | undefined {
  const end = (one: Down) => endOf(one, view.core.has(one.unit.label) && (target.isDeletion || one.endlessForLast));
  const found = othersDown(view, target).find((one) => end(one) > view.facts.now);
  return found && waitFor(found, end(found));
}

const waitFor = ({ unit, why }: Down, until: number): Block => ({
  why: `it waits for ${unitName(unit)}: ${why}`,
  until: Number.isFinite(until) ? until : undefined,
});

/** Why the proxies of a target must not be disturbed now; undefined if they may. */
export function blockOf(view: View, target: Target): Block | undefined {
  const { serving, down, core } = view;
  const first = awaited(view, target);
  if (first !== undefined) return first;
  const lost = target.isDeletion ? undefined : lostByRestart(view, target.label);
  // The proxy of a changed slot is about to end. Those of a shared fleet serve until their successors do.
  const isStaying = (slot: string) => slot === SHARED || !down.has(slot);
  const remaining = serving.surely.some(({ slot }) => slot !== target.label && isStaying(slot));
  const others = [...core].filter((label) => label !== target.label);
  if (lost !== undefined && (!remaining || others.some((label) => down.has(label)))) {
    return {
      why: `${unreadable(lost)}, or change spec.proxy.adminPort; until then a restarted proxy would get no requests`,
    };
  }
  return remaining ? undefined : successor(view, target);
}
