import { createHash, timingSafeEqual } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { UsageError } from "./errors.ts";

/** One password. `client` null: any user name goes with it (`PROXY_PASSWORD`). */
export interface Credential {
  client: string | null;
  digest: Buffer;
}

/** Passwords that go into a URL as they are: an injected proxy URL cannot percent-encode. */
const URL_SAFE = /^[A-Za-z0-9._~-]+$/;
/** Keys whose passwords go with any user name; two of them, so that one can be changed without a gap. */
const ANY_USER = ["PROXY_PASSWORD", "PROXY_PASSWORD_PREVIOUS"];
const MAX_CLIENT_NAME = 64;

const digestOf = (text: string): Buffer => createHash("sha256").update(text).digest();

/** The passwords that clients may present; empty: no authentication. */
export class Credentials {
  readonly #list: Credential[] = [];
  readonly warnings: string[] = [];

  /** @throws UsageError on an empty password */
  add(key: string, password: string): void {
    if (password === "") throw new UsageError(`${key}: the password is empty; set one, or leave it out`);
    if (!URL_SAFE.test(password)) {
      this.warnings.push(
        `${key}: has characters that must be percent-encoded in a proxy URL; use [A-Za-z0-9._~-] only`,
      );
    }
    this.#list.push({ client: ANY_USER.includes(key) ? null : key, digest: digestOf(password) });
  }

  get required(): boolean {
    return this.#list.length > 0;
  }

  /**
   * Checks a Proxy-Authorization value (RFC 7617). The client's name and what it presented, or null when it is refused.
   * Compares digests of equal length with all passwords, so that time tells nothing.
   */
  check(header: string | undefined): { name: string; credential: Credential } | null {
    const match = /^basic +([A-Za-z0-9+/_-]+={0,2}) *$/i.exec(header ?? "");
    const text = match === null ? "" : Buffer.from(match[1]!, "base64").toString("utf8");
    const colon = text.indexOf(":");
    const user = text.slice(0, Math.max(0, colon));
    const digest = digestOf(text.slice(colon + 1));
    let good: Credential | null = null;
    for (const credential of this.#list) {
      const same = timingSafeEqual(credential.digest, digest);
      if (same && (credential.client === null || credential.client === user)) good = credential;
    }
    return good !== null && colon >= 0 ? { name: user.slice(0, MAX_CLIENT_NAME), credential: good } : null;
  }

  /** Whether a credential that was presented earlier is still good. */
  has(old: Credential): boolean {
    return this.#list.some((one) => one.client === old.client && timingSafeEqual(one.digest, old.digest));
  }
}

/**
 * Reads the passwords of the environment and of a mounted Secret (one file a key).
 * @throws UsageError naming the key or the folder
 */
export function readCredentials(environment: string | undefined, folder: string | undefined): Credentials {
  const credentials = new Credentials();
  if (environment !== undefined) credentials.add("PROXY_PASSWORD", environment);
  if (folder === undefined) return credentials;
  let keys: string[];
  try {
    // A mounted Secret keeps its versions in dot folders beside the links.
    keys = readdirSync(folder).filter((key) => !key.startsWith(".") && statSync(join(folder, key)).isFile());
  } catch (error) {
    throw new UsageError(`--password-dir ${folder}: ${(error as Error).message}`, { cause: error });
  }
  if (keys.length === 0) throw new UsageError(`--password-dir ${folder}: has no password file`);
  for (const key of keys) {
    let password: string;
    try {
      password = readFileSync(join(folder, key), "utf8").replace(/\r?\n$/, "");
    } catch (error) {
      throw new UsageError(`--password-dir ${folder}: ${(error as Error).message}`, { cause: error });
    }
    credentials.add(key, password);
  }
  return credentials;
}
