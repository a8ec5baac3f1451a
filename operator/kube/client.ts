import { Agent } from "node:https";
import type { Duplex } from "node:stream";
import type { KubeConfig } from "@kubernetes/client-node";
import {
  type ApplyOptions,
  acceptOf,
  type CallOptions,
  type DeleteOptions,
  identityOf,
  type List,
  type ListOptions,
  named,
  type PatchOptions,
  pathOf,
  queryOf,
  type WatchOptions,
  type WriteOptions,
  writeQuery,
} from "./calls.ts";
import { ClusterCredentials } from "./credentials.ts";
import { ApiError, errorOfAnswer } from "./error.ts";
import { type Answer, type Call, nameOf, Transport } from "./http.ts";
import type { KubeMetrics } from "./metrics.ts";
import { type ForwardTarget, forwardPort } from "./port-forward.ts";
import { apiVersionOf, type KubeObject, type Resource } from "./resource.ts";
import { readWatch } from "./watch.ts";

export type * from "./calls.ts";
export { pathOf } from "./calls.ts";
export { ApiError } from "./error.ts";
export type { Answer } from "./http.ts";
export type { WatchEvent } from "./watch.ts";

/** Objects in one page, as client-go's pager requests. */
const PAGE_LIMIT = 500;
const TIMEOUT_MS = 30 * 1000;
/** Connections for calls. Watches have their own. */
const CALL_CONNECTIONS = 4;
/** Idle timeout of connections, shorter than the 90 s of the API server. */
const IDLE_MS = 60 * 1000;
/** Interval of TCP keep-alive probes, shorter than the idle timeout of load balancers (60 s). */
const PROBE_MS = 30 * 1000;
const MAX_ANSWER_BYTES = 256 * 1024 * 1024;

interface ClientOptions {
  userAgent?: string;
  /** Timeout of a call with its complete answer. */
  timeoutMs?: number;
  /**
   * Connections for calls. Use a separate client for slow calls (pod proxies) and for calls that must not wait
   * (leases).
   */
  maxConnections?: number;
  metrics?: KubeMetrics | undefined;
  /**
   * Called before each call that is not a GET, and again when it has a connection. False rejects the call
   * ("NotAllowedToWrite"). For leaders: a process that was stopped for a minute must not write when it continues.
   */
  mayWrite?: () => boolean;
}

/** Client of the API server. Objects are plain JSON, so unknown fields are kept. */
export class Client {
  readonly #credentials: ClusterCredentials;
  readonly #userAgent: string;
  readonly #calls: Transport;
  readonly #watches: Transport;
  readonly #agents: Agent[];
  readonly #timeoutMs: number;
  readonly #mayWrite: () => boolean;

  constructor(config: KubeConfig, options: ClientOptions = {}) {
    const credentials = new ClusterCredentials(config);
    this.#credentials = credentials;
    this.#userAgent = options.userAgent ?? "outrider";
    const shared = {
      userAgent: this.#userAgent,
      count: ({ method }: Call, code: string) => options.metrics?.requests.inc({ method, code }),
    };
    const pool = { keepAlive: true, keepAliveMsecs: PROBE_MS, timeout: IDLE_MS, scheduling: "lifo" as const };
    const calls = new Agent({ ...pool, maxSockets: options.maxConnections ?? CALL_CONNECTIONS });
    const watches = new Agent({ keepAlive: false });
    this.#agents = [calls, watches];
    this.#calls = new Transport(credentials, calls, shared);
    this.#watches = new Transport(credentials, watches, shared);
    this.#timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
    this.#mayWrite = options.mayWrite ?? (() => true);
  }

  async get<T extends KubeObject>(
    resource: Resource,
    name: string,
    namespace?: string,
    options: CallOptions & { metadataOnly?: boolean } = {},
  ): Promise<T> {
    const headers = { Accept: acceptOf(options.metadataOnly, "PartialObjectMetadata") };
    const object = await this.#json<T>({ method: "GET", path: pathOf(resource, namespace, name), headers }, options);
    return named(resource, object);
  }

  /** One page. */
  async list<T extends KubeObject>(resource: Resource, options: ListOptions = {}): Promise<List<T>> {
    const query = queryOf({
      limit: options.limit,
      continue: options.continue,
      resourceVersion: options.resourceVersion,
      labelSelector: options.labelSelector,
      fieldSelector: options.fieldSelector,
    });
    const path = pathOf(resource, options.namespace) + query;
    const headers = { Accept: acceptOf(options.metadataOnly, "PartialObjectMetadataList") };
    const page = await this.#json<ListPage<T>>({ method: "GET", path, headers }, options);
    const items = page?.items ?? [];
    const metadata = page?.metadata;
    if (!metadata || !Array.isArray(items) || !items.every((item) => item?.metadata)) {
      throw new ApiError(0, "BadAnswer", `GET ${path}: the answer is no list of objects`);
    }
    return {
      items: items.map((item) => named(resource, item)),
      resourceVersion: metadata.resourceVersion ?? "",
      continue: metadata.continue || undefined,
    };
  }

  /**
   * All pages of one consistent list. Fails with Expired if it takes longer than the server keeps the version
   * (minutes).
   */
  async *pages<T extends KubeObject>(resource: Resource, options: ListOptions = {}): AsyncGenerator<List<T>> {
    let next = options.continue;
    do {
      const page: List<T> = await this.list<T>(resource, { limit: PAGE_LIMIT, ...options, continue: next });
      yield page;
      next = page.continue;
    } while (next !== undefined);
  }

  /** All pages. */
  async listAll<T extends KubeObject>(resource: Resource, options: ListOptions = {}): Promise<List<T>> {
    const items: T[] = [];
    let resourceVersion = "";
    for await (const page of this.pages<T>(resource, options)) {
      for (const item of page.items) items.push(item);
      resourceVersion = page.resourceVersion;
    }
    return { items, resourceVersion, continue: undefined };
  }

  /** Server-side apply of a complete object. It must not contain managedFields, which the API server rejects. */
  async apply<T extends KubeObject>(resource: Resource, object: object, options: ApplyOptions): Promise<T> {
    const { metadata } = object as Partial<KubeObject>;
    const { name, namespace } = identityOf(resource, metadata);
    const query = queryOf({
      fieldManager: options.fieldManager,
      force: options.force,
      dryRun: options.dryRun === true ? "All" : undefined,
    });
    const path = pathOf(resource, namespace, name, options.subresource) + query;
    const body = JSON.stringify({ apiVersion: apiVersionOf(resource), kind: resource.kind, ...object });
    return this.#json<T>(
      { method: "PATCH", path, headers: { "Content-Type": "application/apply-patch+yaml" }, body },
      options,
    );
  }

  async create<T extends KubeObject>(resource: Resource, object: object, options: WriteOptions = {}): Promise<T> {
    const { metadata } = object as Partial<KubeObject>;
    const path = pathOf(resource, metadata?.namespace) + writeQuery(options);
    return this.#write<T>("POST", path, resource, object, options);
  }

  /** PUT of a complete object. With its resourceVersion, fails with Conflict if the object has changed. */
  async replace<T extends KubeObject>(resource: Resource, object: object, options: WriteOptions = {}): Promise<T> {
    const { name, namespace } = identityOf(resource, (object as Partial<KubeObject>).metadata);
    const path = pathOf(resource, namespace, name, options.subresource) + writeQuery(options);
    return this.#write<T>("PUT", path, resource, object, options);
  }

  async patch<T extends KubeObject>(
    resource: Resource,
    name: string,
    namespace: string | undefined,
    patch: object | readonly object[],
    options: PatchOptions,
  ): Promise<T> {
    const path = pathOf(resource, namespace, name, options.subresource) + writeQuery(options);
    const headers = { "Content-Type": `application/${options.type === "json" ? "json-patch" : "merge-patch"}+json` };
    return this.#json<T>({ method: "PATCH", path, headers, body: JSON.stringify(patch) }, options);
  }

  /** @throws ApiError with code 404 if the object does not exist: the caller decides whether that matters */
  async delete(resource: Resource, name: string, namespace?: string, options: DeleteOptions = {}): Promise<void> {
    const { uid, resourceVersion, propagation: propagationPolicy } = options;
    const preconditions = uid === undefined && resourceVersion === undefined ? undefined : { uid, resourceVersion };
    const body = JSON.stringify({ apiVersion: "v1", kind: "DeleteOptions", preconditions, propagationPolicy });
    const headers = { "Content-Type": "application/json" };
    await this.#json({ method: "DELETE", path: pathOf(resource, namespace, name), headers, body }, options);
  }

  /** Any call, such as to `/readyz` or the proxy of a pod. Resolves with every status. */
  raw(
    method: string,
    path: string,
    options: CallOptions & { headers?: { [name: string]: string }; body?: string; maxBytes?: number } = {},
  ): Promise<Answer> {
    const { headers = {}, body } = options;
    return this.#exchange({ method, path, headers, body }, options, options.maxBytes);
  }

  /**
   * Watches until the server ends the watch at `timeoutSeconds`. Rejects in all other cases: 410 (Expired, also within
   * the stream), a broken connection, the signal.
   */
  async watch(resource: Resource, options: WatchOptions): Promise<void> {
    const query = queryOf({
      watch: "1",
      allowWatchBookmarks: "true",
      resourceVersion: options.resourceVersion,
      timeoutSeconds: options.timeoutSeconds,
      labelSelector: options.labelSelector,
      fieldSelector: options.fieldSelector,
    });
    const path = pathOf(resource, options.namespace) + query;
    const headers = { Accept: acceptOf(options.metadataOnly, "PartialObjectMetadata") };
    const call = { method: "GET", path, headers, timeoutMs: this.#timeoutMs, signal: options.signal };
    await readWatch(this.#watches, call, ({ type, object }) => {
      options.onEvent({ type, object: named(resource, object) });
    });
  }

  /** Opens a stream to a port of a pod, with a connection of its own. The caller destroys it. @throws ApiError */
  forward(target: ForwardTarget, options: CallOptions = {}): Promise<Duplex> {
    const { timeoutMs = this.#timeoutMs, signal } = options;
    return forwardPort(this.#credentials, target, { userAgent: this.#userAgent, timeoutMs, signal });
  }

  /** Closes all connections. Calls in progress fail. */
  close(): void {
    for (const agent of this.#agents) agent.destroy();
  }

  #write<T>(method: string, path: string, resource: Resource, object: object, options: CallOptions): Promise<T> {
    const body = JSON.stringify({ apiVersion: apiVersionOf(resource), kind: resource.kind, ...object });
    return this.#json<T>({ method, path, headers: { "Content-Type": "application/json" }, body }, options);
  }

  async #json<T>(call: Omit<Call, "timeoutMs">, options: CallOptions): Promise<T> {
    const accepting = { ...call, headers: { Accept: "application/json", ...call.headers } };
    const { status, headers, body } = await this.#exchange(accepting, options);
    if (status < 200 || status > 299) throw errorOfAnswer(nameOf(call), status, body, headers["retry-after"]);
    try {
      return JSON.parse(body) as T;
    } catch (error) {
      throw new ApiError(0, "BadAnswer", `${nameOf(call)}: the answer is no JSON`, { cause: error });
    }
  }

  #refusal(call: Pick<Call, "method" | "path">): ApiError | undefined {
    if (this.#mayWrite()) return undefined;
    return new ApiError(0, "NotAllowedToWrite", `${nameOf(call)}: not sent, this program does not lead`);
  }

  async #exchange(call: Omit<Call, "timeoutMs">, options: CallOptions, maxBytes = MAX_ANSWER_BYTES): Promise<Answer> {
    const { timeoutMs = this.#timeoutMs, signal } = options;
    const refuse = call.method === "GET" ? undefined : () => this.#refusal(call);
    const refusal = refuse?.();
    if (refusal !== undefined) throw refusal;
    return this.#calls.exchange({ ...call, timeoutMs, signal, refuse }, maxBytes);
  }
}

interface ListPage<T> {
  metadata: { resourceVersion?: string; continue?: string };
  items?: T[] | null;
}
