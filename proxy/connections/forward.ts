import { dial } from "../egress/dial.ts";
import { decideTarget, type Route } from "../egress/route.ts";
import { type BodyReader, ChunkedBody, chunkHeader, LengthBody, UntilClose } from "../http/body.ts";
import {
  bindsConnection,
  continueHead,
  expectsContinue,
  maxForwards,
  requestHead,
  responseHead,
} from "../http/fields.ts";
import { type Head, type ResponseHead, ResponseHeadParser } from "../http/head.ts";
import { Held } from "../http/held.ts";
import type { AccessRecord } from "../outcome/access-record.ts";
import { countBound } from "../outcome/bounds.ts";
import type { Failure } from "../outcome/refusals.ts";
import { type Address, formatAddress } from "../policy/cidr.ts";
import { type AbsoluteTarget, formatTarget, parseAbsolute } from "../policy/target.ts";
import { Batch } from "../sockets/batch.ts";
import { copyOut } from "../sockets/read-buffer.ts";
import { reset } from "../sockets/reset.ts";
import { inLaterTurn } from "../sockets/turns.ts";
import { adopt, UPSTREAM_ONREAD, type UpstreamOwner, type UpstreamSocket } from "../sockets/upstream.ts";
import type { Connection, Entry, Handler } from "./handler.ts";

/** Client bytes that are held while nobody can take them; then the client is paused. */
const MAX_HELD_BYTES = 65_536;
/**
 * Heads with a status of 1xx in front of one response. Servers send one or two (100, 103), or one in some seconds while
 * they work (102); Go's client accepts five.
 */
const MAX_INTERIM_HEADS = 16;
/**
 * Lines of a chunked body, and fields of interim heads, in one read (64 KiB) of a connection. After more of them the connection waits for the next
 * turn of the event loop (`turns.ts`), so that a flood of tiny chunks delays others by some reads, not by all that the
 * kernel holds.
 */
const MAX_LINES_PER_TURN = 128;
const NOTHING = Buffer.alloc(0);

/** One absolute-form request and its response (RFC 9112 §3.2.2): decided by itself, whatever came before it. */
export class Exchange implements Handler, UpstreamOwner {
  readonly #client: Connection;
  readonly #head: Head;
  readonly #record: AccessRecord;
  readonly #request: BodyReader;
  #stop: (() => void) | null = null;
  #entry: Entry | null = null;
  #upstream: UpstreamSocket | null = null;
  readonly #toUpstream = new Batch();
  readonly #toClient = new Batch();
  #poolKey = "";
  #opened = 0;
  #reused = false;
  /** The upstream connection belongs to this client alone: it is authenticated. */
  #bound = false;
  /** Client bytes that came before the upstream was there, or behind this request. */
  readonly #held = new Held();
  /** How often an OPTIONS or TRACE may still be forwarded; null: no such limit. */
  #forwards: number | null = null;
  #interimHeads = 0;
  #interimFields = 0;
  /** A 100 was passed on. */
  #continued = false;
  /** The upstream sent a message that it must not send: its connection is not used again. */
  #faulty = false;
  /** The client half-closed. */
  #ended = false;
  #parser: ResponseHeadParser | null = new ResponseHeadParser();
  #response: ResponseHead | null = null;
  #body: BodyReader | null = null;
  #chunked = false;
  #close: boolean;
  #active: number;
  #over = false;
  /** The whole response is written, but the client has not yet taken it. */
  #leaving = false;

  constructor(client: Connection, head: Head) {
    this.#client = client;
    this.#head = head;
    this.#record = client.newRecord("http", "");
    this.#request = head.chunked ? new ChunkedBody() : new LengthBody(head.contentLength ?? 0);
    this.#close = !head.keepAlive || head.minor === 0;
    this.#active = client.server.now;
  }

  start(rest: Buffer): void {
    const client = this.#client;
    if (rest.length > 0) this.#hold(rest);
    const absolute = parseAbsolute(this.#head.target);
    if (absolute === null) {
      const reason = /^https:/i.test(this.#head.target)
        ? "https goes through CONNECT"
        : `this is a forward proxy: the target must be an absolute http URI or CONNECT`;
      this.#fail({ code: "bad-request", reason });
      return;
    }
    const shown = formatTarget(absolute.target);
    this.#record.target = shown;
    const forwards = maxForwards(this.#head);
    if (typeof forwards === "object" && forwards !== null) {
      this.#fail({ code: "bad-request", reason: forwards.error });
      return;
    }
    this.#forwards = forwards;
    const entry = client.enter(this.#head, this.#record);
    if ("code" in entry) {
      this.#fail(entry);
      return;
    }
    this.#entry = entry;
    const drop = decideTarget(entry.policy, client.server, absolute.target, this.#record, (route) => {
      if ("code" in route) this.#fail(route);
      else this.#reach(absolute, route, entry);
    });
    this.#stop ??= drop;
  }

  #reach(absolute: AbsoluteTarget, { addresses, ways }: Exclude<Route, Failure>, entry: Entry): void {
    if (this.#forwards === 0) {
      this.#answerHere();
      return;
    }
    const { pool } = this.#client.server;
    const shown = this.#record.target;
    const use = (socket: UpstreamSocket, address: Address, key: string, dialled: number, opened: number) => {
      this.#upstream = socket;
      this.#poolKey = key;
      this.#opened = opened;
      const { target } = absolute;
      const passage = { record: this.#record, target, address, way: ways[address.family]!, dialled, opened };
      const closed = this.#client.begin(entry, passage);
      if (closed === null) this.#send(socket, address, absolute);
      else this.#fail(closed);
    };
    const keyOf = (address: Address) => `${shown} ${formatAddress(address)} ${ways[address.family]!.key}`;
    for (const address of addresses) {
      const key = keyOf(address);
      const pooled = pool.take(key, this.#client);
      if (pooled === null) continue;
      this.#reused = true;
      this.#bound = pooled.bound;
      this.#stop = () => {};
      // It was put into the pool after its source had been proven, or dropped from there.
      use(pooled.socket, address, key, Number.POSITIVE_INFINITY, pooled.opened);
      return;
    }
    const began = performance.now();
    const { connectMs: deadlineMs } = entry.settings;
    const options = { target: absolute.target, policy: entry.policy, deadlineMs, shown, ways, onread: UPSTREAM_ONREAD };
    this.#stop = dial(addresses, options, (result) => {
      this.#record.connectMs = performance.now() - began;
      if ("code" in result) {
        this.#fail(result);
        return;
      }
      adopt(result.socket);
      use(result.socket, result.address, keyOf(result.address), began, performance.now());
    });
  }

  #send(socket: UpstreamSocket, address: Address, absolute: AbsoluteTarget): void {
    socket.owner = this;
    socket.resume();
    this.#record.address = formatAddress(address);
    this.#record.local = socket.localAddress ?? "";
    const { via } = this.#client.server.settings;
    const { method, target, headers } = this.#head;
    // RFC 9112 §3.2.4: an OPTIONS without any path is about the server itself.
    const path = method === "OPTIONS" && absolute.path === "/" && !target.endsWith("/") ? "*" : absolute.path;
    const { authority } = absolute;
    const forwards = this.#forwards === null ? null : this.#forwards - 1;
    this.#toUpstream.add(requestHead(this.#head, { path, authority, via, forwards }));
    this.#bound ||= bindsConnection(headers);
    const paused = this.#held.length >= MAX_HELD_BYTES;
    if (this.#held.length > 0) this.#take(this.#held.take());
    this.#flushUp();
    if (this.#over) return;
    if (this.#ended && !this.#request.done) this.onClosed();
    else if (paused) this.#resumeClient();
  }

  /** RFC 9110 §7.6.2: a request that may not be forwarded is answered by this proxy as its final recipient. */
  #answerHere(): void {
    const options = this.#head.method === "OPTIONS";
    const status = options ? "200 OK" : "405 Method Not Allowed";
    this.#stop = null;
    this.#over = true;
    this.#record.close = "complete";
    this.#client.socket.write(`HTTP/1.1 ${status}\r\nAllow: OPTIONS\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`);
    this.#client.finish(this.#record);
    this.#client.farewell();
  }

  #hold(chunk: Buffer): void {
    this.#held.append(chunk);
    if (this.#held.length >= MAX_HELD_BYTES) this.#client.socket.pause();
    this.#client.noteBuffered();
  }

  /** Bytes that wait for the upstream, or that either side has not taken yet. */
  buffered(): number {
    return this.#held.length + this.#client.socket.writableLength + (this.#upstream?.writableLength ?? 0);
  }

  /** Reads from the client again, unless its bytes could go nowhere. */
  #resumeClient(): void {
    if (this.#over || this.#held.length >= MAX_HELD_BYTES || this.#upstream?.writableNeedDrain) return;
    this.#client.socket.resume();
  }

  #resumeUpstream(): void {
    if (!this.#client.socket.writableNeedDrain) this.#upstream?.resume();
  }

  onData(chunk: Buffer): void {
    const { lines } = this.#request;
    this.#take(chunk);
    this.#flushUp();
    if (this.#over || this.#request.lines - lines <= MAX_LINES_PER_TURN) return;
    countBound("turn-lines");
    this.#client.socket.pause();
    inLaterTurn(() => this.#resumeClient());
  }

  #flushUp(): void {
    const upstream = this.#upstream;
    if (this.#over || upstream === null || !upstream.writable) return;
    if (!this.#toUpstream.flush(upstream)) this.#client.socket.pause();
    if (upstream.writableLength > 0) this.#client.noteBuffered();
  }

  #take(chunk: Buffer): void {
    this.#active = this.#client.server.now;
    if (this.#over) return;
    if (this.#upstream === null || this.#request.done) {
      this.#hold(chunk);
      return;
    }
    let rest: Buffer | null;
    try {
      rest = this.#request.feed(chunk, this.#sendPayload);
    } catch (error) {
      this.#fail({ code: "bad-request", reason: (error as Error).message });
      return;
    }
    if (rest === null) return;
    if (this.#head.chunked) this.#toUpstream.add("0\r\n\r\n");
    if (rest.length > 0) this.#hold(rest);
  }

  readonly #sendPayload = (payload: Buffer): void => {
    this.#record.bytesUp += payload.length;
    if (this.#head.chunked) this.#toUpstream.add(chunkHeader(payload));
    this.#toUpstream.add(payload);
    if (this.#head.chunked) this.#toUpstream.add("\r\n");
  };

  /** A client that half-closes waits for its response. What it sent may still be held, for want of an upstream. */
  onEnd(): void {
    this.#ended = true;
    if (this.#upstream !== null && !this.#request.done) this.onClosed();
  }

  onDrain(): void {
    this.#client.noteBuffered();
    this.#upstream?.resume();
  }

  upstreamDrained(): void {
    this.#client.noteBuffered();
    if (!this.#request.done) this.#client.socket.resume();
  }

  get #linesDown(): number {
    return this.#interimFields + (this.#body?.lines ?? 0);
  }

  upstreamRead(length: number): boolean {
    this.#active = this.#client.server.now;
    const lines = this.#linesDown;
    this.#takeResponse(copyOut(length));
    this.#flushDown();
    if (this.#over || this.#linesDown - lines <= MAX_LINES_PER_TURN) return true;
    countBound("turn-lines");
    this.#upstream?.pause();
    inLaterTurn(() => this.#resumeUpstream());
    return true;
  }

  #flushDown(): void {
    const { socket } = this.#client;
    if (socket.writable && !this.#toClient.flush(socket)) this.#upstream?.pause();
    if (socket.writableLength > 0) this.#client.noteBuffered();
  }

  #takeResponse(chunk: Buffer): void {
    let rest: Buffer | null = chunk;
    while (rest !== null && rest.length > 0 && this.#parser !== null) {
      const parsed = this.#parser.feed(rest);
      if (parsed === null) return;
      if ("error" in parsed) {
        this.#fail({ code: "reset", reason: `${this.#record.target} answered with broken HTTP: ${parsed.error}` });
        return;
      }
      rest = parsed.rest;
      if (!this.#takeHead(parsed.head, rest)) return;
    }
    if (this.#over || this.#body === null || rest === null) return;
    this.#relayBody(rest);
  }

  /** False: the exchange is over. */
  #takeHead(head: ResponseHead, rest: Buffer): boolean {
    if (head.status === 101) {
      this.#fail({ code: "reset", reason: `${this.#record.target} switched protocols without being asked` });
      return false;
    }
    if (head.status < 200) return this.#takeInterim(head);
    if (head.status === 407) {
      const reason = `${this.#record.target} answered with 407, which is for proxies`;
      this.#fail({ code: "reset", reason, receivedStatus: 407 });
      return false;
    }
    const { via } = this.#client.server.settings;
    this.#parser = null;
    this.#response = head;
    const bodiless = this.#head.method === "HEAD" || head.status === 204 || head.status === 304;
    // RFC 9110 §8.6, RFC 9112 §6.1: a 204 has neither, so another reader may see a body.
    if (head.status === 204 && (head.chunked || head.contentLength !== undefined)) this.#faulty = true;
    this.#bound ||= bindsConnection(head.headers);
    if (bodiless) this.#body = new LengthBody(0);
    else if (head.chunked) this.#body = new ChunkedBody();
    else if (head.contentLength !== undefined) this.#body = new LengthBody(head.contentLength);
    else {
      this.#body = new UntilClose();
      this.#close = true;
    }
    if (!this.#request.done) this.#close = true;
    // A client that half-closed may have sent further requests before.
    if (this.#ended && this.#held.length === 0) this.#close = true;
    this.#chunked = head.chunked && this.#head.minor === 1 && !(bodiless && this.#head.method !== "HEAD");
    const close = this.#close || this.#client.server.phase !== "serving";
    this.#close = close;
    this.#toClient.add(responseHead(head, { chunked: this.#chunked, close, via }));
    if (this.#body.done) {
      // Bytes that no response owns: nobody may meet them later.
      if (rest.length > 0) this.#faulty = true;
      this.#complete();
      return false;
    }
    return true;
  }

  /**
   * A head with a status of 1xx: one 100 goes to a client that waits for it, every other one is dropped, since clients
   * take it for the answer (docs/adr/0015-interim-responses.md). False: the exchange is over.
   */
  #takeInterim(head: ResponseHead): boolean {
    if (++this.#interimHeads > MAX_INTERIM_HEADS) {
      countBound("response-head");
      const reason = `${this.#record.target} sent more than ${MAX_INTERIM_HEADS} heads before its answer`;
      this.#fail({ code: "reset", reason });
      return false;
    }
    this.#interimFields += head.headers.length;
    this.#parser = new ResponseHeadParser();
    if (head.chunked || head.contentLength !== undefined) this.#faulty = true;
    if (head.status === 100 && !this.#continued && expectsContinue(this.#head)) {
      this.#continued = true;
      this.#toClient.add(continueHead(head.minor, this.#client.server.settings.via));
    }
    return true;
  }

  #relayBody(chunk: Buffer): void {
    let rest: Buffer | null;
    try {
      rest = this.#body!.feed(chunk, this.#relayPayload);
    } catch {
      // The response has begun: an abnormal end is the only honest word (RFC 9112 §8).
      this.#cut("upstream-broken");
      return;
    }
    if (rest === null) return;
    if (this.#chunked) this.#toClient.add("0\r\n\r\n");
    if (rest.length > 0) this.#faulty = true;
    this.#complete();
  }

  readonly #relayPayload = (payload: Buffer): void => {
    this.#record.bytesDown += payload.length;
    if (this.#chunked) this.#toClient.add(chunkHeader(payload));
    this.#toClient.add(payload);
    if (this.#chunked) this.#toClient.add("\r\n");
  };

  upstreamEnd(): void {
    if (this.#over) return;
    if (this.#body instanceof UntilClose) {
      this.#complete();
      return;
    }
    this.#broken();
  }

  upstreamError(): void {
    this.#broken();
  }

  upstreamClosed(): void {
    this.#broken();
  }

  #broken(): void {
    if (this.#over) return;
    if (this.#response !== null) {
      this.#cut("upstream-reset");
      return;
    }
    const when = this.#reused ? " a kept-alive connection" : "";
    this.#fail({ code: "reset", reason: `${this.#record.target} closed${when} without an answer` });
  }

  #complete(): void {
    this.#flushDown();
    this.#over = true;
    const { server } = this.#client;
    const upstream = this.#upstream!;
    upstream.owner = undefined;
    this.#upstream = null;
    const reusable = this.#response!.keepAlive && !this.#faulty && this.#request.done;
    if (reusable && !(this.#body instanceof UntilClose)) {
      const owner = this.#bound ? this.#client : undefined;
      server.pool.put(this.#poolKey, upstream, { opened: this.#opened, now: server.now, owner });
    } else upstream.destroy();
    if (this.#close && this.#client.socket.writableLength > 0) this.#awaitClient();
    else this.#depart();
  }

  /** The connection is closed when the client has taken its response; a slow one stays counted, and bounded by idle time. */
  #awaitClient(): void {
    this.#leaving = true;
    this.#client.socket.write(NOTHING, () => {
      if (this.#leaving) this.#depart();
    });
  }

  #depart(): void {
    this.#leaving = false;
    this.#record.close = "complete";
    this.#client.finish(this.#record);
    if (this.#close) {
      this.#client.farewell();
      return;
    }
    this.#client.next(this.#held.take());
    // The request behind this one, or an idle connection, gets to know of the half-close as well.
    if (this.#ended) this.#client.end();
  }

  /** Ends it for good, and its upstream connection. */
  #abandon(): void {
    this.#over = true;
    if (this.#upstream === null) return;
    this.#upstream.owner = undefined;
    this.#upstream.destroy();
  }

  /** The response had begun and cannot be completed. */
  #cut(reason: string): void {
    this.#flushDown();
    this.#abandon();
    this.#record.code = "reset";
    this.#record.close = reason;
    this.#client.handler = null;
    this.#client.finish(this.#record);
    reset(this.#client.socket);
  }

  #fail(failure: Failure): void {
    if (this.#response !== null) {
      this.#cut(failure.code);
      return;
    }
    this.#abandon();
    this.#client.refuse(failure, this.#record, this.#head.method === "HEAD");
  }

  onClosed(): boolean {
    if (this.#over && !this.#leaving) return false;
    this.#leave("client-gone");
    // Not FIN, where the client half-closed inside of its own body: an answer that has begun would look complete.
    reset(this.#client.socket);
    return false;
  }

  #leave(close: string): void {
    this.#leaving = false;
    this.#stop?.();
    this.#abandon();
    this.#record.close = close;
    this.#client.handler = null;
    this.#client.finish(this.#record);
  }

  sweep(now: number): void {
    if (this.#leaving) {
      if (now - this.#active >= this.#entry!.settings.idleMs) this.abort("idle");
      return;
    }
    if (this.#entry === null || this.#upstream === null || now - this.#active < this.#entry.settings.idleMs) return;
    const seconds = this.#entry.settings.idleMs / 1000;
    this.#fail({ code: "timeout", reason: `${this.#record.target} was silent for ${seconds} s` });
  }

  /** At once: an answer that comes before the client's connection is gone must not bring the upstream back into the pool. */
  abort(close: string): void {
    if (this.#over && !this.#leaving) return;
    this.#leave(close);
    reset(this.#client.socket);
  }
}
