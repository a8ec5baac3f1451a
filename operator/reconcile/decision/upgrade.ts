import { UPGRADE } from "../../api/names.ts";
import type { Deployment } from "../../api/objects.ts";
import type { KubeObject } from "../../kube/resource.ts";
import type { Facts, OtherUpgrades } from "../facts/facts.ts";
import { isEdited } from "../objects/foreign-edits.ts";
import { enforcesReplicas, replicasSetBy } from "../objects/replicas.ts";
import {
  isOwnersChange,
  isUpgrading,
  type Marks,
  marksOf,
  ownerSettings,
  withMarks,
} from "../objects/upgrade-marks.ts";
import type { ResolvedSpec } from "./resolved-spec.ts";
import type { Unit } from "./units.ts";
import { isComplete, type View, viewOf } from "./waits.ts";

/**
 * An upgrade is a change of a pod template that only a new operator, or its options, cause. Few fleets are upgraded at the
 * same time. Edits of owners, repairs, creations, and changes of proxies that do not serve never wait.
 *
 * The decision uses objects only, so it is the same after a restart (docs/adr/0018).
 */
export interface Upgrade {
  /** Units with their marks. A unit that waits does not count as changed. */
  units: readonly Unit[];
  /** Units whose upgrade waits for other fleets. */
  waiting: readonly Unit[];
  /** Why they wait; undefined if none does. */
  others: OtherUpgrades | undefined;
  /** Units whose upgrade may be written now. */
  granted: readonly Unit[];
}

/** Whether the owner of a policy has changed the settings of a stored Deployment. */
function isOwners(facts: Facts, stored: Deployment, now: string): boolean {
  const { policy, children } = facts;
  const before = marksOf(stored).owner;
  if (before !== undefined) return isOwnersChange(before, now);
  // An older version wrote the Deployment. It had processed the spec, or the owner has edited the spec since.
  if (policy.status?.observedGeneration !== policy.metadata.generation) return true;
  // This version has written another slot, which was an edit of the owner unless it was an upgrade.
  return [...children.deployments.values()].some((other) => {
    const { owner } = marksOf(other);
    return owner?.split("-")[0] === now.split("-")[0] && !isUpgrading(other);
  });
}

/** Whether the change of a unit is an upgrade: neither its owner nor other managers have caused it. */
function isUpgrade(facts: Facts, unit: Unit, owner: string, operator: string): boolean {
  const stored = facts.children.deployments.get(unit.name);
  if (!unit.changes || stored === undefined) return false;
  if (marksOf(stored).operator === operator || isOwners(facts, stored, owner)) return false;
  const scales = enforcesReplicas(facts.policy) && replicasSetBy(stored) !== undefined;
  return !scales && !isEdited(stored, unit.objects[0]!);
}

/** Whether a unit serves, as far as is known: ready proxies that were not polled yet may serve. */
const mayServe = ({ serving, down }: View, label: string): boolean => serving.unpolled.length > 0 || !down.has(label);

/** Whether the fleet was ready before: only such a fleet can be made unready by an upgrade. New slots do not count. */
function isReady(view: View): boolean {
  const { deployments } = view.facts.children;
  const existing = view.units.filter(({ name, label }) => deployments.has(name) && view.core.has(label));
  return existing.every(({ label }) => mayServe(view, label));
}

/** Upgrades that may have to wait. A fleet that is being upgraded continues, also with the settings of another operator. */
function pacedOf(view: View, upgrades: readonly Unit[], upgrading: boolean): readonly Unit[] {
  if (upgrading) return upgrades;
  return isReady(view) ? upgrades.filter(({ label }) => mayServe(view, label)) : [];
}

function mayBegin({ limit, progressing, failed, reserved }: OtherUpgrades): boolean {
  return reserved || (failed.length === 0 && progressing < limit);
}

const marked = (unit: Unit, marks: Marks): Unit => {
  const [deployment, ...others] = unit.objects as [KubeObject, ...KubeObject[]];
  return { ...unit, objects: [withMarks(deployment, marks), ...others] };
};

/** Decides which units are upgraded now. `operator`: fingerprint of this operator's templates. Pure. */
export function planUpgrade(facts: Facts, resolved: ResolvedSpec, units: readonly Unit[], operator: string): Upgrade {
  const { policy, children } = facts;
  const owners = new Map(units.map((unit) => [unit, ownerSettings(policy, resolved.spec, unit.slot)]));
  const upgrades = units.filter((unit) => isUpgrade(facts, unit, owners.get(unit)!, operator));
  const upgrading = [...children.deployments.values()].some(isUpgrading);
  const view = upgrades.length > 0 || upgrading ? viewOf(facts, resolved, units) : undefined;
  const paced = view === undefined ? [] : pacedOf(view, upgrades, upgrading);
  const others = paced.length === 0 ? undefined : facts.upgrades();
  const unlimited = others?.limit === 0;
  const begins = others !== undefined && (unlimited || upgrading || mayBegin(others));
  const waiting = new Set(begins ? [] : paced);
  const counted = new Set(begins && !unlimited ? paced : []);
  const ends = upgrading && view !== undefined && isComplete(view);
  const now = new Date(facts.now).toISOString().replace(/\.\d+Z$/, "Z");
  const upgradeMarks = (unit: Unit): Pick<Marks, "upgrade" | "upgradedAt"> => {
    if (counted.has(unit)) return { upgrade: UPGRADE.progressing, upgradedAt: now };
    const stored = children.deployments.get(unit.name);
    if (stored === undefined) return { upgrade: undefined, upgradedAt: undefined };
    const { upgrade, upgradedAt } = marksOf(stored);
    // The owner's change replaces the upgrade.
    const isOver = upgrade !== undefined && (ends || unit.changes);
    return { upgrade: isOver ? UPGRADE.complete : upgrade, upgradedAt };
  };
  const all = units.map((unit): [Unit, Unit] => {
    const one = marked(unit, { operator, owner: owners.get(unit)!, ...upgradeMarks(unit) });
    return [unit, waiting.has(unit) ? { ...one, changes: false } : one];
  });
  const of = (some: ReadonlySet<Unit>) => all.flatMap(([unit, one]) => (some.has(unit) ? [one] : []));
  return {
    units: all.map(([, one]) => one),
    waiting: of(waiting),
    others: waiting.size === 0 ? undefined : others,
    granted: of(counted),
  };
}
