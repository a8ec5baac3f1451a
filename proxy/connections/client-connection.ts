import type { Socket } from "node:net";
import type { TLSSocket } from "node:tls";
import { formatHostPort } from "../cli/options.ts";
import { type Identity, isSameUser } from "../config/identity.ts";
import { type Head, HeadParser } from "../http/head.ts";
import { UNEXPECTED_HEADER } from "../http/other-protocols.ts";
import { type AccessRecord, newRecord, noteFailure, notePolicy } from "../outcome/access-record.ts";
import { countBound } from "../outcome/bounds.ts";
import { type Failure, isDenial, refusalBytes } from "../outcome/refusals.ts";
import { formatTarget, parseAbsolute, parseAuthority } from "../policy/target.ts";
import { shownTarget } from "../policy/target-problem.ts";
import { type ClientOwner, clientAddress, disown, own, unread } from "../sockets/client.ts";
import { reset } from "../sockets/reset.ts";
import type { ClientCertificate } from "../tls/client-certificate.ts";
import type { Handshaking } from "../tls/handshakes.ts";
import type { Buffers, ByteHolder } from "./buffers.ts";
import { CLOSED, CUT, type CurrentRequest, type Phase } from "./client-phase.ts";
import { Connect } from "./connect.ts";
import { Forward } from "./forward.ts";
import type { Connection, Entry, Handler, OpenRequest } from "./handler.ts";
import { healthAnswer, isHealthcheck } from "./healthcheck.ts";
import { LingeringClose } from "./lingering-close.ts";
import type { Place } from "./linked-list.ts";
import { Permit, type PermitServer } from "./permit.ts";
import { beginsHeader, ProxyHeaderParser } from "./proxy-header.ts";
import type { Visited } from "./visits.ts";

/** The interface of the server for its client connections. */
export interface ConnectionServer extends PermitServer {
  readonly buffers: Buffers;
  record(record: AccessRecord): void;
  /** Why this proxy should get no traffic; null: it is ready. */
  unready(): string | null;
  /** The address of the client is known: the connection counts for it. */
  identified(client: ClientConnection): void;
  /** Whether the external port serves clients of this address. If not, the refusal of `source` is counted and logged. */
  admits(from: string, source: string): boolean;
  /** Begins the TLS handshake of a paused socket. */
  handshake(client: ClientConnection): void;
  /** The certificate of a complete handshake, null without one; or the reason for which the connection is closed. */
  certificateOf(socket: TLSSocket): ClientCertificate | null | { refused: string };
  /** A handshake is over: complete, failed, or refused because of the client certificate. `reason`: a sentence. */
  noteHandshake(client: ClientConnection, result: "ok" | "failed" | "refused", reason?: string): void;
  /** The connection has sent its first head, or is gone. */
  spoke(client: ClientConnection): void;
  /** The connection waits for its next request, or for its client to close it. */
  rests(client: ClientConnection): void;
  /** A request is under way again. */
  woke(client: ClientConnection): void;
  /** A time limit of the connection ends at this time, by the server's clock. */
  visitBy(client: ClientConnection, at: number): void;
  /** The connection is closed, with everything that belonged to it. */
  forget(client: ClientConnection): void;
}

/** Longer than any sender keeps an idle connection (Go: 90 s), so that no request meets a closing one. */
const KEEP_ALIVE_MS = 120_000;

/** The first octet of a TLS handshake (RFC 8446 §5.1). */
const HANDSHAKE_RECORD = 22;
const NO_TLS = "this port speaks TLS; write https:// in the proxy URL";

/** Status and reason of the refusal of a malformed or late request. */
interface Refusal {
  status: number;
  reason: string;
}

/** The ports of a proxy for clients. `external`: TLS, for clients outside of the network, which need a proof. */
export type Port = "plain" | "tls" | "external";

/** How a connection arrives: an optional PROXY header, an optional TLS handshake, then the first head. One deadline for all. */
export interface Arrival {
  /** It reads by `onread` (`accept.ts`). TLS connections do not. */
  readonly sharedReads: boolean;
  /** It must begin with a PROXY header. */
  readonly header: boolean;
  /** On each but `plain`, a TLS handshake comes before the first head. */
  readonly port: Port;
}

/** One accepted connection: reads heads, passes each request to its handler, refuses and lingers. */
export class ClientConnection implements Connection, ClientOwner, ByteHolder, Handshaking, Visited {
  /** The TCP socket; the TLS socket on it after a handshake. */
  socket: Socket;
  readonly server: ConnectionServer;
  /** The address of the client: that of its PROXY header, otherwise that of the peer. */
  from: string;
  /** The same with the port, as records show it. */
  source: string;
  /** When it was accepted, by the server's clock. */
  readonly accepted: number;
  readonly sharedReads: boolean;
  readonly #port: Port;
  readonly #tls: boolean;
  /** Takes the reads of a socket with a buffer of its own (`bulk.ts`); false: reading must pause. Null: shared buffer. */
  bulk: ((length: number) => boolean) | null = null;
  #phase: Phase;
  /** The valid certificate that the client presented in its handshake. */
  #certificate: ClientCertificate | null = null;
  /** The client of the last request that has entered. */
  #identity: Identity | null = null;
  /** A balancer may send requests of several users on one connection: another object for each change of the user. */
  user: object = this;
  /** Number of heads received. Before the first one the client gets no keep-alive time. */
  #requests = 0;
  /** The last error of the socket. */
  #error: NodeJS.ErrnoException | null = null;
  due = -1;
  duePlace: Place<Visited> | null = null;
  bufferCounted = 0;
  bufferPlace: Place<ByteHolder> | null = null;
  /** Its places among silent connections, all and those of its source, and among resting ones. Only the server writes them. */
  silentPlace: Place<ClientConnection> | null = null;
  peerPlace: Place<ClientConnection> | null = null;
  restingPlace: Place<ClientConnection> | null = null;
  /** The last visit found the socket destroyed. */
  #seenDestroyed = false;

  constructor(socket: Socket, server: ConnectionServer, { sharedReads, header, port }: Arrival) {
    this.socket = socket;
    this.server = server;
    this.sharedReads = sharedReads;
    this.from = clientAddress(socket);
    this.source = formatHostPort(this.from, socket.remotePort ?? 0);
    this.accepted = server.now;
    this.#port = port;
    this.#tls = port !== "plain";
    this.#phase = header ? { name: "header", since: this.accepted, parser: new ProxyHeaderParser() } : this.#opening();
    own(socket, this, sharedReads);
  }

  /** The phase of a connection that has sent nothing but a PROXY header. */
  #opening(): Phase {
    return { name: this.#tls ? "handshake" : "silent", since: this.accepted };
  }

  /** Bytes of the client have arrived. */
  data(chunk: Buffer): void {
    const phase = this.#phase;
    switch (phase.name) {
      case "request":
        phase.handler.onData(chunk);
        return;
      case "header":
        this.#readHeader(phase.parser, chunk);
        return;
      case "handshake":
        this.#beginHandshake(chunk);
        return;
      case "silent":
        this.#readHead(phase.since, phase.parser ?? this.#newParser(), chunk);
        return;
      case "idle":
        this.#readHead(this.server.now, phase.parser ?? this.#newParser(), chunk);
        return;
      case "head":
        this.#readHead(phase.since, phase.parser, chunk);
        return;
      case "closing":
        phase.close.discard(chunk.length);
    }
  }

  #readHeader(parser: ProxyHeaderParser, chunk: Buffer): void {
    const result = parser.feed(chunk);
    if (result === null) {
      this.noteBuffered();
      return;
    }
    if ("error" in result) {
      this.#refuseFirst(parser.bytes, { status: 400, reason: result.error }, !this.#tls);
      return;
    }
    if (result.source !== null) {
      this.from = result.source.address;
      this.source = formatHostPort(this.from, result.source.port);
    }
    this.#phase = this.#opening();
    this.noteBuffered();
    // A load balancer that names no client may only check the port. It is refused if it begins a handshake.
    if (result.source !== null && !this.#isAdmitted()) return;
    this.server.identified(this);
    if (result.rest.length > 0 && !this.socket.destroyed) this.data(result.rest);
  }

  /**
   * Refuses a connection by its first bytes, which may have a request. `isAnswered` false: the client speaks TLS and could
   * not read an answer.
   */
  #refuseFirst(bytes: Buffer, refusal: Refusal, isAnswered: boolean): void {
    this.server.spoke(this);
    const parser = this.#newParser();
    parser.feed(bytes);
    if (isAnswered) {
      this.#reject(parser, refusal);
      return;
    }
    const record = this.#recordOf(parser);
    noteRefusal(record, { code: "bad-request", ...refusal });
    this.cut(record);
  }

  /** Closes the connection of a client that the external port does not serve. */
  #isAdmitted(): boolean {
    if (this.#port !== "external" || this.server.admits(this.from, this.source)) return true;
    this.socket.destroy();
    return false;
  }

  #beginHandshake(chunk: Buffer): void {
    if (!this.#isAdmitted()) return;
    if (chunk[0] === HANDSHAKE_RECORD) {
      unread(this.socket, chunk);
      this.server.handshake(this);
      return;
    }
    if (beginsHeader(chunk)) this.#refuseFirst(chunk, { status: 400, reason: UNEXPECTED_HEADER }, false);
    else this.#refuseFirst(chunk, { status: 400, reason: NO_TLS }, true);
  }

  /** The handshake is complete: the connection continues on the TLS socket. */
  secured(socket: TLSSocket): void {
    const certificate = this.server.certificateOf(socket);
    if (certificate !== null && "refused" in certificate) {
      this.server.noteHandshake(this, "refused", certificate.refused);
      socket.destroy();
      return;
    }
    this.server.noteHandshake(this, "ok");
    disown(this.socket);
    this.socket = Object.assign(socket, { raw: this.socket });
    this.#certificate = certificate;
    this.#phase = { name: "silent", since: this.accepted };
    own(socket, this, false);
  }

  handshakeFailed(reason: string): void {
    this.server.noteHandshake(this, "failed", reason);
  }

  #newParser(): HeadParser {
    return new HeadParser(this.server.settings.headBytes);
  }

  #readHead(since: number, parser: HeadParser, chunk: Buffer): void {
    const result = parser.feed(chunk);
    if (result === null) {
      const phase = this.#phase;
      if (parser.blank && (phase.name === "silent" || phase.name === "idle")) {
        this.#phase = { ...phase, parser };
        return;
      }
      if (phase.name !== "head") {
        this.#phase = { name: "head", since, parser };
        this.visitBy(since + this.server.settings.headMs);
      }
      this.noteBuffered();
      return;
    }
    const wasBuffered = this.#phase.name === "head";
    if (this.#requests === 0) this.server.spoke(this);
    if ("refusal" in result) this.#reject(parser, result.refusal);
    else this.#dispatch(result.head, result.rest);
    if (wasBuffered || ("head" in result && result.head.large !== undefined)) this.noteBuffered();
  }

  /** Refuses a request whose head is malformed or late. */
  #reject(parser: HeadParser, refusal: Refusal): void {
    this.refuse({ code: "bad-request", ...refusal }, this.#recordOf(parser), parser.sent.method === "HEAD");
  }

  /** The record of a request without a complete head: it names what is known of its target. */
  #recordOf({ sent }: HeadParser): AccessRecord {
    const connect = sent.method === "CONNECT";
    const parsed = connect ? parseAuthority(sent.target) : (parseAbsolute(sent.target)?.target ?? null);
    const shown = parsed === null || !sent.complete ? shownTarget(sent.target) : formatTarget(parsed);
    return this.newRecord(connect ? "connect" : "http", shown);
  }

  #dispatch(head: Head, rest: Buffer): void {
    if (this.#requests++ > 0) this.server.woke(this);
    if (isHealthcheck(head, this.server.settings.healthcheckPath)) {
      this.#close(healthAnswer(head, this.server.unready()), 0);
      return;
    }
    const handler = head.method === "CONNECT" ? new Connect(this, head) : new Forward(this, head);
    const { from } = this;
    const arrived = { from, certificate: this.#certificate, isExternal: this.#port === "external" };
    this.#phase = { name: "request", handler, permit: new Permit(this.server, arrived) };
    handler.start(rest);
  }

  /** The request that is not over, even if its client has disconnected. */
  get #request(): CurrentRequest | null {
    const phase = this.#phase;
    return phase.name === "request" || phase.name === "flushing" ? phase : null;
  }

  /** The entry of the policy under which a request is open; null: none. */
  get entry(): string | null {
    return this.#request?.permit.entry ?? null;
  }

  get first(): boolean {
    return this.#requests === 1;
  }

  handOver(handler: Handler): void {
    const { permit } = this.#request!;
    this.#phase = { name: "request", handler, permit };
  }

  newRecord(kind: AccessRecord["kind"], target: string): AccessRecord {
    const record = newRecord(kind, this.source, target);
    const { policy } = this.server;
    if (policy !== null) notePolicy(record, policy);
    return record;
  }

  enter(head: Head, record: AccessRecord): Entry | Failure {
    const entry = this.#request!.permit.enter(head, record, this.first);
    if ("code" in entry) return entry;
    if (this.#identity !== null && !isSameUser(this.#identity, entry.identity)) this.user = {};
    this.#identity = entry.identity;
    return entry;
  }

  begin(entry: Entry, request: OpenRequest): Failure | null {
    return this.#request!.permit.begin(entry, request);
  }

  /** Applies a new policy after a reload: ends a request that it denies, and a connection with an invalid certificate. */
  revoke(): void {
    const request = this.#request;
    if (request !== null) {
      if (request.permit.revoked()) request.handler.abort("revoked");
      return;
    }
    const { trust } = this.server;
    if (this.#certificate === null || trust === null || this.#phase.name === "closing") return;
    if (trust.refuses(this.#certificate, Date.now()) !== null) this.socket.destroy();
  }

  /** Ends a request whose upstream connection was opened on an egress path between two moments. */
  endUnproven(route: string, since: number, until: number): void {
    const request = this.#request;
    if (request?.permit.openedOn(route, since, until)) request.handler.abort("unproven");
  }

  /** Since when it waits for its next request or for its end, by the server's clock; now, while it does neither. */
  get since(): number {
    const phase = this.#phase;
    switch (phase.name) {
      case "header":
      case "handshake":
      case "silent":
      case "head":
      case "idle":
        return phase.since;
      case "closing":
        return phase.close.since;
      default:
        return this.server.now;
    }
  }

  farewell(): void {
    this.#close("", 0);
  }

  #close(bytes: string, delayMs: number): void {
    const close = new LingeringClose(this);
    this.#phase = { name: "closing", close };
    this.server.rests(this);
    close.start(bytes, delayMs);
  }

  refuse(failure: Failure, record: AccessRecord, headOnly: boolean): void {
    noteRefusal(record, failure);
    const policy = record.policy ?? "";
    const denyStatus = this.server.settings.denyStatus;
    const bytes = refusalBytes(failure, { policy, denyStatus, head: headOnly });
    this.finish(record);
    if (this.socket.destroyed) this.#phase = CUT;
    else this.#close(bytes, failure.delayMs ?? 0);
  }

  finish(record: AccessRecord): void {
    this.#request?.permit.release();
    this.server.record(record);
    if (this.#phase.name === "flushing") this.#forget();
  }

  cut(record: AccessRecord): void {
    this.finish(record);
    this.#phase = CUT;
    reset(this.socket);
  }

  next(rest: Buffer): void {
    this.#phase = { name: "idle", since: this.server.now };
    if (this.server.phase === "draining") {
      this.socket.end();
      return;
    }
    this.server.rests(this);
    this.socket.resume();
    if (rest.length > 0) this.data(rest);
  }

  noteBuffered(): void {
    this.server.buffers.note(this);
  }

  /** Bytes of an incomplete PROXY header or head, or those that a peer of the request has not read. */
  buffered(): number {
    if (this.#phase.name === "header") return this.#phase.parser.bytes.length;
    if (this.#phase.name === "head") return this.#phase.parser.size;
    return this.#request?.handler.buffered() ?? this.socket.writableLength;
  }

  shed(): void {
    const request = this.#request;
    if (request === null) reset(this.socket);
    else request.handler.abort("buffer-limit");
  }

  /** The server ends: resets a request, and closes a connection without one. */
  abort(): void {
    const request = this.#request;
    if (request === null) this.socket.destroy();
    else request.handler.abort("drain");
  }

  /** The server drains: closes a connection between two requests, which loses none. */
  drain(): void {
    if (this.#phase.name === "idle") this.socket.end();
  }

  end(): void {
    const phase = this.#phase;
    switch (phase.name) {
      case "request":
        phase.handler.onEnd();
        return;
      case "header":
      case "handshake":
      case "silent":
      case "head":
      case "idle":
        this.socket.end();
    }
  }

  /** The socket has room again. */
  drained(): void {
    if (this.#phase.name === "request") this.#phase.handler.onDrain();
  }

  /** An error of the socket, whose close follows. */
  failed(error: NodeJS.ErrnoException): void {
    this.#error = error;
  }

  /** The socket is closed. */
  closed(): void {
    const phase = this.#phase;
    switch (phase.name) {
      case "flushing":
      case "closed":
        return;
      case "request":
        if (phase.handler.onClosed(this.#error)) {
          this.#phase = { ...phase, name: "flushing" };
          return;
        }
        break;
      case "closing":
        phase.close.cancel();
    }
    this.server.spoke(this);
    this.#forget();
  }

  #forget(): void {
    this.#phase = CLOSED;
    this.server.forget(this);
  }

  visitBy(at: number): void {
    this.server.visitBy(this, at);
  }

  visit(now: number): number {
    // A destroyed socket normally closes in the same turn of the event loop: this one never will.
    if (this.socket.destroyed && this.#seenDestroyed) this.closed();
    this.#seenDestroyed = this.socket.destroyed;
    const end = this.#enforce(now);
    return this.socket.destroyed ? now : end;
  }

  /** Enforces the time limit of the phase; returns its end. */
  #enforce(now: number): number {
    const phase = this.#phase;
    switch (phase.name) {
      case "request":
      case "flushing":
        return phase.handler.sweep(now);
      case "closing":
        return phase.close.sweep(now);
      case "idle": {
        const end = phase.since + KEEP_ALIVE_MS;
        if (now >= end) this.socket.destroy();
        return end;
      }
      case "header":
      case "handshake":
      case "silent":
      case "head": {
        const end = phase.since + this.server.settings.headMs;
        if (now >= end) this.#endWait(phase);
        return end;
      }
      default:
        return Number.POSITIVE_INFINITY;
    }
  }

  /** The client has sent no complete head in time. */
  #endWait(phase: Phase): void {
    if (phase.name === "header") this.#refuseLateHeader(phase.parser);
    else if (phase.name === "head") this.#refuseLate(phase.parser);
    else {
      countBound("silent-connections");
      this.socket.destroy();
    }
  }

  #refuseLateHeader(parser: ProxyHeaderParser): void {
    countBound("silent-connections");
    const { headMs } = this.server.settings;
    const reason = `the PROXY protocol header was not complete within ${headMs / 1000} s`;
    if (parser.bytes.length === 0) this.socket.destroy();
    else this.#refuseFirst(parser.bytes, { status: 408, reason }, !this.#tls);
  }

  #refuseLate(parser: HeadParser): void {
    if (this.#requests === 0) {
      countBound("silent-connections");
      this.server.spoke(this);
    }
    const reason = `the request head was not complete within ${this.server.settings.headMs / 1000} s`;
    this.#reject(parser, { status: 408, reason });
  }
}

/** Writes a refusal into the record of its request. */
function noteRefusal(record: AccessRecord, failure: Failure): void {
  if (isDenial(failure.code) || failure.code === "auth" || failure.code === "client") record.verdict = "deny";
  // With an upstream connection the request was allowed, and its body is malformed.
  if (failure.code === "bad-request" && record.address === undefined) record.verdict = "deny";
  noteFailure(record, failure);
  record.close = "refused";
}
