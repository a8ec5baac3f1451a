import { UsageError } from "../cli/usage-error.ts";
import { FileWatch, fingerprint } from "./file-watch.ts";
import { readSmallFile } from "./files.ts";

/** Bytes of the file. */
const MAX_BYTES = 4096;

/** The value of Proxy-Authorization (RFC 7617) from the bytes of the file. @throws Error without the content */
function authorizationOf(bytes: Buffer): string {
  const end = bytes.at(-1) !== 0x0a ? bytes.length : bytes.length - (bytes.at(-2) === 0x0d ? 2 : 1);
  const credentials = bytes.subarray(0, end);
  if (credentials.length === 0) throw new Error("is empty; write USER:PASSWORD");
  if (!credentials.includes(0x3a)) throw new Error("has no colon; write USER:PASSWORD");
  if (credentials.some((byte) => byte < 0x20 || byte === 0x7f)) {
    throw new Error("has a control character or a second line; write USER:PASSWORD in one line");
  }
  return `Basic ${credentials.toString("base64")}`;
}

/** The credentials for the upstream proxy. The last valid content of the file stays in force. */
export class UpstreamCredentials {
  readonly #file: string;
  readonly #watch: FileWatch;
  #authorization = "";
  /** Error of the last attempt; null after a success. */
  error: string | null = null;

  /** Reads the file of `--upstream-password-file`. @throws UsageError */
  constructor(file: string) {
    this.#file = file;
    this.#watch = new FileWatch(() => fingerprint(file));
    this.#read();
    if (this.error !== null) throw new UsageError(this.error);
  }

  /** Value of Proxy-Authorization. */
  get authorization(): string {
    return this.#authorization;
  }

  /** Reads the file if it has changed, or `now`. True: there are new credentials, or a new error. */
  poll(now = false): boolean {
    if (!this.#watch.poll() && !now) return false;
    const { error } = this;
    const before = this.#authorization;
    this.#read();
    return this.#authorization !== before || (this.error !== null && this.error !== error);
  }

  #read(): void {
    const unchanged = this.#watch.begin();
    try {
      const authorization = authorizationOf(readSmallFile(this.#file, { maxBytes: MAX_BYTES }));
      if (!unchanged()) return;
      this.#authorization = authorization;
      this.error = null;
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      this.error = `--upstream-password-file ${this.#file}: ${code === "ENOENT" ? "no such file" : message}`;
    }
  }
}
