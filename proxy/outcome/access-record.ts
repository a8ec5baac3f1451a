import { write, writeSync } from "node:fs";
import { asciiJson } from "../cli/log.ts";
import type { PolicySet } from "../policy/engine.ts";
import type { Code, Failure } from "./refusals.ts";

/** How a client proved its name. `shared`: by the shared password, which proves none. */
export type Proof = "password" | "certificate" | "both" | "shared" | "none";

/** The record of one tunnel or request. Times in milliseconds, sizes in bytes. */
export interface AccessRecord {
  kind: "connect" | "http";
  /** Start, milliseconds since the epoch. */
  started: number;
  /** The user name of the credentials; absent without authentication. */
  client: string | undefined;
  /** The entry of the policy's `clients` that decides; absent: a policy without clients, or a client without an entry. */
  entry: string | undefined;
  /** The proof of the client; absent: a policy without clients. */
  authentication: Proof | undefined;
  /** Address and port of the client socket. */
  source: string;
  /** `host:port`, canonical; if it is malformed, as the client sent it (`shownTarget`). */
  target: string;
  verdict: "allow" | "deny";
  code: Code | undefined;
  rule: string | undefined;
  reason: string | undefined;
  /** The resolved addresses, or the first of them. */
  addresses: readonly string[] | undefined;
  /** The number of further addresses. */
  addressesCut: number | undefined;
  /** The dialled address. Absent if the upstream proxy resolves the name. */
  address: string | undefined;
  /** `host:port` of the upstream proxy that the connection goes through. */
  upstreamProxy: string | undefined;
  local: string | undefined;
  dnsMs: number | undefined;
  connectMs: number | undefined;
  /** The request was sent twice: the reused upstream connection closed before any byte of its answer. */
  retried: true | undefined;
  /** Client to upstream. */
  bytesUp: number;
  bytesDown: number;
  /** How it ended, and who ended it. */
  close: string | undefined;
  policy: string | undefined;
  hash: string | undefined;
  wouldDeny: { code: Code; rule: string } | undefined;
  /** `X-Smokescreen-Trace-ID` and `traceparent` of the request, as sent. */
  traceId: string | undefined;
  traceparent: string | undefined;
}

/** The record of a request that has just arrived. It has all fields, so that every record has one shape in V8. */
export function newRecord(kind: AccessRecord["kind"], source: string, target: string): AccessRecord {
  return {
    kind,
    started: Date.now(),
    client: undefined,
    entry: undefined,
    authentication: undefined,
    source,
    target,
    verdict: "allow",
    code: undefined,
    rule: undefined,
    reason: undefined,
    addresses: undefined,
    addressesCut: undefined,
    address: undefined,
    upstreamProxy: undefined,
    local: undefined,
    dnsMs: undefined,
    connectMs: undefined,
    retried: undefined,
    bytesUp: 0,
    bytesDown: 0,
    close: undefined,
    policy: undefined,
    hash: undefined,
    wouldDeny: undefined,
    traceId: undefined,
    traceparent: undefined,
  };
}

/** Writes the policy that decides into the record. */
export function notePolicy(record: AccessRecord, policy: PolicySet): void {
  record.policy = policy.document.policy;
  record.hash = policy.hash;
}

/** Writes why the request was refused or ended into the record. */
export function noteFailure(record: AccessRecord, { code, reason, rule }: Failure): void {
  record.code = code;
  record.reason = reason;
  if (rule !== undefined) record.rule = rule;
}

const round = (ms: number): number => Math.round(ms * 100) / 100;

/** Times within one second share their text up to the milliseconds. */
let second = -1;
let secondText = "";
function isoTime(ms: number): string {
  const whole = Math.floor(ms / 1000);
  if (whole !== second) {
    second = whole;
    secondText = new Date(whole * 1000).toISOString().slice(0, 20);
  }
  return `${secondText}${String(ms - whole * 1000).padStart(3, "0")}Z`;
}

/** Text that needs no escapes in JSON, which is nearly all text. */
const PLAIN = /^[\x20-\x21\x23-\x5b\x5d-\x7e]*$/;
const quoted = (text: string): string => (PLAIN.test(text) ? `"${text}"` : asciiJson(JSON.stringify(text)));

/** The text of the last policy: nearly all records have the same one. */
let last = { policy: "", hash: "", text: "" };
function policyText(policy: string, hash: string): string {
  if (policy !== last.policy || hash !== last.hash) {
    last = { policy, hash, text: `,"policy":${quoted(policy)},"hash":"${hash}"` };
  }
  return last.text;
}

/**
 * One JSON line, built by hand, since this runs for every request. Records have no paths, queries, bodies or
 * credentials, so this line has none.
 */
export function formatRecord(record: AccessRecord, now: number): string {
  const r = record;
  let line = `{"time":"${isoTime(r.started)}","kind":"${r.kind}"`;
  if (r.client !== undefined) line += `,"client":${quoted(r.client)}`;
  if (r.entry !== undefined) line += `,"entry":${quoted(r.entry)}`;
  if (r.authentication !== undefined) line += `,"authentication":"${r.authentication}"`;
  line += `,"source":"${r.source}","target":${quoted(r.target)},"verdict":"${r.verdict}"`;
  if (r.code !== undefined) line += `,"code":"${r.code}"`;
  if (r.rule !== undefined) line += `,"rule":${quoted(r.rule)}`;
  if (r.reason !== undefined) line += `,"reason":${quoted(r.reason)}`;
  if (r.addresses !== undefined) line += `,"addresses":["${r.addresses.join('","')}"]`;
  if (r.addressesCut !== undefined) line += `,"addressesCut":${r.addressesCut}`;
  if (r.address !== undefined) line += `,"address":"${r.address}"`;
  if (r.upstreamProxy !== undefined) line += `,"upstreamProxy":"${r.upstreamProxy}"`;
  if (r.local !== undefined) line += `,"local":"${r.local}"`;
  if (r.dnsMs !== undefined) line += `,"dnsMs":${round(r.dnsMs)}`;
  if (r.connectMs !== undefined) line += `,"connectMs":${round(r.connectMs)}`;
  if (r.retried) line += `,"retried":true`;
  line += `,"bytesUp":${r.bytesUp},"bytesDown":${r.bytesDown},"durationMs":${now - r.started}`;
  if (r.close !== undefined) line += `,"close":"${r.close}"`;
  if (r.policy !== undefined) line += policyText(r.policy, r.hash!);
  if (r.wouldDeny !== undefined) line += `,"wouldDeny":${asciiJson(JSON.stringify(r.wouldDeny))}`;
  if (r.traceId !== undefined) line += `,"traceId":${quoted(r.traceId)}`;
  if (r.traceparent !== undefined) line += `,"traceparent":${quoted(r.traceparent)}`;
  return `${line}}\n`;
}

const FLUSH_BYTES = 65_536;
const FLUSH_MS = 100;
const MAX_PENDING_BYTES = 8 * 1024 * 1024;
/** Size of a buffer at first: lines of {@link FLUSH_BYTES} and the one that reaches it. */
const BUFFER_BYTES = 2 * FLUSH_BYTES;

/**
 * Writes lines to a file descriptor in batches and never blocks the data path. It counts lines that do not fit. Lines
 * are copied into a buffer at once: as strings in a list they would survive several garbage collections.
 */
export class RecordWriter {
  readonly #fd: number;
  #pending: Buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);
  /** Bytes in {@link #pending}. */
  #length = 0;
  /** The buffer for the next lines while the other one is written. */
  #spare: Buffer | null = null;
  #writing = false;
  #timer: NodeJS.Timeout | undefined;
  /** Lines that were lost because stdout was not read. */
  dropped = 0;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** `line`: ASCII. */
  write(line: string): void {
    if (this.#length > MAX_PENDING_BYTES) {
      this.dropped++;
      return;
    }
    const length = this.#length + line.length;
    if (length > this.#pending.length) this.#grow(length);
    this.#pending.write(line, this.#length, "latin1");
    this.#length = length;
    if (!this.#writing) this.#schedule();
  }

  /** Writes a full batch at once. Starts the timer for fewer lines. */
  #schedule(): void {
    if (this.#length >= FLUSH_BYTES) this.#flush();
    else if (this.#length > 0) this.#timer ??= setTimeout(() => this.#flush(), FLUSH_MS);
  }

  #grow(length: number): void {
    const grown = Buffer.allocUnsafeSlow(Math.max(length, 2 * this.#pending.length));
    this.#pending.copy(grown, 0, 0, this.#length);
    this.#pending = grown;
  }

  /** The lines that are not written yet; afterwards there are none. */
  #take(): Buffer {
    const bytes = this.#pending.subarray(0, this.#length);
    this.#pending = this.#spare ?? Buffer.allocUnsafeSlow(BUFFER_BYTES);
    this.#spare = null;
    this.#length = 0;
    return bytes;
  }

  #flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const whole = this.#pending;
    this.#writing = true;
    this.#send(this.#take(), whole);
  }

  /** Writes `bytes`, which are in the buffer `whole`. */
  #send(bytes: Buffer, whole: Buffer): void {
    write(this.#fd, bytes, 0, bytes.length, null, (error, written) => {
      if (error !== null && error.code !== "EAGAIN") {
        this.#writing = false;
        this.#drop(bytes);
        this.#schedule();
        return;
      }
      const rest = error === null ? bytes.subarray(written) : bytes;
      if (rest.length > 0) {
        if (error === null) this.#send(rest, whole);
        else setTimeout(() => this.#send(rest, whole), FLUSH_MS);
        return;
      }
      this.#writing = false;
      if (whole.length === BUFFER_BYTES) this.#spare = whole;
      this.#schedule();
    });
  }

  #drop(bytes: Buffer): void {
    this.dropped += bytes.toString("latin1").split("\n").length - 1;
  }

  /** The last lines, synchronously, before the process ends. */
  async close(): Promise<void> {
    for (let i = 0; this.#writing && i < 20; i++) await new Promise((resolve) => setTimeout(resolve, 50));
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const bytes = this.#take();
    // These lines must not get into the middle of one that is written now.
    if (this.#writing) {
      this.#drop(bytes);
      return;
    }
    try {
      for (let at = 0; at < bytes.length; ) at += writeSync(this.#fd, bytes, at);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code !== "EPIPE" && code !== "EAGAIN") throw error;
      this.#drop(bytes);
    }
  }
}
