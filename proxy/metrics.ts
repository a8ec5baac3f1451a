import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { Reload } from "./config/reload.ts";
import type { ProxyServer } from "./connections/server.ts";
import type { Verifier } from "./egress/verifier.ts";
import type { AccessRecord } from "./outcome/access-record.ts";
import { boundCounts } from "./outcome/bounds.ts";
import type { Totals } from "./outcome/minutes.ts";
import { openFiles } from "./sockets/descriptors.ts";
import type { TlsInstaller } from "./tls-installer.ts";

/** Buckets in seconds: within a cluster, on one continent, around the world, time-outs. */
const CONNECT_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];
/** Buckets in seconds: a webhook, a long poll, a stream. */
const TUNNEL_BUCKETS = [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800];

/**
 * Default metrics that list every file or handle of the process while no connection is served: 30 ms of each scrape with
 * 10,000 sockets. `process_open_fds` is replaced.
 */
const COSTLY = [
  "process_open_fds",
  "nodejs_active_handles",
  "nodejs_active_handles_total",
  "nodejs_active_resources",
  "nodejs_active_resources_total",
];

interface RequestCount extends Pick<AccessRecord, "kind" | "verdict"> {
  /** `ok` without a code. */
  code: string;
  count: number;
}

/**
 * Counts of the data path: plain numbers that become metrics at each scrape. Labels are words of this program and
 * configured names and addresses, never hosts or names that a request claims.
 */
export class Metrics {
  readonly registry = new Registry();
  readonly #requests = new Map<string, RequestCount>();
  #up = 0;
  #down = 0;
  readonly #connect: Histogram;
  readonly #dns: Histogram;
  readonly #tunnel: Histogram;

  constructor() {
    const registers = [this.registry];
    const histogram = (name: string, help: string, buckets: number[]) =>
      new Histogram({ name: `outrider_proxy_${name}`, help, buckets, registers });
    this.#connect = histogram("connect_seconds", "Time to connect to targets, failures included", CONNECT_BUCKETS);
    this.#dns = histogram("dns_seconds", "Time to resolve names, cached answers included", CONNECT_BUCKETS);
    this.#tunnel = histogram("tunnel_seconds", "Duration of allowed tunnels and requests", TUNNEL_BUCKETS);
  }

  /** Counts one record. */
  count(record: AccessRecord, durationMs: number): void {
    const code = record.code ?? "ok";
    const key = `${record.kind} ${record.verdict} ${code}`;
    let entry = this.#requests.get(key);
    if (entry === undefined) {
      entry = { kind: record.kind, verdict: record.verdict, code, count: 0 };
      this.#requests.set(key, entry);
    }
    entry.count++;
    this.#up += record.bytesUp;
    this.#down += record.bytesDown;
    if (record.dnsMs !== undefined) this.#dns.observe(record.dnsMs / 1000);
    if (record.connectMs !== undefined) this.#connect.observe(record.connectMs / 1000);
    if (record.code === undefined) this.#tunnel.observe(durationMs / 1000);
  }

  /** The counts so far. */
  totals(): Totals {
    const verdicts = { allow: 0, deny: 0 };
    const codes: Record<string, number> = {};
    for (const { verdict, code, count } of this.#requests.values()) {
      verdicts[verdict] += count;
      if (code !== "ok") codes[code] = (codes[code] ?? 0) + count;
    }
    return { allowed: verdicts.allow, denied: verdicts.deny, codes, bytesUp: this.#up, bytesDown: this.#down };
  }

  /** Adds the metrics of other parts of the proxy; called once. */
  register(server: ProxyServer, verifier: Verifier, reload: Reload, tls: TlsInstaller | null): void {
    const registers = [this.registry];
    const counter = (name: string, help: string, labelNames: string[], collect: (this: Counter) => void) =>
      new Counter({ name: `outrider_proxy_${name}`, help, labelNames, registers, collect });
    const gauge = (name: string, help: string, labelNames: string[], collect: (this: Gauge) => void) =>
      new Gauge({ name: `outrider_proxy_${name}`, help, labelNames, registers, collect });
    /** Counters whose values are kept elsewhere: one, or one for each value of a label. */
    const copied = (name: string, help: string, value: () => number) =>
      counter(name, help, [], function () {
        this.reset();
        this.inc(value());
      });
    const copiedBy = (label: string, name: string, help: string, values: () => { [value: string]: number }) =>
      counter(name, help, [label], function () {
        this.reset();
        for (const [value, count] of Object.entries(values())) this.inc({ [label]: value }, count);
      });
    const requests = this.#requests;
    counter("requests_total", "Finished tunnels and requests", ["kind", "verdict", "code"], function () {
      this.reset();
      for (const { count, ...labels } of requests.values()) this.inc(labels, count);
    });
    gauge("active_tunnels", "Open tunnels and requests", [], function () {
      this.set(server.counts.active);
    });
    gauge("connections", "Open client connections, idle ones included", [], function () {
      this.set(server.counts.connections);
    });
    gauge("buffered_bytes", "Bytes buffered for clients and targets that do not read", [], function () {
      this.set(server.counts.bufferedBytes);
    });
    const bytesHelp = "Bytes relayed by finished tunnels and requests (up: from client to target)";
    copiedBy("direction", "bytes_total", bytesHelp, () => ({ up: this.#up, down: this.#down }));
    counter("client_requests_total", "Finished tunnels and requests by client", ["client", "verdict"], function () {
      this.reset();
      for (const [client, { allow, deny }] of server.clientCounts) {
        this.inc({ client, verdict: "allow" }, allow);
        this.inc({ client, verdict: "deny" }, deny);
      }
    });
    const clientBytesHelp = "Bytes relayed by finished tunnels and requests, by client";
    counter("client_bytes_total", clientBytesHelp, ["client", "direction"], function () {
      this.reset();
      for (const [client, { up, down }] of server.clientCounts) {
        this.inc({ client, direction: "up" }, up);
        this.inc({ client, direction: "down" }, down);
      }
    });
    gauge("client_tunnels", "Open tunnels and requests by client", ["client"], function () {
      this.reset();
      for (const [client, count] of server.clientTunnels) this.set({ client }, count);
    });
    const dnsHelp = "Lookups of names: hit (cached), miss (sent a query), shared (waited for a running query)";
    copiedBy("result", "dns_cache_total", dnsHelp, () => ({ ...server.names.counts }));
    gauge("policy_info", "1 for the policy in force, by its hash", ["hash"], function () {
      this.reset();
      if (server.policy !== null) this.set({ hash: server.policy.hash }, 1);
    });
    copiedBy("result", "policy_reload_total", "Reloads of policy and passwords", () => {
      return { success: reload.succeeded, failure: reload.failed };
    });
    copiedBy("result", "tls_handshakes_total", "TLS handshakes of clients", () => ({ ...server.handshakes }));
    copiedBy("result", "tls_reload_total", "Reloads of the TLS files", () => {
      return { success: tls?.files.succeeded ?? 0, failure: tls?.files.failed ?? 0 };
    });
    const expiry = (name: string, help: string, value: () => number | null | undefined) =>
      gauge(name, help, [], function () {
        this.reset();
        const ms = value();
        if (typeof ms === "number") this.set(ms / 1000);
        else this.remove();
      });
    expiry("tls_certificate_expiry_seconds", "When the certificate of the TLS port expires, in Unix time", () => {
      return tls?.files.identity.validTo;
    });
    expiry(
      "tls_crl_next_update_seconds",
      "When the first CRL expires, in Unix time",
      () => tls?.files.trust?.nextUpdate,
    );
    gauge("egress_verified", "Whether a source address (or family) is proven", ["address"], function () {
      this.reset();
      for (const proof of verifier.status()) this.set({ address: proof.way }, proof.verified ? 1 : 0);
    });
    copied("egress_mismatch_total", "Echo answers with a wrong address", () => verifier.mismatches);
    copied("log_dropped_total", "Access records lost because stdout was not read", () => server.counts.recordsDropped);
    const boundHelp = "Requests, connections or answers that a bound refused, closed or cut";
    copiedBy("bound", "bound_total", boundHelp, () => boundCounts());
    gauge("ready", "Whether /readyz answers 200", [], function () {
      this.set(server.unready() === null ? 1 : 0);
    });
    // The default, 10 ms, wakes an idle process 100 times a second.
    collectDefaultMetrics({ register: this.registry, eventLoopMonitoringPrecision: 100 });
    for (const name of COSTLY) this.registry.removeSingleMetric(name);
    new Gauge({
      name: "process_open_fds",
      help: "Number of open file descriptors.",
      registers,
      async collect() {
        try {
          this.set(await openFiles());
        } catch {
          this.remove();
        }
      },
    });
  }
}
