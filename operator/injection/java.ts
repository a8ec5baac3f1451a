import type { Own } from "./variables.ts";

/**
 * The JDK reads only system properties. JAVA_TOOL_OPTIONS is the one variable that sets them from outside
 * (https://docs.oracle.com/en/java/javase/21/docs/api/java.base/java/net/doc-files/net-properties.html).
 */

const PROXY_HOST = /(?<=^|\s)-Dhttps?\.proxyHost=(\S*)/g;
const PROXY_OPTIONS = /\s*(?<!\S)-Dhttps?\.proxy(?:Host|Port)=\S*/g;
const EXCLUSIONS = /\s*(?<!\S)-Dhttp\.nonProxyHosts=\S*/g;
/** Hosts that the JDK excludes by default, and no longer excludes once the property is set. */
const LOOPBACK = ["localhost", "127.*", "[::1]"];

/** Whether the options set another proxy. */
export function hasOtherProxy(options: string, own: Own): boolean {
  return [...options.matchAll(PROXY_HOST)].some(([, host = ""]) => host !== "" && !own.host(host));
}

/** Globs of an entry of NO_PROXY; none for networks and ports, which the JDK does not support. */
function globs(entry: string): string[] {
  if (/[/:]/.test(entry)) return [];
  const name = entry.replace(/^\*?\./, "");
  if (name !== entry) return [`*.${name}`];
  return entry === "*" || /^[\d.]+$/.test(entry) ? [entry] : [entry, `*.${entry}`];
}

/**
 * Exclusions of the options besides the JDK's defaults and `noProxy`, in the form of NO_PROXY if possible: `10.*` is
 * 10.0.0.0/8.
 */
export function exclusionsOf(options: string, noProxy: readonly string[]): string[] {
  const known = [...LOOPBACK, ...noProxy.flatMap(globs)];
  const list = options.match(EXCLUSIONS)?.at(-1)?.split("=")[1] ?? "";
  return list
    .replace(/^["']|["']$/g, "")
    .split("|")
    .filter((glob) => glob !== "" && !known.includes(glob))
    .map((glob) => {
      const octets = /^((?:\d+\.){1,3})\*$/.exec(glob)?.[1]?.slice(0, -1).split(".");
      if (octets === undefined) return glob;
      return `${[...octets, "0", "0", "0"].slice(0, 4).join(".")}/${octets.length * 8}`;
    });
}

/** Entries of NO_PROXY that Java does not support. */
export function unsupported(noProxy: readonly string[]): string[] {
  return noProxy.filter((entry) => globs(entry).length === 0);
}

/**
 * Appends the proxy to JAVA_TOOL_OPTIONS. Exclusions of the pod are kept, and then those of the policy are not added.
 * `overwrite` replaces them.
 */
export function javaOptions(
  options: string,
  { host, port, noProxy, overwrite }: { host: string; port: number; noProxy: readonly string[]; overwrite: boolean },
): string {
  const proxy = ["http", "https"].flatMap((scheme) => [
    `-D${scheme}.proxyHost=${host}`,
    `-D${scheme}.proxyPort=${port}`,
  ]);
  const names = noProxy.flatMap(globs);
  const exclusions = names.length === 0 ? [] : [`-Dhttp.nonProxyHosts=${[...LOOPBACK, ...names].join("|")}`];
  const keeps = !overwrite && options.search(EXCLUSIONS) !== -1;
  const wanted = [...proxy, ...(keeps ? [] : exclusions)];
  const there = new Set(options.split(/\s+/));
  const proxies = options.match(PROXY_OPTIONS)?.length ?? 0;
  const foreign = overwrite && exclusions.length === 0 && options.search(EXCLUSIONS) !== -1;
  if (proxies === proxy.length && !foreign && wanted.every((option) => there.has(option))) return options;
  const bare = options.replace(PROXY_OPTIONS, "");
  return [(keeps ? bare : bare.replace(EXCLUSIONS, "")).trim(), ...wanted].filter((part) => part !== "").join(" ");
}
