import { isIP } from "node:net";
import { LOG_LEVELS } from "../cli/log.ts";
import { ipAddresses, ipPort, type Option, oneOf, readOptions, wholeNumber } from "../cli/options.ts";
import { UsageError } from "../cli/usage-error.ts";
import { parseCidr } from "../policy/cidr.ts";
import type { PolicyDocument } from "../policy/document.ts";
import { parseNat64Prefix } from "../policy/special.ts";
import { openFileLimit, shareFiles } from "../sockets/descriptors.ts";

/** How a policy file is read; `explain` and `check` share these with the proxy. */
export const POLICY_OPTIONS: readonly Option[] = [
  { name: "policy", value: "FILE", help: "policy document, EgressPolicy manifest or acl.yaml (required)" },
  { name: "service", value: "NAME", help: "the service of an acl.yaml that has several" },
];

/** What the machine adds to a policy. */
export const RANGE_OPTIONS: readonly Option[] = [
  {
    name: "allow-cidr",
    value: "CIDR",
    repeat: true,
    help: "open a special-purpose range, or loopback, for every allowed host",
  },
  { name: "deny-cidr", value: "CIDR", repeat: true, help: "close a range for every host" },
  {
    name: "nat64-prefix",
    value: "CIDR",
    repeat: true,
    help: "NAT64 prefix besides 64:ff9b::/96; its addresses are vetted as the IPv4 addresses in them",
  },
];

/** How names are resolved. */
export const DNS_OPTIONS: readonly Option[] = [
  {
    name: "resolver",
    value: "IP:PORT",
    repeat: true,
    help: "DNS server, in order of use (default: those of resolv.conf)",
  },
  { name: "hosts", value: "FILE", help: "names that are not asked for: lines of an address and names" },
  { name: "dns-seconds", value: "N", help: "time for one name, in seconds (default 2, or the policy's)" },
];

/** All options of `outrider proxy`, in the order of `--help`. */
export const PROXY_OPTIONS: readonly Option[] = [
  ...POLICY_OPTIONS,
  { name: "listen", value: "IP:PORT", fallback: ":4750", help: "where clients connect; port 0 picks a free one" },
  {
    name: "admin",
    value: "IP:PORT",
    fallback: "127.0.0.1:9750",
    help: "where /livez /readyz /status /metrics /explain are",
  },
  {
    name: "password-dir",
    value: "DIR",
    help: "folder of passwords, one file a client (PROXY_PASSWORD: any other user name)",
  },
  {
    name: "on-bad-policy",
    value: "exit|wait",
    fallback: "exit",
    help: "without a first valid policy: exit 2, or answer 503 and wait",
  },
  ...DNS_OPTIONS,
  ...RANGE_OPTIONS,
  { name: "connect-seconds", value: "N", help: "time to connect to a target, in seconds (default 5, or the policy's)" },
  {
    name: "idle-seconds",
    value: "N",
    help: "a tunnel without traffic ends after so many seconds (default 300, or the policy's)",
  },
  { name: "max-tunnels", value: "N", help: "tunnels and requests at once (default 10000, or the policy's)" },
  {
    name: "buffer-mib",
    value: "N",
    help: "MiB kept for clients and targets that do not read; above it the slowest connections are reset (default: a quarter of the memory limit, 32 to 1024)",
  },
  {
    name: "source-address",
    value: "IP",
    repeat: true,
    help: "dial from this address of this machine; 503 and not ready while it is not there",
  },
  {
    name: "readiness",
    value: "policy|verified",
    fallback: "verified",
    help: "whether /readyz waits for source addresses and their proof",
  },
  {
    name: "drain-delay-seconds",
    value: "N",
    fallback: "5",
    help: "after SIGTERM: not ready, but serving on, for so many seconds",
  },
  {
    name: "drain-seconds",
    value: "N",
    help: "then tunnels may end by themselves for so many seconds (default 30, or the policy's)",
  },
  { name: "reuse-port", help: "several processes share the port; each needs an admin port of its own" },
  { name: "deny-status", value: "403|502", help: "status of a refusal by policy (default 403, or the policy's)" },
  {
    name: "reason-detail",
    value: "class|full",
    help: "whether reasons name the address (default class, or the policy's)",
  },
  { name: "access-log", value: "all|denied|none", help: "records on stdout (default all, or the policy's)" },
  { name: "via", value: "on|off", fallback: "on", help: "add `Via: 1.1 outrider` to plain http" },
  { name: "log-level", value: "LEVEL", fallback: "info", help: `operational log on stderr: ${LOG_LEVELS.join(", ")}` },
  { name: "help", help: "print this" },
];

/** The command line of `outrider proxy`, checked. Undefined settings are the policy's to say. */
export interface Config {
  policy: string;
  service: string | undefined;
  listen: { host: string; port: number };
  admin: { host: string; port: number };
  passwordDir: string | undefined;
  onBadPolicy: "exit" | "wait";
  resolvers: readonly string[];
  hosts: string | undefined;
  allowCIDRs: readonly string[];
  denyCIDRs: readonly string[];
  nat64Prefixes: readonly string[];
  dnsSeconds: number | undefined;
  connectSeconds: number | undefined;
  idleSeconds: number | undefined;
  maxTunnels: number | undefined;
  bufferMiB: number | undefined;
  sourceAddresses: readonly string[];
  readiness: "policy" | "verified";
  drainDelaySeconds: number;
  drainSeconds: number | undefined;
  reusePort: boolean;
  denyStatus: number | undefined;
  reasonDetail: "class" | "full" | undefined;
  accessLog: "all" | "denied" | "none" | undefined;
  via: boolean;
  logLevel: string;
}

/** Reads and checks the options that several commands share. @throws UsageError */
export function readConfig(options: readonly Option[], argv: readonly string[], env: NodeJS.ProcessEnv) {
  const { values, positionals } = readOptions(options, argv, env);
  const one = (name: string) => values.get(name)?.[0];
  const resolvers = values.get("resolver") ?? [];
  for (const text of resolvers) {
    const match = /^(?:\[([^\]]+)\]|([^:]+)):([1-9]\d{0,4})$/.exec(text);
    if (match === null || isIP(match[1] ?? match[2]!) === 0 || Number(match[3]) > 65535) {
      throw new UsageError(`${values.shown("resolver")} must be IP:PORT, such as 10.96.0.10:53, not "${text}"`);
    }
  }
  for (const [name, parse] of [
    ["allow-cidr", parseCidr],
    ["deny-cidr", parseCidr],
    ["nat64-prefix", parseNat64Prefix],
  ] as const) {
    for (const text of values.get(name) ?? []) {
      const parsed = parse(text);
      if ("error" in parsed) throw new UsageError(`${values.shown(name)}: ${parsed.error}`);
    }
  }
  const sourceAddresses = ipAddresses(values, "source-address");
  if (new Set(sourceAddresses).size < sourceAddresses.length) {
    throw new UsageError(`${values.shown("source-address")}: an address is there twice`);
  }
  const denyStatus = oneOf(values, "deny-status", ["403", "502"]);
  const config: Config = {
    policy: one("policy") ?? "",
    service: one("service"),
    listen: ipPort(values, "listen", ":4750"),
    admin: ipPort(values, "admin", "127.0.0.1:9750"),
    passwordDir: one("password-dir"),
    onBadPolicy: oneOf(values, "on-bad-policy", ["exit", "wait"]) ?? "exit",
    resolvers,
    hosts: one("hosts"),
    allowCIDRs: values.get("allow-cidr") ?? [],
    denyCIDRs: values.get("deny-cidr") ?? [],
    nat64Prefixes: values.get("nat64-prefix") ?? [],
    dnsSeconds: wholeNumber(values, "dns-seconds", 1, 60),
    connectSeconds: wholeNumber(values, "connect-seconds", 1, 120),
    idleSeconds: wholeNumber(values, "idle-seconds", 1, 86_400),
    maxTunnels: wholeNumber(values, "max-tunnels", 1, 1_000_000),
    bufferMiB: wholeNumber(values, "buffer-mib", 1, 65_536),
    sourceAddresses,
    readiness: oneOf(values, "readiness", ["policy", "verified"]) ?? "verified",
    drainDelaySeconds: wholeNumber(values, "drain-delay-seconds", 0, 3600) ?? 5,
    drainSeconds: wholeNumber(values, "drain-seconds", 0, 86_400),
    reusePort: values.has("reuse-port"),
    denyStatus: denyStatus === undefined ? undefined : Number(denyStatus),
    reasonDetail: oneOf(values, "reason-detail", ["class", "full"]),
    accessLog: oneOf(values, "access-log", ["all", "denied", "none"]),
    via: (oneOf(values, "via", ["on", "off"]) ?? "on") === "on",
    logLevel: oneOf(values, "log-level", LOG_LEVELS) ?? "info",
  };
  return { config, values, positionals, help: values.has("help") };
}

/** Whoever needs a policy says so here. @throws UsageError */
export function requirePolicy(config: Config): void {
  if (config.policy === "") throw new UsageError("--policy FILE is required");
}

/** What command line, policy and the limit of open files together say about serving. */
export interface Settings {
  connectMs: number;
  idleMs: number;
  /** What is asked for, or less where the limit of open files does not allow it. */
  maxTunnels: number;
  /** What is asked for. */
  maxTunnelsWanted: number;
  /** Client connections at once, with or without a request. */
  maxConnections: number;
  /** 0: no limit. */
  maxTunnelsPerClient: number;
  denyStatus: number;
  accessLog: "all" | "denied" | "none";
  /** Whether plain HTTP gets `Via: 1.1 outrider`. */
  via: boolean;
  /** How long tunnels may end by themselves after SIGTERM. */
  drainMs: number;
}

/** Settings of the server: the command line first, then the policy; never more than `openFiles` (a limit) allows. */
export function settingsOf(config: Config, document: PolicyDocument | null, openFiles = openFileLimit()): Settings {
  const proxy = document?.proxy;
  const shares = shareFiles(openFiles);
  const maxTunnelsWanted = config.maxTunnels ?? proxy?.limits.maxTunnels ?? 10_000;
  const maxTunnels = Math.min(maxTunnelsWanted, shares.tunnels);
  const accessLog = (proxy?.accessLog ?? "All").toLowerCase() as Settings["accessLog"];
  return {
    connectMs: (config.connectSeconds ?? proxy?.timeouts.connectSeconds ?? 5) * 1000,
    idleMs: (config.idleSeconds ?? proxy?.timeouts.idleSeconds ?? 300) * 1000,
    maxTunnels,
    maxTunnelsWanted,
    maxConnections: maxTunnels + shares.idleClients,
    maxTunnelsPerClient: proxy?.limits.maxTunnelsPerClient ?? 0,
    denyStatus: config.denyStatus ?? proxy?.denyStatus ?? 403,
    accessLog: config.accessLog ?? accessLog,
    via: config.via,
    drainMs: (config.drainSeconds ?? proxy?.timeouts.drainSeconds ?? 30) * 1000,
  };
}
