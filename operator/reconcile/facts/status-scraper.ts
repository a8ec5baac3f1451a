import { Agent, request } from "node:http";
import type { Pod } from "../../api/objects.ts";
import { adminPort, type ProxyFacts, type ProxyStatus, readProxyStatus } from "../../fleet/proxy-status.ts";
import { keyOf } from "../../kube/resource.ts";

/** Proxies that are polled at once. */
const PARALLEL = 32;
/** Timeout of one poll. */
export const SCRAPE_TIMEOUT_MS = 2000;
/** Limit of a `/status`, which has some kilobytes. */
export const MAX_STATUS_BYTES = 262_144;
/** Polling interval of a proxy that just started, or whose policy is changing. */
const URGENT_MS = 500;
const URGENT_FOR_MS = 30_000;
const TICK_MS = 100;
/**
 * Time after a write of the policy document in which a proxy may still load the document before it: the kubelet may have
 * just updated the volume, and proxies look at it every 500 ms.
 */
const RELOAD_MS = 2000;
/** Failures in a row after which the last answer is dropped. */
const FORGET_AFTER = 3;

/** Fetches the body of one proxy's `/status`. Rejects if there is none. */
export type FetchStatus = (pod: Pod, port: number) => Promise<string>;

/** Fetches from the address of the pod. */
export function makeDirectFetch(): FetchStatus {
  const agent = new Agent({ keepAlive: true, maxSockets: 2 });
  return (pod, port) =>
    new Promise((resolve, reject) => {
      const options = { host: pod.status?.podIP, port, path: "/status", agent, timeout: SCRAPE_TIMEOUT_MS };
      const outgoing = request(options, (response) => {
        const chunks: Buffer[] = [];
        let length = 0;
        response.on("data", (chunk: Buffer) => {
          length += chunk.length;
          if (length > MAX_STATUS_BYTES)
            outgoing.destroy(new Error(`/status is longer than ${MAX_STATUS_BYTES} bytes`));
          else chunks.push(chunk);
        });
        response.on("error", reject);
        response.on("end", () => {
          if (response.statusCode === 200) resolve(Buffer.concat(chunks).toString("utf8"));
          else reject(new Error(`/status returned ${response.statusCode}`));
        });
      });
      const deadline = setTimeout(
        () => outgoing.destroy(new Error(`no answer within ${SCRAPE_TIMEOUT_MS} ms`)),
        SCRAPE_TIMEOUT_MS,
      );
      outgoing.on("error", reject);
      outgoing.on("close", () => {
        clearTimeout(deadline);
        // After an answer this has no effect. A 101 closes the connection without an error.
        reject(new Error("the connection closed without a complete answer"));
      });
      outgoing.end();
    });
}

interface ScrapedProxy {
  pod: Pod;
  /** Key of the policy that is notified of changes. */
  owner: string;
  port: number;
  due: number;
  urgentUntil: number;
  polling: boolean;
  /** Last write of its policy document; -Infinity: none since the pod started. */
  writtenAt: number;
  failures: number;
  status: ProxyStatus | undefined;
  error: string | undefined;
  /** Whether `status` is older than the last write of the document and its reload. */
  outdated: boolean;
  /** Last reported state, as text; empty before the first poll. */
  reported: string;
}

/** Knowledge about one proxy. */
type Latest = Pick<ProxyFacts, "status" | "error" | "polled" | "outdated">;

/** Dependencies of a {@link StatusScraper}. */
interface ScraperOptions {
  fetch: FetchStatus;
  /** Polling interval of a settled proxy, in milliseconds. */
  intervalMs: number;
  /** The answer of a proxy changed, or is no longer outdated. `owner`: key of its policy. */
  onChange(owner: string): void;
  /** Counts an answer or a failure. */
  onResult?(ok: boolean): void;
  /** Milliseconds, monotonic. */
  now?: () => number;
}

const isRunning = (pod: Pod) =>
  pod.status?.phase === "Running" && pod.status.podIP !== undefined && pod.metadata.deletionTimestamp === undefined;

/** Polls `/status` of every proxy, so that conditions report what the proxies run, not what was applied. */
export class StatusScraper {
  readonly #options: ScraperOptions;
  readonly #now: () => number;
  readonly #proxies = new Map<string, ScrapedProxy>();
  #polling = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: ScraperOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
  }

  start(): void {
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /** Adds or updates a pod. `owner`: key of its policy. */
  see(pod: Pod, owner: string): void {
    const key = keyOf(pod);
    const port = adminPort(pod);
    const old = this.#proxies.get(key);
    if (!isRunning(pod) || port === undefined) {
      this.#proxies.delete(key);
      return;
    }
    const same =
      old !== undefined &&
      old.owner === owner &&
      old.pod.metadata.uid === pod.metadata.uid &&
      old.pod.status?.podIP === pod.status?.podIP;
    if (same) {
      old.pod = pod;
      return;
    }
    const now = this.#now();
    const times = { due: now, urgentUntil: now + URGENT_FOR_MS, polling: false, writtenAt: Number.NEGATIVE_INFINITY };
    const empty = { failures: 0, status: undefined, error: undefined, outdated: false, reported: "" };
    this.#proxies.set(key, { pod, owner, port, ...times, ...empty });
  }

  /** Removes a deleted pod. */
  forget(pod: Pod): void {
    this.#proxies.delete(keyOf(pod));
  }

  /** Polls a pod now, and more often for a while. */
  urge(pod: Pod): void {
    const proxy = this.#proxies.get(keyOf(pod));
    if (proxy !== undefined) this.#urge(proxy, this.#now());
  }

  #urge(proxy: ScrapedProxy, now: number): void {
    proxy.due = Math.min(proxy.due, now);
    proxy.urgentUntil = now + URGENT_FOR_MS;
  }

  /**
   * Marks the answers of a policy's proxies as outdated, since its policy document was written. A document may return to
   * an earlier hash, so an answer with the right hash does not show that the proxy has dropped the document between.
   * `owner`: key of the policy.
   */
  outdate(owner: string): void {
    const now = this.#now();
    for (const proxy of this.#proxies.values()) {
      if (proxy.owner !== owner) continue;
      proxy.writtenAt = now;
      proxy.outdated = true;
      this.#urge(proxy, now);
    }
  }

  /** Last answer or error of a pod. `polled`: false before the first poll of a pod that can be polled. */
  latest(pod: Pod): Latest {
    const proxy = this.#proxies.get(keyOf(pod));
    // A pod without an address, or a terminating one, cannot be polled: callers must not wait for it.
    if (proxy?.pod.metadata.uid !== pod.metadata.uid) {
      return { status: undefined, error: "not running", polled: true, outdated: false };
    }
    const { status, error, outdated, reported } = proxy!;
    return { status, error, polled: reported !== "", outdated };
  }

  #tick(): void {
    const now = this.#now();
    for (const proxy of this.#proxies.values()) {
      if (this.#polling >= PARALLEL) return;
      if (!proxy.polling && proxy.due <= now) void this.#poll(proxy);
    }
  }

  async #poll(proxy: ScrapedProxy): Promise<void> {
    proxy.polling = true;
    this.#polling++;
    const began = this.#now();
    const { outdated } = proxy;
    // Moves to the end of the map, so that proxies which do not answer cannot starve the others.
    const key = keyOf(proxy.pod);
    this.#proxies.delete(key);
    this.#proxies.set(key, proxy);
    try {
      proxy.status = readProxyStatus(await this.#options.fetch(proxy.pod, proxy.port));
      proxy.error = undefined;
      proxy.failures = 0;
      proxy.outdated = began < proxy.writtenAt + RELOAD_MS;
    } catch (error) {
      proxy.failures++;
      proxy.error = (error as Error).message;
      if (proxy.failures >= FORGET_AFTER) proxy.status = undefined;
    }
    this.#polling--;
    proxy.polling = false;
    const now = this.#now();
    proxy.due = now + (now < proxy.urgentUntil ? URGENT_MS : this.#options.intervalMs);
    this.#options.onResult?.(proxy.error === undefined);
    const state = JSON.stringify([proxy.status, proxy.status === undefined ? proxy.error : null]);
    const confirmed = outdated && !proxy.outdated;
    if ((state === proxy.reported && !confirmed) || this.#proxies.get(key) !== proxy) return;
    proxy.reported = state;
    this.#options.onChange(proxy.owner);
  }
}
