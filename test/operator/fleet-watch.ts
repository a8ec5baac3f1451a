import { RESOURCE } from "../../operator/api/kinds.ts";
import { type Deployment, isRolledOut } from "../../operator/api/objects.ts";
import type { ControlPlane } from "../cluster/control-plane.ts";
import { ObjectWatch } from "./object-watch.ts";

/** Records every version of the Deployments of a namespace. */
export class FleetWatch {
  readonly #events: Deployment[] = [];
  readonly #watch: ObjectWatch;

  constructor(plane: ControlPlane) {
    this.#watch = new ObjectWatch(plane, RESOURCE.deployment, ({ object }) => this.#events.push(object as Deployment));
  }

  start(namespace: string): Promise<void> {
    return this.#watch.start(namespace);
  }

  stop(): Promise<void> {
    return this.#watch.stop();
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
    if (this.#watch.problem !== undefined) throw new Error(this.#watch.problem);
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
