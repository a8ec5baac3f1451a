/**
 * Every way in which a request can fail, in one closed list. The reason phrase, `Proxy-Status` (RFC 9209), the record,
 * the docs and the Envoy headers that Hookdeck Outpost reads all come from this table.
 */
const REFUSALS = {
  "bad-request": { status: 400, phrase: "egress-bad-request:", proxyStatus: "http_request_error" },
  client: { status: 403, phrase: "egress-denied:", proxyStatus: "http_request_denied" },
  auth: { status: 407, phrase: "egress-auth:", proxyStatus: "http_request_denied" },
  "denied-rule": { status: 403, phrase: "egress-denied:", proxyStatus: "http_request_denied" },
  "not-allowed": { status: 403, phrase: "egress-denied:", proxyStatus: "http_request_denied" },
  port: { status: 403, phrase: "egress-denied:", proxyStatus: "http_request_denied" },
  address: { status: 403, phrase: "egress-denied:", proxyStatus: "destination_ip_prohibited" },
  "dns-nxdomain": { status: 502, phrase: "egress-dns:", proxyStatus: "dns_error", envoyFlags: "DF" },
  "dns-failed": { status: 502, phrase: "egress-dns:", proxyStatus: "dns_error", envoyFlags: "DF" },
  "dns-timeout": { status: 504, phrase: "egress-dns:", proxyStatus: "dns_timeout", envoyFlags: "DF" },
  refused: { status: 502, phrase: "egress-connect:", proxyStatus: "connection_refused", envoyFlags: "UF" },
  reset: { status: 502, phrase: "egress-connect:", proxyStatus: "connection_terminated", envoyFlags: "UC" },
  "bad-answer": { status: 502, phrase: "egress-connect:", proxyStatus: "http_protocol_error", envoyFlags: "UC" },
  unreachable: { status: 502, phrase: "egress-connect:", proxyStatus: "destination_ip_unroutable", envoyFlags: "NR" },
  timeout: { status: 504, phrase: "egress-connect:", proxyStatus: "connection_timeout", envoyFlags: "UT" },
  "upstream-unreachable": {
    status: 502,
    phrase: "egress-upstream:",
    proxyStatus: "destination_unavailable",
    envoyFlags: "UF",
  },
  "upstream-refused": { status: 502, phrase: "egress-upstream:", proxyStatus: "connection_refused", envoyFlags: "UF" },
  "upstream-auth": {
    status: 502,
    phrase: "egress-upstream:",
    proxyStatus: "proxy_configuration_error",
    envoyFlags: "UF",
  },
  "upstream-answer": { status: 502, phrase: "egress-upstream:", proxyStatus: "http_protocol_error", envoyFlags: "UC" },
  "upstream-timeout": { status: 504, phrase: "egress-upstream:", proxyStatus: "connection_timeout", envoyFlags: "UT" },
  overloaded: { status: 503, phrase: "egress-unavailable:", proxyStatus: "proxy_internal_error", envoyFlags: "UO" },
  draining: { status: 503, phrase: "egress-unavailable:", proxyStatus: "proxy_internal_error", envoyFlags: "UO" },
  unverified: { status: 503, phrase: "egress-unavailable:", proxyStatus: "proxy_internal_error", envoyFlags: "UO" },
  "no-policy": {
    status: 503,
    phrase: "egress-unavailable:",
    proxyStatus: "proxy_configuration_error",
    envoyFlags: "UO",
  },
} as const satisfies Record<string, RefusalRow>;

interface RefusalRow {
  status: number;
  phrase: string;
  proxyStatus: string;
  envoyFlags?: string;
}

/** A code of {@link REFUSALS}. */
export type Code = keyof typeof REFUSALS;

/** The content of a refusal for the sender. `reason` is one sentence without the phrase's prefix. */
export interface Failure {
  code: Code;
  reason: string;
  /** The rule that decided, if any. */
  rule?: string;
  /** 431 instead of the table's 400. */
  status?: number;
  /** Delay of the answer in milliseconds. */
  delayMs?: number;
  /** The status of the target's answer that this refusal replaces (RFC 9209 §2.1.4). */
  receivedStatus?: number;
}

const MAX_PHRASE = 200;
const DENIALS: ReadonlySet<Code> = new Set(["denied-rule", "not-allowed", "port", "address"]);

/** Whether the policy denied the request (and `denyStatus` applies). */
export function isDenial(code: Code): boolean {
  return DENIALS.has(code);
}

/** The single line that a sender reads: at most 200 bytes of printable ASCII. Go senders show only this phrase. */
export function phraseOf(failure: Failure, policy: string): string {
  const suffix = isDenial(failure.code) && policy !== "" ? `; policy ${policy}` : "";
  const prefix = REFUSALS[failure.code].phrase;
  const room = MAX_PHRASE - prefix.length - 1 - Math.min(suffix.length, 100);
  const reason = failure.reason.replace(/[^\x20-\x7e]+/g, " ");
  const shown = reason.length > room ? `${reason.slice(0, room - 3)}...` : reason;
  return `${prefix} ${shown}${suffix.slice(0, 100)}`;
}

/** The whole refusal as bytes to send; the connection is closed after it. `head` requests get no body (RFC 9110 §9.3.2). */
export function refusalBytes(failure: Failure, options: { policy: string; denyStatus: number; head: boolean }): string {
  const row: RefusalRow = REFUSALS[failure.code];
  const status = failure.status ?? (isDenial(failure.code) ? options.denyStatus : row.status);
  const phrase = phraseOf(failure, options.policy);
  const { receivedStatus } = failure;
  const received = receivedStatus === undefined ? "" : `; received-status=${receivedStatus}`;
  const body = `${phrase}\n`;
  let more = "";
  if (status === 407) more += 'Proxy-Authenticate: Basic realm="outrider", charset="UTF-8"\r\n';
  if (row.status === 503) more += "Retry-After: 1\r\n";
  if (row.envoyFlags) more += `x-envoy-response-flags: ${row.envoyFlags}\r\n`;
  if (isDenial(failure.code)) {
    more += `x-envoy-response-code-details: rbac_access_denied_matched_policy[${options.policy}]\r\n`;
  }
  return `HTTP/1.1 ${status} ${phrase}\r
Content-Type: text/plain; charset=utf-8\r
Content-Length: ${body.length}\r
Connection: close\r
X-Outrider-Error: ${phrase}\r
Proxy-Status: outrider; error=${row.proxyStatus}${received}\r
${more}\r
${options.head ? "" : body}`;
}
