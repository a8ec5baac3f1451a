import type { Code } from "../outcome/refusals.ts";
import type { Address } from "../policy/cidr.ts";
import type { Records } from "./message.ts";
import type { Reply, ReplyError } from "./query.ts";

/**
 * The answer for one name: addresses (IPv6 and IPv4 in turn, RFC 8305 §4), or the reason why there are none. `more`:
 * the number of addresses of the DNS answer beyond those.
 */
export type DnsAnswer =
  | { addresses: readonly Address[]; more?: number }
  | { code: Extract<Code, "dns-nxdomain" | "dns-failed" | "dns-timeout" | "overloaded">; reason: string };

const MIN_TTL_SECONDS = 5;
const MAX_TTL_SECONDS = 300;
const NEGATIVE_SECONDS = 5;

function interleave(six: readonly Address[], four: readonly Address[]): Address[] {
  const mixed: Address[] = [];
  for (let i = 0; i < Math.max(six.length, four.length); i++) {
    if (i < six.length) mixed.push(six[i]!);
    if (i < four.length) mixed.push(four[i]!);
  }
  return mixed;
}

const NOTHING: Records = { addresses: [], more: 0, ttl: MAX_TTL_SECONDS };

/** An answer and the time for which it is cached; 0: not cached. */
export interface Conclusion {
  answer: DnsAnswer;
  seconds: number;
}

/**
 * Names that depend on a search list elsewhere: one label, or a Service of Kubernetes without the domain of its cluster.
 */
function isShort(host: string): boolean {
  return !host.includes(".") || host.endsWith(".svc");
}

/** Why a short name is not found here although other programs on this machine resolve it. */
const NO_SEARCH = "no search domain is added: write the full name, or list it in --hosts FILE (/etc/hosts is not read)";

function explained(host: string, reason: string): string {
  return isShort(host) ? `${reason}; ${NO_SEARCH}` : reason;
}

/** The reply to a question that has none yet. */
const PENDING: Reply = { error: "TIMEOUT" };

/** The answer for a name from the replies to its two questions; null: no reply yet. */
export function conclude(host: string, timeoutSeconds: number, aaaa: Reply | null, a: Reply | null): Conclusion {
  const [six, four] = [aaaa ?? PENDING, a ?? PENDING];
  const replies = [six, four];
  const errors = replies.flatMap((reply) => ("error" in reply ? [reply.error] : []));
  const [found6, found4] = replies.map((reply) => ("error" in reply ? NOTHING : reply)) as [Records, Records];
  const failed = errors.find((error) => error !== "NXDOMAIN");
  const addresses = interleave(found6.addresses, found4.addresses);
  if (addresses.length > 0) {
    const more = found6.more + found4.more;
    const ttl = Math.min(MAX_TTL_SECONDS, found6.ttl, found4.ttl);
    // Half an answer is used, but cached for a short time only.
    const seconds = failed === undefined ? Math.max(MIN_TTL_SECONDS, ttl) : MIN_TTL_SECONDS;
    return { answer: more > 0 ? { addresses, more } : { addresses }, seconds };
  }
  if (failed === undefined) {
    const reason = errors.length > 0 ? `${host} does not exist` : `${host} has no address`;
    return { answer: { code: "dns-nxdomain", reason: explained(host, reason) }, seconds: NEGATIVE_SECONDS };
  }
  return conclusionOf(failed, host, timeoutSeconds);
}

function conclusionOf(failed: ReplyError, host: string, timeoutSeconds: number): Conclusion {
  if (failed === "TIMEOUT") {
    const reason = `no answer for ${host} within ${timeoutSeconds} s`;
    return { answer: { code: "dns-timeout", reason }, seconds: NEGATIVE_SECONDS };
  }
  if (failed === "NOFILES") {
    const reason = `cannot resolve ${host}: this proxy has no file descriptor left`;
    return { answer: { code: "overloaded", reason }, seconds: 0 };
  }
  const what = failed === "CONNREFUSED" ? "no resolver answers" : `the resolver failed (${failed})`;
  const reason = explained(host, `cannot resolve ${host}: ${what}`);
  return { answer: { code: "dns-failed", reason }, seconds: NEGATIVE_SECONDS };
}
