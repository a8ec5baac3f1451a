import type { HeadParser } from "../http/head.ts";
import type { Handler } from "./handler.ts";
import type { LingeringClose } from "./lingering-close.ts";
import type { Permit } from "./permit.ts";
import type { ProxyHeaderParser } from "./proxy-header.ts";

/** A request that is not over. */
export interface CurrentRequest {
  readonly handler: Handler;
  readonly permit: Permit;
}

/**
 * The phase of a client connection. `since`: start of the phase, or of the whole wait for a first head, by the server's
 * clock (ms).
 */
export type Phase =
  /** Accepted from a load balancer; the PROXY header is not complete. */
  | { readonly name: "header"; readonly since: number; readonly parser: ProxyHeaderParser }
  /** On the TLS port; the handshake is not complete. It begins with the first bytes of the client. */
  | { readonly name: "handshake"; readonly since: number }
  /** Ready for a first head; no byte of it has arrived. The parser has read empty lines in front of it. */
  | { readonly name: "silent"; readonly since: number; readonly parser?: HeadParser }
  /** A part of a head has arrived. */
  | { readonly name: "head"; readonly since: number; readonly parser: HeadParser }
  /** A request is handled: a CONNECT being decided, a tunnel, or an HTTP exchange. */
  | ({ readonly name: "request" } & CurrentRequest)
  /** Between two requests; no byte of the next head has arrived. The parser has read empty lines in front of it. */
  | { readonly name: "idle"; readonly since: number; readonly parser?: HeadParser }
  /** The last answer was given; the rest of the input is discarded. */
  | { readonly name: "closing"; readonly close: LingeringClose }
  /** This side has destroyed the socket, and its `close` event is to come. */
  | { readonly name: "cut" }
  /** The socket is closed, and the upstream still takes the last bytes of the client. */
  | ({ readonly name: "flushing" } & CurrentRequest)
  /** The socket is closed, and the server has forgotten this connection. */
  | { readonly name: "closed" };

/** The phase of every connection that this side has destroyed. */
export const CUT: Phase = { name: "cut" };
/** The phase of every closed connection. */
export const CLOSED: Phase = { name: "closed" };
