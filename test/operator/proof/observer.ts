import { RESOURCE } from "../../../operator/api/kinds.ts";
import { childName, LABEL } from "../../../operator/api/names.ts";
import { SHARED } from "../../../operator/fleet/slots.ts";
import { Client, type WatchEvent } from "../../../operator/kube/client.ts";
import { type KubeObject, keyOf } from "../../../operator/kube/resource.ts";
import { loadKubeConfig } from "../../../operator/kubeconfig.ts";
import type { ControlPlane } from "../../cluster/plane.ts";

/** Kinds that the invariants speak of. */
export const KINDS = ["policy", "configMap", "service", "deployment", "pod"] as const;
export type Kind = (typeof KINDS)[number];

/** Longer than any run. */
const WATCH_SECONDS = 7200;

/** A change of an object. `before`: its last version. */
export interface Change {
  kind: Kind;
  type: "ADDED" | "MODIFIED" | "DELETED";
  object: KubeObject;
  before: KubeObject | undefined;
}

/** Sees every version of the objects of all namespaces, through watches of its own. */
export class Observer {
  /** Called after each change. */
  readonly listeners = new Set<(change: Change) => void>();
  /** Why a watch ended early: what came after it was not seen. */
  readonly problems: string[] = [];
  /** Uid of the policy of a pod, by uid of the pod. */
  readonly #policies = new Map<string, string>();
  readonly #stores = new Map<Kind, Map<string, KubeObject>>(KINDS.map((kind) => [kind, new Map()]));
  readonly #client: Client;
  readonly #stop = new AbortController();
  #watches: Promise<void>[] = [];

  constructor(plane: ControlPlane) {
    this.#client = new Client(loadKubeConfig(plane.userConfig()), { userAgent: "test" });
  }

  async start(): Promise<void> {
    for (const kind of KINDS) {
      const { items, resourceVersion } = await this.#client.listAll<KubeObject>(RESOURCE[kind], {});
      for (const object of items) this.#see(kind, { type: "ADDED", object });
      const scope = { resourceVersion, timeoutSeconds: WATCH_SECONDS, signal: this.#stop.signal };
      const watching = this.#client.watch(RESOURCE[kind], { ...scope, onEvent: (event) => this.#see(kind, event) });
      const ended = (how: unknown) => {
        if (!this.#stop.signal.aborted) this.problems.push(`the watch of ${kind} ended: ${how}`);
      };
      this.#watches.push(watching.then(() => ended("by the server"), ended));
    }
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await Promise.all(this.#watches);
    this.#client.close();
  }

  /** Objects of a kind in some namespaces. */
  list<T extends KubeObject>(kind: Kind, namespaces: readonly string[]): T[] {
    const all = [...this.#stores.get(kind)!.values()] as T[];
    return all.filter(({ metadata }) => namespaces.includes(metadata.namespace!));
  }

  /** `key`: namespace/name. */
  get<T extends KubeObject>(kind: Kind, key: string): T | undefined {
    return this.#stores.get(kind)!.get(key) as T | undefined;
  }

  /**
   * Uid of the policy whose Deployment created a proxy pod. The pods of a deleted policy may still run when a new policy
   * has its name. Undefined: the Deployment was not seen.
   */
  policyOf({ metadata }: Pick<KubeObject, "metadata">): string | undefined {
    const { namespace, labels = {} } = metadata;
    const [policy, slot] = [labels[LABEL.fleet], labels[LABEL.slot]];
    const known = this.#policies.get(metadata.uid!);
    if (known !== undefined || policy === undefined || slot === undefined) return known;
    const name = slot === SHARED ? childName.fleet(policy) : childName.slot(policy, slot);
    const deployment = this.get("deployment", `${namespace}/${name}`)?.metadata;
    // A younger Deployment belongs to another policy, or replaces the one that created the pod.
    if (deployment === undefined || deployment.creationTimestamp! > metadata.creationTimestamp!) return undefined;
    const uid = deployment.ownerReferences?.find(({ controller }) => controller === true)?.uid;
    if (uid !== undefined) this.#policies.set(metadata.uid!, uid);
    return uid;
  }

  #see(kind: Kind, { type, object }: WatchEvent): void {
    if (type === "BOOKMARK") return;
    const store = this.#stores.get(kind)!;
    const before = store.get(keyOf(object));
    if (type === "DELETED") store.delete(keyOf(object));
    else store.set(keyOf(object), object);
    // Its Deployment may be gone later.
    if (kind === "pod" && type === "ADDED") this.policyOf(object);
    for (const listener of this.listeners) listener({ kind, type, object, before });
  }
}
