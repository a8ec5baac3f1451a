import { STATUS_CODES } from "node:http";
import type { Head, ResponseHead } from "./head.ts";
import { withoutMembers } from "./structured-fields.ts";

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
/** Response fields by which this proxy itself speaks: a target's own are dropped. */
const OWN_VOICE = new Set(["x-outrider-error", "x-envoy-response-flags", "x-envoy-response-code-details"]);
/** The name of this proxy in `Proxy-Status`. */
const OWN_NAME = "outrider";
/** `Proxy-Status` fields of one head that are read; further ones are removed. */
const MAX_PROXY_STATUS_FIELDS = 8;
/** How the reason phrases of refusals begin (`errors.ts`). */
const OWN_PHRASE = /^[ \t]*egress-/i;
/** Methods for which Max-Forwards counts (RFC 9110 §7.6.2). */
const COUNTED_METHODS = new Set(["OPTIONS", "TRACE"]);
/** The highest number of hops that is passed on: a longer one is lowered (RFC 9110 §7.6.2 permits a maximum). */
const MAX_FORWARDS = 0x7fff_ffff;
/** Authentication schemes that belong to a connection, not to a request (RFC 4559, MS-NTHT). */
const CONNECTION_BOUND = /(?:^|[\s,])(?:ntlm|negotiate|kerberos|nego2)(?:$|[\s,])/i;

const isDropped = (lower: string, connection: ReadonlySet<string>): boolean =>
  HOP_BY_HOP.has(lower) || (connection.has(lower) && !KEPT.has(lower));

/** How often an OPTIONS or TRACE may still be forwarded; null without such a limit. An error is the sentence for it. */
export function maxForwards(head: Head): number | null | { error: string } {
  if (!COUNTED_METHODS.has(head.method)) return null;
  const values = head.headers.filter(([name]) => name.toLowerCase() === "max-forwards").map(([, value]) => value);
  if (values.length === 0) return null;
  if (values.length > 1) return { error: "two Max-Forwards fields" };
  return /^\d+$/.test(values[0]!)
    ? Math.min(Number(values[0]), MAX_FORWARDS)
    : { error: "Max-Forwards is not a number" };
}

/** What the head of a forwarded request needs besides the client's own. */
export interface RequestOptions {
  /** The request target: origin-form, or `*`. */
  path: string;
  authority: string;
  via: boolean;
  /** The value of Max-Forwards; null leaves the field as it is. */
  forwards: number | null;
}

/** The head that goes to the upstream: Host from the URI in its old place, everything else as the client wrote it. */
export function requestHead(head: Head, { path, authority, via, forwards }: RequestOptions): string {
  const lines = [`${head.method} ${path} HTTP/1.1`];
  let hosted = false;
  for (const [name, value] of head.headers) {
    const lower = name.toLowerCase();
    if (lower === "host") {
      lines.push(`${name}: ${authority}`);
      hosted = true;
    } else if (forwards !== null && lower === "max-forwards") lines.push(`${name}: ${forwards}`);
    else if (!isDropped(lower, head.connection)) lines.push(`${name}: ${value}`);
  }
  if (!hosted) lines.splice(1, 0, `Host: ${authority}`);
  if (head.chunked) lines.push("Transfer-Encoding: chunked");
  if (via) lines.push(`Via: 1.${head.minor} outrider`);
  return `${lines.join("\r\n")}\r\n\r\n`;
}

/** The phrase of a status line: a target's own, unless it reads like a refusal of this proxy. */
const phraseOf = ({ status, reason }: ResponseHead): string =>
  OWN_PHRASE.test(reason) ? (STATUS_CODES[status] ?? "") : reason;

/** What the head of a forwarded response needs besides the target's own. */
export interface ResponseOptions {
  chunked: boolean;
  close: boolean;
  via: boolean;
}

/**
 * The head that goes to the client. A target cannot speak in the proxy's name: its fields and phrases of refusals are
 * removed, and so are members of `Proxy-Status` that are called outrider. A 204 has no Content-Length (RFC 9110 §8.6).
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

/** A 100 as the client gets it: nothing of a target's own fields is of use in it. */
export function continueHead(minor: 0 | 1, via: boolean): string {
  return `HTTP/1.1 100 Continue\r\n${via ? `Via: 1.${minor} outrider\r\n` : ""}\r\n`;
}

/** Whether a client waits for a 100 before its body: an HTTP/1.1 client that says so (RFC 9110 §10.1.1). */
export function expectsContinue(head: Head): boolean {
  if (head.minor === 0) return false;
  return head.headers.some(
    ([name, value]) => name.length === 6 && name.toLowerCase() === "expect" && /^100-continue$/i.test(value),
  );
}

/** Whether these fields authenticate the connection, so that requests of other clients must not use it. */
export function bindsConnection(headers: readonly [string, string][]): boolean {
  for (const [name, value] of headers) {
    // Most fields are told apart by their length.
    if (name.length !== 13 && name.length !== 16 && name.length !== 15) continue;
    const lower = name.toLowerCase();
    if (lower === "persistent-auth") return true;
    if ((lower === "authorization" || lower === "www-authenticate") && CONNECTION_BOUND.test(value)) return true;
  }
  return false;
}
