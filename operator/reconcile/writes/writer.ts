import type { Logger } from "../../../proxy/cli/log.ts";
import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { CHILDREN, RESOURCE } from "../../api/kinds.ts";
import { ANNOTATION, FIELD_MANAGER, KIND, REASON, type Reason } from "../../api/names.ts";
import { ApiError, type Client } from "../../kube/client.ts";
import type { KubeObject, Resource } from "../../kube/resource.ts";
import { isControlledBy } from "../facts/gather.ts";
import { differs } from "../objects/compare.ts";

/** An obstacle that a user or another program has to remove, so a fast retry does not help. */
export class Obstacle extends Error {
  readonly reason: Reason;

  constructor(reason: Reason, message: string) {
    super(message);
    this.reason = reason;
  }
}

/** Problem of an object that a user has to fix. @throws errors that a retry can fix */
export function problemOf(error: unknown): { reason: Reason; message: string } {
  if (error instanceof Obstacle) return { reason: error.reason, message: error.message };
  // Rejected by a quota, an admission plugin or a missing right. The next attempt follows later.
  if (error instanceof ApiError && (error.code === 403 || error.code === 422 || error.code === 400)) {
    return { reason: REASON.applyFailed, message: error.message };
  }
  throw error;
}

/** Resource of an object that a policy owns. */
function resourceOf(object: KubeObject): Resource {
  const kind = CHILDREN.find((child) => RESOURCE[child].kind === object.kind);
  if (kind === undefined) throw new Error(`${object.kind} is not a kind that a policy owns`);
  return RESOURCE[kind];
}

function nameTaken({ kind, metadata }: KubeObject): Obstacle {
  const message = `${kind} ${metadata.name} exists and does not belong to this policy; delete it, or create the policy under another name`;
  return new Obstacle(REASON.nameTaken, message);
}

/**
 * Writes objects by server-side apply, and only those that differ from the existing ones, so that a settled policy
 * writes nothing. It never takes over an object of the same name that the policy does not control.
 */
export class Writer {
  readonly #client: Client;
  readonly #log: Logger;
  /**
   * Objects that the API server stores differently than applied, by policy uid, then by kind and name. The value is
   * their version and stamp; they are applied again when one of these changes.
   */
  readonly #futile = new Map<string, Map<string, string>>();

  constructor(client: Client, log: Logger) {
    this.#client = client;
    this.#log = log;
  }

  /** Existing object, from the cache or else from the API server: the cache does not have foreign objects. */
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
    await this.remove(policy, found);
    throw new Obstacle(
      REASON.replacing,
      `the operator replaces ${object.kind} ${name}, which belongs to a deleted policy of this name`,
    );
  }

  /** Applies an object if it differs, and returns the stored result. @throws Obstacle, ApiError */
  async apply(
    policy: EgressPolicy,
    object: KubeObject,
    stored: KubeObject | undefined,
  ): Promise<KubeObject | undefined> {
    const actual = await this.#actual(policy, object, stored);
    if (actual?.metadata.deletionTimestamp !== undefined) {
      throw new Obstacle(
        REASON.replacing,
        `${object.kind} ${object.metadata.name} is being deleted; the operator then creates it again`,
      );
    }
    const futile = this.#futile.get(policy.metadata.uid!) ?? new Map<string, string>();
    const what = `${object.kind} ${object.metadata.name}`;
    if (!differs(actual, object)) {
      futile.delete(what);
      return undefined;
    }
    const attempt = ({ metadata }: KubeObject) =>
      `${metadata.resourceVersion} ${object.metadata.annotations?.[ANNOTATION.applied]}`;
    if (actual !== undefined && futile.get(what) === attempt(actual)) return undefined;
    futile.delete(what);
    const written = await this.#write(object, actual?.metadata.uid);
    if (!differs(written, object)) return written;
    this.#log.warn(
      { kind: object.kind, namespace: object.metadata.namespace, name: object.metadata.name },
      "the API server stores this object differently than applied, an admission plugin may change it",
    );
    this.#futile.set(policy.metadata.uid!, futile.set(what, attempt(written)));
    return written;
  }

  /** Those of these objects that the API server stores differently than applied, by kind and name. */
  altered({ metadata }: EgressPolicy, objects: readonly KubeObject[]): string[] {
    const futile = this.#futile.get(metadata.uid!);
    const names = objects.map((object) => `${object.kind} ${object.metadata.name}`);
    return names.filter((name) => futile?.has(name) ?? false);
  }

  /** Removes the state of a deleted policy. */
  forget(policyUid: string): void {
    this.#futile.delete(policyUid);
  }

  /** Writes by uid, so that a new object of the same name is not changed. */
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

  /**
   * Deletes an object in the version that the decision was made on, and only if the decision was made on the newest spec.
   * It is no error if the object does not exist. @throws ApiError with reason Conflict if the object or the policy has
   * changed: the caches lag, and the policy has to be reconciled again
   */
  async remove(policy: EgressPolicy, object: KubeObject): Promise<void> {
    const { name, namespace, uid, resourceVersion, deletionTimestamp } = object.metadata;
    if (deletionTimestamp !== undefined) return;
    await this.#confirm(policy);
    const preconditions = { ...(uid && { uid }), ...(resourceVersion && { resourceVersion }) };
    try {
      await this.#client.delete(resourceOf(object), name, namespace, { ...preconditions, propagation: "Background" });
    } catch (error) {
      if (!(error instanceof ApiError && error.code === 404)) throw error;
    }
  }

  /**
   * Reads the version of the policy from the API server. @throws ApiError with reason Conflict if the cached spec is not
   * the newest
   */
  async #confirm({ metadata: { name, namespace, uid, generation } }: EgressPolicy): Promise<void> {
    // The role has no `get`, which a list of one name does not need.
    const one = { namespace, fieldSelector: `metadata.name=${name}`, metadataOnly: true };
    const { items } = await this.#client.list(RESOURCE.policy, one);
    const now = items[0]?.metadata;
    if (now?.uid === uid && now?.generation === generation) return;
    const text = `${KIND} ${namespace}/${name}: the API server has generation ${now?.generation ?? "none"}, the cache ${generation}`;
    throw new ApiError(409, "Conflict", text);
  }
}
