import { isIP } from "node:net";
import { contains, parseAddress, parseCidr } from "../../proxy/policy/cidr.ts";
import { specialClass, touchesSpecial } from "../../proxy/policy/special.ts";

/** Names that stand for a whole cluster or network: whatever ends in one is inside. */
const INSIDE = ["svc", "cluster.local", "local", "internal", "localhost"];
/** With host bits set nothing is parsed: below this prefix length an entry counts as wide. */
const WIDE_PREFIX = 16;

/** The host of an entry of NO_PROXY, without port and leading dot; `suffix`: it names everything below. */
function hostOf(entry: string): { host: string; suffix: boolean } {
  const bracketed = /^\[([^\]]*)\](?::\d+)?$/.exec(entry)?.[1];
  const bare = bracketed ?? (isIP(entry) === 6 ? entry : entry.replace(/:\d+$/, ""));
  const host = bare.replace(/^\*?\./, "").toLowerCase();
  return { host, suffix: host !== bare.toLowerCase() };
}

function touchesInside(text: string): boolean {
  const network = parseCidr(text);
  if (!("error" in network)) return touchesSpecial(network);
  // Go reads the network around an address.
  const [address = "", prefix] = text.split("/");
  return parseAddress(address) !== null && (specialClass(address) !== null || Number(prefix) < WIDE_PREFIX);
}

/**
 * Whether an entry of NO_PROXY lets tenants' URLs reach the inside of a cluster: a private or otherwise special-purpose
 * address or network, a whole namespace or cluster, everything. One exact host is what the setting is for.
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

/** Whether an entry keeps a host from the proxy, as Go reads it: a name covers what is below it. */
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
