import { setImmediate } from "node:timers/promises";
import { UsageError } from "../cli/usage-error.ts";
import { readSmallFile } from "../config/files.ts";
import { type Address, parseAddress } from "../policy/cidr.ts";
import { canonicalHost } from "../policy/host.ts";

/** Limit in bytes of a hosts file. */
const MAX_HOSTS_BYTES = 8 * 1024 * 1024;
/** Lines that are parsed in one turn of the event loop: some milliseconds. */
const LINES_PER_TURN = 1000;

const DIGITS = /^\d+$/;

/** Addresses by host name. */
export type Hosts = ReadonlyMap<string, readonly Address[]>;

/**
 * The address of a line. The zone of an IPv6 address (`fe80::1%lo0`) is dropped: only link-local addresses have one, and
 * these are never allowed.
 */
function readAddress(text: string): Address | null {
  return parseAddress(text.includes(":") ? text.replace(/%.+$/, "") : text);
}

/**
 * Reads a hosts file (`address name…`, `#` comments), such as /etc/hosts. `pipe`: it may be a pipe, which blocks the
 * process. @throws UsageError naming file and line
 */
export async function readHosts(file: string, pipe = true): Promise<Hosts> {
  const hosts = new Map<string, Address[]>();
  let lines: string[];
  try {
    // Names are ASCII; a comment may be in any encoding.
    lines = readSmallFile(file, { maxBytes: MAX_HOSTS_BYTES, pipe }).toString("latin1").split("\n");
  } catch (error) {
    throw new UsageError(`--hosts ${file}: ${(error as Error).message}`, { cause: error });
  }
  for (const [i, line] of lines.entries()) {
    if (i > 0 && i % LINES_PER_TURN === 0) await setImmediate();
    const [text, ...names] = line.replace(/#.*/, "").trim().split(/\s+/);
    if (text === undefined || text === "") continue;
    const address = readAddress(text);
    if (address === null) throw new UsageError(`--hosts ${file}:${i + 1}: "${text}" is not an IP address`);
    if (names.length === 0) throw new UsageError(`--hosts ${file}:${i + 1}: no name after ${text}`);
    for (const name of names) {
      // The id of a container may have digits only. No target has such a name.
      if (DIGITS.test(name)) continue;
      const host = canonicalHost(name);
      if (host === null) throw new UsageError(`--hosts ${file}:${i + 1}: "${name}" is not a host name`);
      const known = hosts.get(host);
      if (known === undefined) hosts.set(host, [address]);
      else known.push(address);
    }
  }
  return hosts;
}
