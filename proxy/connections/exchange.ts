import type { Head } from "../http/head.ts";
import type { AccessRecord } from "../outcome/access-record.ts";
import { countBound } from "../outcome/bounds.ts";
import type { Code, Failure } from "../outcome/refusals.ts";
import { Batch } from "../sockets/batch.ts";
import { copyOut } from "../sockets/read-buffer.ts";
import { inLaterTurn } from "../sockets/turns.ts";
import type { UpstreamOwner, UpstreamSocket } from "../sockets/upstream.ts";
import type { Connection, Handler } from "./handler.ts";
import { type Onward, RequestRelay } from "./request-relay.ts";
import { ResponseRelay } from "./response-relay.ts";

/**
 * Limit of the lines of a chunked body, and of the fields of interim heads, in one read (64 KiB) of a connection.
 * Beyond it the connection waits for the next turn of the event loop (`turns.ts`). A flood of tiny chunks thus delays
 * other connections by a few reads, not by all data that the kernel holds.
 */
const MAX_LINES_PER_TURN = 128;
const NOTHING = Buffer.alloc(0);

/** The upstream connection of an exchange. */
export interface ExchangeUpstream {
  readonly socket: UpstreamSocket;
  readonly poolKey: string;
  /** When it was established (monotonic ms). */
  readonly opened: number;
  /** It has served another request. */
  readonly reused: boolean;
  /** It belongs to the user of this request alone: it is authenticated. */
  readonly bound: boolean;
}

/** The phase of an exchange. */
type Phase =
  /** Request and response are relayed. */
  | { readonly name: "relaying"; readonly upstream: ExchangeUpstream }
  /** The response is written completely, but the client has not read all of it. */
  | { readonly name: "leaving" }
  /** The client connection belongs to another request, or is closed. */
  | { readonly name: "over" };

/** The origin of an exchange, which can send its request once more. */
export interface Origin {
  /** Sends the request on a new upstream connection. `held`: the client bytes behind it; `ended`: the client half-closed. */
  sendAgain(held: Buffer, ended: boolean): void;
}

const LEAVING: Phase = { name: "leaving" };
const OVER: Phase = { name: "over" };

/** ExchangeParts of an exchange. */
interface ExchangeParts {
  client: Connection;
  head: Head;
  record: AccessRecord;
  onward: Onward;
  upstream: ExchangeUpstream;
  /** Time without bytes of either side after which it ends. */
  idleMs: number;
  /** Null: the request is never sent again. */
  origin: Origin | null;
}

/** The relay of one plain HTTP request and its response. */
export class Exchange implements Handler, UpstreamOwner {
  readonly #client: Connection;
  readonly #head: Head;
  readonly #record: AccessRecord;
  readonly #onward: Onward;
  readonly #idleMs: number;
  readonly #origin: Origin | null;
  /** The user of this request: the client connection may serve another one afterwards. */
  readonly #user: object;
  readonly #toUpstream = new Batch();
  readonly #toClient = new Batch();
  readonly #request: RequestRelay;
  readonly #response: ResponseRelay;
  #phase: Phase;
  /** The client half-closed. */
  #ended = false;
  /** The client connection is closed after the response. */
  #close: boolean;
  /** Last bytes of either side, by the server's clock (ms). */
  #active: number;

  constructor({ client, head, record, onward, upstream, idleMs, origin }: ExchangeParts) {
    this.#client = client;
    this.#head = head;
    this.#record = record;
    this.#onward = onward;
    this.#idleMs = idleMs;
    this.#origin = origin;
    this.#user = client.user;
    this.#phase = { name: "relaying", upstream };
    this.#close = !head.keepAlive || head.minor === 0;
    this.#active = client.server.now;
    client.visitBy(this.#active + idleMs);
    this.#request = new RequestRelay(head, record, this.#toUpstream);
    this.#response = new ResponseRelay(head, record, this.#toClient, {
      via: () => client.server.settings.via,
      closes: () => this.#closesAfterResponse(),
    });
    upstream.socket.owner = this;
    upstream.socket.resume();
  }

  #closesAfterResponse(): boolean {
    // A client that half-closed may have sent more requests before.
    const hasEnded = this.#ended && this.#request.held === 0;
    return this.#close || !this.#request.done || hasEnded || this.#client.server.phase !== "serving";
  }

  /** Sends the request as far as it has arrived. */
  begin(early: Buffer, ended: boolean): void {
    this.#request.begin(this.#onward, this.#client.server.settings.via);
    if (early.length > 0) this.#take(early);
    this.#flushUp();
    if (ended) this.onEnd();
    this.#resumeClient();
  }

  /** Bytes that wait for the upstream, or that either side has not read yet, and a large head. */
  buffered(): number {
    const upstream = this.#phase.name === "relaying" ? this.#phase.upstream.socket.writableLength : 0;
    return this.#request.held + this.#client.socket.writableLength + upstream + (this.#head.large ?? 0);
  }

  /**
   * Whether more bytes of the client can be taken. Those behind the request do not wait for the upstream: they are held
   * up to a limit, so that a client that disconnects is noticed.
   */
  get #hasRoom(): boolean {
    if (this.#request.full) return false;
    return this.#request.done || this.#phase.name !== "relaying" || !this.#phase.upstream.socket.writableNeedDrain;
  }

  /** Reads from the client again, if there is room for its bytes and it has not gone on to another request. */
  #resumeClient(): void {
    if (this.#phase.name !== "over" && this.#hasRoom) this.#client.socket.resume();
  }

  /** Reads from the upstream again, if the client has taken what was read before. */
  #resumeUpstream(): void {
    if (this.#phase.name !== "relaying" || this.#client.socket.writableNeedDrain) return;
    this.#phase.upstream.socket.resume();
  }

  onDrain(): void {
    this.#client.noteBuffered();
    this.#resumeUpstream();
  }

  upstreamDrained(): void {
    this.#client.noteBuffered();
    this.#resumeClient();
  }

  onData(chunk: Buffer): void {
    const { lines } = this.#request;
    this.#take(chunk);
    this.#flushUp();
    if (this.#phase.name !== "relaying" || this.#request.lines - lines <= MAX_LINES_PER_TURN) return;
    countBound("turn-lines");
    this.#client.socket.pause();
    inLaterTurn(() => this.#resumeClient());
  }

  #take(chunk: Buffer): void {
    if (this.#phase.name === "over") return;
    this.#active = this.#client.server.now;
    if (this.#phase.name === "relaying") {
      const failure = this.#request.feed(chunk);
      if (failure !== null) {
        this.#fail(failure);
        return;
      }
    } else this.#request.hold(chunk);
    if (this.#request.full) this.#client.socket.pause();
    if (this.#request.held > 0) this.#client.noteBuffered();
  }

  #flushUp(): void {
    if (this.#phase.name !== "relaying") return;
    const { socket } = this.#phase.upstream;
    if (!socket.writable) return;
    this.#toUpstream.flush(socket);
    if (!this.#hasRoom) this.#client.socket.pause();
    if (socket.writableLength > 0) this.#client.noteBuffered();
  }

  /** A client that half-closes waits for its response. */
  onEnd(): void {
    this.#ended = true;
    if (this.#phase.name === "relaying" && !this.#request.done) this.abort("client-gone");
  }

  upstreamRead(length: number): boolean {
    this.#active = this.#client.server.now;
    const { lines } = this.#response;
    const state = this.#response.feed(copyOut(length));
    // The response has begun: only a reset can report the failure (RFC 9112 §8).
    if (state === "broken") this.#cut("upstream-broken", "bad-answer");
    else if (state === "complete") this.#complete();
    else if (state !== null) this.#fail(state);
    else this.#flushDown();
    if (this.#phase.name !== "relaying" || this.#response.lines - lines <= MAX_LINES_PER_TURN) return true;
    countBound("turn-lines");
    this.#phase.upstream.socket.pause();
    inLaterTurn(() => this.#resumeUpstream());
    return true;
  }

  #flushDown(): void {
    const { socket } = this.#client;
    const took = !socket.writable || this.#toClient.flush(socket);
    if (!took && this.#phase.name === "relaying") this.#phase.upstream.socket.pause();
    if (socket.writableLength > 0) this.#client.noteBuffered();
  }

  upstreamUnread(length: number): void {
    this.upstreamRead(length);
  }

  upstreamEnd(): void {
    if (this.#response.endsWithUpstream) this.#complete();
    else this.#broken();
  }

  upstreamError(): void {
    this.#broken();
  }

  upstreamClosed(): void {
    this.#broken();
  }

  #broken(): void {
    if (this.#phase.name !== "relaying") return;
    if (this.#response.begun) {
      this.#cut("upstream-reset");
      return;
    }
    const { reused } = this.#phase.upstream;
    if (reused && this.#response.silent && this.#origin !== null) {
      this.#sendAgain(this.#origin);
      return;
    }
    const when = reused ? " a kept-alive connection" : "";
    this.#fail({ code: "reset", reason: `${this.#record.target} closed${when} without an answer` });
  }

  /** The receiver closed the idle connection, probably before the request arrived (RFC 9110 §9.2.2, RFC 9112 §9.3.1). */
  #sendAgain(origin: Origin): void {
    this.#abandon();
    this.#record.retried = true;
    origin.sendAgain(this.#request.takeRest(), this.#ended);
  }

  #complete(): void {
    if (this.#phase.name !== "relaying") return;
    const { socket, poolKey, opened, bound } = this.#phase.upstream;
    this.#flushDown();
    this.#phase = LEAVING;
    const client = this.#client;
    const { pool, now } = client.server;
    socket.owner = undefined;
    this.#close ||= this.#response.closes;
    const owner = bound || this.#response.bindsConnection ? this.#user : undefined;
    if (this.#response.keepsUpstream && this.#request.done) pool.put(poolKey, socket, { opened, now, owner });
    else socket.destroy();
    const { writableNeedDrain, writableLength } = client.socket;
    if (writableNeedDrain || (this.#close && writableLength > 0)) this.#awaitClient();
    else this.#depart();
  }

  /**
   * Waits until the client has taken its response. Then the connection is closed, or its next request is read, so that
   * a client that sends requests and does not read cannot pile up responses. It stays counted, and bounded by idle time.
   */
  #awaitClient(): void {
    this.#client.socket.write(NOTHING, (error) => {
      // With an error the connection is gone, and its close follows.
      if (this.#phase.name === "leaving" && !error) this.#depart();
    });
  }

  #depart(): void {
    this.#phase = OVER;
    this.#record.close = "complete";
    this.#client.finish(this.#record);
    if (this.#close) {
      this.#client.farewell();
      return;
    }
    this.#client.next(this.#request.takeRest());
    // The half-close also applies to the request behind this one, or to the idle connection.
    if (this.#ended) this.#client.end();
  }

  /** Ends it and its upstream connection. */
  #abandon(): void {
    if (this.#phase.name === "relaying") {
      const { socket } = this.#phase.upstream;
      socket.owner = undefined;
      socket.destroy();
    }
    this.#phase = OVER;
  }

  /** The response had begun and cannot be completed. */
  #cut(close: string, code: Code = "reset"): void {
    this.#flushDown();
    this.#abandon();
    this.#record.code = code;
    this.#record.close = close;
    this.#client.cut(this.#record);
  }

  #fail(failure: Failure): void {
    if (this.#response.begun) {
      this.#cut(failure.code);
      return;
    }
    this.#abandon();
    this.#client.refuse(failure, this.#record, this.#head.method === "HEAD");
  }

  onClosed(): boolean {
    this.abort("client-gone");
    return false;
  }

  sweep(now: number): number {
    const end = this.#active + this.#idleMs;
    if (now < end) return end;
    if (this.#phase.name === "leaving") this.abort("idle");
    if (this.#phase.name === "relaying")
      this.#fail({ code: "timeout", reason: `${this.#record.target} was silent for ${this.#idleMs / 1000} s` });
    return end;
  }

  /**
   * Immediately: an answer that comes before the client's connection is closed must not return the upstream to the
   * pool. A reset, not FIN: an answer that has begun would look complete.
   */
  abort(close: string): void {
    if (this.#phase.name === "over") return;
    this.#abandon();
    this.#record.close = close;
    this.#client.cut(this.#record);
  }
}
