import type { Logger } from "../../proxy/cli/log.ts";
import type { EgressPolicy } from "../api/egresspolicy.ts";
import { CHILDREN, RESOURCE } from "../api/kinds.ts";
import { ANNOTATION, FIELD_MANAGER, KIND, REASON, type Reason } from "../api/names.ts";
import { ApiError, type Client } from "../kube/client.ts";
import type { KubeObject, Resource } from "../kube/resource.ts";
import { differs } from "./differs.ts";
import { isControlledBy } from "./gather.ts";

/** Something stands in the way of an object: the user's or another program's, not a fault to retry fast. */
export class Obstacle extends Error {
  readonly reason: Reason;

  constructor(reason: Reason, message: string) {
    super(message);
    this.reason = reason;
  }
}

/** What somebody has to mend before an object can be applied. @throws what a retry can mend */
export function problemOf(error: unknown): { reason: Reason; message: string } {
  if (error instanceof Obstacle) return { reason: error.reason, message: error.message };
  // Refused as it is: by quota, by an admission plugin, by a right that is missing. The next try comes later.
  if (error instanceof ApiError && (error.code === 403 || error.code === 422 || error.code === 400)) {
    return { reason: REASON.applyFailed, message: error.message };
  }
  throw error;
}

/** The kind of a child as the API server names it. */
export function resourceOf(object: KubeObject): Resource {
  const kind = CHILDREN.find((child) => RESOURCE[child].kind === object.kind);
  if (kind === undefined) throw new Error(`${object.kind} is no kind that a policy owns`);
  return RESOURCE[kind];
}

function nameTaken({ kind, metadata }: KubeObject): Obstacle {
  const message = `${kind} ${metadata.name} exists and is not this policy's; delete or rename it, or rename the policy`;
  return new Obstacle(REASON.nameTaken, message);
}

/**
 * Writes objects by server-side apply, and only what differs from what stands there, so that a settled policy writes
 * nothing. An object of the same name that is not controlled by the policy is never taken over.
 */
export class Writer {
  readonly #client: Client;
  readonly #log: Logger;
  /**
   * Objects that the API server keeps otherwise than they were applied, by the uid of their policy and by kind and name:
   * version and stamp, which are not applied again until one changes.
   */
  readonly #futile = new Map<string, Map<string, string>>();

  constructor(client: Client, log: Logger) {
    this.#client = client;
    this.#log = log;
  }

  /** What stands there by the store, or by the API server for what the store does not have: it may be foreign. */
  async #actual(
    policy: EgressPolicy,
    object: KubeObject,
    stored: KubeObject | undefined,
  ): Promise<KubeObject | undefined> {
    if (stored !== undefined) return stored;
    const { name, namespace } = object.metadata;
    let found: KubeObject;
    try {
      found = await this.#client.get(resourceOf(object), name, namespace);
    } catch (error) {
      if (error instanceof ApiError && error.code === 404) return undefined;
      throw error;
    }
    if (isControlledBy(found, policy)) return found;
    const former = found.metadata.ownerReferences?.find(
      (owner) => owner.controller === true && owner.kind === KIND && owner.name === policy.metadata.name,
    );
    if (former === undefined) throw nameTaken(object);
    await this.remove(found);
    throw new Obstacle(REASON.replacing, `${object.kind} ${name} is still that of a former policy of this name`);
  }

  /** Applies one object if need be, and gives it as it was written. @throws Obstacle, ApiError */
  async apply(
    policy: EgressPolicy,
    object: KubeObject,
    stored: KubeObject | undefined,
  ): Promise<KubeObject | undefined> {
    const actual = await this.#actual(policy, object, stored);
    if (actual?.metadata.deletionTimestamp !== undefined) {
      throw new Obstacle(REASON.replacing, `${object.kind} ${object.metadata.name} is being deleted`);
    }
    if (!differs(actual, object)) return undefined;
    const futile = this.#futile.get(policy.metadata.uid!) ?? new Map<string, string>();
    const what = `${object.kind}/${object.metadata.name}`;
    const attempt = ({ metadata }: KubeObject) =>
      `${metadata.resourceVersion} ${object.metadata.annotations?.[ANNOTATION.applied]}`;
    if (actual !== undefined && futile.get(what) === attempt(actual)) return undefined;
    futile.delete(what);
    const written = await this.#write(object, actual?.metadata.uid);
    if (!differs(written, object)) return written;
    this.#log.warn(
      { kind: object.kind, namespace: object.metadata.namespace, name: object.metadata.name },
      "the API server keeps this object otherwise than it was applied: an admission plugin changes it",
    );
    this.#futile.set(policy.metadata.uid!, futile.set(what, attempt(written)));
    return written;
  }

  /** A policy is gone for good. */
  forget(policyUid: string): void {
    this.#futile.delete(policyUid);
  }

  /** By its uid: another object that got the name since the policy's own was seen is not to be written. */
  async #write(object: KubeObject, uid: string | undefined): Promise<KubeObject> {
    const whole = uid === undefined ? object : { ...object, metadata: { ...object.metadata, uid } };
    try {
      return await this.#client.apply(resourceOf(object), whole, { fieldManager: FIELD_MANAGER, force: true });
    } catch (error) {
      if (error instanceof ApiError && error.causes.some(({ field }) => field === "metadata.uid")) {
        throw nameTaken(object);
      }
      throw error;
    }
  }

  /** Deletes an object as it was seen; one that is gone already is as wanted. */
  async remove(object: KubeObject): Promise<void> {
    const { name, namespace, uid, deletionTimestamp } = object.metadata;
    if (deletionTimestamp !== undefined) return;
    try {
      const preconditions = uid === undefined ? {} : { uid };
      await this.#client.delete(resourceOf(object), name, namespace, { ...preconditions, propagation: "Background" });
    } catch (error) {
      if (!(error instanceof ApiError && (error.code === 404 || error.code === 409))) throw error;
    }
  }
}
