import { UsageError } from "../cli/usage-error.ts";
import type { ClientName } from "../tls/client-certificate.ts";
import { addCrls, ClientTrust, lacksCrl, readCas, withoutCrl } from "../tls/client-trust.ts";
import type { Crl } from "../tls/crl.ts";
import { IdentityError, readIdentity, type ServerIdentity } from "../tls/server-identity.ts";
import { FileWatch, fingerprint } from "./file-watch.ts";
import { readSmallFile } from "./files.ts";

/** The TLS listener of the command line. */
export interface TlsConfig {
  listen: { host: string; port: number };
  cert: string;
  key: string;
  /** Undefined: clients need no certificate. */
  clientCa: string | undefined;
  crls: readonly string[];
  clientName: ClientName;
  /** Undefined: no port for clients outside of the network. */
  external: ExternalConfig | undefined;
}

/** The TLS port for clients outside of the network. */
interface ExternalConfig {
  listen: { host: string; port: number };
  /** Addresses of clients that are served. */
  from: readonly string[];
}

/** Bytes of a certificate chain, key or CA bundle. */
const MAX_PEM_BYTES = 1024 * 1024;
/** Bytes of a CRL: 100,000 revoked certificates fit. */
const MAX_CRL_BYTES = 4 * 1024 * 1024;

/** Interval of further attempts after a failure: a CRL of a clock that is ahead becomes valid without a change. */
const RETRY_MS = 5000;

/** Runs `read` on the bytes of the file of an option. @throws UsageError: one line with option, file and fix */
function readFile<T>(option: string, file: string, maxBytes: number, read: (bytes: Buffer) => T): T {
  try {
    return read(readSmallFile(file, { maxBytes }));
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const why = code === "ENOENT" ? "no such file" : code === "EACCES" ? "no permission to read it" : message;
    throw new UsageError(`--${option} ${file}: ${why}`, { cause: error });
  }
}

function loadIdentity({ cert, key }: TlsConfig, now: number): ServerIdentity {
  const bytes = readFile("tls-cert", cert, MAX_PEM_BYTES, (read) => read);
  const keyBytes = readFile("tls-key", key, MAX_PEM_BYTES, (read) => read);
  try {
    return readIdentity(bytes, keyBytes, now);
  } catch (error) {
    if (!(error instanceof IdentityError)) throw error;
    const where = error.file === "cert" ? `--tls-cert ${cert}` : `--tls-key ${key}`;
    throw new UsageError(`${where}: ${error.message}`);
  }
}

function loadTrust(clientCa: string, { crls: files }: TlsConfig, before: ClientTrust | null, now: number): ClientTrust {
  const { cas, warnings } = readFile("tls-client-ca", clientCa, MAX_PEM_BYTES, (bytes) =>
    readCas(bytes, now, before !== null),
  );
  const shown = warnings.map((warning) => `--tls-client-ca ${clientCa}: ${warning}`);
  if (files.length === 0) return new ClientTrust(cas, null, shown);
  const crls = new Map<string, Crl>();
  const foreign = files.filter((file) =>
    readFile("tls-crl", file, MAX_CRL_BYTES, (bytes) => addCrls(crls, bytes, { cas, before, now })),
  );
  // The CRL of a removed CA must not keep this CA in force. A CRL of another CA in place of the right one is an error.
  if (foreign.length > 0 && lacksCrl(cas, crls, before)) {
    throw new UsageError(
      `--tls-crl ${foreign[0]}: no CA in --tls-client-ca has issued the CRL; add the certificate of its CA`,
    );
  }
  const unused = foreign.map(
    (file) =>
      `--tls-crl ${file}: no CA in --tls-client-ca has issued a CRL of this file, so it has no effect; remove it`,
  );
  const missing = withoutCrl(cas, crls).map((warning) => `--tls-client-ca ${clientCa}: ${warning}`);
  return new ClientTrust(cas, crls, [...shown, ...unused, ...missing]);
}

/** Files that are read as a whole, and again when they change. The last valid content stays in force. */
class Watched<T> {
  readonly #load: (before: T | null) => T;
  readonly #watch: FileWatch;
  #value: T;
  /** The next attempt after a failure, whatever the files are (monotonic ms). */
  #retryAt = Number.POSITIVE_INFINITY;
  /** Error of the last attempt; null after a success. */
  error: string | null = null;

  /** @throws UsageError */
  constructor(files: readonly string[], load: (before: T | null) => T) {
    this.#load = load;
    this.#watch = new FileWatch(() => files.map((file) => fingerprint(file)).join(" "));
    const unchanged = this.#watch.begin();
    this.#value = load(null);
    unchanged();
  }

  get value(): T {
    return this.#value;
  }

  poll(): boolean {
    return this.#watch.poll() || performance.now() >= this.#retryAt;
  }

  /** Reads now. True: a new value is in force. */
  read(): boolean {
    const unchanged = this.#watch.begin();
    this.#retryAt = Number.POSITIVE_INFINITY;
    try {
      const value = this.#load(this.#value);
      // The files changed during the read: the next poll tries again, so that a key is never used with the certificate of another one.
      if (!unchanged()) return false;
      this.#value = value;
      this.error = null;
      return true;
    } catch (error) {
      // A serving proxy keeps its certificates, whatever the error is.
      this.error = (error as Error).message;
      this.#retryAt = performance.now() + RETRY_MS;
      return false;
    }
  }
}

/** The result of reading changed files. */
export interface TlsChange {
  changed: boolean;
  /** New errors, each one line. */
  errors: readonly string[];
}

/**
 * The files of the TLS listener. Certificate and key are one unit, client CA and CRLs are another one. An error in one
 * unit does not delay the other one, so a failed renewal of the certificate does not delay a revocation.
 */
export class TlsFiles {
  readonly #identity: Watched<ServerIdentity>;
  readonly #trust: Watched<ClientTrust> | null;
  succeeded = 0;
  failed = 0;

  /** Reads all files. @throws UsageError */
  constructor(config: TlsConfig) {
    const { cert, key, clientCa, crls } = config;
    this.#identity = new Watched([cert, key], () => loadIdentity(config, Date.now()));
    this.#trust =
      clientCa === undefined
        ? null
        : new Watched([clientCa, ...crls], (before) => loadTrust(clientCa, config, before, Date.now()));
  }

  get identity(): ServerIdentity {
    return this.#identity.value;
  }

  /** Null: clients need no certificate. */
  get trust(): ClientTrust | null {
    return this.#trust?.value ?? null;
  }

  /** Errors of the last attempts; null: there is none. */
  get error(): string | null {
    const errors = [this.#identity.error, this.#trust?.error].filter((error) => typeof error === "string");
    return errors.length === 0 ? null : errors.join("; ");
  }

  /** Reads what has changed, once it is stable. `now`: reads all files (SIGHUP). */
  poll(now = false): TlsChange {
    const errors: string[] = [];
    let changed = false;
    for (const unit of [this.#identity, this.#trust]) {
      if (unit === null) continue;
      const due = unit.poll();
      if (!due && !now) continue;
      const before = unit.error;
      if (unit.read()) {
        this.succeeded++;
        changed = true;
      } else if (unit.error !== null) {
        if (unit.error === before && !now) continue;
        this.failed++;
        errors.push(unit.error);
      }
    }
    return { changed, errors };
  }
}
