import type { Logger } from "../../proxy/cli/log.ts";
import { counted } from "../api/conditions.ts";
import type { EgressPolicy, EgressPolicySpec } from "../api/egresspolicy.ts";
import { RESOURCE } from "../api/kinds.ts";
import { ANNOTATION, childName, EVENT_REASON, FIELD_MANAGER, FINALIZER, KIND, REASON } from "../api/names.ts";
import { isOpen, mayRun, type ProxyFacts } from "../fleet/proxy-status.ts";
import { ApiError, type Client } from "../kube/client.ts";
import type { Outcome } from "../kube/controller.ts";
import type { EventRecorder } from "../kube/events.ts";
import { type KubeObject, keyOf } from "../kube/resource.ts";
import { exclusiveAddresses } from "../providers/exclusive.ts";
import type { Grants } from "../providers/grants.ts";
import { clientsRemoved, reachWidened } from "./decision/accept.ts";
import { decide, type Effective, type Plan } from "./decision/decide.ts";
import { type Desired, writesUpgrade } from "./decision/desire.ts";
import { addedWithoutNotice, noLongerUsed } from "./decision/published-ips.ts";
import type { FleetOptions } from "./decision/units.ts";
import type { Caches } from "./facts/caches.ts";
import { Claims } from "./facts/claims.ts";
import type { Facts } from "./facts/facts.ts";
import type { FleetUpgrades } from "./facts/fleet-upgrades.ts";
import { configMapsOf, gather, proxiesOf, withWritten } from "./facts/gather.ts";
import type { StatusScraper } from "./facts/status-scraper.ts";
import { hasInjectedPods, hasOtherProxies } from "./facts/unseen.ts";
import { differs } from "./objects/compare.ts";
import type { PolicyRecord } from "./objects/record.ts";
import { type Applied, statusOf } from "./status/status.ts";
import { Announcer } from "./writes/announcer.ts";
import { PodPatcher } from "./writes/pod-patches.ts";
import type { PolicyRecords } from "./writes/records.ts";
import { StatusWriter } from "./writes/status-writer.ts";
import { problemOf, Writer } from "./writes/writer.ts";

/** Requeue delay while a change is in progress that no watch reports. */
const PENDING_MS = 1000;
/** Requeue delay while a proxy was not polled yet. */
const UNPOLLED_MS = 250;
/** Requeue delay after the API server rejected an object, or its name is taken: a user has to act. */
const OBSTACLE_MS = 10_000;

/** Dependencies of a {@link PolicyReconciler}. */
interface ReconcilerOptions {
  client: Client;
  caches: Caches;
  scraper: StatusScraper;
  records: PolicyRecords;
  events: EventRecorder;
  log: Logger;
  grants: Grants;
  upgrades: FleetUpgrades;
  blockedCIDRs: () => readonly string[];
  /** The claimed addresses have changed, so another policy may be accepted now. */
  onClaims: () => void;
  fleet: FleetOptions;
  clusterDomain: string;
  /** Milliseconds since the epoch. */
  now?: () => number;
}

/**
 * Finalizer metav1.FinalizerDeleteDependents, of `--cascade=foreground` and Argo CD. With it, garbage collection
 * deletes the fleet before the policy, and again whatever the operator restores, although pods still use it. The
 * operator therefore removes the finalizer from a policy in use.
 */
const FOREGROUND = "foregroundDeletion";

const isNetworkPolicy = ({ kind }: KubeObject): boolean => kind === RESOURCE.networkPolicy.kind;

/** Whether deletion waits for the pods that use the fleet: no user forces it, and the namespace is not terminating. */
function waitsForPods({ policy, namespaceTerminating }: Facts): boolean {
  return !namespaceTerminating && policy.metadata.annotations?.[ANNOTATION.forceDelete] !== "true";
}

/** Whether a plan deletes an object, or an address of the published list counts as no longer in use. */
function takesAway({ effective, desired }: Plan): boolean {
  if (effective === undefined || desired === undefined) return false;
  if (desired.removals.length > 0) return true;
  const retiring = new Set(desired.published.json.retiring);
  return noLongerUsed(effective.spec, effective.published).some((address) => !retiring.has(address));
}

/** Whether failed fleets are the reason for which an upgrade waits; undefined if none waits. */
function pauseOf(desired: Desired | undefined): boolean | undefined {
  const others = desired?.upgrade.others;
  return others && others.failed.length > 0;
}

/** Kinds whose changes can take a proxy out of service. */
const DISTURBING: ReadonlySet<string> = new Set([RESOURCE.service.kind, RESOURCE.deployment.kind]);

/** Proxies that may serve, as text. */
const servingText = (proxies: readonly ProxyFacts[]): string =>
  proxies.flatMap(({ pod, ready, status }) => (ready ? `${pod.metadata.uid} ${isOpen(status)}` : [])).join();

/** Existing object of a policy. */
function childOf({ children }: Facts, { kind, metadata: { name } }: KubeObject): KubeObject | undefined {
  switch (kind) {
    case "ConfigMap":
      return children.configMaps.get(name);
    case "Service":
      return children.services.get(name);
    case "Deployment":
      return children.deployments.get(name);
    default:
      return children.others.find((object) => object.kind === kind && object.metadata.name === name);
  }
}

/** Reconciles one policy at a time: gathers facts, decides, applies. */
export class PolicyReconciler {
  readonly #options: ReconcilerOptions;
  readonly #writer: Writer;
  readonly #pods: PodPatcher;
  readonly #status: StatusWriter;
  /** Of events that the record makes known. */
  readonly #announcer: Announcer;
  readonly #now: () => number;
  /** Spec by policy uid: the same object as long as its generation is the same, since memos compare it by identity. */
  readonly #specs = new Map<string, { generation: number | undefined; spec: EgressPolicySpec }>();
  /** Last accepted spec, by policy uid, once this process has put it in force. */
  readonly #kept = new Map<string, EgressPolicySpec>();
  readonly #claims = new Claims();
  /** Keys of the policies that wait for an address. */
  readonly #waiting = new Set<string>();

  constructor(options: ReconcilerOptions) {
    this.#options = options;
    this.#writer = new Writer(options.client, options.log);
    this.#pods = new PodPatcher(options);
    this.#status = new StatusWriter(options.client, options.events);
    this.#announcer = new Announcer(options.events);
    this.#now = options.now ?? Date.now;
  }

  /** `key`: namespace/name. */
  async reconcile(key: string): Promise<Outcome> {
    const { caches, records } = this.#options;
    const stored = caches.policies.get(key);
    await records.removeFormer(key, stored?.metadata.uid);
    if (stored === undefined) return { result: "success" };
    const policy = this.#interned(stored);
    const facts = this.#gather(policy);
    const held = facts.injected.length > 0 && waitsForPods(facts);
    if (!held && waitsForPods(facts) && (await this.#isUsedUnseen(policy))) {
      return { result: "requeue", afterMs: PENDING_MS };
    }
    await this.#setFinalizers(policy, held);
    if (facts.namespaceTerminating || (policy.metadata.deletionTimestamp !== undefined && !held)) {
      return { result: "success" };
    }
    return this.#pursue(facts);
  }

  /** Keys of the policies whose newest or last accepted spec is rejected because of an address of another policy. */
  get waiting(): Iterable<string> {
    return this.#waiting;
  }

  /** Removes the state of a deleted policy. */
  forget(policy: EgressPolicy): void {
    const uid = policy.metadata.uid!;
    const key = keyOf(policy);
    this.#specs.delete(uid);
    this.#kept.delete(uid);
    this.#pods.forget(uid);
    this.#status.forget(uid);
    this.#announcer.close(uid);
    this.#writer.forget(uid);
    this.#waiting.delete(key);
    this.#options.upgrades.forget(key);
    this.#claim(key, []);
  }

  /** The last accepted spec of a policy: from memory, which is ahead of the record, else from its record. */
  acceptedSpecOf(policy: EgressPolicy): EgressPolicySpec | undefined {
    const { caches, records } = this.#options;
    const known = this.#kept.get(policy.metadata.uid!);
    return known ?? records.spec(policy, records.read(policy, configMapsOf(caches, policy)));
  }

  #gather(policy: EgressPolicy): Facts {
    const { caches, scraper, records, grants, upgrades } = this.#options;
    return gather(caches, policy, {
      ...{ scraper, records, grants, upgrades, claims: this.#claims },
      interned: (other) => this.#interned(other),
      acceptedSpecOf: (other) => this.acceptedSpecOf(other),
      blockedCIDRs: this.#options.blockedCIDRs(),
      image: this.#options.fleet.image,
      now: this.#now(),
    });
  }

  /** Replaces the addresses that a policy claims. */
  #claim(key: string, addresses: Iterable<string>): void {
    if (this.#claims.replace(key, addresses)) this.#options.onClaims();
  }

  #interned(policy: EgressPolicy): EgressPolicy {
    const { uid, generation } = policy.metadata;
    const known = this.#specs.get(uid!);
    if (known !== undefined && known.generation === generation) return { ...policy, spec: known.spec };
    this.#specs.set(uid!, { generation, spec: policy.spec });
    return policy;
  }

  /**
   * Whether pods use a policy with our finalizer although the cache has none. The finalizer is removed only after a live
   * list: without it, the fleet of these pods would be deleted with the policy.
   */
  async #isUsedUnseen(policy: EgressPolicy): Promise<boolean> {
    const { namespace, name, finalizers } = policy.metadata;
    if (finalizers?.includes(FINALIZER) !== true) return false;
    const { client, caches, log } = this.#options;
    if (!(await hasInjectedPods(client, policy))) return false;
    log.warn({ namespace, name }, "pods use this policy that the cache does not have, comparing the cache");
    caches.pods.doubt();
    return true;
  }

  /**
   * Whether a plan takes something away from a fleet that has pods which the cache lacks. Such a proxy may still use an
   * object that the plan deletes, or an address that it no longer publishes.
   */
  async #concernsUnseen({ policy, proxies }: Facts, plan: Plan): Promise<boolean> {
    if (!takesAway(plan)) return false;
    const { client, caches, log } = this.#options;
    const known = new Set(proxies.filter(mayRun).map(({ pod }) => pod.metadata.uid));
    if (!(await hasOtherProxies(client, policy, known))) return false;
    const { namespace, name } = policy.metadata;
    log.info({ namespace, name }, "the fleet has proxies that the cache does not have, comparing the cache");
    caches.proxies.doubt();
    return true;
  }

  /** Sets the finalizer on policies in use only, so that a deleted operator blocks the deletion of no other policy. */
  async #setFinalizers({ metadata }: EgressPolicy, held: boolean): Promise<void> {
    const { name, namespace, resourceVersion, deletionTimestamp, finalizers = [] } = metadata;
    const list = finalizers.filter((finalizer) => finalizer !== (held ? FOREGROUND : FINALIZER));
    // The API server rejects new finalizers on an object that is being deleted.
    if (held && deletionTimestamp === undefined && !list.includes(FINALIZER)) list.push(FINALIZER);
    if (list.join() === finalizers.join()) return;
    const patch = { metadata: { finalizers: list, resourceVersion } };
    try {
      await this.#options.client.patch(RESOURCE.policy, name, namespace, patch, {
        type: "merge",
        fieldManager: FIELD_MANAGER,
      });
    } catch (error) {
      if (error instanceof ApiError && error.code === 404) return;
      throw error;
    }
  }

  async #pursue(facts: Facts): Promise<Outcome> {
    const { policy, record } = facts;
    const { caches, records, fleet } = this.#options;
    // Deleted meanwhile: its claims would never be released.
    if (caches.policies.get(keyOf(policy))?.metadata.uid !== policy.metadata.uid) return { result: "success" };
    const plan = decide(facts, () => records.spec(policy, record), fleet);
    this.#remember(policy, plan);
    if (await this.#concernsUnseen(facts, plan)) return { result: "requeue", afterMs: PENDING_MS };
    const problem = await this.#record(facts, plan);
    await this.#pods.patch(plan.repairs);
    const { applied, children } =
      problem === undefined
        ? await this.#carryOut(facts, plan)
        : { applied: { problem, networkPolicy: problem }, children: facts.children };
    // Nothing was written: other fleets need not wait for this one.
    if (applied.problem !== undefined) this.#options.upgrades.reserve(keyOf(policy), false);
    // After a start, proxies are polled before the first status, which would otherwise be wrong for a moment.
    if (facts.proxies.some(({ polled }) => !polled)) return { result: "requeue", afterMs: UNPOLLED_MS };
    const { clusterDomain } = this.#options;
    const recorded = problem === undefined || policy.status?.recorded === true;
    await this.#status.write(policy, statusOf({ ...facts, children }, { plan, applied, recorded, clusterDomain }));
    return this.#outcome(facts, plan, applied);
  }

  /** Keeps the spec in force, the addresses that the policy has from now on, and whether it waits for others. */
  #remember(policy: EgressPolicy, { effective, rejection, keptRejection, desired }: Plan): void {
    const key = keyOf(policy);
    const { upgrades } = this.#options;
    upgrades.reserve(key, desired !== undefined && writesUpgrade(desired));
    upgrades.wait(key, pauseOf(desired));
    const waits = [rejection, keptRejection].some((one) => one?.reason === REASON.conflicted);
    if (waits) this.#waiting.add(key);
    else this.#waiting.delete(key);
    // Existing objects are left unchanged, and so are the claims.
    if (effective === undefined || keptRejection !== undefined) return;
    this.#kept.set(policy.metadata.uid!, effective.spec);
    this.#claim(key, exclusiveAddresses(effective.spec).keys());
  }

  /**
   * Writes the record before the objects that depend on it: a restart finds each address that a proxy may use. A new
   * policy gets its record although its spec is rejected, so that its ConfigMaps are never taken for former ones.
   */
  async #record({ policy, record }: Facts, { accepted, effective, desired }: Plan): Promise<Applied["problem"]> {
    const { records } = this.#options;
    // The record makes an address known, so its event would be lost by a crash between the two.
    if (effective !== undefined && desired !== undefined) await this.#warnAddresses(policy, effective);
    if (accepted !== undefined && accepted.spec !== record.spec) await this.#warnEdit(policy, record);
    try {
      await records.write(policy, {
        spec: accepted?.spec ?? record.spec,
        published: desired?.published.json ?? record.published,
      });
      this.#announcer.close(policy.metadata.uid!);
      return undefined;
    } catch (error) {
      return problemOf(error);
    }
  }

  /** Applies a plan, and patches pods before and after. */
  async #carryOut(facts: Facts, { effective, desired }: Plan): Promise<{ applied: Applied } & Pick<Facts, "children">> {
    if (effective === undefined || desired === undefined) {
      return { applied: { problem: undefined, networkPolicy: undefined }, children: facts.children };
    }
    const { labels } = desired.round;
    const written: KubeObject[] = [];
    const applied = await this.#apply(facts, desired, written);
    // The Service may still need the labels that a rejected write would have replaced.
    if (applied.problem === undefined) {
      if (labels.retire.length > 0) this.#confirmServing(facts);
      await this.#pods.patch([...labels.retire, ...labels.clean]);
    }
    await this.#pods.refresh(facts, effective.hash);
    return { applied, children: withWritten(facts.children, written) };
  }

  async #apply(facts: Facts, desired: Desired, written: KubeObject[]): Promise<Applied> {
    let problem: Applied["problem"];
    let networkPolicy: Applied["networkPolicy"];
    for (const object of desired.objects) {
      const stored = childOf(facts, object);
      if (stored !== undefined && DISTURBING.has(object.kind!) && differs(stored, object)) this.#confirmServing(facts);
      try {
        const one = await this.#writer.apply(facts.policy, object, stored);
        if (one === undefined) continue;
        written.push(one);
        this.#outdate(facts.policy, object);
      } catch (error) {
        // A write whose answer was lost may have happened.
        this.#outdate(facts.policy, object);
        const found = problemOf(error);
        problem ??= found;
        if (isNetworkPolicy(object)) networkPolicy ??= found;
        // Addresses are published before they are used, and pods mount only ConfigMaps of their own policy.
        if (object.kind === "ConfigMap" || object.kind === "ServiceAccount") {
          return { problem, networkPolicy: problem };
        }
      }
    }
    // NetworkPolicies that were disabled are deleted at once. Other objects are kept until their replacements exist.
    const due = problem === undefined ? desired.removals : desired.removals.filter(isNetworkPolicy);
    for (const object of due) {
      if (DISTURBING.has(object.kind!)) this.#confirmServing(facts);
      try {
        await this.#writer.remove(facts.policy, object);
      } catch (error) {
        const found = problemOf(error);
        problem ??= found;
        if (isNetworkPolicy(object)) networkPolicy ??= found;
      }
    }
    return { problem, networkPolicy, altered: this.#writer.altered(facts.policy, desired.objects) };
  }

  /**
   * Checks that the same proxies serve as when the plan was made, before a write that can disturb them. The writes before it
   * take time, and a proxy that became ready meanwhile is not protected by the plan. @throws ApiError with reason Conflict
   */
  #confirmServing({ policy, proxies }: Facts): void {
    const { caches, scraper } = this.#options;
    const key = keyOf(policy);
    if (servingText(proxiesOf(caches, key, scraper)) === servingText(proxies)) return;
    throw new ApiError(409, "Conflict", `${KIND} ${key}: other proxies serve now than when the plan was made`);
  }

  /** After the policy document was written, earlier answers of the proxies do not confirm it. */
  #outdate(policy: EgressPolicy, { kind, metadata }: KubeObject): void {
    if (kind !== "ConfigMap" || metadata.name !== childName.document(policy.metadata.name)) return;
    this.#options.scraper.outdate(keyOf(policy));
  }

  async #warnAddresses(policy: EgressPolicy, { spec, published }: Effective): Promise<void> {
    const added = addedWithoutNotice(spec, published);
    if (added.length === 0) return;
    const ips = counted(added.length, "static IP is", "static IPs are");
    const message = `${ips} in use without a Pending phase before: ${added.join(", ")}; receivers had no notice`;
    await this.#announcer.announce(policy, [{ type: "Warning", reason: EVENT_REASON.addedWithoutNotice, message }]);
  }

  /** Warns about an edit since the last accepted spec. */
  async #warnEdit(policy: EgressPolicy, record: PolicyRecord): Promise<void> {
    const before = this.#options.records.spec(policy, record);
    if (before === undefined) return;
    const messages = {
      [EVENT_REASON.clientsRemoved]: clientsRemoved(before, policy.spec),
      [EVENT_REASON.reachWidened]: reachWidened(policy, before, this.#options.blockedCIDRs()),
    };
    const events = Object.entries(messages).flatMap(([reason, message]) =>
      message === undefined ? [] : [{ type: "Warning" as const, reason, message }],
    );
    await this.#announcer.announce(policy, events);
  }

  #outcome({ policy, now }: Facts, { desired }: Plan, { problem }: Applied): Outcome {
    if (problem !== undefined) {
      return { result: "requeue", afterMs: problem.reason === REASON.replacing ? PENDING_MS : OBSTACLE_MS };
    }
    if (desired === undefined) return { result: "user-error" };
    // Watches and proxy polls report the progress of all other changes, such as a migration of slots.
    const times = [desired.round.recheckAt, desired.upgrade.others?.deadline].filter((time) => time !== undefined);
    const waits = [
      this.#pods.nextRefreshMs(policy.metadata.uid!),
      ...times.map((time) => Math.max(PENDING_MS, time - now)),
    ].filter((ms) => ms !== undefined);
    return waits.length === 0 ? { result: "success" } : { result: "requeue", afterMs: Math.min(...waits) };
  }
}
