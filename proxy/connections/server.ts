import { createServer, type Server, type Socket } from "node:net";
import type { TLSSocket } from "node:tls";
import { formatHostPort } from "../cli/options.ts";
import { OPEN } from "../config/authentication.ts";
import type { Settings } from "../config/config.ts";
import type { Credentials } from "../config/credentials.ts";
import type { Names } from "../dns/names.ts";
import type { Gate } from "../egress/gate.ts";
import type { Hop } from "../egress/hop.ts";
import { type AccessRecord, formatRecord, type RecordWriter } from "../outcome/access-record.ts";
import { type Bound, countBound } from "../outcome/bounds.ts";
import { ClientCounts } from "../outcome/client-counts.ts";
import { refusalBytes } from "../outcome/refusals.ts";
import { type CidrSet, parseAddress } from "../policy/cidr.ts";
import type { Authentication } from "../policy/clients.ts";
import type { PolicySet } from "../policy/engine.ts";
import { KEEP_ALIVE_SECONDS, shareReadBuffer } from "../sockets/accept.ts";
import { clientAddress, onClientRead } from "../sockets/client.ts";
import { Pool } from "../sockets/pool.ts";
import { type ClientCertificate, type ClientName, readClientCertificate } from "../tls/client-certificate.ts";
import type { ClientTrust } from "../tls/client-trust.ts";
import { Handshakes } from "../tls/handshakes.ts";
import type { ServerIdentity } from "../tls/server-identity.ts";
import { Buffers } from "./buffers.ts";
import { ClientConnection, type ConnectionServer, type Port } from "./client-connection.ts";
import { LinkedList } from "./linked-list.ts";
import { Rates } from "./rates.ts";
import { Visits } from "./visits.ts";

const SWEEP_MS = 1000;
/** Limit of the connections that a sweep visits in one turn of the event loop. */
const VISITS_PER_TURN = 256;
/** Limit of connections of one source address without a complete first head. Honest clients send theirs at once. */
const MAX_SILENT_PER_SOURCE = 256;
/**
 * A connection that has been silent, or without a request, for less than this is not closed in favour of another one: its
 * head, or the answer to it, may be on its way.
 */
const SILENT_GRACE_MS = 100;
/** Keys without a value that stay in a map by source address or client: removed and added again, they cost more. */
const KEPT_KEYS = 1024;
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
  /** Clients of the external port; absent: there is no such port. With it, only this port expects a PROXY header. */
  externalFrom?: CidrSet | undefined;
  /** A connection could not be accepted, mostly because no file descriptor was left. */
  onAcceptError: (error: NodeJS.ErrnoException) => void;
  /** A TLS handshake failed, or its client certificate is refused. */
  onHandshakeError?: (client: string, reason: string) => void;
}

/** An address to listen on. An empty host means all addresses: IPv6 and IPv4, or IPv4 where the machine has no other. */
interface ListenOptions {
  host: string;
  port: number;
  /** Other processes may share the port. */
  reusePort: boolean;
}

interface ListenAddress {
  address: string;
  port: number;
}

/** Options of all listeners. */
const SOCKET_OPTIONS = {
  allowHalfOpen: true,
  noDelay: true,
  keepAlive: true,
  keepAliveInitialDelay: KEEP_ALIVE_SECONDS * 1000,
};

/** A port for TLS. */
type TlsPort = Exclude<Port, "plain">;

/** Whether a set has the address of a peer, which may have a zone. */
function hasAddress(set: CidrSet, from: string): boolean {
  const [withoutZone] = from.split("%") as [string];
  const address = parseAddress(withoutZone);
  return address !== null && set.has(address);
}

/** The accept loop and the state that all connections share: policy, credentials, names, gate, limits, records. */
export class ProxyServer implements ConnectionServer {
  #policy: PolicySet | null = null;
  #settings: Settings;
  #credentials: Credentials;
  #authentication: Authentication = OPEN;
  #hop: Hop | null = null;
  /** Leaving: not ready, still serving. Draining: no new connections; open ones may end by themselves. */
  phase: "serving" | "leaving" | "draining" = "serving";
  readonly names: Names;
  readonly gate: Gate;
  readonly pool = new Pool();
  readonly rates = new Rates();
  readonly clientCounts = new ClientCounts();
  readonly #onRecord: ServerParts["onRecord"];
  readonly #readiness: "policy" | "verified";
  readonly #proxyProtocolFrom: CidrSet | undefined;
  readonly #externalFrom: CidrSet | undefined;
  readonly #clients = new Visits<ClientConnection>(this.now);
  /**
   * Connections without a complete first head, the oldest first: all, and those of each source address. A source that must
   * send a PROXY header has no number of its own until the header names the client.
   */
  readonly #silent = new LinkedList<ClientConnection>();
  readonly #silentFrom = new Map<string, LinkedList<ClientConnection>>();
  /** Those of source addresses with too many. */
  readonly #crowds = new Set<LinkedList<ClientConnection>>();
  /** Connections between two requests, and answered ones whose client has yet to close; the longest time first. */
  readonly #resting = new LinkedList<ClientConnection>();
  readonly buffers: Buffers;
  readonly #byClient = new Map<string, number>();
  /** The listeners. Those for TLS listen only if they are configured. */
  readonly #servers: Readonly<Record<Port, Server>>;
  #handshakes: Handshakes | null = null;
  #trust: ClientTrust | null = null;
  #clientName: ClientName = "cn";
  /** Handshakes by their result. */
  readonly handshakes = { ok: 0, failed: 0, refused: 0 };
  readonly #onHandshakeError: NonNullable<ServerParts["onHandshakeError"]>;
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
    this.#externalFrom = parts.externalFrom;
    this.buffers = new Buffers(parts.bufferBytes);
    this.#onHandshakeError = parts.onHandshakeError ?? (() => {});
    const serverOf = (port: Port) => createServer(SOCKET_OPTIONS, (socket) => this.#accept(socket, port));
    this.#servers = { plain: serverOf("plain"), tls: serverOf("tls"), external: serverOf("external") };
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

  get authentication(): Authentication {
    return this.#authentication;
  }

  /** The client CAs; null: clients need no certificate. */
  get trust(): ClientTrust | null {
    return this.#trust;
  }

  get hop(): Hop | null {
    return this.#hop;
  }

  get now(): number {
    return performance.now();
  }

  /**
   * Uses this upstream proxy for later connections; null: they are direct. Those that went another way are ended. Call
   * it right before the {@link install} of its policy.
   */
  useHop(hop: Hop | null): void {
    const changed = hop?.key !== this.#hop?.key;
    this.#hop = hop;
    if (!changed) return;
    this.pool.close();
    for (const client of this.#clients) client.revoke();
  }

  /** Puts a policy in force for every later request. Open requests and tunnels that it denies are reset (`revoked`). */
  install(policy: PolicySet, settings: Settings, credentials: Credentials, authentication: Authentication): void {
    this.#policy = policy;
    this.clientCounts.use(policy);
    this.#settings = settings;
    this.#credentials = credentials;
    this.#authentication = authentication;
    for (const client of this.#clients) client.revoke();
  }

  /**
   * Uses these certificates for all later handshakes. Open requests and connections whose client certificate is no longer
   * valid are ended.
   */
  useTls(identity: ServerIdentity, trust: ClientTrust | null, clientName: ClientName): void {
    this.#trust = trust;
    this.#clientName = clientName;
    if (this.#handshakes === null) this.#handshakes = new Handshakes(identity, trust);
    else this.#handshakes.use(identity, trust);
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
    const connections = this.#clients.size;
    return { active: this.#active, connections, bufferedBytes, recordsDropped: this.#writer.dropped };
  }

  /** Numbers of open tunnels and requests by entry of the policy. */
  get clientTunnels(): ReadonlyMap<string, number> {
    const counts = new Map(Array.from(this.#policy?.views?.keys() ?? [], (name) => [name, 0]));
    if (counts.size === 0) return counts;
    for (const { entry } of this.#clients) {
      const count = entry === null ? undefined : counts.get(entry);
      if (count !== undefined) counts.set(entry!, count + 1);
    }
    return counts;
  }

  /** @throws the listen error */
  async listen(options: ListenOptions): Promise<ListenAddress> {
    const { plain } = this.#servers;
    const at = await this.#listen(plain, options);
    this.#sharedReads = shareReadBuffer(plain, onClientRead);
    // Behind the I/O of this turn: bytes that arrived during a long turn count before a time limit does.
    this.#sweeper = setInterval(() => setImmediate(() => this.#sweep()), SWEEP_MS);
    return at;
  }

  /** Listens for TLS connections, after {@link useTls}. @throws the listen error */
  listenTls(port: TlsPort, options: ListenOptions): Promise<ListenAddress> {
    return this.#listen(this.#servers[port], options);
  }

  #listen(server: Server, options: ListenOptions): Promise<ListenAddress> {
    return new Promise((resolve, reject) => {
      server.once("error", reject);
      server.listen({ ...options, backlog: BACKLOG }, () => {
        server.removeListener("error", reject);
        server.on("error", this.#onAcceptError);
        resolve(server.address() as ListenAddress);
      });
    });
  }

  #accept(socket: Socket, port: Port): void {
    // Reset before it was accepted: the client expects no answer, and limits need its address.
    if (socket.remoteAddress === undefined) {
      socket.destroy();
      return;
    }
    const header = this.#mustSendHeader(socket, port);
    // Before the limits: a stranger takes no place of a client.
    if (port === "external" && !header && !this.#admitsPeer(socket)) {
      socket.destroy();
      return;
    }
    if (this.#clients.size >= this.settings.maxConnections && !this.#makeRoom()) {
      this.#turnAway(socket, port);
      return;
    }
    const sharedReads = port === "plain" && this.#sharedReads;
    const client = new ClientConnection(socket, this, { sharedReads, header, port });
    this.#clients.add(client, client.accepted + this.settings.headMs);
    client.silentPlace = this.#silent.add(client);
    if (!header) this.identified(client);
  }

  /** Whether the peer of a connection is a load balancer that sends a PROXY header. */
  #mustSendHeader(socket: Socket, port: Port): boolean {
    if (this.#proxyProtocolFrom === undefined) return false;
    if (this.#externalFrom !== undefined && port !== "external") return false;
    return hasAddress(this.#proxyProtocolFrom, clientAddress(socket));
  }

  #admitsPeer(socket: Socket): boolean {
    const from = clientAddress(socket);
    return this.admits(from, formatHostPort(from, socket.remotePort ?? 0));
  }

  admits(from: string, source: string): boolean {
    if (hasAddress(this.#externalFrom!, from)) return true;
    this.handshakes.refused++;
    this.#onHandshakeError(source, "the address of the client is not in --external-from");
    return false;
  }

  identified(client: ClientConnection): void {
    let peers = this.#silentFrom.get(client.from);
    if (peers === undefined) {
      peers = new LinkedList();
      this.#silentFrom.set(client.from, peers);
    }
    client.peerPlace = peers.add(client);
    this.#trim(peers);
  }

  /** Closes a connection without a request under way, a silent one first; false: there is none. */
  #makeRoom(): boolean {
    const { first: silent } = this.#silent;
    if (silent !== undefined && this.#evict(silent, silent.accepted, "silent-connections")) return true;
    const { first: resting } = this.#resting;
    return resting !== undefined && this.#evict(resting, resting.since, "resting-connections");
  }

  /** Closes silent connections of one source address, the oldest first, until its limit is met. */
  #trim(peers: LinkedList<ClientConnection>): void {
    while (peers.size > MAX_SILENT_PER_SOURCE) {
      const oldest = peers.first!;
      if (!this.#evict(oldest, oldest.accepted, "connections-per-source")) {
        // It is too young: a sweep tries again.
        this.#crowds.add(peers);
        return;
      }
    }
  }

  /** Closes a connection in favour of another one; false when it is in its state since too short a time. */
  #evict(client: ClientConnection, since: number, bound: Bound): boolean {
    if (this.now - since < SILENT_GRACE_MS) return false;
    countBound(bound);
    this.spoke(client);
    this.woke(client);
    client.socket.destroy();
    return true;
  }

  #turnAway(socket: Socket, port: Port): void {
    countBound("connections");
    if (port !== "plain") {
      socket.destroy();
      return;
    }
    const failure = { code: "overloaded", reason: "too many connections to this proxy" } as const;
    const options = { policy: this.policy?.document.policy ?? "", denyStatus: this.settings.denyStatus, head: false };
    socket.on("error", () => socket.destroy());
    socket.end(refusalBytes(failure, options), "latin1", () => socket.destroy());
  }

  handshake(client: ClientConnection): void {
    this.#handshakes!.start(client.socket, client);
  }

  certificateOf(socket: TLSSocket): ClientCertificate | null | { refused: string } {
    const presented = socket.getPeerX509Certificate();
    if (this.#trust === null || presented === undefined) return null;
    if (!socket.authorized) {
      return { refused: `the client certificate is not valid: ${socket.authorizationError}` };
    }
    let certificate: ClientCertificate;
    try {
      certificate = readClientCertificate(presented.raw, this.#clientName);
    } catch (error) {
      return { refused: `the client certificate is not valid: ${(error as Error).message}` };
    }
    const refused = this.#trust.refuses(certificate, Date.now());
    return refused === null ? certificate : { refused };
  }

  noteHandshake(client: ClientConnection, result: "ok" | "failed" | "refused", reason = ""): void {
    this.handshakes[result]++;
    if (result !== "ok") this.#onHandshakeError(client.source, reason);
  }

  /** A connection has sent its first head or is closed: it no longer counts as silent. */
  spoke(client: ClientConnection): void {
    if (client.silentPlace === null) return;
    this.#silent.remove(client.silentPlace);
    client.silentPlace = null;
    // Null for a connection without its PROXY header.
    if (client.peerPlace === null) return;
    const peers = this.#silentFrom.get(client.from)!;
    peers.remove(client.peerPlace);
    client.peerPlace = null;
    if (peers.size === 0 && this.#silentFrom.size > KEPT_KEYS) this.#silentFrom.delete(client.from);
  }

  /** A connection waits for its next request, or for its client to close it. */
  rests(client: ClientConnection): void {
    client.restingPlace ??= this.#resting.add(client);
  }

  /** A request is under way again. */
  woke(client: ClientConnection): void {
    if (client.restingPlace === null) return;
    this.#resting.remove(client.restingPlace);
    client.restingPlace = null;
  }

  forget(client: ClientConnection): void {
    this.#clients.delete(client);
    this.woke(client);
    this.buffers.forget(client);
    if (this.#clients.size === 0) this.#emptied?.();
  }

  acquire(key: string, limit: number): string | null {
    if (this.#active >= this.settings.maxTunnels) return `this proxy has ${this.#active} tunnels, its limit`;
    const mine = this.#byClient.get(key) ?? 0;
    if (limit > 0 && mine >= limit) return `this client has ${mine} tunnels, its limit`;
    this.#active++;
    this.#byClient.set(key, mine + 1);
    return null;
  }

  release(key: string): void {
    this.#active--;
    const mine = (this.#byClient.get(key) ?? 1) - 1;
    if (mine === 0 && this.#byClient.size > KEPT_KEYS) this.#byClient.delete(key);
    else this.#byClient.set(key, mine);
  }

  record(record: AccessRecord): void {
    const now = Date.now();
    this.#onRecord(record, now - record.started);
    this.clientCounts.count(record);
    const { accessLog } = this.settings;
    if (accessLog === "none") return;
    if (accessLog === "denied" && record.verdict === "allow" && record.wouldDeny === undefined) return;
    this.#writer.write(formatRecord(record, now));
  }

  /** The connection has a new time limit. */
  visitBy(client: ClientConnection, at: number): void {
    this.#clients.advance(client, at);
  }

  #sweep(): void {
    const { now } = this;
    // A certificate or a CRL has expired.
    if (this.#trust?.due(Date.now())) for (const client of this.#clients) client.revoke();
    this.#visit();
    const crowds = [...this.#crowds];
    this.#crowds.clear();
    for (const peers of crowds) this.#trim(peers);
    this.buffers.sweep();
    this.rates.sweep(now);
    this.pool.sweep(now);
  }

  /** Visits the connections whose time limits may have ended, over as many turns of the event loop as needed. */
  #visit(): void {
    if (this.#clients.sweep(this.now, VISITS_PER_TURN)) setImmediate(() => this.#visit());
  }

  /** Stops accepting connections; resolves when all open ones have ended by themselves. */
  drain(): Promise<void> {
    this.phase = "draining";
    for (const server of Object.values(this.#servers)) server.close();
    for (const client of this.#clients) client.drain();
    return new Promise((resolve) => {
      if (this.#clients.size === 0) resolve();
      else this.#emptied = resolve;
    });
  }

  /** Resets all open connections (record: `drain`) and resolves when every connection is closed. */
  async close(): Promise<void> {
    const drained = this.drain();
    for (const client of this.#clients) client.abort();
    this.pool.close();
    this.names.close();
    await drained;
    clearInterval(this.#sweeper);
  }
}
