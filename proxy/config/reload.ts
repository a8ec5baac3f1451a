import type { Authentication } from "../policy/clients.ts";
import type { PolicySource } from "../policy/policy-file.ts";
import { isExhausted } from "../sockets/descriptors.ts";
import { effective, type Proofs, proofsOf, requireProofs } from "./authentication.ts";
import type { Config } from "./config.ts";
import { type Credentials, passwordKeys, passwordPath, readCredentials, rereadCredentials } from "./credentials.ts";
import { FileWatch, fingerprint, PIPE } from "./file-watch.ts";
import { readPolicyText } from "./load.ts";
import { readAside } from "./read-aside.ts";
import { identitiesOf, type ReadPolicy } from "./read-policy.ts";

/** Polling interval of the files. */
export const LOOK_MS = 500;

/** The last valid policy and the last valid passwords. */
export interface Loaded {
  source: PolicySource;
  /** Hash of the document, after the overrides of the command line. */
  hash: string;
  credentials: Credentials;
  authentication: Authentication;
}

/** The result of reading the files of one part. */
export interface Attempt {
  /** Null: nothing new is valid, or another part is not valid yet. */
  loaded: Loaded | null;
  /** An error to report: one line. */
  error: string | null;
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

/** Files that are read together. */
class Part<T> {
  readonly watch: FileWatch;
  /** The effect of an error, with and without a last valid value. */
  readonly kept: string;
  readonly awaited: string;
  /** The last valid value; null before the first one. */
  value: T | null = null;
  /** Error of the last attempt; null after a success. */
  error: string | null = null;

  constructor(kept: string, awaited: string, look: () => string) {
    this.kept = kept;
    this.awaited = awaited;
    this.watch = new FileWatch(look);
  }
}

/** Reads policy and passwords at the start, and again when they change. An error in one part does not delay the other one. */
export class Reload {
  readonly #config: Config;
  readonly #password: string | undefined;
  readonly #proofs: Proofs;
  readonly #policy: Part<ReadPolicy>;
  readonly #passwords: Part<Credentials>;
  #started = false;
  /** Content of a pipe that was read at the start. */
  #piped: string | null = null;
  #reading = false;
  succeeded = 0;
  failed = 0;

  constructor(config: Config, password: string | undefined) {
    this.#config = config;
    this.#password = password;
    this.#proofs = proofsOf(config, password);
    const { policy, passwordDir } = config;
    this.#policy = new Part("the last valid policy stays in force", "waiting for a valid policy", () =>
      fingerprint(policy),
    );
    this.#passwords = new Part("passwords that cannot be read stay as they were", "waiting for valid passwords", () =>
      passwordDir === undefined ? "" : folderFingerprint(passwordDir),
    );
  }

  /** Errors of the last attempts; null: there is none. */
  get error(): string | null {
    const errors = [this.#passwords.error, this.#policy.error].filter((error) => error !== null);
    return errors.length === 0 ? null : errors.join("; ");
  }

  #loaded(): Loaded | null {
    const { value: policy } = this.#policy;
    const { value: credentials } = this.#passwords;
    if (policy === null || credentials === null) return null;
    return { ...policy, credentials, authentication: effective(policy.source, this.#proofs, this.#config) };
  }

  /** Reads a pipe at the start only: later a read could block, and the content of the pipe is already known. */
  #policyText(): string {
    const pipe = fingerprint(this.#config.policy) === PIPE;
    if (pipe && this.#piped !== null) return this.#piped;
    const text = readPolicyText(this.#config, !this.#started);
    if (pipe) this.#piped = text;
    return text;
  }

  /** @throws UsageError */
  async #parse(text: string): Promise<ReadPolicy> {
    const read = await readAside(text, this.#config, identitiesOf(this.#config, this.#proofs));
    requireProofs(read.source, this.#proofs, this.#config);
    return read;
  }

  /** The first attempt. Null, with `error` set, when `--on-bad-policy wait` says so. @throws UsageError otherwise */
  async start(): Promise<Loaded | null> {
    try {
      if (this.#config.onBadPolicy === "exit") {
        this.#passwords.value = readCredentials(this.#password, this.#config.passwordDir);
        this.#policy.value = await this.#parse(this.#policyText());
      } else await Promise.all(this.force());
      return this.#loaded();
    } finally {
      this.#started = true;
    }
  }

  /** Reads the parts that changed since their last attempt, once their files are stable. */
  poll(): Promise<Attempt>[] {
    const attempts: Promise<Attempt>[] = [];
    if (this.#passwords.watch.poll()) attempts.push(Promise.resolve(this.#readPasswords()));
    if (this.#policy.watch.poll()) attempts.push(this.#readPolicy());
    return attempts;
  }

  /** Reads all parts now (SIGHUP). */
  force(): Promise<Attempt>[] {
    return [Promise.resolve(this.#readPasswords()), this.#readPolicy()];
  }

  #readPasswords(): Attempt {
    const part = this.#passwords;
    const { value: before } = part;
    const { passwordDir } = this.#config;
    const unchanged = part.watch.begin();
    try {
      const { credentials, errors } =
        before === null || passwordDir === undefined
          ? { credentials: readCredentials(this.#password, passwordDir), errors: [] }
          : rereadCredentials(this.#password, passwordDir, before);
      // The files changed during the read: the next poll tries again.
      if (!unchanged()) return { loaded: null, error: null };
      const changed = before === null || !credentials.equals(before);
      if (changed) part.value = credentials;
      if (errors.length > 0) return this.#fail(part, new Error(errors.join("; ")), changed);
      return this.#succeed(part, changed);
    } catch (error) {
      return this.#fail(part, error);
    }
  }

  async #readPolicy(): Promise<Attempt> {
    const part = this.#policy;
    // An attempt is under way and may have read the previous content: the next poll tries again.
    if (this.#reading) {
      part.watch.again();
      return { loaded: null, error: null };
    }
    const unchanged = part.watch.begin();
    this.#reading = true;
    try {
      const read = await this.#parse(this.#policyText());
      // The file changed during the read, which may have returned half of it: the next poll tries again.
      if (!unchanged()) return { loaded: null, error: null };
      part.value = read;
      return this.#succeed(part, true);
    } catch (error) {
      return this.#fail(part, error);
    } finally {
      this.#reading = false;
    }
  }

  #succeed(part: Part<unknown>, changed: boolean): Attempt {
    if (changed || part.error !== null) this.succeeded++;
    part.error = null;
    return { loaded: changed ? this.#loaded() : null, error: null };
  }

  /** A serving proxy keeps the last valid value, whatever the error is. `changed`: a part of it is new nevertheless. */
  #fail(part: Part<unknown>, thrown: unknown, changed = false): Attempt {
    const { error: before } = part;
    part.error = (thrown as Error).message;
    this.failed++;
    const loaded = changed ? this.#loaded() : null;
    // The file is not the cause and need not change: the next poll reads it again.
    const retrying = isExhausted(thrown);
    if (retrying) part.watch.again();
    if (retrying && part.error === before) return { loaded, error: null };
    return { loaded, error: `${part.error}; ${part.value === null ? part.awaited : part.kept}` };
  }
}
