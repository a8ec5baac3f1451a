import type { Socket } from "node:net";
import type { Settings } from "../config/config.ts";
import type { Credentials } from "../config/credentials.ts";
import type { Identity } from "../config/identity.ts";
import type { Names } from "../dns/names.ts";
import type { Gate } from "../egress/gate.ts";
import type { Hop } from "../egress/hop.ts";
import type { Route } from "../egress/route.ts";
import type { Head } from "../http/head.ts";
import type { AccessRecord } from "../outcome/access-record.ts";
import type { Failure } from "../outcome/refusals.ts";
import type { Address } from "../policy/cidr.ts";
import type { PolicySet } from "../policy/engine.ts";
import type { Target } from "../policy/target.ts";
import type { Pool } from "../sockets/pool.ts";
import type { ClientTrust } from "../tls/client-trust.ts";

/** The handler of a client connection between two heads: a CONNECT being decided, a tunnel, or an HTTP exchange. */
export interface Handler {
  onData(chunk: Buffer): void;
  onEnd(): void;
  onDrain(): void;
  /**
   * The client has disconnected. True: bytes are still on their way to the upstream; `finish` is called when they are
   * sent.
   */
  onClosed(error: NodeJS.ErrnoException | null): boolean;
  /** Bytes that this process buffers because a peer has not read them yet. */
  buffered(): number;
  /** Enforces its time limits; returns when the next one ends (server's clock, ms). Called at that time, or earlier. */
  sweep(now: number): number;
  /** Resets it from our side; `close` is the value in the record. */
  abort(close: string): void;
}

/** A request that has its upstream connection, with everything that is needed to decide it again. */
export interface OpenRequest {
  record: AccessRecord;
  target: Target;
  /** Null: the upstream proxy resolved the name. */
  address: Address | null;
  /** The upstream proxy of its connection; null: the connection is direct. */
  hop: Hop | null;
  /** The address of an upstream proxy that the request named; null otherwise. */
  peer: Address | null;
  route: Route;
  /** When its upstream connection was started, and when it was established (monotonic ms). */
  dialled: number;
  opened: number;
}

/** The context of a decision: one view from entry to end. */
export interface Entry {
  /** The view of the client: of a policy without clients, the policy itself. */
  policy: PolicySet;
  /** The policy that the view is of. */
  root: PolicySet;
  settings: Settings;
  credentials: Credentials;
  trust: ClientTrust | null;
  identity: Identity;
  /** The key by which limits count the client. */
  key: string;
}

/** State that all connections of a server share, as far as a handler needs it. */
export interface ProxyContext {
  /** Milliseconds, monotonic. */
  readonly now: number;
  /** Leaving: not ready, still serving. Draining: no new connections; open ones may end by themselves. */
  readonly phase: "serving" | "leaving" | "draining";
  readonly settings: Settings;
  readonly names: Names;
  readonly gate: Gate;
  /** The upstream proxy of the policy; null: connections are direct. */
  readonly hop: Hop | null;
  readonly pool: Pool;
}

/** The client connection, as its handler uses it. */
export interface Connection {
  readonly socket: Socket;
  readonly server: ProxyContext;
  /** Whether it reads by `onread` (`accept.ts`). TLS connections do not. */
  readonly sharedReads: boolean;
  /** Takes the bytes of a read buffer of its own (`bulk.ts`); false: reading must pause. */
  bulk: ((length: number) => boolean) | null;
  /** The current request is its first one. */
  readonly first: boolean;
  /** The owner of upstream connections that belong to the user of the current request alone. */
  readonly user: object;
  /** Another handler continues the request: a CONNECT becomes a tunnel. */
  handOver(handler: Handler): void;
  newRecord(kind: AccessRecord["kind"], target: string): AccessRecord;
  /** The entry stage: policy, credentials, limits. A request that is sent again passes it again. */
  enter(head: Head, record: AccessRecord): Entry | Failure;
  /** The last check before a request is sent; null: it may be sent. */
  begin(entry: Entry, request: OpenRequest): Failure | null;
  /** Answers a refusal, writes the record and closes the connection. `headOnly`: the request was a HEAD. */
  refuse(failure: Failure, record: AccessRecord, headOnly: boolean): void;
  /** Writes the record of the request and releases its place in the limits. */
  finish(record: AccessRecord): void;
  /** The same, and resets the connection. */
  cut(record: AccessRecord): void;
  /** The last response is written: sends FIN and discards what still arrives. */
  farewell(): void;
  /** Waits for the next request; `rest` are bytes of it that have arrived. */
  next(rest: Buffer): void;
  /** The client half-closed. */
  end(): void;
  /** A time limit of the handler ends at this time (server's clock, ms). */
  visitBy(at: number): void;
  /** Counts what this connection keeps for slow peers. */
  noteBuffered(): void;
}
