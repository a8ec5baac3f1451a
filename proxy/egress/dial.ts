import { connect, type Socket, type TcpNetConnectOpts } from "node:net";
import { countBound } from "../outcome/bounds.ts";
import type { Failure } from "../outcome/refusals.ts";
import { type Address, formatAddress, parseAddress } from "../policy/cidr.ts";
import { type PolicySet, refuseOwn } from "../policy/engine.ts";
import type { Target } from "../policy/target.ts";
import { openFileLimit, shareFiles } from "../sockets/descriptors.ts";
import type { Routes } from "./route.ts";
import { assignedAddresses, type Source } from "./source-address.ts";

/** Delay before the next address is tried in parallel (RFC 8305 §5, connection attempt delay). */
const STAGGER_MS = 250;
/**
 * Limit of the attempts of one request, over all of its addresses. A name with many silent addresses would hold a file
 * descriptor for each of them, and would let its owner scan ports through the proxy.
 */
export const MAX_ATTEMPTS = 8;
/**
 * Limit of the additional attempts (all but the first one of each request) of all requests: silent addresses must not
 * take the file descriptors of other requests. At the limit a request tries its next address when an attempt fails, or
 * later.
 */
const MAX_EXTRA_ATTEMPTS = shareFiles(openFileLimit()).extraAttempts;
let extraAttempts = 0;

/** Options of a dial. */
export interface DialOptions {
  /** The vetted target, and the policy that allowed it. */
  target: Target;
  policy: PolicySet;
  /** Time limit for all addresses together. */
  deadlineMs: number;
  /** `host:port`, for the reason. */
  shown: string;
  /** The source address of each family; absent: the machine chooses. */
  routes?: Routes;
  /** Reads into a buffer instead of stream chunks (see `upstream.ts`). */
  onread?: TcpNetConnectOpts["onread"];
}

/** The connection and the address that answered first, or the reason for the failure. */
type Dialled = { socket: Socket; address: Address } | Failure;

const OUT_OF_FILES: Failure = { code: "overloaded", reason: "this proxy has no file descriptor left" };

function failureOf(error: NodeJS.ErrnoException, shown: string, source: Source | undefined): Failure {
  switch (error.code) {
    case "EADDRNOTAVAIL":
    case "EADDRINUSE":
      if (source === undefined) return { code: "overloaded", reason: "this proxy has no local port left" };
      // An assigned address that cannot be bound has run out of ports.
      return assignedAddresses().includes(source.address)
        ? { code: "overloaded", reason: `source address ${source.address} has no local port left` }
        : { code: "unverified", reason: `source address ${source.address} is not assigned to this machine` };
    case "ECONNREFUSED":
      return { code: "refused", reason: `${shown} refused the connection` };
    case "ECONNRESET":
    case "EPIPE":
      return { code: "reset", reason: `${shown} reset the connection` };
    case "ETIMEDOUT":
      return { code: "timeout", reason: `${shown} did not answer` };
    case "EMFILE":
    case "ENFILE":
      return OUT_OF_FILES;
    case "ENOMEM":
    case "ENOBUFS":
      return { code: "overloaded", reason: "this proxy has no memory left" };
    default:
      return { code: "unreachable", reason: `${shown} cannot be reached (${error.code ?? error.message})` };
  }
}

/**
 * Whether a connection leads to this machine itself: then both ends have the same address. This finds addresses that
 * `ownNetworks` (source-address.ts) does not know, such as one that was added a moment ago.
 */
function leadsHere(socket: Socket, address: Address): boolean {
  const { localAddress = "" } = socket;
  if (address.family === 4) return localAddress === formatAddress(address);
  const local = parseAddress(localAddress);
  return local?.words.every((word, i) => word === address.words[i]) ?? false;
}

/** A socket whose attempt is not decided yet. All attempts share their handlers. */
type Attempt = Socket & { dialling?: { dial: Dial; address: Address } | undefined };

function onConnect(this: Attempt): void {
  this.dialling?.dial.connected(this, this.dialling.address);
}

/** This listener stays: an error between two owners of the socket must not become an uncaught one. */
function onError(this: Attempt, error: NodeJS.ErrnoException): void {
  this.dialling?.dial.broken(this, this.dialling.address, error);
}

/** One request on its way to its upstream connection. */
class Dial {
  readonly #addresses: readonly Address[];
  readonly #options: DialOptions;
  readonly #done: (result: Dialled) => void;
  readonly #sockets: Attempt[] = [];
  #next = 0;
  #stagger: NodeJS.Timeout | undefined;
  readonly #deadline: NodeJS.Timeout;

  constructor(addresses: readonly Address[], options: DialOptions, done: (result: Dialled) => void) {
    this.#addresses = addresses;
    this.#options = options;
    this.#done = done;
    this.#deadline = setTimeout(() => this.#expire(), options.deadlineMs);
    this.#attempt();
  }

  #attempt(): void {
    clearTimeout(this.#stagger);
    const { routes, target, onread } = this.#options;
    const address = this.#addresses[this.#next++]!;
    const source = routes?.[address.family]?.source;
    const socket: Attempt = connect({
      host: formatAddress(address),
      port: target.port,
      family: address.family,
      autoSelectFamily: false,
      allowHalfOpen: true,
      noDelay: true,
      localAddress: source?.address,
      onread,
    });
    socket.dialling = { dial: this, address };
    this.#sockets.push(socket);
    if (this.#sockets.length > 1) extraAttempts++;
    socket.on("error", onError);
    socket.on("connect", onConnect);
    if (this.#next < this.#addresses.length) this.#stagger = setTimeout(() => this.#attemptBeside(), STAGGER_MS);
  }

  /** Tries the next address in parallel, unless too many requests already do so. */
  #attemptBeside(): void {
    if (extraAttempts < MAX_EXTRA_ATTEMPTS) this.#attempt();
    else this.#stagger = setTimeout(() => this.#attemptBeside(), STAGGER_MS);
  }

  connected(socket: Attempt, address: Address): void {
    const { routes, policy, target } = this.#options;
    const source = routes?.[address.family]?.source;
    const refused = source === undefined && leadsHere(socket, address) ? refuseOwn(policy, target, address) : null;
    if (refused !== null) {
      socket.resetAndDestroy();
      this.#failed(socket, refused);
      return;
    }
    this.#finish(socket);
    this.#done({ socket, address });
  }

  broken(socket: Attempt, { family }: Address, error: NodeJS.ErrnoException): void {
    const { shown, routes } = this.#options;
    this.#failed(socket, failureOf(error, shown, routes?.[family]?.source));
  }

  /** One attempt has failed: tries the next address, or waits for the other attempts. */
  #failed(socket: Attempt, failure: Failure): void {
    socket.dialling = undefined;
    if (this.#sockets.length > 1) extraAttempts--;
    this.#sockets.splice(this.#sockets.indexOf(socket), 1);
    if (this.#next < this.#addresses.length) this.#attempt();
    else if (this.#sockets.length === 0) this.#fail(failure);
  }

  #expire(): void {
    const { shown, deadlineMs } = this.#options;
    this.#fail({ code: "timeout", reason: `${shown} did not answer within ${deadlineMs / 1000} s` });
  }

  #fail(failure: Failure): void {
    this.#finish(null);
    if (failure === OUT_OF_FILES) countBound("open-files");
    this.#done(failure);
  }

  cancel(): void {
    this.#finish(null);
  }

  /** Ends all attempts but one. */
  #finish(winner: Attempt | null): void {
    clearTimeout(this.#deadline);
    clearTimeout(this.#stagger);
    if (this.#sockets.length > 1) extraAttempts -= this.#sockets.length - 1;
    for (const socket of this.#sockets.splice(0)) {
      socket.dialling = undefined;
      if (socket !== winner) socket.destroy();
    }
  }
}

/**
 * Connects to the first vetted address that answers; it never gets a name. Attempts are staggered and run in parallel,
 * with one deadline for all. Calls `done` once, unless the returned function cancels.
 */
export function dial(vetted: readonly Address[], options: DialOptions, done: (result: Dialled) => void): () => void {
  let addresses = vetted;
  if (vetted.length > MAX_ATTEMPTS) {
    addresses = vetted.slice(0, MAX_ATTEMPTS);
    countBound("dial-attempts");
  }
  const attempts = new Dial(addresses, options, done);
  return () => attempts.cancel();
}
