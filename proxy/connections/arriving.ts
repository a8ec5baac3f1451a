import type { Socket } from "node:net";
import { countBound } from "../outcome/bounds.ts";
import { type ClientOwner, clientAddress, own } from "../sockets/client.ts";
import { reset } from "../sockets/reset.ts";
import type { Buffers, ByteHolder } from "./buffers.ts";
import { ProxyHeaderParser, type ProxySource } from "./proxy-header.ts";

/** The source of a connection and the bytes behind its PROXY header, or the reason to refuse its first `bytes`. */
export type Arrival =
  | { source: ProxySource | null; rest: Buffer }
  | { refusal: { status: number; reason: string }; bytes: Buffer };

/** The interface of the server for arriving connections. */
export interface ArrivingServer {
  /** Milliseconds, monotonic. */
  readonly now: number;
  readonly settings: { readonly headMs: number };
  readonly buffers: Buffers;
  /** The connection is closed before its header was complete. */
  lost(arriving: Arriving): void;
}

/**
 * An accepted connection whose PROXY header has not arrived yet. It passes the socket on as soon as the header is
 * complete, malformed or late: the next owner begins with the bytes behind the header.
 */
export class Arriving implements ClientOwner, ByteHolder {
  readonly socket: Socket;
  /** The address of the load balancer. */
  readonly from: string;
  /** When it was accepted, by the server's clock. */
  readonly accepted: number;
  readonly bulk = null;
  readonly #server: ArrivingServer;
  readonly #parser = new ProxyHeaderParser();
  readonly #pass: (arriving: Arriving, arrival: Arrival) => void;
  /** The last sweep found the socket destroyed. */
  #seenDestroyed = false;

  /** `pass` is called once, unless the connection is lost. It gives the socket its next owner. */
  constructor(
    socket: Socket,
    server: ArrivingServer,
    sharedReads: boolean,
    pass: (arriving: Arriving, arrival: Arrival) => void,
  ) {
    this.socket = socket;
    this.from = clientAddress(socket);
    this.accepted = server.now;
    this.#server = server;
    this.#pass = pass;
    own(socket, this, sharedReads);
  }

  data(chunk: Buffer): void {
    const result = this.#parser.feed(chunk);
    if (result === null) this.#server.buffers.note(this);
    else if ("error" in result) this.#refuse(400, result.error);
    else this.#pass(this, result);
  }

  #refuse(status: number, reason: string): void {
    this.#pass(this, { refusal: { status, reason }, bytes: this.#parser.bytes });
  }

  /** Enforces the time limit, which the header shares with the first request head. Called once a second. */
  sweep(now: number): void {
    // As for a client connection: this one never closes by itself.
    if (this.socket.destroyed && this.#seenDestroyed) this.closed();
    this.#seenDestroyed = this.socket.destroyed;
    const { headMs } = this.#server.settings;
    if (this.socket.destroyed || now - this.accepted < headMs) return;
    countBound("silent-connections");
    if (this.buffered() === 0) this.socket.destroy();
    else this.#refuse(408, `the PROXY protocol header was not complete within ${headMs / 1000} s`);
  }

  buffered(): number {
    return this.#parser.bytes.length;
  }

  shed(): void {
    reset(this.socket);
  }

  end(): void {
    this.socket.end();
  }

  drained(): void {}

  /** The close follows. */
  failed(): void {}

  closed(): void {
    this.#server.lost(this);
  }
}
