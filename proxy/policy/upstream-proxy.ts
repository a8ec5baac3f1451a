import { parseAddress } from "./cidr.ts";
import { type Reader, type Rule, shown } from "./rules.ts";
import { type AddressClass, describeClass, forms, isLoopback, neverAllowed } from "./special.ts";
import { formatTarget, parseAuthority, type Target } from "./target.ts";

/** Another proxy through which all requests leave, such as that of a company. */
export interface UpstreamProxy {
  /** `http://HOST:PORT`, canonical. It has no credentials: documents are not secret. */
  url: string;
  /**
   * Where names are resolved. Local: here, and the upstream proxy gets vetted addresses only. Upstream: by the upstream
   * proxy, which gets names that no address check has seen.
   */
  resolve: "Local" | "Upstream";
}

const SCHEME = "http://";

function parseUrl(url: string): Target | null {
  const match = /^http:\/\/([^/?#]+)\/?$/i.exec(url);
  return match === null ? null : parseAuthority(match[1]!);
}

/** Host and port of a valid `url`, canonical or not. */
export function hopTarget({ url }: Pick<UpstreamProxy, "url">): Target {
  return parseUrl(url)!;
}

/** The class of an IP address that no upstream proxy may have; undefined: there is none. `--allow-cidr` can open loopback. */
function neverHop({ ip, host }: Target): AddressClass | undefined {
  const address = ip ? parseAddress(host)! : null;
  const found = address === null ? [] : [address, ...forms(address)].map(neverAllowed);
  return found.find((klass) => klass !== undefined && !isLoopback(klass));
}

/** The URL in canonical form, or why it is refused. Errors never contain credentials. */
function readUrl(value: unknown): { url: string } | { error: string } {
  const form = "http://HOST:PORT";
  if (typeof value !== "string") return { error: `must be ${form}, not ${shown(value)}` };
  if (value.includes("@")) {
    return { error: "must not have credentials; put USER:PASSWORD into the file of --upstream-password-file" };
  }
  if (/^https:/i.test(value)) return { error: `must be ${form}, not ${shown(value)}: TLS to it is not supported` };
  const target = parseUrl(value);
  if (target === null) return { error: `must be ${form}, not ${shown(value)}` };
  const never = neverHop(target);
  if (never !== undefined) {
    return { error: `must not have ${describeClass(never)}, as ${shown(value)} has; write the address of your proxy` };
  }
  return { url: `${SCHEME}${formatTarget(target)}` };
}

/** Reads `upstreamProxy`. `operatorKeys`: further keys that only the operator uses. */
export function readUpstreamProxy(
  reader: Reader,
  value: unknown,
  path: string,
  operatorKeys: readonly string[],
): UpstreamProxy {
  const fields = reader.mapping(value, path, ["url", "resolve", ...operatorKeys]);
  if (fields === undefined) return { url: "", resolve: "Local" };
  const read = readUrl(fields.url);
  if ("error" in read) reader.problem(`${path}.url`, read.error);
  return {
    url: "url" in read ? read.url : "",
    resolve: reader.oneOf(fields.resolve, `${path}.resolve`, ["Local", "Upstream"], "Local"),
  };
}

/** The part of a document that the warnings depend on. */
interface Chained {
  upstreamProxy?: UpstreamProxy;
  deny: readonly Rule[];
  clients?: readonly { deny?: readonly Rule[] }[];
}

/** Warnings of a document about what the proxy cannot check when its upstream proxy resolves names. */
export function upstreamWarnings({ upstreamProxy, deny, clients = [] }: Chained): string[] {
  if (upstreamProxy?.resolve !== "Upstream") return [];
  const warnings = [
    "upstreamProxy.resolve: Upstream: the upstream proxy resolves names, so the address of a name is not checked: a name may lead to a private or metadata address",
  ];
  const lists = [deny, ...clients.map((entry) => entry.deny ?? [])];
  if (lists.some((rules) => rules.some(({ cidrs }) => cidrs !== undefined))) {
    warnings.push("upstreamProxy.resolve: Upstream: deny rules with cidrs apply to targets that are IP addresses only");
  }
  return warnings;
}
