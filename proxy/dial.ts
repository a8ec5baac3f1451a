import { connect, type Socket, type TcpNetConnectOpts } from "node:net";
import type { Failure } from "./errors.ts";
import type { Ways } from "./gate.ts";
import { type Address, formatAddress } from "./policy/cidr.ts";
import { ownAddresses, type Source } from "./source.ts";

/** The next address is tried beside the earlier ones after this time (RFC 8305 §5, connection attempt delay). */
const STAGGER_MS = 250;

/** Where and how to connect. */
export interface DialOptions {
  port: number;
  /** For all addresses together. */
  deadlineMs: number;
  /** `host:port`, for the reason. */
  shown: string;
  /** The source of each family; absent: the machine chooses. */
  ways?: Ways;
  /** Reads into a buffer instead of stream chunks (see `upstream.ts`). */
  onread?: TcpNetConnectOpts["onread"];
}

/** The connection and the address that answered first, or why there is none. */
export type Dialled = { socket: Socket; address: Address } | Failure;

function failureOf(error: NodeJS.ErrnoException, shown: string, source: Source | undefined): Failure {
  switch (error.code) {
    case "EADDRNOTAVAIL":
    case "EADDRINUSE":
      if (source === undefined) return { code: "overloaded", reason: "this proxy has no local port left" };
      // An address that is there and cannot be bound has run out of ports.
      return ownAddresses().includes(source.address)
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
    case "ENOMEM":
    case "ENOBUFS":
      return { code: "overloaded", reason: "this proxy has no file or memory left" };
    default:
      return { code: "unreachable", reason: `${shown} cannot be reached (${error.code ?? error.message})` };
  }
}

const ignoreError = () => {};

/**
 * Connects to the first vetted address that answers; never sees a name. Attempts are staggered and earlier ones kept,
 * one deadline covers all. Calls `done` once, unless the returned function cancels.
 */
export function dial(addresses: readonly Address[], options: DialOptions, done: (result: Dialled) => void): () => void {
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
    sockets.clear();
  };

  const fail = (result: Failure) => {
    finish(null);
    done(result);
  };

  const attempt = () => {
    clearTimeout(stagger);
    const address = addresses[next++]!;
    const source = options.ways?.[address.family]?.source;
    const socket = connect({
      host: formatAddress(address),
      port: options.port,
      family: address.family,
      autoSelectFamily: false,
      allowHalfOpen: true,
      noDelay: true,
      ...(source ? { localAddress: source.address } : {}),
      ...(options.onread ? { onread: options.onread } : {}),
    });
    sockets.add(socket);
    const onError = (error: NodeJS.ErrnoException) => {
      if (finished) return;
      sockets.delete(socket);
      failure = failureOf(error, options.shown, source);
      if (next < addresses.length) attempt();
      else if (sockets.size === 0) fail(failure);
    };
    socket.once("error", onError);
    // Stays: an error between two owners of the socket must not become an uncaught one.
    socket.on("error", ignoreError);
    socket.once("connect", () => {
      if (finished) return;
      socket.removeListener("error", onError);
      finish(socket);
      done({ socket, address });
    });
    if (next < addresses.length) stagger = setTimeout(attempt, STAGGER_MS);
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
