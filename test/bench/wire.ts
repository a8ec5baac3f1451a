/** What generator, origin and the process that leads them say to each other. */

export const RAW_PORT = 9443;
export const HTTP_PORT = 8080;
export const DNS_PORT = 53;
/** Two 32-bit numbers at the start of what goes up: bytes up, these eight included, and bytes down. */
export const FRAME_HEAD_BYTES = 8;
export const HTTP_BODY_BYTES = 1500;
export const HTTP_ANSWER_BYTES = 100;
/** The name that policies allow; so do all names below it. */
export const ALLOWED_NAME = "bench.example";
export const DENIED_NAME = "denied.example";

/** One request and its answer through a tunnel, in bytes. */
export interface Frame {
  up: number;
  down: number;
}

/** What the generator does again and again. */
export type Job =
  /** Opens a tunnel, exchanges frames, closes. `names`: to so many names in turn. `rate`: so many a second, started on time. */
  | { kind: "tunnel"; clients: number; frames: readonly Frame[]; names?: number; rate?: number }
  /** Exchanges one frame on tunnels that stay open. */
  | { kind: "open"; clients: number; frame: Frame }
  /** Posts in absolute form. */
  | { kind: "http"; clients: number; keepAlive: boolean }
  /** Asks for a denied name. */
  | { kind: "refused"; clients: number };

/** Where the proxy listens; without `connect` it is a bare relay to the origin. */
export interface Route {
  port: number;
  connect: boolean;
}

export type Order =
  | { do: "prepare"; key: string; job: Job; route: Route }
  /** Runs for so long, and on until `minOps` are done; then what is under way is completed. */
  | { do: "run"; key: string; seconds: number; minOps: number }
  | { do: "finish"; key: string };

/** Times from the start of an operation (open loop: its intended start) to its last byte. */
export interface Outcome {
  ops: number;
  errors: number;
  /** What the first error was. */
  error?: string;
  seconds: number;
  p50Ms: number;
  p99Ms: number;
}
