import { UsageError } from "../cli/usage-error.ts";
import { readSmallText } from "../config/files.ts";
import { type Address, parseAddress } from "../policy/cidr.ts";
import { canonicalHost } from "../policy/host.ts";

/** Limit in bytes of a hosts file, which is read at the start only. */
const MAX_HOSTS_BYTES = 8 * 1024 * 1024;

/** Reads a hosts file (`address name…`, `#` comments). @throws UsageError naming file and line */
export function readHosts(file: string): Map<string, Address[]> {
  const hosts = new Map<string, Address[]>();
  let lines: string[];
  try {
    lines = readSmallText(file, { maxBytes: MAX_HOSTS_BYTES, pipe: true }).split("\n");
  } catch (error) {
    throw new UsageError(`--hosts ${file}: ${(error as Error).message}`);
  }
  for (const [i, line] of lines.entries()) {
    const [text, ...names] = line.replace(/#.*/, "").trim().split(/\s+/);
    if (text === undefined || text === "") continue;
    const address = parseAddress(text);
    if (address === null) throw new UsageError(`--hosts ${file}:${i + 1}: "${text}" is not an IP address`);
    if (names.length === 0) throw new UsageError(`--hosts ${file}:${i + 1}: no name after ${text}`);
    for (const name of names) {
      const host = canonicalHost(name);
      if (host === null) throw new UsageError(`--hosts ${file}:${i + 1}: "${name}" is not a host name`);
      hosts.set(host, [...(hosts.get(host) ?? []), address]);
    }
  }
  return hosts;
}
