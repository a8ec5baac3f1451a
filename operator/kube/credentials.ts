import type { RequestOptions } from "node:https";
import { KubeConfig } from "@kubernetes/client-node";
import { type Clock, systemClock } from "./clock.ts";

/** Files and plugins are asked again after this time: enough for a rotation, and not for every call. */
const KEEP_MS = 5000;
/** Refused credentials are thrown away at most this often, so that a plugin is not started for every refused call. */
const REFRESH_MS = 5000;

/**
 * Where the API server is and what proves us to it. `@kubernetes/client-node` reads kubeconfig, token files, exec
 * plugins and certificates; it keeps tokens (a file's for 60 s, a plugin's without an end for ever), so what the server
 * refuses is read anew.
 */
export class Credentials {
  readonly server: URL;
  /** Grows with every refresh. */
  generation = 0;
  #config: KubeConfig;
  #current: { at: number; options: Promise<RequestOptions> } | undefined;
  #refreshedAt = Number.NEGATIVE_INFINITY;
  readonly #clock: Clock;

  /** Throws one line when this configuration leads nowhere. */
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

  /** Throws away what was in use at that generation. False: that was done just before, another try is of no use. */
  refresh(generation: number): boolean {
    if (generation !== this.generation) return true;
    if (this.#clock.now() - this.#refreshedAt < REFRESH_MS) return false;
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
    // A token file may end with a newline, which no header may have.
    const trimmed = Object.entries(headers ?? {}).map(([name, value]) => [name, String(value).trim()]);
    return { ...rest, headers: Object.fromEntries(trimmed) };
  }
}
