/**
 * Clients that speak another protocol to the port of the proxy: by mistake, or because a load balancer is set so. Their
 * first bytes are never valid HTTP.
 */

const PLAIN = "this port speaks plain HTTP/1.1; write http:// in the proxy URL";
/** The reason to refuse a PROXY header. */
export const UNEXPECTED_HEADER =
  "the client sent a PROXY protocol header that this port does not expect from its address; switch it off in the load balancer, or set --proxy-protocol-from";

/** The first byte of a connection. No method begins with one of them (RFC 9110 §5.6.2). */
const FIRST_BYTES: Readonly<Record<number, string>> = {
  // A SOCKS client waits for an answer after a few bytes, and a TLS handshake may have no LF.
  4: `the client speaks SOCKS4: ${PLAIN}`,
  5: `the client speaks SOCKS5: ${PLAIN}`,
  22: `the client sent a TLS handshake: ${PLAIN}`,
};

/** The protocol of a client that sends this byte first, as a reason; undefined: it may be HTTP. */
export function protocolOfByte(first: number | undefined): string | undefined {
  return first === undefined ? undefined : FIRST_BYTES[first];
}

/** The protocol of a client whose first line (latin1, without CRLF) is this one, as a reason; undefined: HTTP. */
export function protocolOfLine(line: string): string | undefined {
  if (/^PROXY (?:TCP4|TCP6|UNKNOWN)(?: |$)/.test(line)) return UNEXPECTED_HEADER;
  // The signature of version 2 is CRLF CRLF NUL CRLF "QUIT" LF.
  if (line === "\0") return UNEXPECTED_HEADER;
  if (line === "PRI * HTTP/2.0") return "the client speaks HTTP/2: this port speaks HTTP/1.1 only";
  return undefined;
}
