import { decideTarget, type Vetted } from "../egress/decide-target.ts";
import { dial } from "../egress/dial.ts";
import { type BodyReader, ChunkedBody, chunkHeader, LengthBody } from "../http/body.ts";
import { bindsConnection, maxForwards, requestHead } from "../http/fields.ts";
import type { Head } from "../http/head.ts";
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
import { ResponseRelay } from "./response-relay.ts";

/** Limit of the client bytes that are held until the upstream can take them; then reading from the client pauses. */
const MAX_HELD_BYTES = 65_536;
/**
 * Limit of the lines of a chunked body, and of the fields of interim heads, in one read (64 KiB) of a connection.
 * Beyond it the connection waits for the next turn of the event loop (`turns.ts`). A flood of tiny chunks thus delays
 * other connections by a few reads, not by all data that the kernel holds.
 */
const MAX_LINES_PER_TURN = 128;
const NOTHING = Buffer.alloc(0);

/**
 * One absolute-form request and its response (RFC 9112 §3.2.2). Each request is decided independently of earlier ones.
 */
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
  /** Client bytes that arrived before the upstream was connected, or behind this request. */
  readonly #held = new Held();
  /** How often an OPTIONS or TRACE may still be forwarded; null: no such limit. */
  #forwards: number | null = null;
  /** The client half-closed. */
  #ended = false;
  readonly #response: ResponseRelay;
  #close: boolean;
  #active: number;
  #over = false;
  /** The response is written completely, but the client has not read all of it. */
  #leaving = false;

  constructor(client: Connection, head: Head) {
    this.#client = client;
    this.#head = head;
    this.#record = client.newRecord("http", "");
    this.#request = head.chunked ? new ChunkedBody() : new LengthBody(head.contentLength ?? 0);
    this.#close = !head.keepAlive || head.minor === 0;
    this.#active = client.server.now;
    this.#response = new ResponseRelay(head, this.#record, this.#toClient, {
      via: () => client.server.settings.via,
      closes: () => this.#closesAfterResponse(),
    });
  }

  #closesAfterResponse(): boolean {
    // A client that half-closed may have sent more requests before.
    const hasEnded = this.#ended && this.#held.length === 0;
    return this.#close || !this.#request.done || hasEnded || this.#client.server.phase !== "serving";
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
    const drop = decideTarget(entry.policy, client.server, absolute.target, this.#record, (vetted) => {
      if ("code" in vetted) this.#fail(vetted);
      else this.#reach(absolute, vetted, entry);
    });
    this.#stop ??= drop;
  }

  #reach(absolute: AbsoluteTarget, { addresses, routes }: Vetted, entry: Entry): void {
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
      const request = { record: this.#record, target, address, route: routes[address.family]!, dialled, opened };
      const closed = this.#client.begin(entry, request);
      if (closed === null) this.#send(socket, address, absolute);
      else this.#fail(closed);
    };
    const keyOf = (address: Address) => `${shown} ${formatAddress(address)} ${routes[address.family]!.key}`;
    for (const address of addresses) {
      const key = keyOf(address);
      const pooled = pool.take(key, this.#client);
      if (pooled === null) continue;
      this.#reused = true;
      this.#bound = pooled.bound;
      this.#stop = () => {};
      // The pool has only connections whose source was proven before; it drops all others.
      use(pooled.socket, address, key, Number.POSITIVE_INFINITY, pooled.opened);
      return;
    }
    const began = performance.now();
    const { connectMs: deadlineMs } = entry.settings;
    const options = {
      target: absolute.target,
      policy: entry.policy,
      deadlineMs,
      shown,
      routes,
      onread: UPSTREAM_ONREAD,
    };
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
    // RFC 9112 §3.2.4: an OPTIONS without a path addresses the server itself.
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

  /** Bytes that wait for the upstream, or that either side has not read yet. */
  buffered(): number {
    return this.#held.length + this.#client.socket.writableLength + (this.#upstream?.writableLength ?? 0);
  }

  /** Resumes reading from the client, unless there is no room for its bytes. */
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
    if (this.#over && !this.#leaving) return;
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

  /** A client that half-closes waits for its response. Its bytes may still be held until the upstream is connected. */
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

  upstreamRead(length: number): boolean {
    this.#active = this.#client.server.now;
    const { lines } = this.#response;
    const state = this.#response.feed(copyOut(length));
    // The response has begun: only a reset can report the failure (RFC 9112 §8).
    if (state === "broken") this.#cut("upstream-broken");
    else if (state === "complete") this.#complete();
    else if (state !== null) this.#fail(state);
    this.#flushDown();
    if (this.#over || this.#response.lines - lines <= MAX_LINES_PER_TURN) return true;
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

  upstreamEnd(): void {
    if (this.#over) return;
    if (this.#response.endsWithUpstream) {
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
    if (this.#response.begun) {
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
    this.#close ||= this.#response.closes;
    if (this.#response.keepsUpstream && this.#request.done) {
      const owner = this.#bound || this.#response.bindsConnection ? this.#client : undefined;
      server.pool.put(this.#poolKey, upstream, { opened: this.#opened, now: server.now, owner });
    } else upstream.destroy();
    const { socket } = this.#client;
    if (socket.writableNeedDrain || (this.#close && socket.writableLength > 0)) this.#awaitClient();
    else this.#depart();
  }

  /**
   * Waits until the client has taken its response. Then the connection is closed, or its next request is read, so that
   * a client that sends requests and does not read cannot pile up responses. It stays counted, and bounded by idle time.
   */
  #awaitClient(): void {
    this.#leaving = true;
    this.#client.socket.write(NOTHING, (error) => {
      // With an error the connection is gone, and its close follows.
      if (this.#leaving && !error) this.#depart();
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
    // The half-close also applies to the request behind this one, or to the idle connection.
    if (this.#ended) this.#client.end();
  }

  /** Ends it and its upstream connection. */
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
    if (this.#response.begun) {
      this.#cut(failure.code);
      return;
    }
    this.#abandon();
    this.#client.refuse(failure, this.#record, this.#head.method === "HEAD");
  }

  onClosed(): boolean {
    if (this.#over && !this.#leaving) return false;
    this.#leave("client-gone");
    // Not FIN if the client half-closed inside its own body: an answer that has begun would look complete.
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

  /**
   * Immediately: an answer that comes before the client's connection is closed must not return the upstream to the
   * pool.
   */
  abort(close: string): void {
    if (this.#over && !this.#leaving) return;
    this.#leave(close);
    reset(this.#client.socket);
  }
}
