import { createServer, type Server, type Socket } from "node:net";
import type { Settings } from "../config/config.ts";
import type { Credentials } from "../config/credentials.ts";
import type { Names } from "../dns/names.ts";
import type { Gate } from "../egress/gate.ts";
import { type AccessRecord, formatRecord, type RecordWriter } from "../outcome/access-record.ts";
import { type Bound, countBound } from "../outcome/bounds.ts";
import { refusalBytes } from "../outcome/refusals.ts";
import { type CidrSet, parseAddress } from "../policy/cidr.ts";
import type { PolicySet } from "../policy/engine.ts";
import { KEEP_ALIVE_SECONDS, shareReadBuffer } from "../sockets/accept.ts";
import { clientAddress, onClientRead } from "../sockets/client.ts";
import { Pool } from "../sockets/pool.ts";
import { type Arrival, Arriving, type ArrivingServer } from "./arriving.ts";
import { Buffers } from "./buffers.ts";
import { ClientConnection, type ConnectionServer } from "./client-connection.ts";
import type { ProxySource } from "./proxy-header.ts";

const SWEEP_MS = 1000;
/** Limit of connections of one source address without a complete first head. Honest clients send theirs at once. */
const MAX_SILENT_PER_SOURCE = 256;
/**
 * A connection that has been silent, or without a request, for less than this is not closed in favour of another one: its
 * head, or the answer to it, may be on its way.
 */
const SILENT_GRACE_MS = 100;
const BACKLOG = 4096;

/** Dependencies of the server. */
interface ServerParts {
  settings: Settings;
  credentials: Credentials;
  names: Names;
  gate: Gate;
  /** Called for each record, with the duration of its request in milliseconds. */
  onRecord: (record: AccessRecord, ms: number) => void;
  writer: RecordWriter;
  readiness: "policy" | "verified";
  /** Limit of the bytes that the process buffers for slow peers. */
  bufferBytes: number;
  /** Sources that must send a PROXY header; absent: none. */
  proxyProtocolFrom?: CidrSet | undefined;
  /** A connection could not be accepted, mostly because no file descriptor was left. */
  onAcceptError: (error: NodeJS.ErrnoException) => void;
}

/** The accept loop and the state that all connections share: policy, credentials, names, gate, limits, records. */
export class ProxyServer implements ConnectionServer, ArrivingServer {
  #policy: PolicySet | null = null;
  #settings: Settings;
  #credentials: Credentials;
  /** Leaving: not ready, still serving. Draining: no new connections; open ones may end by themselves. */
  phase: "serving" | "leaving" | "draining" = "serving";
  readonly names: Names;
  readonly gate: Gate;
  readonly pool = new Pool();
  readonly #onRecord: ServerParts["onRecord"];
  readonly #readiness: "policy" | "verified";
  readonly #proxyProtocolFrom: CidrSet | undefined;
  readonly #clients = new Set<ClientConnection>();
  /** Connections whose PROXY header is not complete. */
  readonly #arriving = new Set<Arriving>();
  /**
   * Connections without a complete first head, the oldest first: all, and those of each source address. A source that must
   * send a PROXY header has no number of its own until the header names the client.
   */
  readonly #silent = new Set<ClientConnection | Arriving>();
  readonly #silentFrom = new Map<string, Set<ClientConnection>>();
  /** Connections between two requests, and answered ones whose client has yet to close; the longest time first. */
  readonly #resting = new Set<ClientConnection>();
  readonly buffers: Buffers;
  readonly #byClient = new Map<string, number>();
  readonly #server: Server;
  readonly #writer: RecordWriter;
  readonly #onAcceptError: (error: NodeJS.ErrnoException) => void;
  #active = 0;
  #sharedReads = false;
  #emptied: (() => void) | undefined;
  #sweeper: NodeJS.Timeout | undefined;

  constructor(parts: ServerParts) {
    this.#settings = parts.settings;
    this.#credentials = parts.credentials;
    this.names = parts.names;
    this.gate = parts.gate;
    this.#onRecord = parts.onRecord;
    this.#writer = parts.writer;
    this.#onAcceptError = parts.onAcceptError;
    this.#readiness = parts.readiness;
    this.#proxyProtocolFrom = parts.proxyProtocolFrom;
    this.buffers = new Buffers(parts.bufferBytes);
    this.#server = createServer(
      { allowHalfOpen: true, noDelay: true, keepAlive: true, keepAliveInitialDelay: KEEP_ALIVE_SECONDS * 1000 },
      (socket) => this.#accept(socket),
    );
  }

  get policy(): PolicySet | null {
    return this.#policy;
  }

  get settings(): Settings {
    return this.#settings;
  }

  get credentials(): Credentials {
    return this.#credentials;
  }

  get now(): number {
    return performance.now();
  }

  /** Puts a policy in force for every later request. Open requests and tunnels that it denies are reset (`revoked`). */
  install(policy: PolicySet, settings: Settings, credentials: Credentials): void {
    this.#policy = policy;
    this.#settings = settings;
    this.#credentials = credentials;
    for (const client of this.#clients) client.revoke();
  }

  /**
   * Resets connections that were opened on an egress path between two moments (monotonic ms), since they may have left
   * from a wrong address (`unproven`).
   */
  endUnproven(route: string, since: number, until: number): void {
    for (const client of this.#clients) client.endUnproven(route, since, until);
    this.pool.close();
  }

  /** Why this proxy should get no traffic; null: it is ready. */
  unready(): string | null {
    if (this.phase !== "serving") return "draining";
    if (this.#policy === null) return "no policy";
    return this.#readiness === "verified" ? this.gate.unready() : null;
  }

  /** Numbers of counted requests and tunnels, and of connections. */
  get counts(): { active: number; connections: number; bufferedBytes: number; recordsDropped: number } {
    const { bytes: bufferedBytes } = this.buffers;
    const connections = this.#open;
    return { active: this.#active, connections, bufferedBytes, recordsDropped: this.#writer.dropped };
  }

  /** Number of connections. */
  get #open(): number {
    return this.#clients.size + this.#arriving.size;
  }

  /** An empty host means all addresses: IPv6 and IPv4, or IPv4 where the machine has no other. `reusePort`: other processes may share the port. @throws the listen error */
  listen(host: string, port: number, reusePort: boolean): Promise<{ address: string; port: number }> {
    return new Promise((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen({ host, port, reusePort, backlog: BACKLOG }, () => {
        this.#server.removeListener("error", reject);
        this.#server.on("error", this.#onAcceptError);
        this.#sharedReads = shareReadBuffer(this.#server, onClientRead);
        // Behind the I/O of this turn: bytes that arrived during a long turn count before a time limit does.
        this.#sweeper = setInterval(() => setImmediate(() => this.#sweep()), SWEEP_MS);
        resolve(this.#server.address() as { address: string; port: number });
      });
    });
  }

  #accept(socket: Socket): void {
    // Reset before it was accepted: the client expects no answer, and limits need its address.
    if (socket.remoteAddress === undefined) {
      socket.destroy();
      return;
    }
    if (this.#open >= this.settings.maxConnections && !this.#makeRoom()) {
      this.#turnAway(socket);
      return;
    }
    if (!this.#mustSendHeader(socket)) {
      this.#serve(socket, null, this.now);
      return;
    }
    const arriving = new Arriving(socket, this, this.#sharedReads, (one, arrival) => this.#arrive(one, arrival));
    this.#arriving.add(arriving);
    this.#silent.add(arriving);
  }

  /** Whether the peer of a connection is a load balancer that sends a PROXY header. */
  #mustSendHeader(socket: Socket): boolean {
    if (this.#proxyProtocolFrom === undefined) return false;
    const [withoutZone] = clientAddress(socket).split("%") as [string];
    const address = parseAddress(withoutZone);
    return address !== null && this.#proxyProtocolFrom.has(address);
  }

  /** The PROXY header of a connection is complete, or the reason to refuse it is known. */
  #arrive(arriving: Arriving, arrival: Arrival): void {
    const refused = "refusal" in arrival;
    const client = this.#serve(arriving.socket, refused ? null : arrival.source, arriving.accepted);
    // Only now: without any connection a drain would end.
    this.lost(arriving);
    if (refused) client.refuseHeader(arrival.bytes, arrival.refusal);
    else if (arrival.rest.length > 0) client.data(arrival.rest);
  }

  lost(arriving: Arriving): void {
    this.#arriving.delete(arriving);
    this.#silent.delete(arriving);
    this.buffers.forget(arriving);
    this.#noteEmpty();
  }

  #serve(socket: Socket, source: ProxySource | null, accepted: number): ClientConnection {
    const client = new ClientConnection(socket, this, this.#sharedReads, source, accepted);
    this.#clients.add(client);
    this.#silent.add(client);
    const peers = this.#silentFrom.get(client.from);
    if (peers === undefined) this.#silentFrom.set(client.from, new Set([client]));
    else {
      peers.add(client);
      this.#trim(peers);
    }
    return client;
  }

  /** Closes a connection without a request under way, a silent one first; false: there is none. */
  #makeRoom(): boolean {
    const [silent] = this.#silent;
    if (silent !== undefined && this.#evict(silent, silent.accepted, "silent-connections")) return true;
    const [resting] = this.#resting;
    return resting !== undefined && this.#evict(resting, resting.since, "resting-connections");
  }

  /** Closes silent connections of one source address, the oldest first, until its limit is met. */
  #trim(peers: ReadonlySet<ClientConnection>): void {
    for (const oldest of peers) {
      if (peers.size <= MAX_SILENT_PER_SOURCE) return;
      if (!this.#evict(oldest, oldest.accepted, "connections-per-source")) return;
    }
  }

  /** Closes a connection in favour of another one; false when it is in its state since too short a time. */
  #evict(client: ClientConnection | Arriving, since: number, bound: Bound): boolean {
    if (this.now - since < SILENT_GRACE_MS) return false;
    countBound(bound);
    if (client instanceof Arriving) this.#silent.delete(client);
    else {
      this.spoke(client);
      this.#resting.delete(client);
    }
    client.socket.destroy();
    return true;
  }

  #turnAway(socket: Socket): void {
    countBound("connections");
    const failure = { code: "overloaded", reason: "too many connections to this proxy" } as const;
    const options = { policy: this.policy?.document.policy ?? "", denyStatus: this.settings.denyStatus, head: false };
    socket.on("error", () => socket.destroy());
    socket.end(refusalBytes(failure, options), "latin1", () => socket.destroy());
  }

  /** A connection has sent its first head or is closed: it no longer counts as silent. */
  spoke(client: ClientConnection): void {
    if (!this.#silent.delete(client)) return;
    const peers = this.#silentFrom.get(client.from)!;
    peers.delete(client);
    if (peers.size === 0) this.#silentFrom.delete(client.from);
  }

  /** A connection waits for its next request, or for its client to close it. */
  rests(client: ClientConnection): void {
    this.#resting.add(client);
  }

  /** A request is under way again. */
  woke(client: ClientConnection): void {
    this.#resting.delete(client);
  }

  forget(client: ClientConnection): void {
    this.#clients.delete(client);
    this.#resting.delete(client);
    this.buffers.forget(client);
    this.#noteEmpty();
  }

  #noteEmpty(): void {
    if (this.#open === 0) this.#emptied?.();
  }

  /** Counts one request or tunnel of a client; returns a sentence when a limit forbids it. */
  acquire(key: string): string | null {
    if (this.#active >= this.settings.maxTunnels) return `this proxy has ${this.#active} tunnels, its limit`;
    const { maxTunnelsPerClient } = this.settings;
    const mine = this.#byClient.get(key) ?? 0;
    if (maxTunnelsPerClient > 0 && mine >= maxTunnelsPerClient) return `this client has ${mine} tunnels, its limit`;
    this.#active++;
    this.#byClient.set(key, mine + 1);
    return null;
  }

  release(key: string): void {
    this.#active--;
    const mine = (this.#byClient.get(key) ?? 1) - 1;
    if (mine === 0) this.#byClient.delete(key);
    else this.#byClient.set(key, mine);
  }

  record(record: AccessRecord): void {
    const now = Date.now();
    this.#onRecord(record, now - record.started);
    const { accessLog } = this.settings;
    if (accessLog === "none") return;
    if (accessLog === "denied" && record.verdict === "allow" && record.wouldDeny === undefined) return;
    this.#writer.write(formatRecord(record, now));
  }

  #sweep(): void {
    const { now } = this;
    for (const arriving of this.#arriving) arriving.sweep(now);
    for (const client of this.#clients) client.sweep(now);
    for (const peers of this.#silentFrom.values()) this.#trim(peers);
    this.buffers.sweep();
    this.pool.sweep(now);
  }

  /** Stops accepting connections; resolves when all open ones have ended by themselves. */
  drain(): Promise<void> {
    this.phase = "draining";
    this.#server.close();
    for (const client of this.#clients) client.drain();
    return new Promise((resolve) => {
      if (this.#open === 0) resolve();
      else this.#emptied = resolve;
    });
  }

  /** Resets all open connections (record: `drain`) and resolves when every connection is closed. */
  async close(): Promise<void> {
    const drained = this.drain();
    for (const { socket } of this.#arriving) socket.destroy();
    for (const client of this.#clients) client.abort();
    this.pool.close();
    this.names.close();
    await drained;
    clearInterval(this.#sweeper);
  }
}
