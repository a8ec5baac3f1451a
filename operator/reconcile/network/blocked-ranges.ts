import type { Caches } from "../facts/caches.ts";
import { blockedRanges } from "./cluster-ranges.ts";

/** Ranges that no target may be in: those of the cluster and `--blocked-cidrs`. */
export class BlockedRanges {
  readonly #caches: Pick<Caches, "nodes" | "serviceCIDRs" | "apiServers">;
  readonly #configured: readonly string[];
  #list: readonly string[] = [];

  constructor(caches: Pick<Caches, "nodes" | "serviceCIDRs" | "apiServers">, configured: readonly string[]) {
    this.#caches = caches;
    this.#configured = configured;
  }

  /** The same array as long as the ranges are the same: memos compare it by identity. */
  get list(): readonly string[] {
    return this.#list;
  }

  /** Reads the caches again. Returns whether the ranges changed. */
  update(): boolean {
    const { nodes, serviceCIDRs, apiServers } = this.#caches;
    const list = blockedRanges({
      nodes: nodes?.list() ?? [],
      serviceCIDRs: serviceCIDRs?.list() ?? [],
      apiServers: apiServers?.list() ?? [],
      configured: this.#configured,
    });
    if (list.join() === this.#list.join()) return false;
    this.#list = list;
    return true;
  }
}
