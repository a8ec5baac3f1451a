import { statSync } from "node:fs";

/** The fingerprint of a pipe, which can be read only once. */
export const PIPE = "pipe";

/** The identity of a file's content, behind all its links (a ConfigMap volume swaps the `..data` link). */
export function fingerprint(file: string | Buffer): string {
  try {
    const stat = statSync(file, { bigint: true });
    if (stat.isFIFO()) return PIPE;
    const { ino, size, mtimeNs, ctimeNs } = stat;
    return `${ino}:${size}:${mtimeNs}:${ctimeNs}`;
  } catch (error) {
    return `${(error as NodeJS.ErrnoException).code}`;
  }
}

/**
 * Detects changes of files by polling, since inotify reports neither changes on NFS nor every kind of link swap. A change
 * counts when two polls agree, so that a half-written file is not read.
 */
export class FileWatch {
  readonly #look: () => string;
  /** Fingerprints of the last reading, and of the last poll. */
  #read: string;
  #seen: string;

  /** `look`: the fingerprint of the files now. */
  constructor(look: () => string) {
    this.#look = look;
    this.#read = look();
    this.#seen = this.#read;
  }

  /** One poll: whether the files differ from those of the last reading and are stable. */
  poll(): boolean {
    const now = this.#look();
    const still = now === this.#seen;
    this.#seen = now;
    return still && now !== this.#read;
  }

  /** Begins a reading. The returned function ends it: false when the files changed meanwhile, so the next poll is true. */
  begin(): () => boolean {
    const looked = this.#look();
    this.#read = looked;
    this.#seen = looked;
    return () => {
      if (this.#look() === looked) return true;
      this.again();
      return false;
    };
  }

  /** Lets the next stable poll be true, whatever the files are. */
  again(): void {
    this.#read = "";
  }
}
