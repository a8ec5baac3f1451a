/**
 * Every bound that protects this proxy from clients, receivers and DNS, with the number of times it was reached since
 * the start: the metric `outrider_proxy_bound_total`. The limits themselves are constants of the files that enforce
 * them (docs/threat-model.md lists both).
 */
const counts = {
  /** Addresses of one DNS answer that were ignored because the answer had too many. */
  "dns-addresses": 0,
  /** Lookups refused because the queue, or the share of one zone or client, was full. */
  "dns-queue": 0,
  /** Requests that had more addresses than a request may try. */
  "dial-attempts": 0,
  /** Requests refused because of the size of their head, its number of fields or of Connection names. */
  "request-head": 0,
  /** Responses refused because of the number or size of their heads. */
  "response-head": 0,
  /** Bodies refused because of long lines of their chunked coding, or of their trailers. */
  "body-lines": 0,
  /** Reads after which a connection waited for the next turn of the event loop, because of many small chunks. */
  "turn-lines": 0,
  /** Connections closed because they sent no complete first request head. */
  "silent-connections": 0,
  /** Kept-alive and refused connections closed to make room for new ones: no request was under way on them. */
  "resting-connections": 0,
  /** Connections answered 503 because the process had as many as it may, all of them with requests under way. */
  connections: 0,
  /** Silent connections closed because their source address had too many. */
  "connections-per-source": 0,
  /** Connections closed because this process buffered too many bytes. */
  "buffered-bytes": 0,
  /** Requests refused because their source address sent too many wrong passwords. */
  "password-guesses": 0,
  /** Requests refused because their client sent more than its `requestsPerSecond`. */
  "client-requests": 0,
  /** Token buckets of clients that were dropped because there were too many. */
  "client-buckets": 0,
  /** Requests refused because the process has no file descriptor left. */
  "open-files": 0,
  /** Reads of the kernel's local routes that were cut because there are too many. */
  "local-routes": 0,
  /** Upstream connections reset because they took too long to send their last bytes. */
  "lingering-upstreams": 0,
  /** Connections to the admin port that were refused or timed out. */
  "admin-connections": 0,
  /** Requests for live decisions refused because there were as many readers as there may be. */
  "decision-readers": 0,
  /** Records that a reader of live decisions did not get, because there were too many or it read too slowly. */
  "decision-lines": 0,
};

/** The name of a bound: the value of the metric's label `bound`. */
export type Bound = keyof typeof counts;

/** Counts that a bound was reached once. */
export function countBound(bound: Bound): void {
  counts[bound]++;
}

/** How often each bound was reached since the start of the process. */
export function boundCounts(): Readonly<Record<Bound, number>> {
  return counts;
}
