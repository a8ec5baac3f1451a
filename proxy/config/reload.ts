import { UsageError } from "../cli/usage-error.ts";
import type { Authentication } from "../policy/clients.ts";
import type { PolicySource } from "../policy/policy-file.ts";
import { isExhausted } from "../sockets/descriptors.ts";
import { effective, proofsOf } from "./authentication.ts";
import type { Config } from "./config.ts";
import { type Credentials, passwordKeys, passwordPath, readCredentials } from "./credentials.ts";
import { FileWatch, fingerprint, PIPE } from "./file-watch.ts";
import { readPolicyText } from "./load.ts";
import { readAside } from "./read-aside.ts";

/** Polling interval of the files. */
export const LOOK_MS = 500;

/** Policy and passwords that were read: complete and valid. */
export interface Loaded {
  source: PolicySource;
  /** Hash of the document, after the overrides of the command line. */
  hash: string;
  credentials: Credentials;
  authentication: Authentication;
}

function folderFingerprint(folder: string): string {
  try {
    return passwordKeys(folder)
      .map((key) => `${key}=${fingerprint(passwordPath(folder, key))}`)
      .join();
  } catch (error) {
    return (error as Error).message;
  }
}

/** Reads policy and passwords at the start, and again when they change: both complete and valid, or neither. */
export class Reload {
  readonly #config: Config;
  readonly #password: string | undefined;
  readonly #watch: FileWatch;
  #started = false;
  /** Content of a pipe that was read at the start. */
  #piped: string | null = null;
  #reading = false;
  /** Error of the last attempt; null after a success. */
  error: string | null = null;
  /** The last attempt failed only because no file descriptor was left; the next poll tries again. */
  retrying = false;
  succeeded = 0;
  failed = 0;

  constructor(config: Config, password: string | undefined) {
    this.#config = config;
    this.#password = password;
    const { policy, passwordDir } = config;
    const folder = () => (passwordDir === undefined ? "" : folderFingerprint(passwordDir));
    this.#watch = new FileWatch(() => `${fingerprint(policy)} ${folder()}`);
  }

  /** Reads a pipe at the start only: later a read could block, and the content of the pipe is already known. */
  #policyText(): string {
    const pipe = fingerprint(this.#config.policy) === PIPE;
    if (pipe && this.#piped !== null) return this.#piped;
    const text = readPolicyText(this.#config, !this.#started);
    if (pipe) this.#piped = text;
    return text;
  }

  /** Reads policy and passwords. @throws UsageError */
  async #load(): Promise<Loaded> {
    const credentials = readCredentials(this.#password, this.#config.passwordDir);
    const { source, hash } = await readAside(this.#policyText(), this.#config, credentials.shared);
    const proofs = proofsOf(this.#config, this.#password);
    if (source.needs.password && !proofs.password) {
      throw new UsageError("the policy requires Basic authentication: set PROXY_PASSWORD or --password-dir");
    }
    if (source.needs.certificate) {
      throw new UsageError("the policy requires client certificates, which this version does not read: write Basic");
    }
    return { source, hash, credentials, authentication: effective(source, proofs) };
  }

  /** The first attempt. Null, with `error` set, when `--on-bad-policy wait` says so. @throws UsageError otherwise */
  async start(): Promise<Loaded | null> {
    try {
      if (this.#config.onBadPolicy === "exit") return await this.#load();
      return await this.force();
    } finally {
      this.#started = true;
    }
  }

  /**
   * Changes since the last attempt, once the files are stable; null without a change or when the new files are invalid.
   */
  async poll(): Promise<Loaded | null> {
    return this.#watch.poll() ? this.force() : null;
  }

  /** Reads now (SIGHUP). Null, with `error` set, when the files are invalid: the last good policy stays in force. */
  async force(): Promise<Loaded | null> {
    // An attempt is under way and may have read the previous content: the next poll tries again.
    if (this.#reading) {
      this.#watch.again();
      return null;
    }
    const unchanged = this.#watch.begin();
    this.#reading = true;
    try {
      const loaded = await this.#load();
      // The file changed during the read, which may have returned half of it: the next poll tries again.
      if (!unchanged()) return null;
      this.error = null;
      this.retrying = false;
      this.succeeded++;
      return loaded;
    } catch (error) {
      // A serving proxy keeps its policy, whatever the error is.
      this.error = (error as Error).message;
      this.failed++;
      // The file is not the cause and need not change: the next poll reads it again.
      this.retrying = isExhausted(error);
      if (this.retrying) this.#watch.again();
      return null;
    } finally {
      this.#reading = false;
    }
  }
}
