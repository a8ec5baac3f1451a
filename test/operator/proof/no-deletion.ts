import type { EgressPolicy } from "../../../operator/api/egresspolicy.ts";
import { ANNOTATION, FINALIZER, LABEL } from "../../../operator/api/names.ts";
import { SHARED, slotsOf } from "../../../operator/fleet/slots.ts";
import { type KubeObject, keyOf } from "../../../operator/kube/resource.ts";
import { providerOf } from "../../../operator/providers/index.ts";
import type { Change } from "./observer.ts";
import type { Report } from "./violation.ts";
import type { World } from "./world.ts";

/** A spec that is younger than this may not have been read by anyone. */
const UNREAD_MS = 1500;
/** Pods and policies have different watches. */
const SKEW_MS = 1000;

interface Deletion {
  policy: string;
  generation: number;
  text: string;
}

/** I5: nothing is deleted that the newest accepted spec wants, and no finalizer goes while pods use the policy. */
export class Deletions {
  readonly #world: World;
  readonly #report: Report;
  /** Deletions that are wrong if the spec of that generation is accepted, now or later. */
  readonly #suspects: Deletion[] = [];
  /** By uid of the policy: generations that were accepted, and since when the newest one exists. */
  readonly #accepted = new Map<string, Set<number>>();
  readonly #since = new Map<string, { generation: number; at: number }>();
  /** When a pod was first seen to use a policy, by uid. */
  readonly #users = new Map<string, number>();
  readonly #timers = new Set<NodeJS.Timeout>();

  constructor(world: World, report: Report) {
    this.#world = world;
    this.#report = report;
  }

  see(change: Change): void {
    const { kind, type, object } = change;
    if (kind === "policy") this.#seePolicy(object as EgressPolicy, change);
    else if (kind === "pod") {
      if (object.metadata.labels?.[LABEL.injected] !== undefined && !this.#users.has(object.metadata.uid!)) {
        this.#users.set(object.metadata.uid!, Date.now());
      }
    } else if (type === "DELETED") this.#seeDeleted(kind, object);
  }

  #seePolicy(policy: EgressPolicy, { type, before }: Change): void {
    const { uid, generation = 0 } = policy.metadata;
    if (this.#since.get(uid!)?.generation !== generation) this.#since.set(uid!, { generation, at: Date.now() });
    const accepted = policy.status?.conditions?.find((condition) => condition.type === "Accepted");
    if (accepted?.status === "True") {
      const known = this.#accepted.get(uid!) ?? new Set();
      this.#accepted.set(uid!, known.add(accepted.observedGeneration ?? 0));
    }
    const had = before?.metadata.finalizers?.includes(FINALIZER) === true;
    const has = type !== "DELETED" && policy.metadata.finalizers?.includes(FINALIZER) === true;
    if (!had || has || policy.metadata.annotations?.[ANNOTATION.forceDelete] === "true") return;
    const users = this.#usersOf(policy).filter(
      ({ metadata }) => Date.now() - this.#users.get(metadata.uid!)! > SKEW_MS,
    );
    this.#later(() => {
      const left = this.#usersOf(policy).filter((pod) =>
        users.some(({ metadata }) => metadata.uid === pod.metadata.uid),
      );
      if (left.length > 0) {
        const names = left.map(({ metadata }) => metadata.name).join(", ");
        this.#report({ invariant: "I5", text: `${keyOf(policy)}: its finalizer was released while ${names} used it` });
      }
    });
  }

  /** Calls a function when the watches of all kinds have caught up. */
  #later(check: () => void): void {
    this.#timers.add(setTimeout(check, SKEW_MS));
  }

  #usersOf({ metadata }: EgressPolicy): KubeObject[] {
    return this.#world.observer
      .list("pod", [metadata.namespace!])
      .filter(
        (pod) =>
          pod.metadata.labels?.[LABEL.injected] === metadata.name && pod.metadata.deletionTimestamp === undefined,
      );
  }

  #seeDeleted(kind: string, { metadata }: KubeObject): void {
    const name = metadata.labels?.[LABEL.policy];
    const policy = this.#world.observer.get<EgressPolicy>("policy", `${metadata.namespace}/${name}`);
    if (policy === undefined || policy.metadata.deletionTimestamp !== undefined) return;
    const { uid, generation = 0 } = policy.metadata;
    if (!metadata.ownerReferences?.some((owner) => owner.uid === uid)) return;
    if (Date.now() - this.#since.get(uid!)!.at < UNREAD_MS) return;
    // A rejected spec is not in force, also if it is accepted later: another policy may have freed its address.
    const accepted = policy.status?.conditions?.find((condition) => condition.type === "Accepted");
    if (accepted?.status === "False" && accepted.observedGeneration === generation) return;
    const slot = metadata.labels?.[LABEL.slot];
    const slots = providerOf(policy.spec)?.shape.kind === "Slots" ? slotsOf(policy.spec).map(({ id }) => id) : [SHARED];
    if (slot !== undefined && !slots.includes(slot)) return;
    // The Service of a slot belongs to one provider only.
    if (kind === "service" && slot !== undefined && policy.spec.nat.provider !== "KubeVIP") return;
    const text = `${keyOf(policy)}: ${kind} ${metadata.name} was deleted, and generation ${generation} wants it`;
    // Garbage collection may be seen before the deletion of the policy.
    this.#later(() => {
      const now = this.#world.observer.get<EgressPolicy>("policy", keyOf(policy))?.metadata;
      if (now?.uid === uid && now?.deletionTimestamp === undefined) {
        this.#suspects.push({ policy: uid!, generation, text });
      }
    });
  }

  /** Reports the deletions that were against an accepted spec. */
  judge(): void {
    for (const { policy, generation, text } of this.#suspects.splice(0)) {
      if (this.#accepted.get(policy)?.has(generation)) this.#report({ invariant: "I5", text });
    }
  }

  stop(): void {
    for (const timer of this.#timers) clearTimeout(timer);
  }
}
