import { KubeConfig } from "@kubernetes/client-node";
import { RESOURCE } from "../../operator/api/kinds.ts";
import { LABEL } from "../../operator/api/names.ts";
import { isReady, type Pod, type Service } from "../../operator/api/objects.ts";
import { Client, type WatchEvent } from "../../operator/kube/client.ts";
import type { Resource } from "../../operator/kube/resource.ts";
import type { ControlPlane } from "../cluster/control-plane.ts";

/** Longer than any test. */
const WATCH_SECONDS = 1800;

/**
 * Pods that a client Service selects, from one event to the next. A pod counts from the first time that it is ready: on a
 * loaded machine probes fail for a moment, which no operator causes.
 */
export interface Endpoints {
  /** Resource version of the event. */
  version: number;
  /** Names of the pods. */
  pods: string[];
  /** Slot labels of the pods. */
  slots: string[];
}

/** Records every version of the pods and Services of a namespace: what kube-proxy could have seen. */
export class EndpointWatch {
  readonly #client: Client;
  readonly #stop = new AbortController();
  readonly #events: WatchEvent[] = [];
  readonly #problems: string[] = [];
  readonly #running: Promise<void>[] = [];

  constructor(plane: ControlPlane) {
    const config = new KubeConfig();
    config.loadFromFile(plane.userConfig());
    this.#client = new Client(config, { userAgent: "test" });
  }

  async start(namespace: string): Promise<void> {
    for (const resource of [RESOURCE.pod, RESOURCE.service]) await this.#watch(resource, namespace);
  }

  async #watch(resource: Resource, namespace: string): Promise<void> {
    const { items, resourceVersion } = await this.#client.listAll(resource, { namespace });
    for (const object of items) this.#events.push({ type: "ADDED", object });
    const scope = { namespace, resourceVersion, timeoutSeconds: WATCH_SECONDS, signal: this.#stop.signal };
    const watching = this.#client.watch(resource, { ...scope, onEvent: (event) => void this.#events.push(event) });
    const ended = (how: unknown) => {
      if (!this.#stop.signal.aborted) this.#problems.push(`the watch ended: ${how}`);
    };
    this.#running.push(watching.then(() => ended("by the server"), ended));
  }

  /** Position in the record, to look only at later events. */
  get version(): number {
    return Math.max(0, ...this.#events.map(versionOf));
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await Promise.all(this.#running);
    this.#client.close();
  }

  /** Endpoints of a policy's client Service after each event since a version. @throws if a watch ended */
  history(policy: string, since: number): Endpoints[] {
    if (this.#problems.length > 0) throw new Error(this.#problems.join("; "));
    const pods = new Map<string, Pod>();
    const started = new Set<string>();
    let service: Service | undefined;
    const result: Endpoints[] = [];
    // Both kinds are in one etcd, so their versions have one order.
    for (const event of [...this.#events].sort((a, b) => versionOf(a) - versionOf(b))) {
      const { type, object } = event;
      if (object.kind === "Service" && object.metadata.name === `${policy}-egress`) service = object as Service;
      if (object.kind === "Pod" && type === "DELETED") pods.delete(object.metadata.uid!);
      else if (object.kind === "Pod") pods.set(object.metadata.uid!, object as Pod);
      if (object.kind === "Pod" && isReady(object as Pod)) started.add(object.metadata.uid!);
      const selector = Object.entries(service?.spec?.selector ?? {});
      const found = [...pods.values()].filter(
        ({ metadata }) =>
          started.has(metadata.uid!) &&
          metadata.deletionTimestamp === undefined &&
          selector.every(([key, value]) => metadata.labels?.[key] === value),
      );
      const names = found.map(({ metadata }) => metadata.name).sort();
      if (versionOf(event) < since || service === undefined) continue;
      if (result.at(-1)?.pods.join() === names.join()) continue;
      const slots = found.map(({ metadata }) => metadata.labels![LABEL.slot]!).sort();
      result.push({ version: versionOf(event), pods: names, slots });
    }
    return result;
  }
}

const versionOf = ({ object }: WatchEvent): number => Number(object.metadata.resourceVersion);
