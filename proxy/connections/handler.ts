import type { Socket } from "node:net";
import type { Settings } from "../config/config.ts";
import type { Credentials } from "../config/credentials.ts";
import type { Names } from "../dns/names.ts";
import type { Gate } from "../egress/gate.ts";
import type { Way } from "../egress/verifier.ts";
import type { Head } from "../http/head.ts";
import type { AccessRecord } from "../outcome/access-record.ts";
import type { Failure } from "../outcome/refusals.ts";
import type { Address } from "../policy/cidr.ts";
import type { PolicySet } from "../policy/engine.ts";
import type { Target } from "../policy/target.ts";
import type { Pool } from "../sockets/pool.ts";

/** Who owns a client connection between two heads: a CONNECT being decided, a tunnel, or an HTTP exchange. */
export interface Handler {
  onData(chunk: Buffer): void;
  onEnd(): void;
  onDrain(): void;
  /** The client is gone. True: bytes are still on their way to the upstream, and `finish` is called when they are gone. */
  onClosed(error: NodeJS.ErrnoException | null): boolean;
  /** Bytes that this process keeps because a peer has not taken them yet. */
  buffered(): number;
  /** Once a second, with the server's clock in milliseconds. */
  sweep(now: number): void;
  /** Ends it from our side, abnormally; `close` is the word of the record. */
  abort(close: string): void;
}

/** A request that has its upstream: what it takes to decide it again. */
export interface Passage {
  record: AccessRecord;
  target: Target;
  address: Address;
  way: Way;
  /** When its upstream connection was begun, and when it was made (monotonic ms). */
  dialled: number;
  opened: number;
}

/** What a request is decided with: one policy from entry to end. */
export interface Entry {
  policy: PolicySet;
  settings: Settings;
  credentials: Credentials;
}

/** What all connections of a server share, as far as a handler needs it. */
export interface ProxyContext {
  /** Milliseconds, monotonic, renewed once a second and at each accept: exact enough for idle times. */
  readonly now: number;
  /** Leaving: not ready, still serving. Draining: no new connections, open ones may end. */
  readonly phase: "serving" | "leaving" | "draining";
  readonly settings: Settings;
  readonly names: Names;
  readonly gate: Gate;
  readonly pool: Pool;
}

/** The client connection, as its handler sees it. */
export interface Connection {
  readonly socket: Socket;
  readonly server: ProxyContext;
  /** It reads by `onread` (`accept.ts`). */
  readonly sharedReads: boolean;
  /** Takes the bytes of a read buffer of its own (`bulk.ts`); false: reading pauses. */
  bulk: ((length: number) => boolean) | null;
  /** The owner of the bytes that arrive; null between two requests. */
  handler: Handler | null;
  newRecord(kind: AccessRecord["kind"], target: string): AccessRecord;
  /** The entry stage: policy, credentials, limits. */
  enter(head: Head, record: AccessRecord): Entry | Failure;
  /** The last check before a request leaves; null: it may. */
  begin(entry: Entry, passage: Passage): Failure | null;
  /** Answers a refusal, writes the record and closes the connection. `headOnly`: the request was a HEAD. */
  refuse(failure: Failure, record: AccessRecord, headOnly: boolean): void;
  /** Writes the record of the request and gives its place back. */
  finish(record: AccessRecord): void;
  /** The last response is written: sends FIN and discards what still arrives. */
  farewell(): void;
  /** Waits for the next request; `rest` are bytes of it that have arrived. */
  next(rest: Buffer): void;
  /** The client half-closed. */
  end(): void;
  /** Counts what this connection keeps for slow peers. */
  noteBuffered(): void;
}
