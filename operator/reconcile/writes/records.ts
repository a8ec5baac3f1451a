import type { Logger } from "../../../proxy/cli/log.ts";
import type { EgressPolicy, EgressPolicySpec } from "../../api/egresspolicy.ts";
import { RESOURCE } from "../../api/kinds.ts";
import { FIELD_MANAGER, REASON, recordName } from "../../api/names.ts";
import type { ConfigMap } from "../../api/objects.ts";
import { ApiError, type Client } from "../../kube/client.ts";
import { compareVersions } from "../../kube/comparison.ts";
import type { Cache } from "../../kube/informers.ts";
import { covers } from "../objects/compare.ts";
import { formerRecord, type PolicyRecord, readRecord, recordConfigMap, unpackSpec } from "../objects/record.ts";
import { Obstacle } from "./writer.ts";

/** Sources and target of the records of policies. */
export interface RecordsOptions {
  client: Client;
  /** Records, indexed by `policy`: namespace/name. */
  cache: Cache<ConfigMap>;
  /** Namespace of the records. */
  namespace: string;
  /** Whether the policies of a namespace are watched. */
  isWatched(namespace: string): boolean;
  log: Logger;
}

/** A ConfigMap that the cache does not have. */
interface Ahead {
  object: ConfigMap;
  /** Whether it exists: this process has just written it. False: others have deleted it, at this version or later. */
  exists: boolean;
}

/**
 * The records of all policies, one ConfigMap each. A write names the version that it replaces, so a process that reads
 * an old record cannot overwrite a newer one.
 */
export class PolicyRecords {
  readonly #options: RecordsOptions;
  /** By policy uid. */
  readonly #ahead = new Map<string, Ahead>();
  readonly #read = new WeakMap<ConfigMap, PolicyRecord>();
  /** Unpacked specs by policy uid, since memos of documents compare specs by identity. */
  readonly #specs = new Map<string, { packed: string; spec: EgressPolicySpec | undefined }>();

  constructor(options: RecordsOptions) {
    this.#options = options;
  }

  /** Record of a policy. `configMaps`: those that the policy controls, by name. */
  read(policy: EgressPolicy, configMaps: ReadonlyMap<string, ConfigMap>): PolicyRecord {
    const found = this.#latest(policy.metadata.uid!);
    if (found === undefined) return formerRecord(policy, configMaps);
    const record = this.#read.get(found.object) ?? readRecord(found.object);
    this.#read.set(found.object, record);
    return record;
  }

  /** The last accepted spec; undefined if there is none, or if it cannot be read. */
  spec({ metadata: { uid, namespace, name } }: EgressPolicy, record: PolicyRecord): EgressPolicySpec | undefined {
    const packed = record.spec;
    if (packed === undefined) return undefined;
    const known = this.#specs.get(uid!);
    if (known?.packed === packed) return known.spec;
    let spec: EgressPolicySpec | undefined;
    try {
      spec = unpackSpec(packed);
    } catch (error) {
      this.#options.log.warn({ namespace, name, err: error }, "cannot read the last accepted spec");
    }
    this.#specs.set(uid!, { packed, spec });
    return spec;
  }

  /** Writes a record if it differs. @throws Obstacle, ApiError: Conflict if the record is newer than the read one */
  async write(policy: EgressPolicy, record: PolicyRecord): Promise<void> {
    const uid = policy.metadata.uid!;
    const object = recordConfigMap(policy, this.#options.namespace, record);
    const before = this.#latest(uid);
    if (before?.exists && covers(before.object, object)) return;
    if (before === undefined && policy.status?.recorded) {
      const { namespace, name } = policy.metadata;
      const text = "the record of this policy is missing; its last accepted spec and its retiring addresses are lost";
      this.#options.log.warn({ namespace, name, record: object.metadata.name }, text);
    }
    const written = before?.exists ? await this.#patch(uid, object, before.object) : await this.#create(uid, object);
    this.#ahead.set(uid, { object: written, exists: true });
  }

  /** Keeps the content of a record that others deleted, so that the next reconcile restores it. */
  lost(record: ConfigMap, uid: string): void {
    if (record.metadata.name !== recordName(uid)) return;
    const ahead = this.#ahead.get(uid)?.object;
    const object = ahead !== undefined && isNewer(ahead, record) ? ahead : record;
    // Another uid: this process has restored it already.
    if (object.metadata.uid === record.metadata.uid) this.#ahead.set(uid, { object, exists: false });
  }

  /** Removes the state of a deleted policy from memory. */
  forget(uid: string): void {
    this.#ahead.delete(uid);
    this.#specs.delete(uid);
  }

  /** Deletes the records of deleted policies of this name. `uid`: that of the existing policy. */
  async removeFormer(key: string, uid: string | undefined): Promise<void> {
    const [namespace, name] = key.split("/") as [string, string];
    if (!this.#options.isWatched(namespace)) return;
    const former = this.#options.cache
      .by("policy", key)
      .filter(({ metadata }) => uid === undefined || metadata.name !== recordName(uid));
    if (former.length === 0) return;
    // The cache of policies may lag behind that of records.
    const { items } = await this.#options.client.list(RESOURCE.policy, {
      ...{ namespace, fieldSelector: `metadata.name=${name}`, metadataOnly: true },
    });
    const existing = new Set(items.map(({ metadata }) => recordName(metadata.uid!)));
    for (const record of former) {
      if (existing.has(record.metadata.name)) continue;
      await this.#delete(record);
      this.forget(record.metadata.name.slice(recordName("").length));
    }
  }

  /** Newest known ConfigMap of a record. */
  #latest(uid: string): Ahead | undefined {
    const { cache, namespace } = this.#options;
    const cached = cache.get(`${namespace}/${recordName(uid)}`);
    const ahead = this.#ahead.get(uid);
    if (cached === undefined || ahead === undefined) return ahead ?? (cached && { object: cached, exists: true });
    // The cache may still have the version that others have deleted.
    const isAhead = ahead.exists ? isNewer(ahead.object, cached) : !isNewer(cached, ahead.object);
    if (isAhead) return ahead;
    this.#ahead.delete(uid);
    return { object: cached, exists: true };
  }

  async #create(uid: string, object: ConfigMap): Promise<ConfigMap> {
    const { client } = this.#options;
    const { name, namespace } = object.metadata;
    try {
      return await client.create<ConfigMap>(RESOURCE.configMap, object, { fieldManager: FIELD_MANAGER });
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.code === 404) {
        const message = `namespace ${namespace} of the records does not exist; create it, or set --lease-namespace to another one`;
        throw new Obstacle(REASON.applyFailed, message);
      }
      // The cache does not have it: the labels were removed, or the cache lags behind.
      if (error.reason === "AlreadyExists") {
        const object = await client.get<ConfigMap>(RESOURCE.configMap, name, namespace);
        this.#ahead.set(uid, { object, exists: true });
        throw new ApiError(error.code, "Conflict", error.message, { cause: error });
      }
      throw error;
    }
  }

  async #patch(uid: string, object: ConfigMap, before: ConfigMap): Promise<ConfigMap> {
    const { client, cache } = this.#options;
    const { metadata, data, binaryData } = object;
    const { name, namespace, labels, annotations } = metadata;
    const { resourceVersion } = before.metadata;
    const patch = { metadata: { resourceVersion, labels, annotations }, data, binaryData };
    const options = { type: "merge" as const, fieldManager: FIELD_MANAGER };
    try {
      return await client.patch<ConfigMap>(RESOURCE.configMap, name, namespace, patch, options);
    } catch (error) {
      if (!(error instanceof ApiError) || error.code !== 404) throw error;
      // Others have deleted it, and the watch has not reported this. The next reconcile restores it.
      this.#ahead.set(uid, { object: before, exists: false });
      cache.doubt();
      throw new ApiError(409, "Conflict", error.message, { cause: error });
    }
  }

  async #delete({ metadata: { name, namespace, uid, resourceVersion } }: ConfigMap): Promise<void> {
    const preconditions = { ...(uid && { uid }), ...(resourceVersion && { resourceVersion }) };
    try {
      await this.#options.client.delete(RESOURCE.configMap, name, namespace, preconditions);
    } catch (error) {
      if (!(error instanceof ApiError && (error.code === 404 || error.code === 409))) throw error;
    }
  }
}

function isNewer(one: ConfigMap, other: ConfigMap): boolean {
  return compareVersions(one.metadata.resourceVersion!, other.metadata.resourceVersion!) > 0;
}
