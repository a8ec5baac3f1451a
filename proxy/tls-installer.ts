import type { Logger } from "./cli/log.ts";
import { type TlsConfig, TlsFiles } from "./config/tls-files.ts";
import type { ProxyServer } from "./connections/server.ts";

/** A CRL that expires within this time is reported once. */
const WARN_BEFORE_MS = 24 * 3600 * 1000;

/** The TLS listener in `/status`. Times are ISO 8601. */
export interface TlsStatus {
  listen: string;
  /** The port for clients outside of the network; null: there is none. */
  external: string | null;
  certificateExpires: string;
  /** When the first CRL expires; null without a CRL. */
  crlNextUpdate: string | null;
  /** Why changed files are not in force; null: they are. */
  error: string | null;
}

const iso = (ms: number): string => new Date(ms).toISOString();

/** Puts the files of the TLS listener in force, at the start and when they change, and reports what expires soon. */
export class TlsInstaller {
  readonly #config: TlsConfig;
  readonly #server: ProxyServer;
  readonly #log: Logger;
  readonly files: TlsFiles;
  /** The address and port of the listener. */
  listen = "";
  /** The same of the port for clients outside of the network; null: there is none. */
  external: string | null = null;
  /** The warnings that were logged about the files in force. */
  readonly #reported = new Set<string>();

  /** Reads the files. @throws UsageError */
  constructor(config: TlsConfig, server: ProxyServer, log: Logger) {
    this.#config = config;
    this.#server = server;
    this.#log = log;
    this.files = new TlsFiles(config);
    this.#install();
  }

  #install(): void {
    const { identity, trust } = this.files;
    this.#server.useTls(identity, trust, this.#config.clientName);
    this.#reported.clear();
    for (const warning of trust?.warnings ?? []) this.#log.warn(warning);
    const { certificateExpires, crlNextUpdate } = this.status();
    this.#log.info({ certificateExpires, crlNextUpdate }, "TLS certificates loaded");
    this.#reportExpiry();
  }

  /** Reads changed files. `now`: reads all of them (SIGHUP). */
  poll(now = false): void {
    const { changed, errors } = this.files.poll(now);
    for (const error of errors) this.#log.error(`${error}; the last valid files stay in force`);
    if (changed) this.#install();
    else this.#reportExpiry();
  }

  #reportExpiry(): void {
    const { identity, trust } = this.files;
    const { cert, crls } = this.#config;
    const now = Date.now();
    if (now > identity.validTo) {
      this.#report(`--tls-cert ${cert}: the certificate expired on ${iso(identity.validTo)}; renew it`);
    }
    const nextUpdate = trust?.nextUpdate ?? null;
    if (nextUpdate === null || nextUpdate - now > WARN_BEFORE_MS) return;
    const what = `--tls-crl ${crls.join(", ")}: a CRL`;
    if (now > nextUpdate) {
      this.#report(`${what} expired on ${iso(nextUpdate)}; certificates of its CA are refused; publish a new one`);
    } else {
      this.#report(`${what} expires on ${iso(nextUpdate)}; then certificates of its CA are refused; publish a new one`);
    }
  }

  /** Logs a warning once. */
  #report(text: string): void {
    if (this.#reported.has(text)) return;
    this.#reported.add(text);
    this.#log.warn(text);
  }

  status(): TlsStatus {
    const { identity, trust, error } = this.files;
    const nextUpdate = trust?.nextUpdate ?? null;
    return {
      listen: this.listen,
      external: this.external,
      certificateExpires: iso(identity.validTo),
      crlNextUpdate: nextUpdate === null ? null : iso(nextUpdate),
      error,
    };
  }
}
