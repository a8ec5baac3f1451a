import { constants } from "node:crypto";
import type { Socket } from "node:net";
import { createServer, type Server, type TLSSocket } from "node:tls";
import { inLaterTurn } from "../sockets/turns.ts";
import type { ClientTrust } from "./client-trust.ts";
import type { ServerIdentity } from "./server-identity.ts";

/** The parts of Node's TLS socket that are not public. The use is checked. */
type Wrapping = TLSSocket & { _parent?: Socket };

/** The connection that a handshake is for. */
export interface Handshaking {
  /** The handshake is complete. */
  secured(socket: TLSSocket): void;
  /** The handshake failed; `reason` is a sentence. */
  handshakeFailed(reason: string): void;
}

/**
 * TLS 1.2 or later. No session is resumed, since that would skip the check of the client certificate. No renegotiation,
 * since each one costs a signature.
 */
const OPTIONS = {
  minVersion: "TLSv1.2",
  secureOptions: constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION,
} as const;

/** Performs TLS handshakes on accepted sockets, by the certificates that were read last. */
export class Handshakes {
  readonly #server: Server;
  readonly #pending = new WeakMap<Socket, Handshaking>();

  /** `trust` null: clients need no certificate, and none is requested. */
  constructor(identity: ServerIdentity, trust: ClientTrust | null) {
    const context = this.#context(identity, trust);
    // Clients without a certificate get an answer that says so; the owner refuses those with an invalid one.
    const client = { requestCert: trust !== null, rejectUnauthorized: false };
    this.#server = createServer({ ...context, ...client, ALPNProtocols: ["http/1.1"], allowHalfOpen: true });
    this.#server.on("secureConnection", (socket: Wrapping) => {
      const handshaking = this.#take(socket);
      if (handshaking === undefined) socket.destroy();
      else handshaking.secured(socket);
    });
    this.#server.on("tlsClientError", (error, socket: Wrapping) => {
      this.#take(socket)?.handshakeFailed(reasonOf(error));
      socket.destroy();
    });
  }

  #context(identity: ServerIdentity, trust: ClientTrust | null) {
    const { cert, key } = identity;
    return { ...OPTIONS, cert, key, ...trust?.options };
  }

  /** Uses other certificates for all later handshakes. */
  use(identity: ServerIdentity, trust: ClientTrust | null): void {
    this.#server.setSecureContext(this.#context(identity, trust));
  }

  #take({ _parent: raw }: Wrapping): Handshaking | undefined {
    if (raw === undefined) return undefined;
    const handshaking = this.#pending.get(raw);
    this.#pending.delete(raw);
    return handshaking;
  }

  /**
   * Performs the handshake of a paused socket. Handshakes begin one after the other, a few in each turn of the event
   * loop, since each costs about 1 ms. Other connections are served in between.
   */
  start(raw: Socket, handshaking: Handshaking): void {
    this.#pending.set(raw, handshaking);
    raw.once("close", () => this.#pending.delete(raw));
    inLaterTurn(() => {
      if (!raw.destroyed) this.#server.emit("connection", raw);
    });
  }
}

/** The words of OpenSSL for a failure, without its numbers. */
function reasonOf(error: NodeJS.ErrnoException & { reason?: string }): string {
  if (error.code === "ECONNRESET") return "the client closed the connection in the handshake";
  return `the handshake failed: ${error.reason ?? error.code ?? "unknown error"}`;
}
