import { KubeConfig } from "@kubernetes/client-node";
import { RESOURCE } from "../../operator/api/kinds.ts";
import { type Deployment, isRolledOut } from "../../operator/api/objects.ts";
import { Client, type WatchEvent } from "../../operator/kube/client.ts";
import type { ControlPlane } from "../cluster/control-plane.ts";

/** Longer than any test. */
const WATCH_SECONDS = 1800;

/** Records every version of the Deployments of a namespace. */
export class FleetWatch {
  readonly #client: Client;
  readonly #stop = new AbortController();
  readonly #events: Deployment[] = [];
  readonly #problems: string[] = [];
  #running: Promise<void> | undefined;

  constructor(plane: ControlPlane) {
    const config = new KubeConfig();
    config.loadFromFile(plane.userConfig());
    this.#client = new Client(config, { userAgent: "test" });
  }

  async start(namespace: string): Promise<void> {
    const { items, resourceVersion } = await this.#client.listAll<Deployment>(RESOURCE.deployment, { namespace });
    for (const object of items) this.#events.push(object);
    const scope = { namespace, resourceVersion, timeoutSeconds: WATCH_SECONDS, signal: this.#stop.signal };
    const onEvent = ({ object }: WatchEvent) => void this.#events.push(object as Deployment);
    const ended = (how: unknown) => {
      if (!this.#stop.signal.aborted) this.#problems.push(`the watch ended: ${how}`);
    };
    this.#running = this.#client
      .watch(RESOURCE.deployment, { ...scope, onEvent })
      .then(() => ended("by the server"), ended);
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
    this.#client.close();
  }

  /** Position in the record, to look only at later events. */
  get length(): number {
    return this.#events.length;
  }

  /**
   * Names of the Deployments that are not rolled out, after each event from a position on. A Deployment counts from its first
   * complete roll-out. @throws if the watch ended
   */
  unready(since: number): string[][] {
    if (this.#problems.length > 0) throw new Error(this.#problems.join("; "));
    const complete = new Set<string>();
    const unready = new Set<string>();
    const result: string[][] = [];
    for (const [index, object] of this.#events.entries()) {
      const { name } = object.metadata;
      if (isRolledOut(object)) complete.add(name);
      if (isRolledOut(object)) unready.delete(name);
      else if (complete.has(name)) unready.add(name);
      if (index >= since) result.push([...unready].sort());
    }
    return result;
  }
}
