import type { Job } from "./wire.ts";

/** Workloads that are measured in slices, with the aims for outrider compared with each peer. */
export interface Workload {
  name: string;
  title: string;
  job: Job;
  /** The required port and protocol of a proxy. */
  what: "tunnel" | "http" | "refused";
  /** Unit of the CPU time, and the number of units in one operation. */
  unit: string;
  units: number;
  /** Operations before the measurement: compilers have to see the code run. */
  warmOps: number;
  /** Highest CPU time of outrider divided by that of a peer. */
  targets: Readonly<Record<string, number>>;
  /** Highest p99 and p99.9 of outrider divided by those of squid. */
  tail?: number;
}

const TAIL = 1.3;

const WARM_OPS = 12_000;
const CLIENTS = 32;
const BULK_BYTES = 8 * 1024 * 1024;
const SMALL_BYTES = 8;
const webhook = { up: 1500, down: 200 };

function bulk(direction: "down" | "up", clients: number): Workload {
  const frame = direction === "down" ? { up: SMALL_BYTES, down: BULK_BYTES } : { up: BULK_BYTES, down: SMALL_BYTES };
  return {
    name: `bulk-${direction}-${clients}`,
    title: `bulk ${direction}, ${clients === 1 ? "1 tunnel" : `${clients} tunnels`}`,
    job: { kind: "open", clients, frame },
    what: "tunnel",
    unit: "MB",
    units: BULK_BYTES / 1e6,
    warmOps: 64,
    targets: { squid: 1.0 },
  };
}

export const WORKLOADS: readonly Workload[] = [
  {
    name: "tunnel",
    title: "short tunnel: CONNECT to a name, 1,500 B up, 200 B down, close; 32 at once",
    job: { kind: "tunnel", clients: CLIENTS, frames: [webhook] },
    what: "tunnel",
    unit: "tunnel",
    units: 1,
    warmOps: WARM_OPS,
    targets: { squid: 0.9, tinyproxy: 0.6, "nginx-connect": 1.25 },
    tail: TAIL,
  },
  {
    name: "tls",
    title: "tunnel shaped like TLS 1.3: 517 up, 3,500 down, 1,700 up, 450 down; 32 at once",
    job: {
      kind: "tunnel",
      clients: CLIENTS,
      frames: [
        { up: 517, down: 3500 },
        { up: 1700, down: 450 },
      ],
    },
    what: "tunnel",
    unit: "tunnel",
    units: 1,
    warmOps: WARM_OPS,
    targets: { squid: 0.92, "nginx-connect": 1.35 },
    tail: TAIL,
  },
  {
    name: "pingpong-1",
    title: "1,500 B up, 200 B down on one open tunnel",
    job: { kind: "open", clients: 1, frame: webhook },
    what: "tunnel",
    unit: "exchange",
    units: 1,
    warmOps: WARM_OPS,
    targets: {},
  },
  {
    name: "pingpong-32",
    title: "1,500 B up, 200 B down on 32 open tunnels",
    job: { kind: "open", clients: CLIENTS, frame: webhook },
    what: "tunnel",
    unit: "exchange",
    units: 1,
    warmOps: WARM_OPS,
    targets: { squid: 1.05, "nginx-connect": 1.08 },
  },
  bulk("down", 1),
  bulk("down", 16),
  bulk("up", 1),
  bulk("up", 16),
  {
    name: "http-keepalive",
    title: "absolute-form POST of 1.5 kB, 100 B back, connections kept; 32 at once",
    job: { kind: "http", clients: CLIENTS, keepAlive: true },
    what: "http",
    unit: "request",
    units: 1,
    warmOps: WARM_OPS,
    targets: { squid: 0.33 },
    tail: TAIL,
  },
  {
    name: "http-new",
    title: "absolute-form POST of 1.5 kB, 100 B back, a connection each; 32 at once",
    job: { kind: "http", clients: CLIENTS, keepAlive: false },
    what: "http",
    unit: "request",
    units: 1,
    warmOps: WARM_OPS,
    targets: { squid: 0.5 },
  },
  {
    name: "refused",
    title: "CONNECT to a denied name; 32 at once",
    job: { kind: "refused", clients: CLIENTS },
    what: "refused",
    unit: "refusal",
    units: 1,
    warmOps: WARM_OPS,
    targets: { "nginx-connect": 1.3 },
    tail: TAIL,
  },
  {
    name: "names",
    title: "short tunnels to 100 names in turn; 32 at once",
    job: { kind: "tunnel", clients: CLIENTS, frames: [webhook], names: 100 },
    what: "tunnel",
    unit: "tunnel",
    units: 1,
    warmOps: WARM_OPS,
    targets: {},
  },
];
