import type { Logger } from "../../proxy/cli/log.ts";
import type { Condition } from "../api/conditions.ts";
import type { EgressPolicy, EgressPolicyStatus } from "../api/egresspolicy.ts";
import { RESOURCE } from "../api/kinds.ts";
import {
  ANNOTATION,
  childName,
  EVENT_REASON,
  FIELD_MANAGER,
  FINALIZER,
  KIND,
  REASON,
  STATUS_MANAGER,
} from "../api/names.ts";
import { ApiError, type Client } from "../kube/client.ts";
import type { Outcome } from "../kube/controller.ts";
import type { EventRecorder } from "../kube/events.ts";
import { apiVersionOf, type KubeObject } from "../kube/resource.ts";
import { servingLabels } from "../providers/provider.ts";
import { lastAccepted } from "./accept.ts";
import { decide } from "./decide.ts";
import { type Desired, type FleetOptions, lagging } from "./desire.ts";
import { covers } from "./differs.ts";
import type { Facts } from "./facts.ts";
import { gather, withWritten } from "./gather.ts";
import type { Grants } from "./grants.ts";
import { isNews, isTrouble } from "./news.ts";
import { addedWithoutNotice, publishedBefore } from "./published.ts";
import { unpackSpec } from "./resources/configmap.ts";
import type { Scraper } from "./scrape.ts";
import { labelPatches, type PodPatch, SERVING_LABELS, type ServingLabel } from "./serving.ts";
import { slotsOf } from "./slots.ts";
import { type Applied, judge, type Verdict } from "./status.ts";
import type { World } from "./world.ts";
import { problemOf, Writer } from "./write.ts";

/** While something is under way that no watch tells of. */
const PENDING_MS = 1000;
/** A proxy that was not asked yet will have been then. */
const UNASKED_MS = 250;
/** After the API server refused an object, or its name is taken: somebody has to do something. */
const OBSTACLE_MS = 10_000;
/** A pod is told to look at its volume at most once in this time. */
const REFRESH_MS = 1000;
/** After so many times, seldom: its kubelet does not follow, or the document is refused. */
const REFRESH_PATIENCE = 30;
const REFRESH_SELDOM_MS = 10_000;

/** What a {@link PolicyReconciler} needs. */
export interface ReconcilerOptions {
  client: Client;
  world: World;
  scraper: Scraper;
  events: EventRecorder;
  log: Logger;
  grants: Grants;
  blockedCIDRs: () => readonly string[];
  fleet: FleetOptions;
  clusterDomain: string;
  /** Milliseconds since the epoch. */
  now?: () => number;
}

/**
 * metav1.FinalizerDeleteDependents. Garbage collection would take the fleet before the policy (`--cascade=foreground`, Argo
 * CD's default), and again whatever is made anew, although pods still use it: it is taken off a policy in use.
 */
const FOREGROUND = "foregroundDeletion";

type Effective = NonNullable<Verdict["effective"]>;

interface Refresh {
  hash: string;
  times: number;
  at: number;
}

const isNetworkPolicy = ({ kind }: KubeObject): boolean => kind === RESOURCE.networkPolicy.kind;

/** Whether a deleted policy has to wait: pods use its fleet, nobody forces it, and its namespace stays. */
function inUse({ policy, injected, namespaceTerminating }: Facts): boolean {
  if (injected.length === 0 || namespaceTerminating) return false;
  return policy.metadata.annotations?.[ANNOTATION.forceDelete] !== "true";
}

/** One policy at a time: gather, decide, apply. */
export class PolicyReconciler {
  readonly #options: ReconcilerOptions;
  readonly #writer: Writer;
  readonly #now: () => number;
  /** The spec by policy uid, the same object as long as its generation is: documents are remembered by it. */
  readonly #specs = new Map<string, { generation: number | undefined; spec: EgressPolicy["spec"] }>();
  /** The spec that was accepted last, by policy uid. */
  readonly #kept = new Map<string, EgressPolicy["spec"]>();
  /** Exclusive addresses that were accepted, by address: the policy's uid. Two policies decided at once must not both have one. */
  readonly #claims = new Map<string, string>();
  /** By policy uid, for its late pods by uid: when one was told to look at its volume, how often for the same document. */
  readonly #refreshed = new Map<string, ReadonlyMap<string, Refresh>>();

  constructor(options: ReconcilerOptions) {
    this.#options = options;
    this.#writer = new Writer(options.client, options.log);
    this.#now = options.now ?? Date.now;
  }

  /** `key`: namespace/name. */
  async reconcile(key: string): Promise<Outcome> {
    const stored = this.#options.world.policies.get(key);
    if (stored === undefined) return { result: "success" };
    const policy = this.#interned(stored);
    const { scraper, grants, world } = this.#options;
    const blockedCIDRs = this.#options.blockedCIDRs();
    const facts = gather(world, policy, { scraper, grants, claims: this.#claims, blockedCIDRs, now: this.#now() });
    const held = inUse(facts);
    await this.#setFinalizers(policy, held);
    if (facts.namespaceTerminating || (policy.metadata.deletionTimestamp !== undefined && !held)) {
      return { result: "success" };
    }
    return this.#pursue(facts);
  }

  /** A policy is gone for good. */
  forget(policy: EgressPolicy): void {
    const uid = policy.metadata.uid!;
    this.#specs.delete(uid);
    this.#kept.delete(uid);
    this.#refreshed.delete(uid);
    this.#writer.forget(uid);
    this.#claim(uid, []);
  }

  /** Gives a policy the addresses that it has from now on, and takes all others from it. */
  #claim(uid: string, addresses: readonly string[]): void {
    for (const [address, holder] of this.#claims) if (holder === uid) this.#claims.delete(address);
    for (const address of addresses) this.#claims.set(address, uid);
  }

  #interned(policy: EgressPolicy): EgressPolicy {
    const { uid, generation } = policy.metadata;
    const known = this.#specs.get(uid!);
    if (known !== undefined && known.generation === generation) return { ...policy, spec: known.spec };
    this.#specs.set(uid!, { generation, spec: policy.spec });
    return policy;
  }

  /** Only a policy in use is held: an operator that is gone, or has lost its rights, is in the way of no other one's end. */
  async #setFinalizers({ metadata }: EgressPolicy, held: boolean): Promise<void> {
    const { name, namespace, resourceVersion, deletionTimestamp, finalizers = [] } = metadata;
    const list = finalizers.filter((finalizer) => finalizer !== (held ? FOREGROUND : FINALIZER));
    // The API server takes no new ones on what is being deleted.
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
    const { refusal, accepted, effective, stands, desired } = decide(
      facts,
      () => this.#keptSpec(facts),
      this.#options.fleet,
    );
    if (accepted !== undefined) this.#kept.set(facts.policy.metadata.uid!, facts.policy.spec);
    const exclusive = effective?.provider.exclusive ? slotsOf(effective.spec) : [];
    this.#claim(
      facts.policy.metadata.uid!,
      exclusive.flatMap(({ address, source }) => [address, source]),
    );
    let { children } = facts;
    let applied: Applied = { problem: undefined, networkPolicy: undefined };
    if (effective !== undefined && desired !== undefined) {
      this.#warnAddresses(facts, effective.spec);
      const selected = servingLabels(effective.provider);
      // The client Service must never select by a label that no serving pod has yet, or has no more.
      await this.#labelPods(facts, effective, (key) => selected[key] !== undefined);
      const written: KubeObject[] = [];
      applied = await this.#apply(facts, desired, written);
      children = withWritten(children, written);
      await this.#labelPods(facts, effective, (key) => selected[key] === undefined);
      for (const patch of this.#refreshes(facts, effective.hash)) await this.#patchPod(patch);
    }
    // A status out of ignorance would be taken back in a moment: after a start, proxies are asked first.
    if (facts.proxies.some(({ asked }) => !asked)) return { result: "requeue", afterMs: UNASKED_MS };
    const { clusterDomain } = this.#options;
    const waiting = desired?.waiting ?? [];
    const formerProxies = desired?.formerProxies ?? [];
    const networkPolicies = desired?.networkPolicies;
    const verdict = { refusal, effective, applied, stands, waiting, formerProxies, networkPolicies, clusterDomain };
    const status = judge({ ...facts, children }, verdict);
    await this.#writeStatus(facts.policy, status);
    return this.#outcome(facts, effective, applied);
  }

  /** The spec that was accepted last, kept beside its document. */
  #keptSpec({ policy, children }: Facts): EgressPolicy["spec"] | undefined {
    const uid = policy.metadata.uid!;
    // Memory first: the ConfigMap lies where others may write.
    const known = this.#kept.get(uid);
    if (known !== undefined) return known;
    const packed = lastAccepted(policy, children.configMaps);
    if (packed === undefined) return undefined;
    try {
      const spec = unpackSpec(packed);
      this.#kept.set(uid, spec);
      return spec;
    } catch (error) {
      const { namespace, name } = policy.metadata;
      this.#options.log.warn({ namespace, name, err: error }, "the spec that was accepted last cannot be read");
      return undefined;
    }
  }

  async #apply(facts: Facts, desired: Desired, written: KubeObject[]): Promise<Applied> {
    const { policy, children } = facts;
    const find = (kind: string, name: string) => {
      if (kind === "ConfigMap") return children.configMaps.get(name);
      if (kind === "Service") return children.services.get(name);
      if (kind === "Deployment") return children.deployments.get(name);
      return children.others.find((object) => object.kind === kind && object.metadata.name === name);
    };
    let problem: Applied["problem"];
    let networkPolicy: Applied["networkPolicy"];
    for (const object of desired.objects) {
      try {
        const one = await this.#writer.apply(policy, object, find(object.kind, object.metadata.name));
        if (one !== undefined) written.push(one);
      } catch (error) {
        const found = problemOf(error);
        problem ??= found;
        if (isNetworkPolicy(object)) networkPolicy ??= found;
        // Addresses are published before they are used, and pods mount nothing that is not the policy's own.
        if (object.kind === "ConfigMap" || object.kind === "ServiceAccount") {
          return { problem, networkPolicy: problem };
        }
      }
    }
    // What was switched off goes at once; everything else stays until what is wanted instead stands there.
    const due = problem === undefined ? desired.removals : desired.removals.filter(isNetworkPolicy);
    for (const object of due) {
      try {
        await this.#writer.remove(object);
      } catch (error) {
        const found = problemOf(error);
        problem ??= found;
        if (isNetworkPolicy(object)) networkPolicy ??= found;
      }
    }
    return { problem, networkPolicy };
  }

  async #labelPods(facts: Facts, effective: Effective, which: (key: ServingLabel) => boolean): Promise<void> {
    const keys = SERVING_LABELS.filter(which);
    const patches = labelPatches(facts.proxies, effective.provider, effective.spec, keys);
    for (const patch of patches) await this.#patchPod(patch);
  }

  #refreshes(facts: Facts, hash: string): PodPatch[] {
    const policyUid = facts.policy.metadata.uid!;
    const known = this.#refreshed.get(policyUid);
    const late = lagging(facts.proxies, hash);
    const refreshed = new Map<string, Refresh>();
    this.#refreshed.set(policyUid, refreshed);
    return late.flatMap(({ pod }): PodPatch[] => {
      const uid = pod.metadata.uid!;
      const last = known?.get(uid);
      const before = last?.hash === hash ? last : { hash, times: 0, at: 0 };
      if (before.times < REFRESH_PATIENCE) this.#options.scraper.urge(pod);
      const pause = before.times < REFRESH_PATIENCE ? REFRESH_MS : REFRESH_SELDOM_MS;
      if (facts.now - before.at < pause) {
        refreshed.set(uid, before);
        return [];
      }
      refreshed.set(uid, { hash, times: before.times + 1, at: facts.now });
      return [{ pod, annotations: { [ANNOTATION.refresh]: `${hash.slice(7, 19)}-${before.times}` } }];
    });
  }

  async #patchPod({ pod, labels, annotations }: PodPatch): Promise<void> {
    const { name, namespace, uid } = pod.metadata;
    const metadata = { uid, ...(labels && { labels }), ...(annotations && { annotations }) };
    try {
      const options = { type: "merge", fieldManager: FIELD_MANAGER } as const;
      await this.#options.client.patch(RESOURCE.pod, name, namespace, { metadata }, options);
    } catch (error) {
      // Gone, or replaced by another pod of its name: nothing is left to patch.
      if (!(error instanceof ApiError && (error.code === 404 || error.code === 409))) throw error;
    }
  }

  #warnAddresses(facts: Facts, spec: EgressPolicy["spec"]): void {
    const { policy, children } = facts;
    const before = publishedBefore(children.configMaps.get(childName.published(policy.metadata.name)));
    const added = addedWithoutNotice(spec, before);
    if (added.length === 0) return;
    const message = `${added.join(", ")} is in use without having been published as Pending first: receivers had no notice`;
    this.#options.events.event(policy, "Warning", EVENT_REASON.addedWithoutNotice, message);
  }

  async #writeStatus(policy: EgressPolicy, status: EgressPolicyStatus): Promise<void> {
    const before = policy.status;
    if (same(before, status)) return;
    const { name, namespace } = policy.metadata;
    const object = { apiVersion: apiVersionOf(RESOURCE.policy), kind: KIND, metadata: { name, namespace }, status };
    try {
      await this.#options.client.apply(RESOURCE.policy, object, {
        fieldManager: STATUS_MANAGER,
        force: true,
        subresource: "status",
      });
    } catch (error) {
      if (error instanceof ApiError && error.code === 404) return;
      throw error;
    }
    this.#tell(policy, (before?.conditions ?? []) as Condition[], status.conditions as Condition[]);
  }

  /** Events of conditions that changed. */
  #tell(policy: EgressPolicy, before: readonly Condition[], after: readonly Condition[]): void {
    for (const condition of after) {
      if (
        !isNews(
          condition,
          before.find(({ type }) => type === condition.type),
        )
      )
        continue;
      const { type, reason, message } = condition;
      this.#options.events.event(policy, isTrouble(condition) ? "Warning" : "Normal", reason, `${type}: ${message}`);
    }
  }

  #outcome({ policy }: Facts, effective: Effective | undefined, { problem }: Applied): Outcome {
    if (problem !== undefined) {
      return { result: "requeue", afterMs: problem.reason === REASON.replacing ? PENDING_MS : OBSTACLE_MS };
    }
    if (effective === undefined) return { result: "user-error" };
    // Of everything else that is under way, such as an exchange of slots, watches and answers of proxies tell.
    const late = [...(this.#refreshed.get(policy.metadata.uid!)?.values() ?? [])];
    if (late.length === 0) return { result: "success" };
    const soon = late.some(({ times }) => times < REFRESH_PATIENCE);
    return { result: "requeue", afterMs: soon ? REFRESH_MS : REFRESH_SELDOM_MS };
  }
}

/** Whether a status says the same: both ways, so that what is no longer said is noticed. */
function same(before: EgressPolicyStatus | undefined, after: EgressPolicyStatus): boolean {
  return covers(before, after) && covers(after, before);
}
