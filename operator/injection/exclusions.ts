import { isIP } from "node:net";
import { contains, parseAddress, parseCidr } from "../../proxy/policy/cidr.ts";
import { specialClass, touchesSpecial } from "../../proxy/policy/special.ts";

/** Names of a whole cluster or network. A host name that ends in one is internal. */
const INSIDE = ["svc", "cluster.local", "local", "internal", "localhost"];
/** Shortest prefix length of an entry with host bits set, which cannot be parsed, that does not count as wide. */
const WIDE_PREFIX = 16;

/** Host of an entry of NO_PROXY, without port and leading dot. `suffix`: the entry covers all names below. */
function hostOf(entry: string): { host: string; suffix: boolean } {
  const bracketed = /^\[([^\]]*)\](?::\d+)?$/.exec(entry)?.[1];
  const bare = bracketed ?? (isIP(entry) === 6 ? entry : entry.replace(/:\d+$/, ""));
  const host = bare.replace(/^\*?\./, "").toLowerCase();
  return { host, suffix: host !== bare.toLowerCase() };
}

function touchesInside(text: string): boolean {
  const network = parseCidr(text);
  if (!("error" in network)) return touchesSpecial(network);
  // Go uses the network of an address with a prefix length.
  const [address = "", prefix] = text.split("/");
  return parseAddress(address) !== null && (specialClass(address) !== null || Number(prefix) < WIDE_PREFIX);
}

/**
 * Whether an entry of NO_PROXY lets tenants' URLs reach internal services: a private or otherwise special-purpose
 * address or network, a whole namespace or cluster, or every host. An exact host is the intended use.
 */
export function widens(entry: string, clusterDomain: string): boolean {
  if (entry === "*") return true;
  if (entry.includes("/")) return touchesInside(entry);
  const { host, suffix } = hostOf(entry);
  if (isIP(host) !== 0) return specialClass(host) !== null;
  if (INSIDE.includes(host) || host === clusterDomain) return true;
  const inCluster = host.endsWith(`.${clusterDomain}`) ? host.slice(0, -clusterDomain.length - 1) : host;
  if (inCluster === "svc") return true;
  // namespace.svc is a namespace, name.namespace.svc a Service.
  if (inCluster.endsWith(".svc")) return suffix || inCluster.split(".").length < 3;
  return suffix && (!host.includes(".") || INSIDE.some((name) => host.endsWith(`.${name}`)));
}

/** Whether a host is a special-purpose address, or a name inside of a cluster or network. */
export function isInside(host: string, clusterDomain: string): boolean {
  if (isIP(host) !== 0) return specialClass(host) !== null;
  return !host.includes(".") || [...INSIDE, clusterDomain].some((name) => host.endsWith(`.${name}`));
}

/** Whether an entry excludes a host, as Go reads it: a name also covers the names below it. */
export function excludes(entry: string, target: string): boolean {
  if (entry === "*") return true;
  const network = entry.includes("/") ? parseCidr(entry) : undefined;
  if (network !== undefined) {
    const address = parseAddress(target);
    return !("error" in network) && address !== null && contains(network, address);
  }
  const { host, suffix } = hostOf(entry);
  return (!suffix && host === target) || target.endsWith(`.${host}`);
}
