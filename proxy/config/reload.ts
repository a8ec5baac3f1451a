import { statSync } from "node:fs";
import { UsageError } from "../cli/usage-error.ts";
import type { PolicySource } from "../policy/policy-file.ts";
import { isExhausted } from "../sockets/descriptors.ts";
import type { Config } from "./config.ts";
import { type Credentials, passwordKeys, passwordPath, readCredentials } from "./credentials.ts";
import { readPolicyText } from "./load.ts";
import { readAside } from "./read-aside.ts";
import type { ReadPolicy } from "./read-policy.ts";

/** How often files are looked at. A change counts when two looks agree: nobody reads a file while it is written. */
export const LOOK_MS = 500;

/** What was read: only whole and valid things get here. */
export interface Loaded {
  source: PolicySource;
  /** Of the document with what the command line overrides. */
  hash: string;
  credentials: Credentials;
}

/** What a pipe looks like: it can be read once. */
const PIPE = "pipe";

/** What a file is at this moment, behind all its links (a ConfigMap volume swaps the `..data` link). */
function fingerprint(file: string | Buffer): string {
  try {
    const stat = statSync(file, { bigint: true });
    if (stat.isFIFO()) return PIPE;
    const { ino, size, mtimeNs, ctimeNs } = stat;
    return `${ino}:${size}:${mtimeNs}:${ctimeNs}`;
  } catch (error) {
    return `${(error as NodeJS.ErrnoException).code}`;
  }
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

/**
 * Reads policy and passwords at the start, and notices that they changed and reads them anew: whole and valid, or not at
 * all. Polls, since inotify sees neither NFS nor every kind of link swap.
 */
export class Reload {
  readonly #config: Config;
  readonly #password: string | undefined;
  /** What the last attempt read, and what the last look saw. */
  #tried: string;
  #seen: string;
  #started = false;
  /** What a pipe held at the start. */
  #piped: ReadPolicy | null = null;
  #reading = false;
  /** The last attempt's error; null when it was good. */
  error: string | null = null;
  /** The last attempt failed only because no file descriptor was left; the next look makes another one. */
  retrying = false;
  succeeded = 0;
  failed = 0;

  constructor(config: Config, password: string | undefined) {
    this.#config = config;
    this.#password = password;
    this.#tried = this.#look();
    this.#seen = this.#tried;
  }

  #look(): string {
    const { policy, passwordDir } = this.#config;
    return `${fingerprint(policy)} ${passwordDir === undefined ? "" : folderFingerprint(passwordDir)}`;
  }

  /** A pipe in the file's place is read at the start only: later it could block, and what it held then still holds. */
  async #readPolicy(): Promise<ReadPolicy> {
    const config = this.#config;
    const pipe = fingerprint(config.policy) === PIPE;
    if (pipe && this.#piped !== null) return this.#piped;
    const read = await readAside(readPolicyText(config, !this.#started), config);
    if (pipe) this.#piped = read;
    return read;
  }

  /** Reads policy and passwords. @throws UsageError */
  async #load(): Promise<Loaded> {
    const { source, hash } = await this.#readPolicy();
    const credentials = readCredentials(this.#password, this.#config.passwordDir);
    if (source.needsPassword && !credentials.required) {
      throw new UsageError("the policy asks for Basic authentication: set PROXY_PASSWORD or --password-dir");
    }
    return { source, hash, credentials };
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

  /** What is new since the last attempt, once it stands still; null when nothing is, or it cannot be used. */
  async poll(): Promise<Loaded | null> {
    const now = this.#look();
    const still = now === this.#seen;
    this.#seen = now;
    return still && now !== this.#tried ? this.force() : null;
  }

  /** Reads now (SIGHUP). Null, with `error` set, when it cannot be used: the last good one stays. */
  async force(): Promise<Loaded | null> {
    // An attempt is under way, and may have read what was there before: the next look makes another one.
    if (this.#reading) {
      this.#tried = "";
      return null;
    }
    const looked = this.#look();
    this.#tried = looked;
    this.#seen = looked;
    this.#reading = true;
    try {
      const loaded = await this.#load();
      // Changed under the read: this may be half of it, the next look decides.
      if (this.#look() !== looked) {
        this.#tried = "";
        return null;
      }
      this.error = null;
      this.retrying = false;
      this.succeeded++;
      return loaded;
    } catch (error) {
      // Whatever it is, a proxy that serves goes on with what it has.
      this.error = (error as Error).message;
      this.failed++;
      // The file is not to blame and need not change again: the next look reads it once more.
      this.retrying = isExhausted(error);
      if (this.retrying) this.#tried = "";
      return null;
    } finally {
      this.#reading = false;
    }
  }
}
