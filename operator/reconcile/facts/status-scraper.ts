import { Agent, request } from "node:http";
import type { Pod } from "../../api/objects.ts";
import { type ProxyStatus, readProxyStatus } from "../../fleet/proxy-status.ts";
import { keyOf } from "../../kube/resource.ts";

/** Proxies that are asked at once. */
const PARALLEL = 32;
/** For one answer. */
export const TIMEOUT_MS = 2000;
/** A `/status` is some kilobytes; what is longer is none. */
export const MAX_BODY_BYTES = 262_144;
/** How often a proxy is asked that just came, or whose policy is being changed. */
const URGENT_MS = 500;
const URGENT_FOR_MS = 30_000;
const TICK_MS = 100;
/** So many failures in a row, and the last answer counts no more. */
const FORGET_AFTER = 3;

/** Gets the body of one proxy's `/status`. Rejects when there is none. */
export type AskStatus = (pod: Pod, port: number) => Promise<string>;

/** Asks the pod's own address. */
export function makeDirectAsk(): AskStatus {
  const agent = new Agent({ keepAlive: true, maxSockets: 2 });
  return (pod, port) =>
    new Promise((resolve, reject) => {
      const options = { host: pod.status?.podIP, port, path: "/status", agent, timeout: TIMEOUT_MS };
      const outgoing = request(options, (response) => {
        const chunks: Buffer[] = [];
        let length = 0;
        response.on("data", (chunk: Buffer) => {
          length += chunk.length;
          if (length > MAX_BODY_BYTES) outgoing.destroy(new Error(`/status is longer than ${MAX_BODY_BYTES} bytes`));
          else chunks.push(chunk);
        });
        response.on("error", reject);
        response.on("end", () => {
          if (response.statusCode === 200) resolve(Buffer.concat(chunks).toString("utf8"));
          else reject(new Error(`/status answers ${response.statusCode}`));
        });
      });
      const deadline = setTimeout(() => outgoing.destroy(new Error(`no answer within ${TIMEOUT_MS} ms`)), TIMEOUT_MS);
      outgoing.on("error", reject);
      outgoing.on("close", () => clearTimeout(deadline));
      outgoing.end();
    });
}

interface Entry {
  pod: Pod;
  /** `namespace/policy`, whom a change is told. */
  owner: string;
  port: number;
  due: number;
  urgentUntil: number;
  asking: boolean;
  failures: number;
  status: ProxyStatus | undefined;
  error: string | undefined;
  /** What was told last, as text. */
  told: string;
}

/** What a {@link Scraper} needs of the world. */
export interface ScraperOptions {
  ask: AskStatus;
  /** How often a settled proxy is asked, in milliseconds. */
  intervalMs: number;
  /** A proxy of this policy (`namespace/name`) says something else than before. */
  onChange(owner: string): void;
  /** Counts an answer or a failure. */
  onResult?(ok: boolean): void;
  /** Milliseconds, monotonic. */
  now?: () => number;
}

const running = (pod: Pod) =>
  pod.status?.phase === "Running" && pod.status.podIP !== undefined && pod.metadata.deletionTimestamp === undefined;

const adminPort = (pod: Pod): number | undefined =>
  pod.spec?.containers?.flatMap(({ ports }) => ports ?? []).find(({ name }) => name === "admin")?.containerPort;

/** Asks every proxy of every fleet what it runs, so that a status tells what is, not what was applied. */
export class Scraper {
  readonly #options: ScraperOptions;
  readonly #now: () => number;
  readonly #entries = new Map<string, Entry>();
  #asking = 0;
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

  /** A pod was seen; `owner` is its policy. */
  see(pod: Pod, owner: string): void {
    const key = keyOf(pod);
    const port = adminPort(pod);
    const old = this.#entries.get(key);
    if (!running(pod) || port === undefined) {
      this.#entries.delete(key);
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
    const times = { due: now, urgentUntil: now + URGENT_FOR_MS, asking: false };
    this.#entries.set(key, { pod, owner, port, ...times, failures: 0, status: undefined, error: undefined, told: "" });
  }

  /** A pod is gone. */
  forget(pod: Pod): void {
    this.#entries.delete(keyOf(pod));
  }

  /** Asks a pod at once, and often for a while. */
  urge(pod: Pod): void {
    const entry = this.#entries.get(keyOf(pod));
    if (entry === undefined) return;
    const now = this.#now();
    entry.due = Math.min(entry.due, now);
    entry.urgentUntil = now + URGENT_FOR_MS;
  }

  /** What a pod said last, and why it says nothing; `asked`: whether it had the time to. */
  latest(pod: Pod): { status: ProxyStatus | undefined; error: string | undefined; asked: boolean } {
    const entry = this.#entries.get(keyOf(pod));
    // Who cannot be asked (no address yet, or ending) is not waited for.
    if (entry?.pod.metadata.uid !== pod.metadata.uid) return { status: undefined, error: "not running", asked: true };
    const { status, error, told } = entry!;
    return { status, error, asked: told !== "" };
  }

  #tick(): void {
    const now = this.#now();
    for (const entry of this.#entries.values()) {
      if (this.#asking >= PARALLEL) return;
      if (!entry.asking && entry.due <= now) void this.#ask(entry);
    }
  }

  async #ask(entry: Entry): Promise<void> {
    entry.asking = true;
    this.#asking++;
    // To the end of the line: many that give no answer must not keep the others from being asked.
    const key = keyOf(entry.pod);
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    try {
      entry.status = readProxyStatus(await this.#options.ask(entry.pod, entry.port));
      entry.error = undefined;
      entry.failures = 0;
    } catch (error) {
      entry.failures++;
      entry.error = (error as Error).message;
      if (entry.failures >= FORGET_AFTER) entry.status = undefined;
    }
    this.#asking--;
    entry.asking = false;
    const now = this.#now();
    entry.due = now + (now < entry.urgentUntil ? URGENT_MS : this.#options.intervalMs);
    this.#options.onResult?.(entry.error === undefined);
    const told = JSON.stringify([entry.status, entry.status === undefined ? entry.error : null]);
    if (told === entry.told || this.#entries.get(key) !== entry) return;
    entry.told = told;
    this.#options.onChange(entry.owner);
  }
}
