import { execFileSync, spawnSync } from "node:child_process";

/** Why network namespaces cannot be made here; null when they can. */
export function netnsMissing(): string | null {
  if (process.getuid?.() !== 0) return "needs root for network namespaces";
  if (spawnSync("ip", ["-V"]).error !== undefined) return "needs ip (Debian: iproute2)";
  const probe = `ort-probe-${process.pid}`;
  const made = spawnSync("ip", ["netns", "add", probe], { encoding: "utf8" });
  if (made.status !== 0) return `cannot make network namespaces: ${made.stderr.trim()}`;
  execFileSync("ip", ["netns", "del", probe]);
  return null;
}

/** Two hosts and the wire between them. */
export interface Netns {
  /** Proxy and senders; its default route leads to `internet`. */
  inside: string;
  /** Receivers; knows no other network. */
  internet: string;
  close(): void;
}

const ip = (...args: string[]) => execFileSync("ip", args, { stdio: ["ignore", "ignore", "inherit"] });

/**
 * Makes two network namespaces joined by a veth pair, with no route out of them. `addresses` stand on the far side;
 * those in `silent` swallow every packet there.
 */
export function makeNetns(addresses: readonly string[], silent: readonly string[]): Netns {
  const inside = `ort-in-${process.pid}`;
  const internet = `ort-out-${process.pid}`;
  const close = () => {
    for (const name of [inside, internet]) spawnSync("ip", ["netns", "del", name]);
  };
  process.on("exit", close);
  for (const name of [inside, internet]) {
    ip("netns", "add", name);
    // Without duplicate address detection, which would hold IPv6 back for a second or two.
    const quiet = "for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done";
    ip("netns", "exec", name, "sh", "-c", quiet);
    ip("-n", name, "link", "set", "lo", "up");
  }
  ip("-n", inside, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", internet);
  for (const [name, four, six] of [
    [inside, "192.0.2.1/24", "2001:db8::1/64"],
    [internet, "192.0.2.2/24", "2001:db8::2/64"],
  ] as const) {
    ip("-n", name, "addr", "add", four, "dev", "eth0");
    ip("-n", name, "addr", "add", six, "dev", "eth0", "nodad");
    ip("-n", name, "link", "set", "eth0", "up");
  }
  ip("-n", inside, "route", "add", "default", "via", "192.0.2.2");
  ip("-n", inside, "-6", "route", "add", "default", "via", "2001:db8::2");
  for (const address of addresses) {
    const six = address.includes(":");
    ip("-n", internet, "addr", "add", `${address}/${six ? 128 : 32}`, "dev", "lo", ...(six ? ["nodad"] : []));
  }
  for (const address of silent) ip("-n", internet, "route", "add", "blackhole", `${address}/32`);
  return { inside, internet, close };
}
