import { RESOURCE } from "../../api/kinds.ts";
import { ANNOTATION, childName, LABEL } from "../../api/names.ts";
import type { ProxyFacts } from "../../fleet/proxy-status.ts";
import type { KubeObject } from "../../kube/resource.ts";
import type { Facts } from "../facts/facts.ts";
import { type NetworkPolicies, networkPolicies } from "../network/network-policies.ts";
import { stamp } from "../objects/compare.ts";
import { type Accepted, documentConfigMap, publishedConfigMap } from "../objects/configmap.ts";
import { externalService } from "../objects/external.ts";
import { fleetBudget } from "../objects/pdb.ts";
import type { PublishedIPs } from "../objects/published/list.ts";
import { clientService } from "../objects/service.ts";
import { proxyAccount } from "../objects/serviceaccount.ts";
import type { Round } from "./disturbances.ts";
import { withFormer } from "./document.ts";
import type { Handover } from "./handover.ts";
import { publish, stillUsed } from "./published-ips.ts";
import type { ResolvedSpec } from "./resolved-spec.ts";
import type { FleetOptions, Unit } from "./units.ts";
import type { Upgrade } from "./upgrade.ts";

/** Desired state of a policy's objects. */
export interface Desired {
  /** Stamped objects in the order in which they are applied: addresses are published before they are used. */
  objects: KubeObject[];
  /** The list that these objects publish. It is recorded before they are applied. */
  published: PublishedIPs;
  /** Objects of the policy to delete. */
  removals: KubeObject[];
  /** Patches of pod labels, and why changes wait. */
  round: Round;
  upgrade: Upgrade;
  /** Running proxies that the spec no longer needs. */
  formerProxies: readonly ProxyFacts[];
  networkPolicies: NetworkPolicies;
}

/** Decisions that the objects follow from. */
interface Decided {
  accepted: Accepted;
  handover: Handover;
  upgrade: Upgrade;
  round: Round;
  adminFrom: FleetOptions["adminFrom"];
}

/** The published list, which also has the addresses that proxies still send from. */
function publishedOf(
  facts: Facts,
  { spec, slots, published }: ResolvedSpec,
  hash: string,
  { former }: Handover,
): PublishedIPs {
  const used = new Set(slots.map(({ address }) => address));
  const document = facts.children.configMaps.get(childName.document(facts.policy.metadata.name));
  const stored = document?.metadata.annotations?.[ANNOTATION.hash];
  const leaving = [
    ...former.addresses.map(({ address }) => address).filter((address) => !used.has(address)),
    ...stillUsed(spec, published, facts.proxies, { desired: hash, stored }),
  ].sort();
  return publish(spec, leaving, published, new Date(facts.now).toISOString());
}

/** Units whose change waits: for another proxy of their fleet, or for the upgrades of other fleets. */
const lateUnits = ({ waiting }: Round, upgrade: Upgrade): ReadonlySet<Unit> =>
  new Set([...waiting.map(({ unit }) => unit), ...upgrade.waiting]);

/** Whether a plan begins or continues an upgrade now. */
export function writesUpgrade({ round, upgrade }: Pick<Desired, "round" | "upgrade">): boolean {
  const late = lateUnits(round, upgrade);
  return upgrade.granted.some((unit) => !late.has(unit));
}

/** Objects of units to apply now. Objects of a waiting unit are only created. */
function unitObjects({ children }: Facts, units: readonly Unit[], late: ReadonlySet<Unit>): KubeObject[] {
  const existing = { Deployment: children.deployments, Service: children.services };
  return units.flatMap((unit) =>
    unit.objects.filter(
      ({ kind, metadata }) => !late.has(unit) || !existing[kind as keyof typeof existing].has(metadata.name),
    ),
  );
}

/** Pure: the objects of an accepted spec. */
export function desire(
  facts: Facts,
  resolved: ResolvedSpec,
  { accepted, handover, upgrade, round, adminFrom }: Decided,
): Desired {
  const { policy } = facts;
  const { spec, provider } = resolved;
  const guards = networkPolicies(facts, withFormer(spec, handover.former), provider.shape, adminFrom);
  const published = publishedOf(facts, resolved, accepted.hash, handover);
  const shared = [
    publishedConfigMap(policy, published),
    documentConfigMap(policy, accepted, facts.children.configMaps.get(childName.document(policy.metadata.name))),
    proxyAccount(policy),
    clientService(policy, spec, provider.shape, round.selector),
    ...externalService(policy, spec, round.selector),
    fleetBudget(policy),
    // Before the Deployments, so that no proxy of a new fleet runs without them.
    ...guards.objects,
  ].map(stamp);
  const { units } = upgrade;
  const late = lateUnits(round, upgrade);
  const all = [...shared, ...units.flatMap(({ objects }) => objects)];
  return {
    objects: [...shared, ...unitObjects(facts, units, late)],
    published,
    removals: [...obsolete(facts, all, guards, handover, late), ...handover.remove],
    round,
    upgrade,
    formerProxies: handover.running,
    networkPolicies: guards,
  };
}

/** Existing objects, other than Deployments, that are not desired. */
function obsolete(
  { policy, children }: Facts,
  objects: readonly KubeObject[],
  guards: NetworkPolicies,
  { keep, running }: Handover,
  late: ReadonlySet<Unit>,
): KubeObject[] {
  const names = new Set([...objects, ...keep].map(kindAndName));
  if (guards.tooLarge !== undefined) {
    names.add(`${RESOURCE.networkPolicy.kind}/${childName.senders(policy.metadata.name)}`);
  }
  // Keep the objects that give a terminating proxy, or one whose change waits, its address.
  const kept = new Set([
    ...[...late].map(({ label }) => label),
    ...keep.map(({ metadata }) => metadata.labels?.[LABEL.slot]),
    ...running.map(({ slot }) => slot),
  ]);
  const existing = [...children.configMaps.values(), ...children.services.values(), ...children.others];
  return existing.filter(
    (object) => !names.has(kindAndName(object)) && !kept.has(object.metadata.labels?.[LABEL.slot]),
  );
}

const kindAndName = ({ kind, metadata }: KubeObject): string => `${kind}/${metadata.name}`;

/** Proxies that run another document than they should. The kubelet has to update their volume now. */
export function lagging(proxies: readonly ProxyFacts[], hash: string): ProxyFacts[] {
  return proxies.filter(({ terminating, pod, status }) => {
    if (terminating || pod.status?.phase !== "Running") return false;
    return status !== undefined && status.hash !== hash;
  });
}
