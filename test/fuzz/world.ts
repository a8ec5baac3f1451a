import { Rng } from "./seed.ts";

/** Addresses, names and kinds that all processes of a fuzz run share. */

/** The only range that the proxy under test may dial. */
export const RECEIVER_CIDR = "127.66.0.0/16";
export const DIALLED = /^(?:::ffff:)?127\.66\./;
/** The port of every receiver and of every trap. */
export const PORT = 18_080;
export const DNS = { host: "127.65.0.53", port: 18_053 };
/** Addresses of 127.66.64.0/20 have no listener: a connection to them is refused by the kernel. */
export const EMPTY_ADDRESSES = 4000;
export const emptyAddress = (n: number): string => `127.66.${64 + (n >> 8)}.${n & 255}`;

/** Loopback addresses outside of {@link RECEIVER_CIDR}: forbidden, and safe to name on any machine. */
export const LOOPBACK_TRAPS = ["127.67.0.1", "127.0.0.1", "::1"];
/** Forbidden addresses that are named only in a network namespace of this run, where the loopback interface has them. */
export const NAMESPACE_TRAPS = [
  "10.0.0.5",
  "172.16.0.9",
  "192.168.1.1",
  "169.254.169.254",
  "100.100.100.200",
  "fd00:ec2::254",
  "fd12::7",
];

/** Passwords of the proxy under test. `crowd` and `probe` are client names with a password of their own. */
export const PASSWORD = "fuzz-shared";
export const OWN_PASSWORDS = { crowd: "fuzz-crowd", probe: "fuzz-probe" };

/** How often a kind is chosen, relative to the other kinds of its table. */
type Weights<K extends string> = Readonly<Record<K, number>>;

export const CLIENTS = {
  deliver: 26,
  split: 10,
  "half-close": 9,
  reset: 9,
  slow: 2,
  silent: 2,
  deaf: 3,
  pipeline: 6,
  "keep-alive": 5,
  "tiny-chunks": 3,
  "huge-head": 2,
  malformed: 6,
  credentials: 5,
  early: 6,
  upload: 7,
  forbidden: 6,
  crowd: 3,
  proxied: 6,
} as const satisfies Weights<string>;
export type ClientKind = keyof typeof CLIENTS;

/** Receivers that follow the protocol: deliveries to them must succeed. */
export const HONEST = ["http", "echo"] as const;

export const RECEIVERS = {
  http: 24,
  echo: 18,
  accept: 4,
  silent: 2,
  "flood-1xx": 4,
  "giant-head": 3,
  "tiny-chunk": 4,
  "wrong-length": 5,
  forged: 5,
  garbage: 5,
  "no-http": 4,
  "fin-first": 4,
  "fin-rst": 6,
  download: 4,
  drip: 2,
  closed: 3,
  "never-reads": 3,
  "fin-rst-4k": 5,
  unanswered: 1,
} as const satisfies Weights<string>;
export type ReceiverKind = keyof typeof RECEIVERS;

/** Receivers with a receive buffer of 4 KiB or a full accept queue. Node sets neither, so `deaf.py` serves them. */
export const PYTHON_RECEIVERS: readonly ReceiverKind[] = ["never-reads", "fin-rst-4k", "unanswered"];

/** How a client names its target: by address, by a name of `--hosts`, or by a name with this kind of DNS answer. */
export const NAMES = {
  ip: 50,
  hosts: 20,
  "dns-ok": 8,
  "dns-cname": 2,
  "dns-loop": 1,
  "dns-many": 1,
  "dns-truncated": 2,
  "dns-tcp-silent": 1,
  "dns-nxdomain": 2,
  "dns-servfail": 2,
  "dns-silent": 1,
  "dns-empty": 1,
  "dns-query": 1,
  "dns-garbage": 1,
  "dns-cut": 1,
  "dns-wrong-id": 1,
  "dns-wrong-name": 1,
  "dns-rebind": 3,
  "dns-private": 3,
  "dns-mixed": 3,
  "dns-mapped": 1,
  "dns-twice": 1,
  "dns-late": 1,
} as const satisfies Weights<string>;
export type NameKind = keyof typeof NAMES;

export const ALL_KINDS: readonly string[] = [...Object.keys(CLIENTS), ...Object.keys(RECEIVERS), ...Object.keys(NAMES)];

const receiverKinds = Object.keys(RECEIVERS) as ReceiverKind[];
const clientKinds = Object.keys(CLIENTS) as ClientKind[];

export const receiverNumber = (kind: ReceiverKind): number => receiverKinds.indexOf(kind);
/** The address on which a receiver of this kind listens (`closed`: on which nothing listens). */
export const receiverAddress = (number: number): string => `127.66.0.${10 + number}`;

/** Lines of a hosts file for all receivers. */
export function hostsFile(): string {
  return receiverKinds.map((kind, i) => `${receiverAddress(i)} ${kind}.hosts.test\n`).join("");
}

/** Client addresses per kind. Kinds share no address, since some bounds count by source address. */
const ADDRESSES_PER_KIND = 100;
export const PROBE_ADDRESS = "127.64.250.1";

/** Addresses of clients of this kind. */
const subnetOf = (kind: ClientKind): string => `127.64.${clientKinds.indexOf(kind) + 1}`;
/** The sources that must send a PROXY header. */
export const PROXIED_CIDR = `${subnetOf("proxied")}.0/24`;
/** The source that a PROXY header names, of the client with this port. */
export const proxiedSource = (rng: Rng): string => `127.64.218.${rng.int(1, ADDRESSES_PER_KIND)}`;

/** The kinds that `--without` and `--only` leave. */
export interface Choice {
  clients: Partial<Record<ClientKind, number>>;
  receivers: Partial<Record<ReceiverKind, number>>;
  names: Partial<Record<NameKind, number>>;
}

/** The plan of one connection. It depends on the seed, the number of the connection and the kinds in use. */
export interface Plan {
  number: number;
  client: ClientKind;
  receiver: ReceiverKind;
  name: NameKind;
  /** The address that the client connects from. */
  source: string;
  rng: Rng;
}

export function planOf(seed: number, number: number, choice: Choice): Plan {
  const rng = new Rng(seed, number);
  const client = rng.weighted(choice.clients);
  const receiver = rng.weighted(choice.receivers);
  const name = rng.weighted(choice.names);
  const source = `${subnetOf(client)}.${rng.int(1, ADDRESSES_PER_KIND)}`;
  return { number, client, receiver, name, source, rng };
}

/** The kinds of a connection, for messages. */
export function describe({ number, client, receiver, name }: Plan): string {
  return `connection ${number}: client ${client}, receiver ${receiver}, name ${name}`;
}

const CELL_BYTES = 11;
const BLOCK_BYTES = 128;

/** A mark in a payload: `i` with the number of a request, or `t` with the number of a receiver. */
export const cell = (kind: "i" | "t", number: number): string => `#${kind}${number.toString(16).padStart(8, "0")};`;

/** A payload of about `bytes` bytes with a mark at the start of each block. */
export function marked(mark: string, bytes: number): Buffer {
  const blocks = Math.max(1, Math.ceil(bytes / BLOCK_BYTES));
  return Buffer.from(`${mark}${".".repeat(BLOCK_BYTES - CELL_BYTES)}`.repeat(blocks), "latin1");
}

/** Finds the marks in a stream of bytes, independent of its chunks. */
export class CellReader {
  #tail: Buffer = Buffer.alloc(0);

  feed(chunk: Buffer, found: (kind: "i" | "t", number: number) => void): void {
    const data = this.#tail.length === 0 ? chunk : Buffer.concat([this.#tail, chunk]);
    this.#tail = Buffer.alloc(0);
    for (let at = data.indexOf(35); at !== -1; at = data.indexOf(35, at + 1)) {
      if (at + CELL_BYTES > data.length) {
        this.#tail = Buffer.from(data.subarray(at));
        return;
      }
      const match = /^#([it])([0-9a-f]{8});$/.exec(data.toString("latin1", at, at + CELL_BYTES));
      if (match !== null) found(match[1] as "i" | "t", Number.parseInt(match[2]!, 16));
    }
  }
}
