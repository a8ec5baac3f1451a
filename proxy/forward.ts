import { Batch } from "./batch.ts";
import { type BodyReader, ChunkedBody, chunkHeader, LengthBody, UntilClose } from "./body.ts";
import type { Client, Entry, Handler } from "./client.ts";
import { decideTarget, type Route } from "./decide.ts";
import { dial } from "./dial.ts";
import type { Failure } from "./errors.ts";
import { requestHead, responseHead } from "./fields.ts";
import { type Head, type ResponseHead, ResponseHeadParser } from "./head.ts";
import { type Address, formatAddress } from "./policy/cidr.ts";
import { type AbsoluteTarget, formatTarget, parseAbsolute } from "./policy/target.ts";
import { copyOut } from "./read-buffer.ts";
import type { Record } from "./record.ts";
import { adopt, UPSTREAM_ONREAD, type UpstreamOwner, type UpstreamSocket } from "./upstream.ts";

/** Client bytes that are held while nobody can take them; then the client is paused. */
const MAX_HELD_BYTES = 65_536;

/** One absolute-form request and its response (RFC 9112 §3.2.2): decided by itself, whatever came before it. */
export class Exchange implements Handler, UpstreamOwner {
  readonly #client: Client;
  readonly #head: Head;
  readonly #record: Record;
  readonly #request: BodyReader;
  #stop: (() => void) | null = null;
  #entry: Entry | null = null;
  #upstream: UpstreamSocket | null = null;
  readonly #toUpstream = new Batch();
  readonly #toClient = new Batch();
  #poolKey = "";
  #opened = 0;
  #reused = false;
  /** Client bytes that came before the upstream was there, or behind this request. */
  #held: Buffer[] = [];
  #heldBytes = 0;
  #parser: ResponseHeadParser | null = new ResponseHeadParser();
  #response: ResponseHead | null = null;
  #body: BodyReader | null = null;
  #chunked = false;
  #close: boolean;
  #active: number;
  #over = false;

  constructor(client: Client, head: Head) {
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
      const pooled = pool.take(key);
      if (pooled === null) continue;
      this.#reused = true;
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
    this.#toUpstream.add(requestHead(this.#head, absolute.path, absolute.authority, via));
    const held = this.#held;
    const paused = this.#heldBytes >= MAX_HELD_BYTES;
    this.#held = [];
    this.#heldBytes = 0;
    for (const chunk of held) this.#take(chunk);
    this.#flushUp();
    if (paused && !this.#over && this.#held.length === 0) this.#client.socket.resume();
  }

  #hold(chunk: Buffer): void {
    this.#held.push(chunk);
    this.#heldBytes += chunk.length;
    if (this.#heldBytes >= MAX_HELD_BYTES) this.#client.socket.pause();
  }

  onData(chunk: Buffer): void {
    this.#take(chunk);
    this.#flushUp();
  }

  #flushUp(): void {
    const upstream = this.#upstream;
    if (this.#over || upstream === null || !upstream.writable) return;
    if (!this.#toUpstream.flush(upstream)) this.#client.socket.pause();
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

  /** A client that half-closes waits for its response. */
  onEnd(): void {
    this.#close = true;
    if (!this.#request.done) this.onClosed();
  }

  onDrain(): void {
    this.#upstream?.resume();
  }

  upstreamDrained(): void {
    if (!this.#request.done) this.#client.socket.resume();
  }

  upstreamRead(length: number): boolean {
    this.#active = this.#client.server.now;
    this.#takeResponse(copyOut(length));
    this.#flushDown();
    return true;
  }

  #flushDown(): void {
    const { socket } = this.#client;
    if (socket.writable && !this.#toClient.flush(socket)) this.#upstream?.pause();
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
    const { via } = this.#client.server.settings;
    if (head.status < 200) {
      this.#parser = new ResponseHeadParser();
      if (this.#head.minor === 1) this.#toClient.add(responseHead(head, { chunked: false, close: false, via }));
      return true;
    }
    this.#parser = null;
    this.#response = head;
    const bodiless = this.#head.method === "HEAD" || head.status === 204 || head.status === 304;
    if (bodiless) this.#body = new LengthBody(0);
    else if (head.chunked) this.#body = new ChunkedBody();
    else if (head.contentLength !== undefined) this.#body = new LengthBody(head.contentLength);
    else {
      this.#body = new UntilClose();
      this.#close = true;
    }
    if (!this.#request.done) this.#close = true;
    this.#chunked = head.chunked && this.#head.minor === 1 && !(bodiless && this.#head.method !== "HEAD");
    const close = this.#close || this.#client.server.phase !== "serving";
    this.#close = close;
    this.#toClient.add(responseHead(head, { chunked: this.#chunked, close, via }));
    if (this.#body.done) {
      // Bytes that no response owns: nobody may meet them later.
      if (rest.length > 0) head.keepAlive = false;
      this.#complete();
      return false;
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
    if (rest.length > 0) this.#response!.keepAlive = false;
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
    if (this.#response!.keepAlive && this.#request.done && !(this.#body instanceof UntilClose)) {
      server.pool.put(this.#poolKey, upstream, this.#opened, server.now);
    } else upstream.destroy();
    this.#record.close = "complete";
    this.#client.finish(this.#record);
    if (this.#close) this.#client.farewell();
    else this.#client.next(Buffer.concat(this.#held));
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
    this.#client.socket.resetAndDestroy();
  }

  #fail(failure: Failure): void {
    if (this.#response !== null) {
      this.#cut(failure.code);
      return;
    }
    this.#abandon();
    this.#client.refuse(failure, this.#record, this.#head.method === "HEAD");
  }

  onClosed(): void {
    if (this.#over) return;
    this.#leave("client-gone");
    this.#client.socket.destroy();
  }

  #leave(close: string): void {
    this.#stop?.();
    this.#abandon();
    this.#record.close = close;
    this.#client.handler = null;
    this.#client.finish(this.#record);
  }

  sweep(now: number): void {
    if (this.#entry === null || this.#upstream === null || now - this.#active < this.#entry.settings.idleMs) return;
    const seconds = this.#entry.settings.idleMs / 1000;
    this.#fail({ code: "timeout", reason: `${this.#record.target} was silent for ${seconds} s` });
  }

  /** At once: an answer that comes before the client's connection is gone must not bring the upstream back into the pool. */
  abort(close: string): void {
    if (this.#over) return;
    this.#leave(close);
    this.#client.socket.resetAndDestroy();
  }
}
