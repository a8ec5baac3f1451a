/** Messages between generator, origin and the process that leads them. */

export const RAW_PORT = 9443;
export const HTTP_PORT = 8080;
export const DNS_PORT = 53;
/** Two 32-bit numbers at the start of the bytes up: number of bytes up, including these eight, and bytes down. */
export const FRAME_HEAD_BYTES = 8;
export const HTTP_BODY_BYTES = 1500;
export const HTTP_ANSWER_BYTES = 100;
/** The name that policies allow, with all names below it. */
export const ALLOWED_NAME = "bench.example";
export const DENIED_NAME = "denied.example";

/** One request and its answer through a tunnel, in bytes. */
export interface Frame {
  up: number;
  down: number;
}

/** The repeated operation of the generator. */
export type Job =
  /**
   * Opens a tunnel, exchanges frames, closes. `names`: to this many names in turn. `rate`: this many a second, started
   * on time.
   */
  | { kind: "tunnel"; clients: number; frames: readonly Frame[]; names?: number; rate?: number }
  /** Exchanges one frame on tunnels that stay open. `rate`: this many a second in total, started on time. */
  | { kind: "open"; clients: number; frame: Frame; rate?: number }
  /** Posts in absolute form. */
  | { kind: "http"; clients: number; keepAlive: boolean }
  /** Sends a CONNECT to a denied name. */
  | { kind: "refused"; clients: number };

/** Address of the proxy; without `connect` it is a relay to the origin. */
export interface Route {
  port: number;
  connect: boolean;
  /** The status of a refused CONNECT. */
  refusal?: number;
}

export type Order =
  | { do: "prepare"; key: string; job: Job; route: Route }
  /** Minimum duration; the run continues until `minOps` are done, and then completes open operations. */
  | { do: "run"; key: string; seconds: number; minOps: number }
  | { do: "finish"; key: string };

/** Numbers of DNS queries, and of connections to both ports of the origin so far. */
export interface Counts {
  queries: number;
  connections: number;
}

/** Shares of the operations of which an outcome has the time. */
export const LATENCY_SHARES = [0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999] as const;

/** Times from the start of an operation (open loop: its intended start) to its last byte. */
export interface Outcome {
  ops: number;
  errors: number;
  /** Text of the first error. */
  error?: string;
  seconds: number;
  p50Ms: number;
  p99Ms: number;
  p999Ms: number;
  /** The times at the shares of `LATENCY_SHARES`. Empty without an operation. */
  latencyMs: number[];
}
