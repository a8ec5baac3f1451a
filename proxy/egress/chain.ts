import type { Socket } from "node:net";
import type { Names } from "../dns/names.ts";
import { countBound } from "../outcome/bounds.ts";
import type { Failure } from "../outcome/refusals.ts";
import { type Address, formatAddress, parseAddress } from "../policy/cidr.ts";
import { decideName, type PolicySet, vetAll } from "../policy/engine.ts";
import { formatTarget, type Target } from "../policy/target.ts";
import { copyOut, READ_BUFFER } from "../sockets/read-buffer.ts";
import { adopt, type UpstreamOwner, type UpstreamSocket } from "../sockets/upstream.ts";
import type { Destinations } from "./decide-target.ts";
import { type DialOptions, dial, MAX_ATTEMPTS } from "./dial.ts";
import type { Hop } from "./hop.ts";
import { HopAnswer } from "./hop-answer.ts";
import type { Route } from "./route.ts";

/** Options of a connection through an upstream proxy. */
export interface ChainOptions extends Pick<DialOptions, "target" | "deadlineMs" | "onread"> {
  names: Names;
  /** The key of the client by which lookups share their slots. Absent: those of this process. */
  client?: string;
}

/** The open tunnel, and the address of the target at its end; null: the upstream proxy resolves its name. */
export type Chained = { socket: Socket; address: Address | null };

type Done = (result: Chained | Failure) => void;

const SUBJECT = "the upstream proxy";

/** A refusal or failure about the host of the upstream proxy as one about "the upstream proxy": senders do not see its name. */
const withoutHost = (hop: Hop, reason: string): string =>
  reason.startsWith(`${hop.target.host} `) ? SUBJECT + reason.slice(hop.target.host.length) : reason;

/** The failure of a dial of the upstream proxy. Those that concern this proxy keep their code. */
function ofDial(hop: Hop, failure: Failure): Failure {
  const { code } = failure;
  if (code === "overloaded" || code === "unverified" || code === "upstream-timeout") return failure;
  if (code === "timeout") return { ...failure, code: "upstream-timeout" };
  return { code: "upstream-unreachable", reason: withoutHost(hop, failure.reason) };
}

/** The vetted addresses of the upstream proxy. */
function vetHop({ set, target }: Hop, addresses: readonly Address[]): readonly Address[] | Failure {
  const stage = decideName(set, target);
  if ("code" in stage) return stage;
  const { dial: vetted, refusal } = vetAll(set, target, stage, addresses);
  return refusal ?? vetted;
}

/** Resolves and vets the upstream proxy itself. The returned function cancels the lookup. */
function resolveHop(
  hop: Hop,
  { names, client }: ChainOptions,
  done: (addresses: readonly Address[] | Failure) => void,
): () => void {
  const vetted = (addresses: readonly Address[]) => {
    const result = vetHop(hop, addresses);
    // A request that names the upstream proxy is refused as one that names such a target.
    done("code" in result && !hop.named ? ofDial(hop, result) : result);
  };
  if (hop.target.ip) {
    vetted([parseAddress(hop.target.host)!]);
    return () => {};
  }
  const enough = (addresses: readonly Address[]) => !("code" in vetHop(hop, addresses));
  return names.lookup(
    hop.target.host,
    (answer) => {
      if (!("code" in answer)) vetted(answer.addresses);
      else if (answer.code === "overloaded") done(answer);
      else {
        const code = answer.code === "dns-timeout" ? "upstream-timeout" : "upstream-unreachable";
        done({ code, reason: `the name of ${SUBJECT} cannot be resolved` });
      }
    },
    // A client can name many upstream proxies. That of the policy is one, whose lookup serves all clients.
    hop.named && client !== undefined ? { enough, client } : { enough },
  );
}

/** Refuses addresses that after the dial turn out to be of this machine: the rule of the set would open them. */
const strict = (set: PolicySet): PolicySet => ({
  ...set,
  allow: [],
  defaultAction: "Allow",
  fallback: { ...set.fallback, ports: null },
});

/** The CONNECT for a target. Without an address it has the name. It has no field of the client. */
function connectHead(hop: Hop, target: Target, address: Address | null): string {
  const authority = formatTarget(address === null ? target : { ...target, host: formatAddress(address) });
  const credentials = hop.authorization === null ? "" : `Proxy-Authorization: ${hop.authorization}\r\n`;
  return `CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\n${credentials}\r\n`;
}

/** Sends a CONNECT and reads its answer. Calls `done` once, unless the returned function cancels. */
function ask(
  socket: UpstreamSocket,
  head: string,
  answer: HopAnswer,
  shared: boolean,
  done: (failure: Failure | null) => void,
): () => void {
  let over = false;
  const fail = (failure: Failure) => {
    if (over) return;
    over = true;
    socket.destroy();
    done(failure);
  };
  const ended = () => fail(answer.ended);
  const cancel = () => {
    over = true;
    socket.destroy();
  };
  if (shared) {
    const owner: UpstreamOwner = {
      upstreamRead: (length) => {
        const result = over ? null : answer.feed(copyOut(length));
        if (result === null) return !over;
        if ("code" in result) {
          fail(result);
          return false;
        }
        over = true;
        done(null);
        const { owner: next } = socket;
        if (socket.destroyed || next === undefined || next === owner) return false;
        if (result.rest.length === 0) return true;
        // The first bytes of the tunnel came with the answer: the next owner finds them where it expects them.
        result.rest.copy(READ_BUFFER);
        return next.upstreamRead(result.rest.length);
      },
      upstreamEnd: ended,
      upstreamDrained: () => {},
      upstreamError: ended,
      upstreamClosed: ended,
    };
    adopt(socket);
    socket.owner = owner;
  } else {
    const onData = (chunk: Buffer) => {
      const result = answer.feed(chunk);
      if (result === null) return;
      socket.off("data", onData).off("end", ended).off("close", ended);
      if ("code" in result) {
        fail(result);
        return;
      }
      over = true;
      socket.pause();
      if (result.rest.length > 0) socket.unshift(result.rest);
      done(null);
    };
    socket.on("data", onData).on("end", ended).on("close", ended);
  }
  socket.write(head, "latin1");
  socket.resume();
  return cancel;
}

/**
 * Connects to a target through an upstream proxy: to one vetted address after the other, or by its name if the upstream
 * proxy resolves names. All attempts share one deadline, and each gets an equal part of the time that is left. Calls
 * `done` once, unless the returned function cancels.
 */
export function connectVia(hop: Hop, { addresses, routes }: Destinations, options: ChainOptions, done: Done) {
  const { target, deadlineMs, onread } = options;
  const wanted: (Address | null)[] = addresses.length === 0 ? [null] : addresses.slice(0, MAX_ATTEMPTS);
  if (addresses.length > MAX_ATTEMPTS) countBound("dial-attempts");
  let stop: (() => void) | null = null;
  let timer: NodeJS.Timeout | undefined;
  let deadline = 0;

  const finish = (result: Chained | Failure) => {
    clearTimeout(timer);
    stop = () => {};
    done(result);
  };

  const attempt = (hops: readonly Address[], at: number) => {
    const address = wanted[at]!;
    const left = Math.max(1, deadline - performance.now());
    const share = left / (wanted.length - at);
    const route: Route = (address === null ? (routes[4] ?? routes[6]) : routes[address.family])!;
    // The proof of a source address holds for connections from it.
    const usable = route.source === undefined ? hops : hops.filter(({ family }) => family === route.family);
    if (usable.length === 0) {
      finish({ code: "upstream-unreachable", reason: `${SUBJECT} has no IPv${route.family} address` });
      return;
    }
    const failed = (failure: Failure, again: boolean) => {
      clearTimeout(timer);
      if (again && at + 1 < wanted.length) attempt(hops, at + 1);
      else finish(failure);
    };
    const timeout: Failure = {
      code: "upstream-timeout",
      reason: `${SUBJECT} did not answer within ${deadlineMs / 1000} s`,
    };
    timer = setTimeout(() => {
      stop?.();
      failed(timeout, true);
    }, share);
    const dialOptions = {
      target: hop.target,
      policy: strict(hop.set),
      deadlineMs: left + 1000,
      shown: SUBJECT,
      routes: { 4: route, 6: route },
      ...(onread === undefined ? {} : { onread }),
    };
    stop = dial(usable, dialOptions, (dialled) => {
      if ("code" in dialled) {
        failed(ofDial(hop, dialled), false);
        return;
      }
      const { socket } = dialled;
      const asked = { port: target.port, byAddress: address !== null, authorized: hop.authorization !== null };
      const head = connectHead(hop, target, address);
      stop = ask(socket, head, new HopAnswer(asked), onread !== undefined, (failure) => {
        if (failure === null) finish({ socket, address });
        else failed(failure, failure.code !== "upstream-auth");
      });
    });
  };

  const stopLookup = resolveHop(hop, options, (hops) => {
    if ("code" in hops) {
      finish(hops);
      return;
    }
    deadline = performance.now() + deadlineMs;
    attempt(hops, 0);
  });
  return () => {
    clearTimeout(timer);
    (stop ?? stopLookup)();
  };
}
