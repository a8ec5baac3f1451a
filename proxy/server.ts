import { createServer, type Server, type Socket } from "node:net";
import type { Credentials } from "./auth.ts";
import { Client } from "./client.ts";
import { refusalBytes } from "./errors.ts";
import type { PolicySet } from "./policy/engine.ts";
import { Pool } from "./pool.ts";
import { formatRecord, type Record, type RecordWriter } from "./record.ts";
import type { Names } from "./resolve.ts";

/** What command line and policy together say about serving. */
export interface Settings {
  connectMs: number;
  idleMs: number;
  maxTunnels: number;
  /** 0: no limit. */
  maxTunnelsPerClient: number;
  denyStatus: number;
  accessLog: "all" | "denied" | "none";
  /** Whether plain HTTP gets `Via: 1.1 outrider`. */
  via: boolean;
}

const SWEEP_MS = 1000;
const KEEP_ALIVE_MS = 30_000;
/** Connections without a request at the moment, on top of the tunnels. */
const MAX_IDLE_CLIENTS = 2000;
const BACKLOG = 4096;

/** The accept loop with what all connections share: policy, credentials, names, limits, records. */
export class ProxyServer {
  policy: PolicySet | null = null;
  settings: Settings;
  credentials: Credentials;
  draining = false;
  readonly names: Names;
  readonly pool = new Pool();
  /** Milliseconds, monotonic, renewed once a second and at each accept: good enough for idle times. */
  now = performance.now();
  readonly #clients = new Set<Client>();
  readonly #byClient = new Map<string, number>();
  readonly #server: Server;
  readonly #writer: RecordWriter;
  #active = 0;
  #sweeper: NodeJS.Timeout | undefined;

  constructor(options: { settings: Settings; credentials: Credentials; names: Names; writer: RecordWriter }) {
    this.settings = options.settings;
    this.credentials = options.credentials;
    this.names = options.names;
    this.#writer = options.writer;
    this.#server = createServer(
      { allowHalfOpen: true, noDelay: true, keepAlive: true, keepAliveInitialDelay: KEEP_ALIVE_MS },
      (socket) => this.#accept(socket),
    );
  }

  /** Requests and tunnels that are counted now, and connections in all. */
  get counts(): { active: number; connections: number; recordsDropped: number } {
    return { active: this.#active, connections: this.#clients.size, recordsDropped: this.#writer.dropped };
  }

  /** @throws the listen error */
  listen(host: string, port: number): Promise<{ address: string; port: number }> {
    return new Promise((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen({ host, port, backlog: BACKLOG }, () => {
        this.#server.removeListener("error", reject);
        this.#sweeper = setInterval(() => this.#sweep(), SWEEP_MS);
        resolve(this.#server.address() as { address: string; port: number });
      });
    });
  }

  #accept(socket: Socket): void {
    this.now = performance.now();
    if (this.#clients.size >= this.settings.maxTunnels + MAX_IDLE_CLIENTS) {
      const failure = { code: "overloaded", reason: "too many connections to this proxy" } as const;
      const options = { policy: this.policy?.document.policy ?? "", denyStatus: this.settings.denyStatus, head: false };
      socket.on("error", () => socket.destroy());
      socket.end(refusalBytes(failure, options), "latin1", () => socket.destroy());
      return;
    }
    this.#clients.add(new Client(socket, this));
  }

  forget(client: Client): void {
    this.#clients.delete(client);
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

  record(record: Record): void {
    const { accessLog } = this.settings;
    if (accessLog === "none") return;
    if (accessLog === "denied" && record.verdict === "allow" && record.wouldDeny === undefined) return;
    this.#writer.write(formatRecord(record, Date.now()));
  }

  #sweep(): void {
    this.now = performance.now();
    for (const client of this.#clients) client.sweep(this.now);
    this.pool.sweep(this.now);
  }

  /** Stops accepting, ends what is open (record: `shutdown`) and resolves when every connection is closed. */
  async close(): Promise<void> {
    this.draining = true;
    clearInterval(this.#sweeper);
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const client of this.#clients) {
      if (client.handler === null) client.socket.destroy();
      else client.handler.abort("shutdown");
    }
    this.pool.close();
    this.names.close();
    await closed;
  }
}
