import { createHash } from "node:crypto";
import { RESOURCE } from "../../operator/api/kinds.ts";
import { ANNOTATION } from "../../operator/api/names.ts";
import type { ConfigMap } from "../../operator/api/objects.ts";
import type { WatchEvent } from "../../operator/kube/client.ts";
import { readDocument } from "../../proxy/policy/document.ts";
import type { ControlPlane } from "../cluster/control-plane.ts";
import { ObjectWatch } from "./object-watch.ts";

/** Fault of the ConfigMap of a document; undefined if it is whole. */
function wrong({ metadata, data }: ConfigMap): string | undefined {
  const document = data?.["policy.json"];
  if (document === undefined) return "policy.json is missing";
  const hash = `sha256:${createHash("sha256").update(document).digest("hex")}`;
  const said = metadata.annotations?.[ANNOTATION.hash];
  if (said !== hash) return `the annotation says ${said}, policy.json has ${hash}`;
  try {
    readDocument(JSON.parse(document));
  } catch (error) {
    return String(error);
  }
  return undefined;
}

/** Watches every version of every document in a namespace. */
export class DocumentWatch {
  /** Versions that were seen. */
  count = 0;
  readonly #faults: string[] = [];
  readonly #watch: ObjectWatch;

  constructor(plane: ControlPlane) {
    this.#watch = new ObjectWatch(plane, RESOURCE.configMap, (event) => this.#see(event));
  }

  /** Faults of these versions, and the reason if the watch ended early. */
  get problems(): string[] {
    const { problem } = this.#watch;
    return problem === undefined ? this.#faults : [...this.#faults, problem];
  }

  start(namespace: string): Promise<void> {
    return this.#watch.start(namespace);
  }

  stop(): Promise<void> {
    return this.#watch.stop();
  }

  #see({ type, object }: WatchEvent): void {
    if ((type !== "ADDED" && type !== "MODIFIED") || !object.metadata.name.endsWith("-egress-policy")) return;
    this.count++;
    const problem = wrong(object as ConfigMap);
    if (problem !== undefined)
      this.#faults.push(`${object.metadata.name} ${object.metadata.resourceVersion}: ${problem}`);
  }
}
