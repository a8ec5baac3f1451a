import { createHash, randomBytes, randomInt, timingSafeEqual } from "node:crypto";
import { readdirSync, statSync } from "node:fs";
import { UsageError } from "../cli/usage-error.ts";
import { countBound } from "../outcome/bounds.ts";
import { limitsKey } from "../policy/cidr.ts";
import { boundedTexts, plainLine } from "../policy/rules.ts";
import { isExhausted } from "../sockets/descriptors.ts";
import { readSmallFile } from "./files.ts";

/** One password. `client` null: shared, for every user name that has no password of its own (`PROXY_PASSWORD`). */
interface Credential {
  /** User name, one character per byte. */
  client: string | null;
  digest: Buffer;
}

/** A client that presented a valid password. */
export interface Known {
  /** The user name for records: visible ASCII; other bytes are `%XX`. */
  name: string;
  /** The user name as sent, one character per byte. */
  user: string;
  credential: Credential;
  /** The key by which limits count this client; null: its address, since the shared password does not prove a name. */
  countedAs: string | null;
}

/** Passwords that a URL can contain without escapes: an injected proxy URL cannot percent-encode. */
const URL_SAFE = /^[A-Za-z0-9._~-]+$/;
/** Keys of the shared passwords. There are two, so that a password can be rotated without an interruption. */
const SHARED_KEYS = ["PROXY_PASSWORD", "PROXY_PASSWORD_PREVIOUS"];
/** Bytes of a claimed user name in a record. */
const MAX_CLAIMED_NAME = 64;
/** Bytes of one password file. A request head holds no more than 12 KiB of credentials. */
const MAX_PASSWORD_BYTES = 4096;
/** Password files of one folder. The proxy checks each of them twice a second. */
const MAX_PASSWORD_FILES = 1024;

/** Errors of password files that are shown. */
const MAX_ERRORS = 10;

const digestOf = (bytes: Buffer): Buffer => createHash("sha256").update(bytes).digest();

/**
 * A user name in visible ASCII. Two different names are shown differently: a truncated claimed name ends in `%...`,
 * which no complete name does.
 */
export function shownName(user: string, max: number): string {
  const cut = user.length > max ? user.slice(0, max) : user;
  const plain = cut.replace(/[^!-$&-~]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`);
  return cut === user ? plain : `${plain}%...`;
}

/** The digest of no password: for a user name whose password file is empty. */
const NOTHING = randomBytes(32);
/** User names that look like those of the shared password. */
const MISTAKABLE = ["default", "authed"];

type Passwords = Map<string, Credential>;

const sameIn = (one: Passwords, other: Passwords): boolean =>
  one.size === other.size && [...one].every(([key, { digest }]) => other.get(key)?.digest.equals(digest) ?? false);

/** The passwords that clients may present. The authentication mode decides whether they must. */
export class Credentials {
  /** By key; that of the environment has a key of its own. */
  readonly #shared: Passwords = new Map();
  /** By user name. */
  readonly #own: Passwords = new Map();
  readonly warnings: string[] = [];

  /**
   * `key`: a shared key, or a user name with one character per byte. `slot`: another key for a further shared password.
   * @throws UsageError on an empty password
   */
  add(key: string, password: string | Buffer, slot = key): void {
    const bytes = typeof password === "string" ? Buffer.from(password) : password;
    const shown = plainLine(key, MAX_PASSWORD_BYTES);
    if (bytes.length === 0) throw new UsageError(`${shown}: the password is empty; set one, or leave it out`);
    if (!URL_SAFE.test(bytes.toString("latin1"))) {
      this.warnings.push(
        `${shown}: has characters that must be percent-encoded in a proxy URL; use [A-Za-z0-9._~-] only`,
      );
    }
    if (MISTAKABLE.includes(key)) {
      this.warnings.push(
        `${key}: is the password of the user name ${key}, with the rules of the client ${key}; the shared password is PROXY_PASSWORD`,
      );
    }
    const digest = digestOf(bytes);
    if (SHARED_KEYS.includes(key)) this.#shared.set(slot, { client: null, digest });
    else this.#own.set(key, { client: key, digest });
  }

  /** No password is valid for a key with an empty file; for a user name not even the shared one. */
  refuse(key: string): void {
    const shown = plainLine(key, MAX_PASSWORD_BYTES);
    const effect = SHARED_KEYS.includes(key) ? "it is valid for no user name" : "this user name is refused";
    this.warnings.push(`${shown}: the password file is empty: ${effect}`);
    if (!SHARED_KEYS.includes(key)) this.#own.set(key, { client: key, digest: NOTHING });
  }

  /** Takes over the password of a key. A user name that had none is refused. */
  keep(key: string, before: Credentials): void {
    if (!SHARED_KEYS.includes(key)) {
      this.#own.set(key, before.#own.get(key) ?? { client: key, digest: NOTHING });
      return;
    }
    const credential = before.#shared.get(key);
    if (credential !== undefined) this.#shared.set(key, credential);
  }

  equals(other: Credentials): boolean {
    return sameIn(this.#shared, other.#shared) && sameIn(this.#own, other.#own);
  }

  /** Whether there is a shared password. */
  get shared(): boolean {
    return this.#shared.size > 0;
  }

  /** User names that have a password of their own, one character per byte. */
  get users(): string[] {
    return [...this.#own.keys()];
  }

  /** The passwords that are valid for a user name: only its own, if it has one. */
  #of(user: string): readonly Credential[] {
    const own = this.#own.get(user);
    return own === undefined ? [...this.#shared.values()] : [own];
  }

  /**
   * Checks a Proxy-Authorization value (RFC 7617), byte by byte: no encoding is assumed. Null when it is refused.
   * Compares digests of equal length, so that the time reveals nothing about a password.
   */
  check(header: string | undefined): Known | null {
    const match = /^basic +([A-Za-z0-9+/_-]+={0,2}) *$/i.exec(header ?? "");
    if (match === null) return null;
    const bytes = Buffer.from(match[1]!, "base64");
    const colon = bytes.indexOf(0x3a);
    if (colon < 0) return null;
    const user = bytes.toString("latin1", 0, colon);
    const digest = digestOf(bytes.subarray(colon + 1));
    let good: Credential | null = null;
    for (const credential of this.#of(user)) if (timingSafeEqual(credential.digest, digest)) good = credential;
    if (good === null) return null;
    const claimed = good.client === null;
    const name = shownName(user, claimed ? MAX_CLAIMED_NAME : user.length);
    return { name, user, credential: good, countedAs: claimed ? null : user };
  }

  /** Whether the credentials of an accepted client are still valid. */
  has({ user, credential }: Known): boolean {
    return this.#of(user).some(
      (one) => one.client === credential.client && timingSafeEqual(one.digest, credential.digest),
    );
  }
}

/** Counters of wrong passwords; addresses with the same hash share one. They take 64 KiB, whatever clients send. */
const SLOTS = 4096;
/** Wrong passwords of one address that are answered without delay: a sender with an old password retries this often. */
const FREE_GUESSES = 20;
/** Wrong passwords that an address is forgiven, per second. */
const FORGIVEN_PER_SECOND = 1;
/** Delay of the answer to a wrong password beyond that. */
const GUESS_DELAY_MS = 1000;
/** Answers that are delayed in one second, of all addresses: each holds a connection. More are answered at once. */
const MAX_DELAYED = 256;

/**
 * Slows down the guessing of passwords: an address with many wrong ones gets delayed answers. A right password is never
 * delayed or refused, since many clients may share one address behind a NAT.
 */
class GuessBrake {
  readonly #levels = new Float64Array(SLOTS);
  /** When each counter was last updated, in seconds since the start. */
  readonly #times = new Float64Array(SLOTS);
  /** A random seed: clients cannot choose addresses that share a counter with another one. */
  readonly #seed = randomInt(2 ** 32);
  #second = 0;
  #delayed = 0;

  #slot(address: string): number {
    let hash = this.#seed;
    const text = limitsKey(address);
    for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
    return ((hash ^ (hash >>> 15)) >>> 0) % SLOTS;
  }

  /** Counts a wrong password. Returns the delay of its answer in milliseconds. `now`: milliseconds, monotonic. */
  wrong(address: string, now: number): number {
    const slot = this.#slot(address);
    const seconds = now / 1000;
    const forgiven = Math.max(0, seconds - this.#times[slot]!) * FORGIVEN_PER_SECOND;
    const level = Math.max(0, this.#levels[slot]! - forgiven) + 1;
    this.#times[slot] = seconds;
    // A long attack is forgiven within a minute.
    this.#levels[slot] = Math.min(level, FREE_GUESSES + 60 * FORGIVEN_PER_SECOND);
    if (level <= FREE_GUESSES) return 0;
    countBound("password-guesses");
    if (Math.floor(seconds) !== this.#second) {
      this.#second = Math.floor(seconds);
      this.#delayed = 0;
    }
    return ++this.#delayed > MAX_DELAYED ? 0 : GUESS_DELAY_MS;
  }
}

/** The instance of this process. It is kept across reloads. */
export const guesses = new GuessBrake();

/** Names of the password files in a folder, one character per byte. @throws UsageError */
export function passwordKeys(folder: string): string[] {
  // A mounted Secret keeps its versions in dot folders beside the links.
  const keys = readdirSync(folder, { encoding: "buffer" }).map((key) => key.toString("latin1"));
  const named = keys.filter((key) => !key.startsWith("."));
  if (named.length > MAX_PASSWORD_FILES) throw new Error(`has more than ${MAX_PASSWORD_FILES} password files`);
  return named;
}

/** The path of a password file, in bytes. */
export const passwordPath = (folder: string, key: string): Buffer =>
  Buffer.concat([Buffer.from(`${folder}/`), Buffer.from(key, "latin1")]);

/** The bytes of a password file without the newline that editors append. */
function readPassword(path: Buffer): Buffer {
  const bytes = readSmallFile(path, { maxBytes: MAX_PASSWORD_BYTES });
  const end = bytes.at(-1) !== 0x0a ? bytes.length : bytes.length - (bytes.at(-2) === 0x0d ? 2 : 1);
  return bytes.subarray(0, end);
}

/** A password file: its content, or why it cannot be read. */
type PasswordFile = { key: string; password: Buffer } | { key: string; error: UsageError };

/** The password files of a mounted Secret, one per key. @throws UsageError naming the folder */
function readFolder(folder: string): PasswordFile[] {
  const failure = (error: unknown, what = ""): UsageError =>
    new UsageError(`--password-dir ${folder}: ${what}${(error as Error).message}`, { cause: error });
  let keys: string[];
  try {
    keys = passwordKeys(folder);
  } catch (error) {
    throw failure(error);
  }
  return keys.flatMap((key): PasswordFile[] => {
    const path = passwordPath(folder, key);
    try {
      return statSync(path).isDirectory() ? [] : [{ key, password: readPassword(path) }];
    } catch (error) {
      return [{ key, error: failure(error, `${plainLine(key, MAX_PASSWORD_BYTES)}: `) }];
    }
  });
}

/** The passwords of the environment. @throws UsageError */
function fromEnvironment(password: string | undefined): Credentials {
  const credentials = new Credentials();
  if (password?.includes("\uFFFD")) {
    throw new UsageError("PROXY_PASSWORD: is not UTF-8; put these bytes into a file of --password-dir");
  }
  if (password !== undefined) credentials.add("PROXY_PASSWORD", password, "environment");
  return credentials;
}

/**
 * Reads the passwords of the environment and of a mounted Secret, at the start: all of them are valid, and there is one.
 * @throws UsageError naming the key or the folder
 */
export function readCredentials(environment: string | undefined, folder: string | undefined): Credentials {
  const credentials = fromEnvironment(environment);
  if (folder === undefined) return credentials;
  const files = readFolder(folder);
  if (files.length === 0) throw new UsageError(`--password-dir ${folder}: has no password file`);
  for (const file of files) {
    if ("error" in file) throw file.error;
    credentials.add(file.key, file.password);
  }
  return credentials;
}

/**
 * Reads the folder again, after the start: an empty file revokes the password of its name, an empty folder all of them. A
 * file that cannot be read keeps its password of `before`, and is an error. @throws UsageError naming the folder
 */
export function rereadCredentials(environment: string | undefined, folder: string, before: Credentials) {
  const credentials = fromEnvironment(environment);
  const errors: string[] = [];
  const files = readFolder(folder);
  if (files.length === 0) {
    credentials.warnings.push(
      `--password-dir ${folder}: has no password file: all passwords of the folder are revoked`,
    );
  }
  for (const file of files) {
    const { key } = file;
    if ("error" in file) {
      if (isExhausted(file.error)) throw file.error;
      credentials.keep(key, before);
      errors.push(file.error.message);
    } else if (file.password.length === 0) credentials.refuse(key);
    else credentials.add(key, file.password);
  }
  return { credentials, errors: boundedTexts(errors, MAX_ERRORS) };
}
