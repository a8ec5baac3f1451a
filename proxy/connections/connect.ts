import { decideTarget, type Vetted } from "../egress/decide-target.ts";
import { dial } from "../egress/dial.ts";
import type { Head } from "../http/head.ts";
import { Held } from "../http/held.ts";
import type { AccessRecord } from "../outcome/access-record.ts";
import type { Failure } from "../outcome/refusals.ts";
import { formatAddress } from "../policy/cidr.ts";
import { formatTarget, parseAuthority, type Target } from "../policy/target.ts";
import { reset } from "../sockets/reset.ts";
import { UPSTREAM_ONREAD, type UpstreamSocket } from "../sockets/upstream.ts";
import type { Connection, Entry, Handler, OpenRequest } from "./handler.ts";
import { Tunnel } from "./tunnel.ts";

/** The whole success answer: senders and their libraries compare little else (RFC 9110 §9.3.6). */
const ESTABLISHED = Buffer.from("HTTP/1.1 200 Connection established\r\n\r\n");
/** Limit of the bytes that a client may send before its answer, such as a TLS ClientHello; then reading pauses. */
const MAX_EARLY_BYTES = 65_536;

/** A CONNECT from its head to its tunnel: decide, dial, answer 200, relay. */
export class Connect implements Handler {
  readonly #client: Connection;
  readonly #head: Head;
  readonly #record: AccessRecord;
  readonly #early = new Held();
  #ended = false;
  /** Cancels the DNS lookup or the dial. */
  #stop: (() => void) | null = null;

  constructor(client: Connection, head: Head) {
    this.#client = client;
    this.#head = head;
    this.#record = client.newRecord("connect", head.target);
  }

  start(rest: Buffer): void {
    const client = this.#client;
    const head = this.#head;
    if (rest.length > 0) this.onData(rest);
    const target = parseAuthority(head.target);
    if (target === null) {
      this.#fail({ code: "bad-request", reason: "the CONNECT target is not host:port" });
      return;
    }
    this.#record.target = formatTarget(target);
    const entry = client.enter(head, this.#record);
    if ("code" in entry) {
      this.#fail(entry);
      return;
    }
    const drop = decideTarget(entry.policy, client.server, target, this.#record, (vetted) => {
      if ("code" in vetted) this.#fail(vetted);
      else this.#reach(target, vetted, entry);
    });
    // The callback may have run already, and `#reach` has set the way to cancel its dial.
    this.#stop ??= drop;
  }

  #reach(target: Target, { addresses, routes }: Vetted, entry: Entry): void {
    const began = performance.now();
    const options = {
      target,
      policy: entry.policy,
      deadlineMs: entry.settings.connectMs,
      shown: this.#record.target,
      onread: UPSTREAM_ONREAD,
      routes,
    };
    this.#stop = dial(addresses, options, (result) => {
      const opened = performance.now();
      this.#record.connectMs = opened - began;
      if ("code" in result) {
        this.#fail(result);
        return;
      }
      const { socket, address } = result;
      const request = { record: this.#record, target, address, route: routes[address.family]!, dialled: began, opened };
      this.#open(socket, request, entry);
    });
  }

  /** The upstream is connected: the last check, the 200, and the tunnel. */
  #open(upstream: UpstreamSocket, request: OpenRequest, entry: Entry): void {
    const client = this.#client;
    this.#record.address = formatAddress(request.address);
    this.#record.local = upstream.localAddress ?? "";
    const closed = client.begin(entry, request);
    if (closed !== null) {
      upstream.destroy();
      this.#fail(closed);
      return;
    }
    const tunnel = new Tunnel(client, upstream, this.#record, entry.settings.idleMs, client.server.now);
    client.handler = tunnel;
    client.socket.write(ESTABLISHED);
    const early = this.#early.take();
    if (early.length > 0) tunnel.onData(early);
    if (this.#ended) tunnel.onEnd();
    else if (early.length >= MAX_EARLY_BYTES && !upstream.writableNeedDrain) client.socket.resume();
  }

  onData(chunk: Buffer): void {
    this.#early.append(chunk);
    if (this.#early.length >= MAX_EARLY_BYTES) this.#client.socket.pause();
    this.#client.noteBuffered();
  }

  /** Bytes that wait for the tunnel. */
  buffered(): number {
    return this.#early.length;
  }

  /** Half-closed early: the tunnel passes it on. */
  onEnd(): void {
    this.#ended = true;
  }

  onDrain(): void {}

  onClosed(): boolean {
    this.#stop?.();
    this.#record.close ??= "client-gone";
    this.#client.finish(this.#record);
    return false;
  }

  sweep(): void {}

  abort(close: string): void {
    this.#stop?.();
    this.#record.close = close;
    reset(this.#client.socket);
  }

  #fail(failure: Failure): void {
    this.#early.take();
    this.#client.refuse(failure, this.#record, false);
  }
}
