import type { Socket } from "node:net";
import { type Chained, connectVia } from "../egress/chain.ts";
import { type Destinations, decideTarget } from "../egress/decide-target.ts";
import { dial } from "../egress/dial.ts";
import { type Hop, namedHop, routesThrough } from "../egress/hop.ts";
import type { Head } from "../http/head.ts";
import { Held } from "../http/held.ts";
import { noteTrace } from "../http/trace.ts";
import type { AccessRecord } from "../outcome/access-record.ts";
import type { Failure } from "../outcome/refusals.ts";
import { type Address, formatAddress, parseAddress } from "../policy/cidr.ts";
import type { Target } from "../policy/target.ts";
import { adopt, UPSTREAM_ONREAD, type UpstreamSocket } from "../sockets/upstream.ts";
import type { Connection, Entry, Handler, OpenRequest } from "./handler.ts";

/**
 * Limit of the bytes that a client may send before its upstream is connected, such as a TLS ClientHello or a body; then
 * reading pauses.
 */
const MAX_EARLY_BYTES = 65_536;

/** The handler that relays a request. `early`: bytes that arrived before; `ended`: the client has half-closed. */
interface Relay extends Handler {
  begin(early: Buffer, ended: boolean): void;
}

/** The address of an upstream proxy that the request named; null for other connections, which need no system call. */
export const peerOf = (hop: Hop | null, socket: Socket): Address | null =>
  hop?.named ? parseAddress(socket.remoteAddress ?? "") : null;

type Connected = (socket: UpstreamSocket, request: OpenRequest, entry: Entry) => void;
type Serve = (destinations: Destinations, entry: Entry, hop: Hop | null) => boolean;

/** A request from its head to its upstream connection: enter, decide, resolve, vet, dial. */
export abstract class Reaching implements Handler {
  protected readonly client: Connection;
  protected readonly head: Head;
  protected readonly record: AccessRecord;
  readonly #early = new Held();
  /** The client half-closed. */
  #ended = false;
  /** Cancels the DNS lookup or the dial; without effect when they are done. */
  #stop: (() => void) | null = null;

  constructor(client: Connection, head: Head, record: AccessRecord) {
    this.client = client;
    this.head = head;
    this.record = record;
    noteTrace(head, record);
  }

  /** Reads the head. `rest`: the bytes behind it. */
  start(rest: Buffer): void {
    if (rest.length > 0) this.onData(rest);
    this.begin();
  }

  /** Continues with client bytes that another handler held. `ended`: the client has half-closed. */
  protected resume(held: Buffer, ended: boolean): void {
    this.#ended = ended;
    this.client.handOver(this);
    if (held.length > 0) this.onData(held);
  }

  /** Parses the head, and calls {@link reach} or answers. */
  protected abstract begin(): void;

  /**
   * Enters, decides and dials. `connected` calls {@link open}. `serve`: serves the request without a dial; false: it
   * cannot.
   */
  protected reach(target: Target, connected: Connected, serve: Serve = () => false): void {
    const { client, record } = this;
    const entry = client.enter(this.head, record);
    if ("code" in entry) {
      this.fail(entry);
      return;
    }
    // That of the server belongs to this policy: both change together.
    const hop = namedHop(this.head, entry.policy) ?? client.server.hop;
    if (hop !== null && "code" in hop) {
      this.fail(hop);
      return;
    }
    let stopDial: (() => void) | null = null;
    const stopLookup = decideTarget(entry.policy, client.server, entry.key, target, record, (result) => {
      const decided = hop?.named && !("code" in result) ? this.#through(hop, result) : result;
      if ("code" in decided) this.fail(decided);
      else if (!serve(decided, entry, hop)) stopDial = this.#dial(target, decided, { entry, hop }, connected);
    });
    this.#stop = () => (stopDial ?? stopLookup)();
  }

  /** The destinations through an upstream proxy that the request names: the gate is open where no proof is needed. */
  #through(hop: Hop, { addresses, routes }: Destinations): Destinations | Failure {
    const through = routesThrough(hop, routes);
    const { gate } = this.client.server;
    if (gate.entry(through) === null) return { addresses, routes: through };
    return { code: "unverified", reason: `source addresses through ${hop.shown} are not proven` };
  }

  #dial(
    target: Target,
    destinations: Destinations,
    { entry, hop }: { entry: Entry; hop: Hop | null },
    connected: Connected,
  ): () => void {
    const { client, record } = this;
    const { policy, settings } = entry;
    const { addresses, routes } = destinations;
    const dialled = performance.now();
    const done = (result: Chained | Failure) => {
      const opened = performance.now();
      record.connectMs = opened - dialled;
      if ("code" in result) {
        this.fail(result);
        return;
      }
      const { socket, address } = result;
      if (hop === null) adopt(socket);
      const route = (address === null ? (routes[4] ?? routes[6]) : routes[address.family])!;
      connected(socket, { record, target, address, hop, peer: peerOf(hop, socket), route, dialled, opened }, entry);
    };
    const options = { target, deadlineMs: settings.connectMs, onread: UPSTREAM_ONREAD };
    if (hop === null) return dial(addresses, { ...options, policy, shown: record.target, routes }, done);
    record.upstreamProxy = hop.shown;
    return connectVia(hop, destinations, { ...options, names: client.server.names, client: entry.key }, done);
  }

  /** The last check; then another handler relays the request. */
  protected open(socket: UpstreamSocket, request: OpenRequest, entry: Entry, makeRelay: () => Relay): void {
    if (request.address !== null) this.record.address = formatAddress(request.address);
    this.record.local = socket.localAddress ?? "";
    const refused = this.client.begin(entry, request);
    if (refused !== null) {
      socket.destroy();
      this.fail(refused);
      return;
    }
    const relay = makeRelay();
    this.client.handOver(relay);
    relay.begin(this.#early.take(), this.#ended);
  }

  onData(chunk: Buffer): void {
    this.#early.append(chunk);
    if (this.#early.length >= MAX_EARLY_BYTES) this.client.socket.pause();
    this.client.noteBuffered();
  }

  onEnd(): void {
    this.#ended = true;
  }

  onDrain(): void {
    this.client.noteBuffered();
  }

  /** Early bytes, bytes of earlier responses, and a large head. */
  buffered(): number {
    return this.#early.length + this.client.socket.writableLength + (this.head.large ?? 0);
  }

  onClosed(): boolean {
    this.abort("client-gone");
    return false;
  }

  sweep(): number {
    return Number.POSITIVE_INFINITY;
  }

  abort(close: string): void {
    this.#stop?.();
    this.record.close = close;
    this.client.cut(this.record);
  }

  protected fail(failure: Failure): void {
    this.#early.take();
    this.client.refuse(failure, this.record, this.head.method === "HEAD");
  }
}
