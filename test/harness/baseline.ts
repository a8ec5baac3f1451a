import assert from "node:assert/strict";
import type { ProxyHandle } from "./proxy.ts";

/** The admin connection that a status request keeps alive, and the next one. */
const SPARE_DESCRIPTORS = 2;
const SETTLE_MS = 15_000;

/**
 * The invariant of every hostile test: after the load, the numbers of active tunnels, connections and file descriptors
 * return to their values before it, and there is one record per request.
 */
export class Baseline {
  readonly #proxy: ProxyHandle;
  readonly #descriptors: number;
  readonly #records: number;

  private constructor(proxy: ProxyHandle) {
    this.#proxy = proxy;
    this.#descriptors = proxy.handles();
    this.#records = proxy.records().length;
  }

  /** Waits until the proxy is at rest and stores its values. */
  static async of(proxy: ProxyHandle): Promise<Baseline> {
    await proxy.untilStatus((status) => status.active === 0 && status.connections === 0);
    return new Baseline(proxy);
  }

  /** Fails unless the proxy returns to the base line. `requests`: how many request heads it read in the meantime. */
  async restored(requests?: number, ms = SETTLE_MS): Promise<void> {
    const proxy = this.#proxy;
    await proxy.untilStatus((status) => status.active === 0 && status.connections === 0, ms);
    const limit = this.#descriptors + SPARE_DESCRIPTORS;
    const began = Date.now();
    while (proxy.handles() > limit && Date.now() - began < ms) await new Promise((r) => setTimeout(r, 50));
    assert.ok(proxy.handles() <= limit, `${proxy.handles()} file descriptors are open, ${this.#descriptors} before`);
    if (requests === undefined) return;
    const found = () => proxy.records().length - this.#records;
    while (found() < requests && Date.now() - began < ms) await new Promise((r) => setTimeout(r, 50));
    assert.equal(found(), requests, "one record per request");
  }
}
