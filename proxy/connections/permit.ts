import type { Credentials } from "../config/credentials.ts";
import {
  type Arrived,
  type Identity,
  identify,
  MISSING,
  proofOf,
  recordName,
  stillValid,
  viewFor,
} from "../config/identity.ts";
import { decideAgain } from "../egress/decide-target.ts";
import { refuseNamed } from "../egress/hop.ts";
import type { Head } from "../http/head.ts";
import { type AccessRecord, noteFailure, notePolicy } from "../outcome/access-record.ts";
import { countBound } from "../outcome/bounds.ts";
import type { Failure } from "../outcome/refusals.ts";
import { limitsKey } from "../policy/cidr.ts";
import type { Authentication } from "../policy/clients.ts";
import type { PolicySet } from "../policy/engine.ts";
import type { ClientTrust } from "../tls/client-trust.ts";
import type { Entry, OpenRequest, ProxyContext } from "./handler.ts";
import type { Rates } from "./rates.ts";

/** State of the server that decides whether a request may be sent. */
export interface PermitServer extends ProxyContext {
  readonly policy: PolicySet | null;
  readonly credentials: Credentials;
  /** The client CAs; null: clients need no certificate. */
  readonly trust: ClientTrust | null;
  /** How clients authenticate. */
  readonly authentication: Authentication;
  /**
   * Counts one request or tunnel under a client's key; returns a sentence when a limit forbids it. `limit`: those of this
   * key; 0: no limit.
   */
  acquire(key: string, limit: number): string | null;
  release(key: string): void;
  /** Token buckets for `requestsPerSecond` of clients. */
  readonly rates: Rates;
}

const NO_ENTRY: Failure = { code: "client", reason: "this client has no entry in the policy" };
const ENTRY_GONE: Failure = { code: "client", reason: "this client is no longer in the policy" };

const HOP_CHANGED: Failure = { code: "unverified", reason: "the upstream proxy has changed; try again" };

/**
 * The permission of one request: given by policy, identity and limits at the entry stage, checked again before the
 * request is sent, and after each reload until it is over.
 */
export class Permit {
  readonly #server: PermitServer;
  readonly #arrived: Arrived;
  /** The key under which the limits count this request; null while none is counted. */
  #counted: string | null = null;
  #identity: Identity = MISSING;
  /** The entry of the policy that allowed this request; null: a policy without clients. */
  #entry: string | null = null;
  /** Set while it has its upstream connection. */
  #open: OpenRequest | null = null;

  constructor(server: PermitServer, arrived: Arrived) {
    this.#server = server;
    this.#arrived = arrived;
  }

  /**
   * The entry stage: policy, identity, limits. `first`: the first request of its connection. It can be repeated for a
   * request that is sent again.
   */
  enter(head: Head, record: AccessRecord, first: boolean): Entry | Failure {
    const again = this.#counted !== null;
    this.release();
    const server = this.#server;
    const { policy, credentials, trust, authentication } = server;
    if (policy === null) return { code: "no-policy", reason: "this proxy has no valid policy yet" };
    // The first request of an accepted connection is still served; later ones are refused, so that the client
    // reconnects elsewhere. A request that has entered may end.
    if (server.phase === "draining" && !first && !again)
      return { code: "draining", reason: "this proxy is shutting down" };
    const { certificate, from, isExternal } = this.#arrived;
    const proofs = { authorization: head.authorization, certificate, from, isExternal };
    const identity = identify(proofs, credentials, trust, authentication);
    if ("code" in identity) return identity;
    this.#identity = identity;
    const name = recordName(identity);
    if (name !== undefined) record.client = name;
    const view = this.#viewIn(policy, record);
    if (view === null) return NO_ENTRY;
    // An address has no space in it.
    const key = identity.kind === "own" ? `client ${identity.name}` : this.#arrived.from;
    // A request that is sent again is one request of the client.
    const full = (again ? null : this.#charge(view, key)) ?? server.acquire(key, view.limits.maxTunnels ?? 0);
    if (full !== null) return { code: "overloaded", reason: full };
    this.#counted = key;
    return { policy: view, root: policy, settings: server.settings, credentials, trust, identity, key };
  }

  /** The view that decides for the client, also in the record. Null: it has none. */
  #viewIn(policy: PolicySet, record: AccessRecord): PolicySet | null {
    const view = viewFor(policy, this.#identity, this.#server.authentication);
    if (policy.views !== null) record.authentication = proofOf(this.#identity);
    if (view === null) return null;
    this.#entry = view.entry;
    if (view.entry !== null) record.entry = view.entry;
    return view;
  }

  /** Takes one of the requests that the client may send; returns a sentence when it may send none now. */
  #charge({ entry, limits }: PolicySet, key: string): string | null {
    if (limits.requestsPerSecond === undefined) return null;
    // The shared password and no proof can give one address two entries. No name of an entry has a line feed.
    if (this.#server.rates.take(`${entry}\n${limitsKey(key)}`, limits, this.#server.now)) return null;
    countBound("client-requests");
    return `this client sends too many requests; its limit per second is ${limits.requestsPerSecond}`;
  }

  /**
   * The last check, just before the 200 and before each plain request: the policy or the gate may have changed since
   * the entry stage. Null: it may be sent.
   */
  begin(entry: Entry, request: OpenRequest): Failure | null {
    const { policy, credentials, trust, gate } = this.#server;
    const changed =
      policy !== entry.root || credentials !== entry.credentials || trust !== entry.trust || this.#hopChanged(request);
    // A certificate may have expired since the entry stage. The check also notes when it expires from now on.
    const invalid = changed ? this.#decideAgain(request) : this.#invalid();
    const refused = invalid ?? gate.refusal(request.route, request.dialled);
    if (refused === null) this.#open = request;
    return refused;
  }

  /** Whether the policy now has another upstream proxy, or another way to resolve the names that one gets. */
  #hopChanged({ hop }: OpenRequest): boolean {
    const { hop: now } = this.#server;
    return hop?.named ? hop.resolve !== (now?.resolve ?? "Local") : hop?.key !== now?.key;
  }

  /** Why a proof of the client is no longer valid; null: all are. */
  #invalid(): Failure | null {
    const { credentials, trust, authentication } = this.#server;
    return stillValid(this.#identity, credentials, trust, authentication);
  }

  #decideAgain(request: OpenRequest): Failure | null {
    const { target, address, record } = request;
    const { policy } = this.#server;
    const invalid = this.#invalid();
    if (invalid !== null) return invalid;
    if (policy === null) return null;
    notePolicy(record, policy);
    if (this.#entry !== null && !policy.views?.has(this.#entry)) return ENTRY_GONE;
    if (this.#hopChanged(request)) return HOP_CHANGED;
    const view = this.#viewIn(policy, record);
    if (view === null) return NO_ENTRY;
    const refused = request.hop?.named ? refuseNamed(view, request.hop, request.peer) : null;
    return refused ?? decideAgain(view, target, address, record);
  }

  /** The entry of the policy that allowed this request; null: none. */
  get entry(): string | null {
    return this.#entry;
  }

  /** Decides an open request again after a reload, and writes a denial into its record. True: it is denied. */
  revoked(): boolean {
    const request = this.#open;
    if (request === null) return false;
    const refused = this.#decideAgain(request);
    if (refused === null) return false;
    noteFailure(request.record, refused);
    return true;
  }

  /** Whether its upstream connection was established on an egress path between two moments (monotonic ms). */
  openedOn(route: string, since: number, until: number): boolean {
    const request = this.#open;
    return request?.route.key === route && request.opened >= since && request.opened <= until;
  }

  /** The request is over: its place in the limits is free. */
  release(): void {
    this.#open = null;
    if (this.#counted === null) return;
    this.#server.release(this.#counted);
    this.#counted = null;
  }
}
