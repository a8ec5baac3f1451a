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

const ignoreError = () => {};

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
  const sockets = new Set<Socket>();
  let next = 0;
  let finished = false;
  let failure: Failure | null = null;
  let stagger: NodeJS.Timeout | undefined;

  const finish = (winner: Socket | null) => {
    finished = true;
    clearTimeout(deadline);
    clearTimeout(stagger);
    for (const socket of sockets) if (socket !== winner) socket.destroy();
    if (sockets.size > 1) extraAttempts -= sockets.size - 1;
    sockets.clear();
  };

  const fail = (result: Failure) => {
    finish(null);
    if (result === OUT_OF_FILES) countBound("open-files");
    done(result);
  };

  /** Tries the next address in parallel, unless too many requests already do so. */
  const attemptBeside = () => {
    if (extraAttempts < MAX_EXTRA_ATTEMPTS) attempt();
    else stagger = setTimeout(attemptBeside, STAGGER_MS);
  };

  const attempt = () => {
    clearTimeout(stagger);
    const address = addresses[next++]!;
    const source = options.routes?.[address.family]?.source;
    const socket = connect({
      host: formatAddress(address),
      port: options.target.port,
      family: address.family,
      autoSelectFamily: false,
      allowHalfOpen: true,
      noDelay: true,
      ...(source ? { localAddress: source.address } : {}),
      ...(options.onread ? { onread: options.onread } : {}),
    });
    sockets.add(socket);
    if (sockets.size > 1) extraAttempts++;
    const onFailure = (reason: Failure) => {
      if (sockets.size > 1) extraAttempts--;
      sockets.delete(socket);
      failure = reason;
      if (next < addresses.length) attempt();
      else if (sockets.size === 0) fail(failure);
    };
    const onError = (error: NodeJS.ErrnoException) => {
      if (!finished) onFailure(failureOf(error, options.shown, source));
    };
    socket.once("error", onError);
    // This listener stays: an error between two owners of the socket must not become an uncaught one.
    socket.on("error", ignoreError);
    socket.once("connect", () => {
      if (finished) return;
      socket.removeListener("error", onError);
      const refused =
        source === undefined && leadsHere(socket, address) ? refuseOwn(options.policy, options.target, address) : null;
      if (refused !== null) {
        socket.resetAndDestroy();
        onFailure(refused);
        return;
      }
      finish(socket);
      done({ socket, address });
    });
    if (next < addresses.length) stagger = setTimeout(attemptBeside, STAGGER_MS);
  };

  const deadline = setTimeout(() => {
    const seconds = options.deadlineMs / 1000;
    fail({ code: "timeout", reason: `${options.shown} did not answer within ${seconds} s` });
  }, options.deadlineMs);
  attempt();
  return () => {
    if (!finished) finish(null);
  };
}
