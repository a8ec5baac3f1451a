import { STATUS_CODES } from "node:http";
import type { Head, ResponseHead } from "./head.ts";
import { withoutMembers } from "./structured-fields.ts";

/** Hop-by-hop fields (RFC 9110 §7.6.1); Connection nominates more. */
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
/** Fields of framing and routing, which Connection cannot remove. */
const KEPT = new Set(["host", "content-length", "via"]);
/**
 * Response fields that this proxy itself sets, and the one of Smokescreen, which senders read in the same way: those of a
 * target are removed.
 */
const OWN_VOICE = new Set([
  "x-outrider-error",
  "x-envoy-response-flags",
  "x-envoy-response-code-details",
  "x-smokescreen-error",
]);
/** The name of this proxy in `Proxy-Status`. */
const OWN_NAME = "outrider";
/** Limit of the `Proxy-Status` fields of one head that are parsed; further ones are removed. */
const MAX_PROXY_STATUS_FIELDS = 8;
/** Prefix of the reason phrases of refusals (`refusals.ts`). */
const OWN_PHRASE = /^[ \t]*egress-/i;
/** Safe and idempotent methods (RFC 9110 §9.2.2). */
const REPEATABLE_METHODS = new Set(["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"]);
/** Methods with Max-Forwards (RFC 9110 §7.6.2). */
const COUNTED_METHODS = new Set(["OPTIONS", "TRACE"]);
/** Limit of the hops that are passed on: a higher value is lowered (RFC 9110 §7.6.2 permits a maximum). */
const MAX_FORWARDS = 0x7fff_ffff;
/** Authentication schemes that authenticate a connection, not a request (RFC 4559, MS-NTHT). */
const CONNECTION_BOUND = /(?:^|[\s,])(?:ntlm|negotiate|kerberos|nego2)(?:$|[\s,])/i;

const isDropped = (lower: string, connection: ReadonlySet<string>): boolean =>
  HOP_BY_HOP.has(lower) || (connection.has(lower) && !KEPT.has(lower));

/** Whether a request field is for Smokescreen, whose clients keep sending it after a migration. It may have credentials. */
const isForSmokescreen = (lower: string): boolean =>
  lower.startsWith("x-smokescreen-") || lower === "x-upstream-https-proxy";

/** The remaining hops of an OPTIONS or TRACE; null without a limit. An error is a sentence for the client. */
export function maxForwards(head: Head): number | null | { error: string } {
  if (!COUNTED_METHODS.has(head.method)) return null;
  const values = head.headers.filter(([name]) => name.toLowerCase() === "max-forwards").map(([, value]) => value);
  if (values.length === 0) return null;
  if (values.length > 1) return { error: "two Max-Forwards fields" };
  return /^\d+$/.test(values[0]!)
    ? Math.min(Number(values[0]), MAX_FORWARDS)
    : { error: "Max-Forwards is not a number" };
}

/** Additions of this proxy to the head of a forwarded request. */
interface RequestOptions {
  /** The request target: origin-form, or `*`. */
  path: string;
  authority: string;
  via: boolean;
  /** The value of Max-Forwards; null leaves the field as it is. */
  forwards: number | null;
}

/** The head for the upstream: Host from the URI in its old place, everything else as the client wrote it. */
export function requestHead(head: Head, { path, authority, via, forwards }: RequestOptions): string {
  const lines = [`${head.method} ${path} HTTP/1.1`];
  let hosted = false;
  for (const [name, value] of head.headers) {
    const lower = name.toLowerCase();
    if (lower === "host") {
      lines.push(`${name}: ${authority}`);
      hosted = true;
    } else if (forwards !== null && lower === "max-forwards") lines.push(`${name}: ${forwards}`);
    else if (!isDropped(lower, head.connection) && !isForSmokescreen(lower)) lines.push(`${name}: ${value}`);
  }
  if (!hosted) lines.splice(1, 0, `Host: ${authority}`);
  if (head.chunked) lines.push("Transfer-Encoding: chunked");
  if (via) lines.push(`Via: 1.${head.minor} outrider`);
  return `${lines.join("\r\n")}\r\n\r\n`;
}

/** The phrase of a status line: that of the target, unless it looks like a refusal of this proxy. */
const phraseOf = ({ status, reason }: ResponseHead): string =>
  OWN_PHRASE.test(reason) ? (STATUS_CODES[status] ?? "") : reason;

/** Additions of this proxy to the head of a forwarded response. */
interface ResponseOptions {
  chunked: boolean;
  close: boolean;
  via: boolean;
}

/**
 * The head for the client. A target cannot answer in the proxy's name: its refusal fields and phrases are removed, and
 * so are members of `Proxy-Status` that are called outrider. A 204 has no Content-Length (RFC 9110 §8.6).
 */
export function responseHead(head: ResponseHead, options: ResponseOptions): string {
  const lines = [`HTTP/1.1 ${head.status} ${phraseOf(head)}`];
  let statusFields = 0;
  for (const [name, value] of head.headers) {
    const lower = name.toLowerCase();
    if (isDropped(lower, head.connection) || OWN_VOICE.has(lower)) continue;
    if (lower === "content-length" && head.status === 204) continue;
    if (lower !== "proxy-status") {
      lines.push(`${name}: ${value}`);
      continue;
    }
    if (++statusFields > MAX_PROXY_STATUS_FIELDS) continue;
    const others = withoutMembers(value, OWN_NAME);
    if (others !== "") lines.push(`${name}: ${others}`);
  }
  if (options.chunked) lines.push("Transfer-Encoding: chunked");
  if (options.via) lines.push(`Via: 1.${head.minor} outrider`);
  if (options.close) lines.push("Connection: close");
  return `${lines.join("\r\n")}\r\n\r\n`;
}

/** A 100 for the client, without the fields of the target. */
export function continueHead(minor: 0 | 1, via: boolean): string {
  return `HTTP/1.1 100 Continue\r\n${via ? `Via: 1.${minor} outrider\r\n` : ""}\r\n`;
}

/** Whether a client waits for a 100 before it sends its body: an HTTP/1.1 client that says so (RFC 9110 §10.1.1). */
export function expectsContinue(head: Head): boolean {
  if (head.minor === 0) return false;
  return head.headers.some(
    ([name, value]) => name.length === 6 && name.toLowerCase() === "expect" && /^100-continue$/i.test(value),
  );
}

/**
 * Whether a request may be sent twice: its method is safe or idempotent, and it has no body, since that may be forwarded
 * already.
 */
export function isRepeatable({ method, chunked, contentLength = 0 }: Head): boolean {
  return REPEATABLE_METHODS.has(method) && !chunked && contentLength === 0;
}

/** Whether these fields authenticate the connection, so that requests of other clients must not use it. */
export function bindsConnection(headers: readonly [string, string][]): boolean {
  for (const [name, value] of headers) {
    // The length distinguishes most fields.
    if (name.length !== 13 && name.length !== 16 && name.length !== 15) continue;
    const lower = name.toLowerCase();
    if (lower === "persistent-auth") return true;
    if ((lower === "authorization" || lower === "www-authenticate") && CONNECTION_BOUND.test(value)) return true;
  }
  return false;
}
