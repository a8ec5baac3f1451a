import type { RequestOptions } from "node:https";
import { KubeConfig } from "@kubernetes/client-node/dist/config.js";
import { type Clock, systemClock } from "./clock.ts";

/** Interval of reading files and plugins: fast enough for a rotation, and not for every call. */
const KEEP_MS = 5000;
/** Minimum time between two refreshes, so that a plugin does not start for every rejected call. */
const MIN_REFRESH_MS = 5000;

/**
 * Address of the API server, and credentials for it. `@kubernetes/client-node` reads kubeconfig, token files, exec
 * plugins and certificates. It caches tokens: those of files for 60 s, those of plugins without an expiry forever. So
 * credentials that the server rejects are read again.
 */
export class ClusterCredentials {
  readonly server: URL;
  /** Increases with every refresh. */
  generation = 0;
  #config: KubeConfig;
  #current: { at: number; options: Promise<RequestOptions> } | undefined;
  #refreshedAt = Number.NEGATIVE_INFINITY;
  readonly #clock: Clock;

  /** @throws Error with one line if the configuration names no usable cluster or user */
  constructor(config: KubeConfig, clock: Clock = systemClock) {
    const cluster = config.getCurrentCluster();
    if (cluster === null) throw new Error(`kubeconfig: context "${config.getCurrentContext()}" names no known cluster`);
    if (config.getCurrentUser() === null) {
      throw new Error(`kubeconfig: context "${config.getCurrentContext()}" names no known user`);
    }
    if (!URL.canParse(cluster.server) || new URL(cluster.server).protocol !== "https:") {
      throw new Error(`kubeconfig: cluster "${cluster.name}": server must be an https:// URL, not "${cluster.server}"`);
    }
    if (cluster.proxyUrl) {
      throw new Error(`kubeconfig: cluster "${cluster.name}": proxy-url is not supported; remove it`);
    }
    this.server = new URL(cluster.server);
    this.#config = config;
    this.#clock = clock;
  }

  /** TLS options and headers of the next request. */
  async options(): Promise<RequestOptions> {
    if (this.#current !== undefined && this.#clock.now() - this.#current.at < KEEP_MS) return this.#current.options;
    const current = { at: this.#clock.now(), options: this.#read() };
    this.#current = current;
    try {
      return await current.options;
    } catch (error) {
      if (this.#current === current) this.#current = undefined;
      throw error;
    }
  }

  /** Drops the credentials of a generation. False if that was done just before, so that a retry does not help. */
  refresh(generation: number): boolean {
    if (generation !== this.generation) return true;
    if (this.#clock.now() - this.#refreshedAt < MIN_REFRESH_MS) return false;
    this.#refreshedAt = this.#clock.now();
    this.generation++;
    this.#current = undefined;
    const fresh = new KubeConfig();
    fresh.loadFromOptions({
      clusters: this.#config.getClusters(),
      users: this.#config.getUsers(),
      contexts: this.#config.getContexts(),
      currentContext: this.#config.getCurrentContext(),
    });
    this.#config = fresh;
    return true;
  }

  async #read(): Promise<RequestOptions> {
    const options: RequestOptions = { headers: {} };
    await this.#config.applyToHTTPSOptions(options);
    const { agent: _, headers, ...rest } = options;
    // A token file may end with a newline, which is not valid in a header.
    const trimmed = Object.entries(headers ?? {}).map(([name, value]) => [name, String(value).trim()]);
    return { ...rest, headers: Object.fromEntries(trimmed) };
  }
}
