import type { Logger } from "../cli/log.ts";
import { FileWatch, fingerprint, PIPE } from "../config/file-watch.ts";
import { isExhausted } from "../sockets/descriptors.ts";
import { readHosts } from "./hosts.ts";
import type { Names } from "./names.ts";
import { RESOLV_CONF } from "./servers.ts";

/** The files that a command line names. */
interface Files {
  /** A hosts file. */
  hosts: string | undefined;
  /** With servers of the command line, resolv.conf is not used. */
  resolvers: readonly string[];
}

/** Reads the hosts file at the start, and again with resolv.conf when they change. An error keeps the last content. */
export class NameFiles {
  readonly #names: Names;
  readonly #log: Logger;
  readonly #hosts: string | undefined;
  readonly #hostsWatch: FileWatch;
  /** Null: resolv.conf is not used. */
  readonly #serversWatch: FileWatch | null;
  #reading = false;
  /** The last error that was logged; null after a success. */
  #reported: string | null = null;

  constructor(names: Names, { hosts, resolvers }: Files, log: Logger) {
    this.#names = names;
    this.#log = log;
    this.#hosts = hosts;
    this.#hostsWatch = new FileWatch(() => (hosts === undefined ? "" : fingerprint(hosts)));
    this.#serversWatch = resolvers.length > 0 ? null : new FileWatch(() => fingerprint(RESOLV_CONF));
  }

  /** Reads the hosts file, which may be a pipe. @throws UsageError */
  async start(): Promise<void> {
    if (this.#hosts === undefined) return;
    const unchanged = this.#hostsWatch.begin();
    this.#names.setHosts(await readHosts(this.#hosts));
    unchanged();
  }

  /** Reads the files that have changed. */
  async poll(): Promise<void> {
    if (this.#serversWatch?.poll()) this.#rereadServers(this.#serversWatch);
    if (this.#hosts !== undefined && this.#hostsWatch.poll()) await this.#rereadHosts(this.#hosts);
  }

  /** Reads the files now (SIGHUP). */
  async force(): Promise<void> {
    if (this.#serversWatch !== null) this.#rereadServers(this.#serversWatch);
    if (this.#hosts !== undefined) await this.#rereadHosts(this.#hosts);
  }

  #rereadServers(watch: FileWatch): void {
    const unchanged = watch.begin();
    try {
      const resolvers = this.#names.rereadServers();
      if (unchanged()) this.#reported = null;
      if (resolvers !== null) this.#log.info({ resolvers }, "the name servers of resolv.conf have changed");
    } catch (error) {
      this.#fail(watch, error, `${RESOLV_CONF}: ${(error as Error).message}; the last name servers stay in use`);
    }
  }

  async #rereadHosts(file: string): Promise<void> {
    // The content of a pipe is already known.
    if (fingerprint(file) === PIPE) return;
    if (this.#reading) return this.#hostsWatch.again();
    this.#reading = true;
    const unchanged = this.#hostsWatch.begin();
    try {
      const hosts = await readHosts(file, false);
      // A file that changed during the read may be half of one: the next poll tries again.
      if (!unchanged()) return;
      this.#names.setHosts(hosts);
      this.#reported = null;
      this.#log.info({ names: hosts.size }, "hosts file loaded");
    } catch (error) {
      this.#fail(this.#hostsWatch, error, `${(error as Error).message}; the last valid hosts file stays in use`);
    } finally {
      this.#reading = false;
    }
  }

  #fail(watch: FileWatch, error: unknown, message: string): void {
    // The file is not the cause and need not change: the next poll reads it again.
    const retry = isExhausted(error);
    if (retry) watch.again();
    if (!(retry && message === this.#reported)) this.#log.error(message);
    this.#reported = message;
  }
}
