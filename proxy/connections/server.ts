import { createServer, type Server, type Socket } from "node:net";
import type { Settings } from "../config/config.ts";
import type { Credentials } from "../config/credentials.ts";
import type { Names } from "../dns/names.ts";
import type { Gate } from "../egress/gate.ts";
import { type AccessRecord, formatRecord, type RecordWriter } from "../outcome/access-record.ts";
import { type Bound, countBound } from "../outcome/bounds.ts";
import { refusalBytes } from "../outcome/refusals.ts";
import type { PolicySet } from "../policy/engine.ts";
import { KEEP_ALIVE_SECONDS, shareReadBuffer } from "../sockets/accept.ts";
import { Pool } from "../sockets/pool.ts";
import { Buffers } from "./buffers.ts";
import { ClientConnection, type ConnectionServer, onClientRead } from "./client-connection.ts";

const SWEEP_MS = 1000;
/** Connections of one source address that have not sent a complete first head yet. Honest clients send theirs at once. */
const MAX_SILENT_PER_SOURCE = 256;
/** Before this age a silent connection is not closed in favour of another one: its head may be on its way. */
const SILENT_GRACE_MS = 100;
const BACKLOG = 4096;

/** What a server is made of. */
export interface Parts {
  settings: Settings;
  credentials: Credentials;
  names: Names;
  gate: Gate;
  /** Called for each record, with the duration of its request in milliseconds. */
  onRecord: (record: AccessRecord, ms: number) => void;
  writer: RecordWriter;
  readiness: "policy" | "verified";
  /** Bytes that the process may keep for slow peers. */
  bufferBytes: number;
  /** A connection could not be accepted, for want of file descriptors mostly. */
  onAcceptError: (error: NodeJS.ErrnoException) => void;
}

/** The accept loop with what all connections share: policy, credentials, names, gate, limits, records. */
export class ProxyServer implements ConnectionServer {
  #policy: PolicySet | null = null;
  #settings: Settings;
  #credentials: Credentials;
  /** Leaving: not ready, still serving. Draining: nothing new, what is open may end. */
  phase: "serving" | "leaving" | "draining" = "serving";
  readonly names: Names;
  readonly gate: Gate;
  readonly pool = new Pool();
  readonly #onRecord: Parts["onRecord"];
  readonly #readiness: "policy" | "verified";
  /** Milliseconds, monotonic, renewed once a second and at each accept: good enough for idle times. */
  now = performance.now();
  readonly #clients = new Set<ClientConnection>();
  /** Connections without a complete first head, the oldest first: all, and those of each source address. */
  readonly #silent = new Set<ClientConnection>();
  readonly #silentFrom = new Map<string, Set<ClientConnection>>();
  readonly buffers: Buffers;
  readonly #byClient = new Map<string, number>();
  readonly #server: Server;
  readonly #writer: RecordWriter;
  readonly #onAcceptError: (error: NodeJS.ErrnoException) => void;
  #active = 0;
  #sharedReads = false;
  #emptied: (() => void) | undefined;
  #sweeper: NodeJS.Timeout | undefined;

  constructor(parts: Parts) {
    this.#settings = parts.settings;
    this.#credentials = parts.credentials;
    this.names = parts.names;
    this.gate = parts.gate;
    this.#onRecord = parts.onRecord;
    this.#writer = parts.writer;
    this.#onAcceptError = parts.onAcceptError;
    this.#readiness = parts.readiness;
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

  /** Puts a policy in force, for every request from here on; what it forbids of what is open ends (`revoked`). */
  install(policy: PolicySet, settings: Settings, credentials: Credentials): void {
    this.#policy = policy;
    this.#settings = settings;
    this.#credentials = credentials;
    for (const client of this.#clients) client.revoke();
  }

  /** What was opened on a way between two moments (monotonic ms) may have left from a wrong address: it ends (`unproven`). */
  endUnproven(way: string, since: number, until: number): void {
    for (const client of this.#clients) client.endUnproven(way, since, until);
    this.pool.close();
  }

  /** Why this proxy should get no traffic; null: it is ready. */
  unready(): string | null {
    if (this.phase !== "serving") return "draining";
    if (this.#policy === null) return "no policy";
    return this.#readiness === "verified" ? this.gate.unready() : null;
  }

  /** Requests and tunnels that are counted now, and connections in all. */
  get counts(): { active: number; connections: number; bufferedBytes: number; recordsDropped: number } {
    const { bytes: bufferedBytes } = this.buffers;
    const connections = this.#clients.size;
    return { active: this.#active, connections, bufferedBytes, recordsDropped: this.#writer.dropped };
  }

  /** An empty host means all addresses: IPv6 and IPv4, or IPv4 where the machine has no other. `reusePort`: other processes may share the port. @throws the listen error */
  listen(host: string, port: number, reusePort: boolean): Promise<{ address: string; port: number }> {
    return new Promise((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen({ host, port, reusePort, backlog: BACKLOG }, () => {
        this.#server.removeListener("error", reject);
        this.#server.on("error", this.#onAcceptError);
        this.#sharedReads = shareReadBuffer(this.#server, onClientRead);
        this.#sweeper = setInterval(() => this.#sweep(), SWEEP_MS);
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
    this.now = performance.now();
    if (this.#clients.size >= this.settings.maxConnections) {
      const [oldest] = this.#silent;
      if (oldest === undefined || !this.#evict(oldest, "silent-connections")) {
        this.#turnAway(socket);
        return;
      }
    }
    const client = new ClientConnection(socket, this, this.#sharedReads);
    this.#clients.add(client);
    this.#silent.add(client);
    const peers = this.#silentFrom.get(client.from);
    if (peers === undefined) {
      this.#silentFrom.set(client.from, new Set([client]));
      return;
    }
    peers.add(client);
    this.#trim(peers);
  }

  /** Closes silent connections of one source address, the oldest first, down to its bound. */
  #trim(peers: ReadonlySet<ClientConnection>): void {
    for (const oldest of peers) {
      if (peers.size <= MAX_SILENT_PER_SOURCE || !this.#evict(oldest, "connections-per-source")) return;
    }
  }

  /** Closes a silent connection in favour of another one; false when it is too young for that. */
  #evict(client: ClientConnection, bound: Bound): boolean {
    if (this.now - client.accepted < SILENT_GRACE_MS) return false;
    countBound(bound);
    this.spoke(client);
    client.socket.destroy();
    return true;
  }

  #turnAway(socket: Socket): void {
    countBound("silent-connections");
    const failure = { code: "overloaded", reason: "too many connections to this proxy" } as const;
    const options = { policy: this.policy?.document.policy ?? "", denyStatus: this.settings.denyStatus, head: false };
    socket.on("error", () => socket.destroy());
    socket.end(refusalBytes(failure, options), "latin1", () => socket.destroy());
  }

  /** A connection has sent its first head, or is gone: it counts as silent no longer. */
  spoke(client: ClientConnection): void {
    if (!this.#silent.delete(client)) return;
    const peers = this.#silentFrom.get(client.from)!;
    peers.delete(client);
    if (peers.size === 0) this.#silentFrom.delete(client.from);
  }

  forget(client: ClientConnection): void {
    this.#clients.delete(client);
    this.buffers.forget(client);
    if (this.#clients.size === 0) this.#emptied?.();
  }

  /** Counts one request or tunnel of a client; a sentence when a limit forbids it. */
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
    this.now = performance.now();
    for (const client of this.#clients) client.sweep(this.now);
    for (const peers of this.#silentFrom.values()) this.#trim(peers);
    this.buffers.sweep();
    this.pool.sweep(this.now);
  }

  /** Stops accepting; resolves when everything that is open has ended by itself. */
  drain(): Promise<void> {
    this.phase = "draining";
    this.#server.close();
    for (const client of this.#clients) if (client.idle) client.socket.end();
    return new Promise((resolve) => {
      if (this.#clients.size === 0) resolve();
      else this.#emptied = resolve;
    });
  }

  /** Ends what is still open (record: `drain`) and resolves when every connection is closed. */
  async close(): Promise<void> {
    const drained = this.drain();
    for (const client of this.#clients) {
      if (client.handler === null) client.socket.destroy();
      else client.handler.abort("drain");
    }
    this.pool.close();
    this.names.close();
    await drained;
    clearInterval(this.#sweeper);
  }
}
