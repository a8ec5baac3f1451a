import { execFileSync, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";

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
/** Both names contain the process that created them, so that a later run finds those of a killed one. */
const NAME = /^ort-(?:in|out)-(\d+)-\d+/;
const CARRIER_SECONDS = 5;
let made = 0;

function removeLeftovers(): void {
  const names = execFileSync("ip", ["netns", "list"], { encoding: "utf8" }).split("\n");
  for (const name of names) {
    const match = NAME.exec(name);
    if (match !== null && !existsSync(`/proc/${match[1]}`)) spawnSync("ip", ["netns", "del", match[0]]);
  }
}

/** Waits until the kernel has detected the link: it checks about once a second, and then starts IPv6. */
function waitForCarrier(name: string): void {
  const until = 'until [ "$(cat /sys/class/net/eth0/operstate)" = up ]; do sleep 0.02; done';
  execFileSync("timeout", [`${CARRIER_SECONDS}`, "ip", "netns", "exec", name, "sh", "-c", until]);
}

/**
 * Creates two network namespaces joined by a veth pair, without a route out of them. `addresses` are on the far side;
 * those in `silent` drop every packet there.
 */
export function makeNetns(addresses: readonly string[], silent: readonly string[]): Netns {
  removeLeftovers();
  made++;
  const inside = `ort-in-${process.pid}-${made}`;
  const internet = `ort-out-${process.pid}-${made}`;
  const close = () => {
    for (const name of [inside, internet]) spawnSync("ip", ["netns", "del", name]);
  };
  process.on("exit", close);
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"]) process.once(signal, () => process.exit(1));
  for (const name of [inside, internet]) {
    ip("netns", "add", name);
    // Without duplicate address detection, which would delay IPv6 by a second or two.
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
  for (const name of [inside, internet]) waitForCarrier(name);
  return { inside, internet, close };
}
