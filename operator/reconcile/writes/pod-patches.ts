import { RESOURCE } from "../../api/kinds.ts";
import { ANNOTATION, FIELD_MANAGER } from "../../api/names.ts";
import { ApiError, type Client } from "../../kube/client.ts";
import { lagging } from "../decision/desire.ts";
import type { PodPatch } from "../decision/pod-labels.ts";
import type { Facts } from "../facts/facts.ts";
import type { StatusScraper } from "../facts/status-scraper.ts";

/** Minimum time between two refreshes of a pod's volumes. */
const REFRESH_MS = 1000;
/** Refreshes before the interval grows: the kubelet does not respond, or the proxy rejects the document. */
const REFRESH_PATIENCE = 30;
const REFRESH_SELDOM_MS = 10_000;

/** Refreshes of one pod for one document. */
interface Refresh {
  hash: string;
  times: number;
  at: number;
}

interface PodPatcherOptions {
  client: Client;
  scraper: Pick<StatusScraper, "urge">;
}

/** Patches proxy pods: labels that Services select by, and an annotation that makes the kubelet update volumes. */
export class PodPatcher {
  readonly #options: PodPatcherOptions;
  /** By the uid of the policy, then by the uid of each pod that runs an old document. */
  readonly #refreshed = new Map<string, ReadonlyMap<string, Refresh>>();

  constructor(options: PodPatcherOptions) {
    this.#options = options;
  }

  /** Patches pods in order. @throws ApiError */
  async patch(patches: readonly PodPatch[]): Promise<void> {
    for (const patch of patches) await this.#patch(patch);
  }

  /** Makes kubelets update the volumes of pods that run an old document. */
  async refresh(facts: Facts, hash: string): Promise<void> {
    await this.patch(this.#due(facts, hash));
  }

  /** Time until the next refresh of a policy's pods; undefined if none runs an old document. */
  nextRefreshMs(policyUid: string): number | undefined {
    const late = [...(this.#refreshed.get(policyUid)?.values() ?? [])];
    if (late.length === 0) return undefined;
    return late.some(({ times }) => times < REFRESH_PATIENCE) ? REFRESH_MS : REFRESH_SELDOM_MS;
  }

  /** Removes the state of a deleted policy. */
  forget(policyUid: string): void {
    this.#refreshed.delete(policyUid);
  }

  #due(facts: Facts, hash: string): PodPatch[] {
    const policyUid = facts.policy.metadata.uid!;
    const known = this.#refreshed.get(policyUid);
    const refreshed = new Map<string, Refresh>();
    this.#refreshed.set(policyUid, refreshed);
    return lagging(facts.proxies, hash).flatMap(({ pod }): PodPatch[] => {
      const uid = pod.metadata.uid!;
      const last = known?.get(uid);
      const before = last?.hash === hash ? last : { hash, times: 0, at: 0 };
      if (before.times < REFRESH_PATIENCE) this.#options.scraper.urge(pod);
      const pause = before.times < REFRESH_PATIENCE ? REFRESH_MS : REFRESH_SELDOM_MS;
      if (facts.now - before.at < pause) {
        refreshed.set(uid, before);
        return [];
      }
      refreshed.set(uid, { hash, times: before.times + 1, at: facts.now });
      return [{ pod, annotations: { [ANNOTATION.refresh]: `${hash.slice(7, 19)}-${before.times}` } }];
    });
  }

  async #patch({ pod, labels, annotations }: PodPatch): Promise<void> {
    const { name, namespace, uid } = pod.metadata;
    const metadata = { uid, ...(labels && { labels }), ...(annotations && { annotations }) };
    try {
      const options = { type: "merge", fieldManager: FIELD_MANAGER } as const;
      await this.#options.client.patch(RESOURCE.pod, name, namespace, { metadata }, options);
    } catch (error) {
      // The pod is deleted, or replaced by another pod of its name.
      if (!(error instanceof ApiError && (error.code === 404 || error.code === 409))) throw error;
    }
  }
}
