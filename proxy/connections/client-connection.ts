import type { Socket } from "node:net";
import { type Credentials, guesses, type Known } from "../config/credentials.ts";
import { decideAgain } from "../egress/decide-target.ts";
import { type Head, HeadParser } from "../http/head.ts";
import type { AccessRecord } from "../outcome/access-record.ts";
import { countBound } from "../outcome/bounds.ts";
import { type Failure, isDenial, refusalBytes } from "../outcome/refusals.ts";
import type { PolicySet } from "../policy/engine.ts";
import { copyOut } from "../sockets/read-buffer.ts";
import { reset } from "../sockets/reset.ts";
import type { Buffers, Holder } from "./buffers.ts";
import { Connect } from "./connect.ts";
import { Exchange } from "./forward.ts";
import type { Connection, Entry, Handler, OpenRequest, ProxyContext } from "./handler.ts";

/** The interface of the server for its client connections. */
export interface ConnectionServer extends ProxyContext {
  readonly policy: PolicySet | null;
  readonly credentials: Credentials;
  readonly buffers: Buffers;
  /** Counts one request under a client's key; returns a sentence when a limit forbids it. */
  acquire(key: string): string | null;
  release(key: string): void;
  record(record: AccessRecord): void;
  /** The connection has sent its first head, or is gone. */
  spoke(client: ClientConnection): void;
  /** The connection waits for its next request, or for its client to close it. */
  rests(client: ClientConnection): void;
  /** A request is under way again. */
  woke(client: ClientConnection): void;
  /** The connection is closed, with everything that belonged to it. */
  forget(client: ClientConnection): void;
}

type ClientSocket = Socket & { client?: ClientConnection };

/**
 * From accept to the end of the first head, and for each later head from its first byte. Further bytes do not extend
 * it.
 */
const HEAD_TIMEOUT_MS = 10_000;
/** Longer than any sender keeps an idle connection (Go: 90 s), so that no request meets a closing one. */
const KEEP_ALIVE_MS = 120_000;
/** Limits of the unread rest of a refused request: bodies of webhooks fit, and no RST destroys the answer. */
const LINGER_BYTES = 4 * 1024 * 1024;
const LINGER_MS = 1000;
/** Time limit for a client that reads none of the last bytes of an answer; then it is reset. */
const FLUSH_MS = 30_000;

function onData(this: ClientSocket, chunk: Buffer): void {
  this.client!.data(chunk);
}

/** The address of a client. An IPv4 client of a dual-stack listener is shown with its IPv4 address. */
function peerOf({ remoteAddress = "" }: Socket): string {
  return remoteAddress.startsWith("::ffff:") && remoteAddress.includes(".") ? remoteAddress.slice(7) : remoteAddress;
}

/** Receives data that an accepted socket read into the shared buffer, where Node allows that (`accept.ts`). */
export function onClientRead(this: Socket, length: number): boolean {
  const { client } = this as ClientSocket;
  if (client === undefined) return false;
  if (client.bulk !== null) return client.bulk(length);
  client.data(copyOut(length));
  return true;
}

function onEnd(this: ClientSocket): void {
  this.client!.end();
}
function onDrain(this: ClientSocket): void {
  this.client!.handler?.onDrain();
}
function onError(this: ClientSocket, error: NodeJS.ErrnoException): void {
  this.client!.error = error;
}
function onClose(this: ClientSocket): void {
  this.client!.closed();
}

/** One accepted connection: reads heads, passes each request to its handler, refuses and lingers. */
export class ClientConnection implements Connection, Holder {
  readonly socket: Socket;
  readonly server: ConnectionServer;
  /** The address of the client. */
  readonly from: string;
  /** Address and port of the client, as records show it. */
  readonly source: string;
  /** When it was accepted, by the server's clock. */
  readonly accepted: number;
  /** Whether it reads by `onread` (`accept.ts`). */
  readonly sharedReads: boolean;
  /** Takes bytes from a buffer of its own (`bulk.ts`); false: reading must pause. */
  bulk: ((length: number) => boolean) | null = null;
  handler: Handler | null = null;
  error: NodeJS.ErrnoException | null = null;
  #parser: HeadParser | null = null;
  /** Number of heads received. Before the first one the client gets no keep-alive time. */
  #requests = 0;
  /** Start of the wait for this head, of the idle time between two requests, or of progress of the last answer. */
  #since: number;
  /** Bytes that may still be discarded while lingering; -1: not lingering. */
  #linger = -1;
  #lingerTimer: NodeJS.Timeout | undefined;
  /** Unsent bytes of the last answer at the last sweep. */
  #unsent = 0;
  /** The socket is closed. */
  #gone = false;
  /** The last sweep found the socket destroyed. */
  #seenDestroyed = false;
  /** The key under which the limits count this request; null while none is counted. */
  #counted: string | null = null;
  #known: Known | null = null;
  #request: OpenRequest | null = null;

  constructor(socket: Socket, server: ConnectionServer, sharedReads: boolean) {
    this.socket = socket;
    this.server = server;
    this.sharedReads = sharedReads;
    this.from = peerOf(socket);
    this.source = `${this.from.includes(":") ? `[${this.from}]` : this.from}:${socket.remotePort}`;
    this.accepted = server.now;
    this.#since = server.now;
    (socket as ClientSocket).client = this;
    socket.on("error", onError);
    if (sharedReads) socket.resume();
    else socket.on("data", onData);
    socket.on("end", onEnd);
    socket.on("drain", onDrain);
    socket.on("close", onClose);
  }

  data(chunk: Buffer): void {
    if (this.handler !== null) {
      this.handler.onData(chunk);
      return;
    }
    if (this.#linger >= 0) {
      this.#linger -= chunk.length;
      if (this.#linger < 0) this.socket.destroy();
      return;
    }
    if (this.#parser === null) {
      this.#parser = new HeadParser();
      if (this.#requests > 0) this.#since = this.server.now;
    }
    const result = this.#parser.feed(chunk);
    if (result === null) return;
    this.#parser = null;
    if (this.#requests === 0) this.server.spoke(this);
    if ("refusal" in result) {
      const { status, reason } = result.refusal;
      this.refuse({ code: "bad-request", reason, status }, this.newRecord("http", ""), false);
      return;
    }
    this.#dispatch(result.head, result.rest);
  }

  #dispatch(head: Head, rest: Buffer): void {
    if (this.#requests++ > 0) this.server.woke(this);
    const handler = head.method === "CONNECT" ? new Connect(this, head) : new Exchange(this, head);
    this.handler = handler;
    handler.start(rest);
  }

  newRecord(kind: AccessRecord["kind"], target: string): AccessRecord {
    const shown = target.length > 300 ? `${target.slice(0, 300)}...` : target;
    const record: AccessRecord = {
      kind,
      started: Date.now(),
      source: this.source,
      target: shown,
      verdict: "allow",
      bytesUp: 0,
      bytesDown: 0,
    };
    const { policy } = this.server;
    if (policy !== null) {
      record.policy = policy.document.policy;
      record.hash = policy.hash;
    }
    return record;
  }

  /** The entry stage: policy, credentials, limits. */
  enter(head: Head, record: AccessRecord): Entry | Failure {
    const { server } = this;
    const { policy, credentials } = server;
    if (policy === null) return { code: "no-policy", reason: "this proxy has no valid policy yet" };
    // The first request of an accepted connection is still served; later ones are refused, so that the client
    // reconnects elsewhere.
    if (server.phase === "draining" && this.#requests > 1) {
      return { code: "draining", reason: "this proxy is shutting down" };
    }
    let key = this.from;
    if (credentials.required) {
      const known = credentials.check(head.authorization);
      if (known === null) {
        const none = head.authorization === undefined;
        const reason = `${none ? "no" : "wrong"} proxy credentials; set them in the proxy URL`;
        return { code: "auth", reason, ...(none ? {} : { delayMs: guesses.wrong(key, performance.now()) }) };
      }
      record.client = known.name;
      this.#known = known;
      // An address has no space in it.
      if (known.countedAs !== null) key = `client ${known.countedAs}`;
    }
    const full = server.acquire(key);
    if (full !== null) return { code: "overloaded", reason: full };
    this.#counted = key;
    return { policy, settings: server.settings, credentials };
  }

  /**
   * The last check, just before the 200 and before each plain request: the policy or the gate may have changed since
   * the entry stage.
   */
  begin(entry: Entry, request: OpenRequest): Failure | null {
    const { server } = this;
    const changed = server.policy !== entry.policy || server.credentials !== entry.credentials;
    const refused =
      (changed ? this.#decideAgain(request) : null) ?? server.gate.refusal(request.route, request.dialled);
    if (refused === null) this.#request = request;
    return refused;
  }

  #decideAgain({ target, address, record }: OpenRequest): Failure | null {
    const { policy, credentials } = this.server;
    if (credentials.required && (this.#known === null || !credentials.has(this.#known))) {
      return { code: "auth", reason: "these proxy credentials are no longer valid" };
    }
    if (policy === null) return null;
    record.policy = policy.document.policy;
    record.hash = policy.hash;
    return decideAgain(policy, target, address, record);
  }

  /** Applies a new policy after a reload: ends a request that it denies. */
  revoke(): void {
    if (this.#request === null || this.handler === null) return;
    const refused = this.#decideAgain(this.#request);
    if (refused === null) return;
    const { record } = this.#request;
    record.code = refused.code;
    record.reason = refused.reason;
    if (refused.rule !== undefined) record.rule = refused.rule;
    this.handler.abort("revoked");
  }

  /** Ends a request whose upstream connection was opened on an egress path between two moments. */
  endUnproven(route: string, since: number, until: number): void {
    const request = this.#request;
    if (request?.route.key === route && request.opened >= since && request.opened <= until)
      this.handler?.abort("unproven");
  }

  /** Since when it waits in its present state, by the server's clock. */
  get since(): number {
    return this.#since;
  }

  /** The last response of this connection is written: FIN, then discard what still comes. */
  farewell(): void {
    this.#close("");
  }

  #close(bytes: string): void {
    this.handler = null;
    this.#linger = LINGER_BYTES;
    this.#since = this.server.now;
    this.#unsent = 0;
    this.server.rests(this);
    this.socket.end(bytes, "latin1", () => {
      if (!this.#gone) this.#lingerTimer = setTimeout(() => this.socket.destroy(), LINGER_MS);
    });
    if (this.socket.writableLength > 0) this.noteBuffered();
    this.socket.resume();
  }

  /** The same after a delay; until then the input is discarded. */
  #closeLater(bytes: string, ms: number): void {
    this.handler = null;
    this.#linger = LINGER_BYTES;
    this.#since = this.server.now;
    this.server.rests(this);
    this.#lingerTimer = setTimeout(() => this.#close(bytes), ms);
    this.socket.resume();
  }

  /** Answers a refusal, closes lingering and writes the record. `headOnly`: the request was a HEAD. */
  refuse(failure: Failure, record: AccessRecord, headOnly: boolean): void {
    record.verdict = isDenial(failure.code) || failure.code === "auth" ? "deny" : record.verdict;
    record.code = failure.code;
    record.reason = failure.reason;
    if (failure.rule !== undefined) record.rule = failure.rule;
    record.close = "refused";
    const policy = record.policy ?? "";
    const denyStatus = this.server.settings.denyStatus;
    const bytes = refusalBytes(failure, { policy, denyStatus, head: headOnly });
    this.finish(record);
    if (this.socket.destroyed) this.handler = null;
    else if (failure.delayMs) this.#closeLater(bytes, failure.delayMs);
    else this.#close(bytes);
  }

  /** One request is over: its record is written, its place is free. */
  finish(record: AccessRecord): void {
    if (this.#counted !== null) {
      this.server.release(this.#counted);
      this.#counted = null;
    }
    this.#request = null;
    this.server.record(record);
    if (this.#gone) this.#forget();
  }

  /** Counts what this connection keeps for slow peers. */
  noteBuffered(): void {
    this.server.buffers.note(this);
  }

  buffered(): number {
    return this.handler === null ? this.socket.writableLength : this.handler.buffered();
  }

  shed(): void {
    if (this.handler === null) reset(this.socket);
    else this.handler.abort("buffer-limit");
  }

  /** The exchange is complete, and the connection continues with the bytes that the client sent behind it. */
  next(rest: Buffer): void {
    this.handler = null;
    this.#since = this.server.now;
    if (this.server.phase === "draining") {
      this.socket.end();
      return;
    }
    this.server.rests(this);
    this.socket.resume();
    if (rest.length > 0) this.data(rest);
  }

  /** No request is under way or begun, and there was one: the connection can be closed without a loss. */
  get idle(): boolean {
    return this.handler === null && this.#parser === null && this.#linger < 0 && this.#requests > 0;
  }

  end(): void {
    if (this.handler !== null) this.handler.onEnd();
    else if (this.#linger < 0) this.socket.end();
  }

  /** The socket is closed. */
  closed(): void {
    if (this.#gone) return;
    this.#gone = true;
    clearTimeout(this.#lingerTimer);
    this.server.spoke(this);
    const lingering = this.handler?.onClosed(this.error) ?? false;
    if (!lingering) this.#forget();
  }

  #forget(): void {
    this.handler = null;
    this.server.forget(this);
  }

  sweep(now: number): void {
    // A destroyed socket normally closes in the same turn of the event loop: this one never will.
    if (this.socket.destroyed && this.#seenDestroyed) this.closed();
    this.#seenDestroyed = this.socket.destroyed;
    if (this.handler !== null) {
      this.handler.sweep(now);
      return;
    }
    if (this.#linger >= 0) {
      this.#sweepUnsent(now);
      return;
    }
    const limit = this.#parser === null && this.#requests > 0 ? KEEP_ALIVE_MS : HEAD_TIMEOUT_MS;
    if (now - this.#since < limit) return;
    if (this.#requests === 0) countBound("silent-connections");
    if (this.#parser === null) this.socket.destroy();
    else {
      const reason = `the request head was not complete within ${HEAD_TIMEOUT_MS / 1000} s`;
      this.refuse({ code: "bad-request", reason }, this.newRecord("http", ""), false);
    }
  }

  /** Resets a client that takes nothing of the last answer for {@link FLUSH_MS}. */
  #sweepUnsent(now: number): void {
    const unsent = this.socket.writableLength;
    if (unsent !== this.#unsent) {
      this.#unsent = unsent;
      this.#since = now;
    } else if (unsent > 0 && now - this.#since >= FLUSH_MS) reset(this.socket);
  }
}
