import { KubeConfig } from "@kubernetes/client-node";
import { Client, type WatchEvent } from "../../operator/kube/client.ts";
import type { KubeObject, Resource } from "../../operator/kube/resource.ts";
import type { ControlPlane } from "../cluster/control-plane.ts";

/** Longer than any test. */
const WATCH_SECONDS = 1800;

/** Passes on every version of the objects of a kind in a namespace: those that exist, then all events of one watch. */
export class ObjectWatch {
  /** The reason if the watch ended early. */
  problem: string | undefined;
  readonly #client: Client;
  readonly #resource: Resource;
  readonly #onEvent: (event: WatchEvent) => void;
  readonly #stop = new AbortController();
  #running: Promise<void> | undefined;

  constructor(plane: ControlPlane, resource: Resource, onEvent: (event: WatchEvent) => void) {
    const config = new KubeConfig();
    config.loadFromFile(plane.userConfig());
    this.#client = new Client(config, { userAgent: "test" });
    this.#resource = resource;
    this.#onEvent = onEvent;
  }

  async start(namespace: string): Promise<void> {
    const { items, resourceVersion } = await this.#client.listAll<KubeObject>(this.#resource, { namespace });
    for (const object of items) this.#onEvent({ type: "ADDED", object });
    const scope = { namespace, resourceVersion, timeoutSeconds: WATCH_SECONDS, signal: this.#stop.signal };
    const ended = (how: unknown) => {
      if (!this.#stop.signal.aborted) this.problem = `the watch ended: ${how}`;
    };
    this.#running = this.#client
      .watch(this.#resource, { ...scope, onEvent: this.#onEvent })
      .then(() => ended("by the server"), ended);
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
    this.#client.close();
  }
}
