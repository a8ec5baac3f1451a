import { setTimeout as sleep } from "node:timers/promises";
import type { ConfigMap } from "../../operator/api/objects.ts";
import type { ControlPlane } from "../cluster/control-plane.ts";
import type { Received } from "../cluster/node/internet.ts";
import { NS } from "./stage.ts";

/**
 * An interval in which a list may have been published: from the poll before it was first seen to the poll that missed
 * it.
 */
interface Listed {
  addresses: readonly string[];
  from: number;
  to: number;
}

const LOOK_MS = 50;
const SLOW_MS = 30_000;

/** The published list of a policy over time, without Pending addresses: no request may come from them yet. */
export class PublishedHistory {
  readonly #plane: ControlPlane;
  readonly #path: string;
  readonly #lists: Listed[] = [];
  /** Start of the last successful poll. */
  #lookedAt = 0;
  readonly #ended = new AbortController();
  readonly #looking: Promise<void>;

  constructor(plane: ControlPlane, policy: string) {
    this.#plane = plane;
    this.#path = `/api/v1/namespaces/${NS}/configmaps/${policy}-egress-ips`;
    this.#looking = this.#look();
  }

  async #look(): Promise<void> {
    for (let before = Date.now(); !this.#ended.signal.aborted; await sleep(LOOK_MS)) {
      const began = Date.now();
      const found = await this.#plane.get<ConfigMap>(this.#path).catch((error: Error) => error);
      // While the API server is down the list cannot change.
      if (found instanceof Error) continue;
      this.#lookedAt = began;
      // The list is deleted with its policy, slightly before the proxies.
      const addresses = found === undefined ? (this.#lists.at(-1)?.addresses ?? []) : addressesOf(found);
      const last = this.#lists.at(-1);
      if (last !== undefined) last.to = Date.now();
      if (last?.addresses.join() !== addresses.join()) this.#lists.push({ addresses, from: before, to: Date.now() });
      before = began;
    }
  }

  /** Requests from an address that was not Active or Retiring in the list at that time. Polls once more first. */
  async wrong(requests: readonly Received[]): Promise<Received[]> {
    for (const asked = Date.now(); this.#lookedAt <= asked; await sleep(LOOK_MS)) {
      if (Date.now() - asked > SLOW_MS) throw new Error("the API server does not say what is published");
    }
    return requests.filter(
      ({ at, address }) =>
        !this.#lists.some(({ addresses, from, to }) => from <= at && at <= to && addresses.includes(address)),
    );
  }

  async stop(): Promise<void> {
    this.#ended.abort();
    await this.#looking;
  }
}

function addressesOf(found: ConfigMap): string[] {
  const list = JSON.parse(found.data!["ips.json"]!) as { ipv4: string[]; ipv6: string[]; pending: string[] };
  return [...list.ipv4, ...list.ipv6].filter((address) => !list.pending.includes(address));
}
