import { write, writeSync } from "node:fs";
import type { Code } from "./errors.ts";

/** Everything that one tunnel or request leaves behind. Times in milliseconds, sizes in bytes. */
export interface Record {
  kind: "connect" | "http";
  /** Start, milliseconds since the epoch. */
  started: number;
  /** The user name of the credentials; absent without authentication. */
  client?: string;
  /** Address and port of the client socket. */
  source: string;
  /** `host:port`, canonical; as sent where it could not be read. */
  target: string;
  verdict: "allow" | "deny";
  code?: Code;
  rule?: string;
  reason?: string;
  /** All resolved addresses. */
  addresses?: readonly string[];
  /** The one that was dialled. */
  address?: string;
  local?: string;
  dnsMs?: number;
  connectMs?: number;
  /** Client to upstream. */
  bytesUp: number;
  bytesDown: number;
  /** Who or what ended it. */
  close?: string;
  policy?: string;
  hash?: string;
  wouldDeny?: { code: Code; rule: string };
}

const round = (ms: number): number => Math.round(ms * 100) / 100;

/** One JSON line. No paths, queries, bodies or credentials are in a record, so none can be in here. */
export function formatRecord(record: Record, now: number): string {
  const { kind, started, dnsMs, connectMs, close, policy, hash, wouldDeny, bytesUp, bytesDown, ...what } = record;
  const line = {
    time: new Date(started).toISOString(),
    kind,
    ...what,
    ...(dnsMs === undefined ? {} : { dnsMs: round(dnsMs) }),
    ...(connectMs === undefined ? {} : { connectMs: round(connectMs) }),
    bytesUp,
    bytesDown,
    durationMs: now - started,
    close,
    policy,
    hash,
    wouldDeny,
  };
  return `${JSON.stringify(line)}\n`;
}

const FLUSH_BYTES = 65_536;
const FLUSH_MS = 100;
const MAX_PENDING_BYTES = 8 * 1024 * 1024;

/** Writes lines to a file descriptor in batches, never blocking the data path; what does not fit is counted. */
export class RecordWriter {
  readonly #fd: number;
  #pending = "";
  #writing = false;
  #timer: NodeJS.Timeout | undefined;
  /** Lines that were lost because nobody read the output. */
  dropped = 0;

  constructor(fd: number) {
    this.#fd = fd;
  }

  write(line: string): void {
    if (this.#pending.length > MAX_PENDING_BYTES) {
      this.dropped++;
      return;
    }
    this.#pending += line;
    if (this.#writing) return;
    if (this.#pending.length >= FLUSH_BYTES) this.#flush();
    else this.#timer ??= setTimeout(() => this.#flush(), FLUSH_MS);
  }

  #flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#pending === "") return;
    const bytes = Buffer.from(this.#pending);
    this.#pending = "";
    this.#writing = true;
    this.#send(bytes);
  }

  #send(bytes: Buffer): void {
    write(this.#fd, bytes, 0, bytes.length, null, (error, written) => {
      if (error !== null && error.code !== "EAGAIN") {
        this.#writing = false;
        this.dropped += bytes.toString("latin1").split("\n").length - 1;
        return;
      }
      const rest = error === null ? bytes.subarray(written) : bytes;
      if (rest.length > 0) {
        if (error === null) this.#send(rest);
        else setTimeout(() => this.#send(rest), FLUSH_MS);
        return;
      }
      this.#writing = false;
      this.#flush();
    });
  }

  /** The last lines, synchronously, before the process ends. */
  async close(): Promise<void> {
    clearTimeout(this.#timer);
    for (let i = 0; this.#writing && i < 20; i++) await new Promise((resolve) => setTimeout(resolve, 50));
    const bytes = Buffer.from(this.#pending);
    this.#pending = "";
    try {
      for (let at = 0; at < bytes.length; ) at += writeSync(this.#fd, bytes, at);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code !== "EPIPE" && code !== "EAGAIN") throw error;
      this.dropped += bytes.toString("latin1").split("\n").length - 1;
    }
  }
}
