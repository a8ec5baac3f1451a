import type { Destinations } from "../egress/decide-target.ts";
import { type Hop, refuseNamed } from "../egress/hop.ts";
import { bindsConnection, isRepeatable, maxForwards } from "../http/fields.ts";
import type { Head } from "../http/head.ts";
import { type Address, formatAddress } from "../policy/cidr.ts";
import { formatTarget, parseAbsolute } from "../policy/target.ts";
import { absoluteTargetProblem, shownTarget } from "../policy/target-problem.ts";
import { Exchange, type ExchangeUpstream, type Origin } from "./exchange.ts";
import type { Connection, Entry, OpenRequest } from "./handler.ts";
import { peerOf, Reaching } from "./reaching.ts";
import type { Onward } from "./request-relay.ts";

/**
 * A request with an absolute-form target (RFC 9112 §3.2.2) until it has its upstream. Each request is decided
 * independently of earlier ones.
 */
export class Forward extends Reaching implements Origin {
  #onward: Onward | null = null;

  constructor(client: Connection, head: Head) {
    super(client, head, client.newRecord("http", ""));
  }

  protected override begin(): void {
    const absolute = parseAbsolute(this.head.target);
    if (absolute === null) {
      this.record.target = shownTarget(this.head.target);
      this.fail({ code: "bad-request", reason: absoluteTargetProblem(this.head.target) });
      return;
    }
    this.record.target = formatTarget(absolute.target);
    const forwards = maxForwards(this.head);
    if (typeof forwards === "object" && forwards !== null) {
      this.fail({ code: "bad-request", reason: forwards.error });
      return;
    }
    if (forwards === 0) {
      this.reach(
        absolute.target,
        () => {},
        () => this.#answerHere(),
      );
      return;
    }
    this.#onward = { absolute, forwards: forwards === null ? null : forwards - 1 };
    this.#send(this.#onward, !this.client.first);
  }

  /**
   * Decides the request and sends it. `reuse`: on an idle upstream connection, if there is one. That connection may be
   * closing. A sender expects this on a connection that it has used before, but not for its first request. HAProxy has
   * the same rule (`http-reuse safe`).
   */
  #send(onward: Onward, reuse: boolean): void {
    this.reach(
      onward.absolute.target,
      (socket, request, entry) => {
        const poolKey = this.#poolKey(request.address, request.route.key, request.hop, entry);
        const upstream = { socket, poolKey, opened: request.opened, reused: false, bound: false };
        this.#exchange(upstream, request, entry, onward);
      },
      (destinations, entry, hop) => reuse && this.#reuse(destinations, entry, hop, onward),
    );
  }

  /** Decides the request again: policy, credentials and DNS answers may have changed. */
  sendAgain(held: Buffer, ended: boolean): void {
    const { record } = this;
    record.entry = undefined;
    record.rule = undefined;
    record.wouldDeny = undefined;
    record.addressesCut = undefined;
    record.address = undefined;
    record.upstreamProxy = undefined;
    this.resume(held, ended);
    this.#send(this.#onward!, false);
  }

  /** Uses an idle upstream connection. False: there is none. */
  #reuse({ addresses, routes }: Destinations, entry: Entry, hop: Hop | null, onward: Onward): boolean {
    const { client, record } = this;
    for (const address of addresses.length === 0 ? [null] : addresses) {
      const route = (address === null ? (routes[4] ?? routes[6]) : routes[address.family])!;
      const poolKey = this.#poolKey(address, route.key, hop, entry);
      const pooled = client.server.pool.take(poolKey, client.user);
      if (pooled === null) continue;
      const { socket, opened, bound } = pooled;
      // The pool has only connections whose source was proven before; it drops all others.
      const dialled = Number.POSITIVE_INFINITY;
      const peer = peerOf(hop, socket);
      if (hop?.named && refuseNamed(entry.policy, hop, peer) !== null) {
        socket.destroy();
        continue;
      }
      if (hop !== null) record.upstreamProxy = hop.shown;
      const request = { record, target: onward.absolute.target, address, hop, peer, route, dialled, opened };
      this.#exchange({ socket, poolKey, opened, reused: true, bound }, request, entry, onward);
      return true;
    }
    return false;
  }

  /** Clients with different entries do not share connections, since they do not trust each other. */
  #poolKey(address: Address | null, route: string, hop: Hop | null, { policy }: Entry): string {
    const to = address === null ? "" : formatAddress(address);
    // A name of an acl.yaml can have spaces, so it comes last.
    return `${this.record.target} ${to} ${route} ${hop?.key ?? ""} ${policy.entry ?? ""}`;
  }

  /** RFC 9110 §7.6.2: a request that may not be forwarded is answered by this proxy as its final recipient. */
  #answerHere(): true {
    const { client, record } = this;
    const status = this.head.method === "OPTIONS" ? "200 OK" : "405 Method Not Allowed";
    record.close = "complete";
    client.socket.write(`HTTP/1.1 ${status}\r\nAllow: OPTIONS\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`);
    client.finish(record);
    client.farewell();
    return true;
  }

  #exchange(upstream: ExchangeUpstream, request: OpenRequest, entry: Entry, onward: Onward): void {
    const { client, head, record } = this;
    const bound = upstream.bound || bindsConnection(head.headers);
    const { idleMs } = entry.settings;
    const origin = upstream.reused && isRepeatable(head) ? this : null;
    this.open(upstream.socket, request, entry, () => {
      return new Exchange({ client, head, record, onward, upstream: { ...upstream, bound }, idleMs, origin });
    });
  }
}
