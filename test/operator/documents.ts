import { createHash } from "node:crypto";
import { KubeConfig } from "@kubernetes/client-node";
import { RESOURCE } from "../../operator/api/kinds.ts";
import { ANNOTATION } from "../../operator/api/names.ts";
import type { ConfigMap } from "../../operator/api/objects.ts";
import { Client, type WatchEvent } from "../../operator/kube/client.ts";
import { readDocument } from "../../proxy/policy/document.ts";
import type { ControlPlane } from "../cluster/control-plane.ts";

/** Longer than any test. */
const WATCH_SECONDS = 1800;

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
  /** Faults of these versions, and the reason if the watch ended early. */
  readonly problems: string[] = [];
  readonly #client: Client;
  readonly #stop = new AbortController();
  #running: Promise<void> | undefined;

  constructor(plane: ControlPlane) {
    const config = new KubeConfig();
    config.loadFromFile(plane.userConfig());
    this.#client = new Client(config, { userAgent: "test" });
  }

  async start(namespace: string): Promise<void> {
    const { items, resourceVersion } = await this.#client.listAll<ConfigMap>(RESOURCE.configMap, { namespace });
    for (const item of items) this.#see({ type: "ADDED", object: item });
    const scope = { namespace, resourceVersion, timeoutSeconds: WATCH_SECONDS, signal: this.#stop.signal };
    const watching = this.#client.watch(RESOURCE.configMap, { ...scope, onEvent: (event) => this.#see(event) });
    const ended = (how: unknown) => {
      if (!this.#stop.signal.aborted) this.problems.push(`the watch ended: ${how}`);
    };
    this.#running = watching.then(() => ended("by the server"), ended);
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
    this.#client.close();
  }

  #see({ type, object }: WatchEvent): void {
    if ((type !== "ADDED" && type !== "MODIFIED") || !object.metadata.name.endsWith("-egress-policy")) return;
    this.count++;
    const problem = wrong(object as ConfigMap);
    if (problem !== undefined)
      this.problems.push(`${object.metadata.name} ${object.metadata.resourceVersion}: ${problem}`);
  }
}
