import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { type Credentials, readCredentials } from "./auth.ts";
import type { Config } from "./config.ts";
import { isExhausted } from "./descriptors.ts";
import { UsageError } from "./errors.ts";
import { loadSource } from "./load.ts";
import type { PolicySource } from "./policy/source.ts";

/** How often files are looked at. A change counts when two looks agree: nobody reads a file while it is written. */
export const LOOK_MS = 500;

/** What was read: only whole and valid things get here. */
export interface Loaded {
  source: PolicySource;
  credentials: Credentials;
}

/** What a file is at this moment, behind all its links (a ConfigMap volume swaps the `..data` link). */
function fingerprint(file: string): string {
  try {
    const stat = statSync(file, { bigint: true });
    // A pipe can be read once.
    if (stat.isFIFO()) return "pipe";
    const { ino, size, mtimeNs, ctimeNs } = stat;
    return `${ino}:${size}:${mtimeNs}:${ctimeNs}`;
  } catch (error) {
    return `${(error as NodeJS.ErrnoException).code}`;
  }
}

function folderFingerprint(folder: string): string {
  try {
    return readdirSync(folder)
      .filter((key) => !key.startsWith("."))
      .map((key) => `${key}=${fingerprint(join(folder, key))}`)
      .join();
  } catch (error) {
    return `${(error as NodeJS.ErrnoException).code}`;
  }
}

/** Reads policy and passwords. @throws UsageError */
export function load(config: Config, password: string | undefined): Loaded {
  const source = loadSource(config);
  const credentials = readCredentials(password, config.passwordDir);
  if (source.needsPassword && !credentials.required) {
    throw new UsageError("the policy asks for Basic authentication: set PROXY_PASSWORD or --password-dir");
  }
  return { source, credentials };
}

/**
 * Notices that the policy file or the passwords changed and reads them anew: whole and valid, or not at all. Polls,
 * since inotify sees neither NFS nor every kind of link swap.
 */
export class Reload {
  readonly #config: Config;
  readonly #password: string | undefined;
  /** What the last attempt read, and what the last look saw. */
  #tried: string;
  #seen: string;
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

  /** What is new since the last attempt, once it stands still; null when nothing is, or it cannot be used. */
  poll(): Loaded | null {
    const now = this.#look();
    const still = now === this.#seen;
    this.#seen = now;
    return still && now !== this.#tried ? this.force() : null;
  }

  /** Reads now (SIGHUP). Null, with `error` set, when it cannot be used: the last good one stays. */
  force(): Loaded | null {
    this.#tried = this.#look();
    this.#seen = this.#tried;
    try {
      const loaded = load(this.#config, this.#password);
      // Changed under the read: this may be half of it, the next look decides.
      if (this.#look() !== this.#tried) {
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
    }
  }
}
