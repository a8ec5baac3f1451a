import type { Head, ResponseHead } from "./head.ts";

/** Fields of one hop (RFC 9110 §7.6.1); what Connection nominates comes on top. */
const HOP_BY_HOP = new Set([
  "connection",
  "proxy-connection",
  "keep-alive",
  "proxy-authorization",
  "proxy-authenticate",
  "proxy-authentication-info",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
]);
/** Framing and routing: Connection cannot nominate them away. */
const KEPT = new Set(["host", "content-length", "via"]);

const isDropped = (lower: string, connection: readonly string[]): boolean =>
  HOP_BY_HOP.has(lower) || (connection.includes(lower) && !KEPT.has(lower));

/** The head that goes to the upstream: Host from the URI in its old place, everything else as the client wrote it. */
export function requestHead(head: Head, path: string, authority: string, via: boolean): string {
  const lines = [`${head.method} ${path} HTTP/1.1`];
  let hosted = false;
  for (const [name, value] of head.headers) {
    const lower = name.toLowerCase();
    if (lower === "host") {
      lines.push(`${name}: ${authority}`);
      hosted = true;
    } else if (!isDropped(lower, head.connection)) lines.push(`${name}: ${value}`);
  }
  if (!hosted) lines.splice(1, 0, `Host: ${authority}`);
  if (head.chunked) lines.push("Transfer-Encoding: chunked");
  if (via) lines.push(`Via: 1.${head.minor} outrider`);
  return `${lines.join("\r\n")}\r\n\r\n`;
}

/** The head that goes to the client. A target cannot speak in the proxy's name: `X-Outrider-Error` is dropped. */
export function responseHead(head: ResponseHead, options: { chunked: boolean; close: boolean; via: boolean }): string {
  const lines = [`HTTP/1.1 ${head.status} ${head.reason}`];
  for (const [name, value] of head.headers) {
    const lower = name.toLowerCase();
    if (!isDropped(lower, head.connection) && lower !== "x-outrider-error") lines.push(`${name}: ${value}`);
  }
  if (options.chunked) lines.push("Transfer-Encoding: chunked");
  if (options.via) lines.push(`Via: 1.${head.minor} outrider`);
  if (options.close) lines.push("Connection: close");
  return `${lines.join("\r\n")}\r\n\r\n`;
}
