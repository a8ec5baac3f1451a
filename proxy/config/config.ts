import { isIP } from "node:net";
import { LOG_LEVELS } from "../cli/log.ts";
import {
  ipAddresses,
  ipPort,
  type Option,
  oneOf,
  portList,
  readOptions,
  urlPath,
  type Values,
  wholeNumber,
} from "../cli/options.ts";
import { UsageError } from "../cli/usage-error.ts";
import { MAX_HEAD_BYTES } from "../http/head.ts";
import { parseCidr } from "../policy/cidr.ts";
import type { PolicyDocument } from "../policy/document.ts";
import type { PortSpec } from "../policy/rules.ts";
import { counterpartOfFlag } from "../policy/smokescreen.ts";
import { parseNat64Prefix } from "../policy/special.ts";
import { openFileLimit, shareFiles } from "../sockets/descriptors.ts";
import { CLIENT_NAMES } from "../tls/client-certificate.ts";
import type { TlsConfig } from "./tls-files.ts";

/** How a policy file is read; `explain` and `check` share these with the proxy. */
export const POLICY_OPTIONS: readonly Option[] = [
  { name: "policy", value: "FILE", help: "policy document, EgressPolicy manifest or acl.yaml (required)" },
  {
    name: "service",
    value: "NAME",
    help: "service of an acl.yaml, or default, for all clients (default: each service is a client)",
  },
  {
    name: "ports",
    value: "PORTS",
    repeat: true,
    help: "ports and ranges of rules without `ports` and of the default action (default 80,443,1024-65535, or the policy's)",
  },
  {
    name: "password-dir",
    value: "DIR",
    help: "folder with one password file per user name; the file PROXY_PASSWORD is for all other user names",
  },
  {
    name: "allow-missing-client",
    help: "with an acl.yaml, serve requests without credentials and client certificate by its section default",
  },
];

/** `explain` and `check` read this one to know which identities clients can have. */
export const CLIENT_CA_OPTION: Option = {
  name: "tls-client-ca",
  value: "FILE",
  help: "CA certificates of clients, in PEM; a client certificate of another CA fails the handshake (default: none is requested)",
};

/** Settings of the machine in addition to the policy. */
export const RANGE_OPTIONS: readonly Option[] = [
  {
    name: "allow-cidr",
    value: "CIDR",
    repeat: true,
    help: "allow a special-purpose range, or loopback, for every allowed host",
  },
  { name: "deny-cidr", value: "CIDR", repeat: true, help: "deny a range for every host" },
  {
    name: "nat64-prefix",
    value: "CIDR",
    repeat: true,
    help: "NAT64 prefix besides 64:ff9b::/96; the proxy checks the embedded IPv4 address",
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
  {
    name: "hosts",
    value: "FILE",
    help: "hosts file (`IP NAME…` per line); these names are answered from it, not from DNS",
  },
  { name: "dns-seconds", value: "N", help: "time limit for resolving a name, in seconds (default 2, or the policy's)" },
];

/** All options of `outrider proxy`, in the order of `--help`. */
export const PROXY_OPTIONS: readonly Option[] = [
  ...POLICY_OPTIONS,
  { name: "listen", value: "IP:PORT", fallback: ":4750", help: "address for clients; port 0 picks a free port" },
  {
    name: "listen-tls",
    value: "IP:PORT",
    help: "address for clients that speak TLS to the proxy (https:// proxy URLs), in addition to --listen; needs --tls-cert and --tls-key (default: none)",
  },
  { name: "tls-cert", value: "FILE", help: "certificate chain of the proxy, in PEM, its own certificate first" },
  { name: "tls-key", value: "FILE", help: "private key of that certificate, in PEM, not encrypted" },
  CLIENT_CA_OPTION,
  {
    name: "tls-client-name",
    value: "san-uri|san-dns|cn|ou",
    help: "part of a client certificate that names the client: exactly one URI or DNS name (SAN), CN or OU; needed with --tls-client-ca",
  },
  {
    name: "tls-crl",
    value: "FILE",
    repeat: true,
    help: "revocation list of a client CA, in PEM or DER; without a valid one the certificates of the CA are refused",
  },
  {
    name: "proxy-protocol",
    value: "off|required",
    fallback: "off",
    help: "whether connections from --proxy-protocol-from must begin with a PROXY protocol header, version 1 or 2",
  },
  {
    name: "proxy-protocol-from",
    value: "CIDR",
    repeat: true,
    help: "addresses of your load balancers; a PROXY protocol header from any other address is refused",
  },
  {
    name: "listen-external",
    value: "IP:PORT",
    help: "address for clients outside of the network, in addition to --listen-tls: TLS and a proof are required, and --proxy-protocol applies to this port only (default: none)",
  },
  {
    name: "external-from",
    value: "CIDR",
    repeat: true,
    help: "addresses of clients that --listen-external serves; behind a load balancer, those in the PROXY protocol header",
  },
  {
    name: "admin",
    value: "IP:PORT",
    fallback: "127.0.0.1:9750",
    help: "address of the page / for browsers, /livez, /readyz, /status, /metrics and /explain",
  },
  {
    name: "on-bad-policy",
    value: "exit|wait",
    fallback: "exit",
    help: "without a valid policy at start: exit with status 2, or answer 503 and wait",
  },
  ...DNS_OPTIONS,
  ...RANGE_OPTIONS,
  {
    name: "connect-seconds",
    value: "N",
    help: "time limit for connecting to a target, in seconds (default 5, or the policy's)",
  },
  {
    name: "upstream-password-file",
    value: "FILE",
    help: "file with USER:PASSWORD for the upstreamProxy of the policy (default: it gets no credentials)",
  },
  {
    name: "idle-seconds",
    value: "N",
    help: "reset a tunnel or request after this many seconds without traffic (default 300, or the policy's)",
  },
  {
    name: "head-seconds",
    value: "N",
    fallback: "10",
    help: "time limit for a request head, in seconds; beyond it: 408",
  },
  {
    name: "head-kib",
    value: "N",
    fallback: String(MAX_HEAD_BYTES / 1024),
    help: "limit of a request head in KiB, up to 256; beyond it: 431",
  },
  {
    name: "max-tunnels",
    value: "N",
    help: "limit of concurrent tunnels and requests (default 10000, or the policy's)",
  },
  {
    name: "buffer-mib",
    value: "N",
    help: "limit of MiB buffered for clients and targets that do not read; above it the connections that have waited longest are reset (default: a quarter of the memory limit, 32 to 1024)",
  },
  {
    name: "source-address",
    value: "IP",
    repeat: true,
    help: "local address for outgoing connections; while this machine does not have it, requests get 503 and /readyz fails",
  },
  {
    name: "readiness",
    value: "policy|verified",
    fallback: "verified",
    help: "what /readyz checks: the policy only, or also source addresses and their proof",
  },
  {
    name: "drain-delay-seconds",
    value: "N",
    fallback: "5",
    help: "seconds after SIGTERM in which the proxy is not ready, but still serves",
  },
  {
    name: "drain-seconds",
    value: "N",
    help: "seconds after that delay until open tunnels are reset (default 30, or the policy's)",
  },
  { name: "reuse-port", help: "let several processes share the port; each needs its own admin port" },
  { name: "deny-status", value: "403|502", help: "status of a refusal by policy (default 403, or the policy's)" },
  {
    name: "reason-detail",
    value: "class|full",
    help: "whether refusal reasons contain the address (default class, or the policy's)",
  },
  { name: "access-log", value: "all|denied|none", help: "access records on stdout (default all, or the policy's)" },
  { name: "via", value: "on|off", fallback: "on", help: "add `Via: 1.1 outrider` to plain http" },
  {
    name: "healthcheck-path",
    value: "PATH",
    help: "answer GET PATH on the port for clients like /readyz, without credentials and record (default: off)",
  },
  { name: "log-level", value: "LEVEL", fallback: "info", help: `operational log on stderr: ${LOG_LEVELS.join(", ")}` },
  { name: "help", help: "print this help" },
];

/** The validated command line of `outrider proxy`. The policy decides undefined settings. */
export interface Config {
  policy: string;
  service: string | undefined;
  ports: readonly PortSpec[] | undefined;
  listen: { host: string; port: number };
  /** Undefined: no TLS listener. */
  tls: TlsConfig | undefined;
  /** Whether clients can have certificates. */
  clientCertificates: boolean;
  /** Sources that must send a PROXY protocol header. Empty: none. */
  proxyProtocolFrom: readonly string[];
  admin: { host: string; port: number };
  passwordDir: string | undefined;
  /** Admit requests without any proof, under an acl.yaml. */
  allowMissingClient: boolean;
  onBadPolicy: "exit" | "wait";
  resolvers: readonly string[];
  hosts: string | undefined;
  allowCIDRs: readonly string[];
  denyCIDRs: readonly string[];
  nat64Prefixes: readonly string[];
  dnsSeconds: number | undefined;
  connectSeconds: number | undefined;
  /** Undefined: the upstream proxy gets no credentials. */
  upstreamPasswordFile: string | undefined;
  idleSeconds: number | undefined;
  headSeconds: number;
  headKiB: number;
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
  healthcheckPath: string | undefined;
  logLevel: string;
}

/** Whether the process reads passwords or client certificates. */
function readsProofs(values: Values, env: NodeJS.ProcessEnv): boolean {
  return env.PROXY_PASSWORD !== undefined || values.has("password-dir") || values.has("tls-client-ca");
}

/** The TLS port for clients outside of the network. @throws UsageError */
function externalConfig(values: Values, env: NodeJS.ProcessEnv): TlsConfig["external"] {
  const from = values.get("external-from") ?? [];
  if (!values.has("listen-external")) {
    if (from.length > 0) throw new UsageError(`${values.shown("external-from")} needs --listen-external`);
    return undefined;
  }
  const shown = values.shown("listen-external");
  if (!values.has("listen-tls")) throw new UsageError(`${shown} needs --listen-tls`);
  if (from.length === 0) throw new UsageError(`${shown} needs --external-from CIDR, the addresses of its clients`);
  if (!readsProofs(values, env)) {
    throw new UsageError(
      `${shown} needs --tls-client-ca, --password-dir or PROXY_PASSWORD; without a proof everyone could use the proxy`,
    );
  }
  return { listen: ipPort(values, "listen-external", ""), from };
}

/** The options of the TLS listeners. @throws UsageError */
function tlsConfig(values: Values, env: NodeJS.ProcessEnv): TlsConfig | undefined {
  const one = (name: string) => values.get(name)?.[0];
  const requires = (name: string, other: string) => {
    if (values.has(name) && !values.has(other)) throw new UsageError(`${values.shown(name)} needs --${other}`);
  };
  for (const name of ["tls-cert", "tls-key", "tls-client-ca"]) requires(name, "listen-tls");
  for (const name of ["tls-cert", "tls-key"]) requires("listen-tls", name);
  for (const name of ["tls-crl", "tls-client-name"]) requires(name, "tls-client-ca");
  requires("tls-client-ca", "tls-client-name");
  const clientName = oneOf(values, "tls-client-name", CLIENT_NAMES) ?? "cn";
  const external = externalConfig(values, env);
  if (!values.has("listen-tls")) return undefined;
  return {
    listen: ipPort(values, "listen-tls", ""),
    cert: one("tls-cert")!,
    key: one("tls-key")!,
    clientCa: one("tls-client-ca"),
    crls: values.get("tls-crl") ?? [],
    clientName,
    external,
  };
}

/** The sources that must send a PROXY protocol header; empty: the protocol is off. @throws UsageError */
function proxyProtocolFrom(values: Values): readonly string[] {
  const mode = oneOf(values, "proxy-protocol", ["off", "required"]) ?? "off";
  const from = values.get("proxy-protocol-from") ?? [];
  const shown = values.shown("proxy-protocol-from");
  if (mode === "off" && from.length > 0) {
    throw new UsageError(`${shown} has no effect without --proxy-protocol required; add it`);
  }
  if (mode === "required" && from.length === 0) {
    throw new UsageError(
      `${values.shown("proxy-protocol")} required needs --proxy-protocol-from CIDR, the addresses of your load balancers`,
    );
  }
  for (const text of from) {
    const network = parseCidr(text);
    if ("error" in network) throw new UsageError(`${shown}: ${network.error}`);
    if (network.prefix === 0) {
      throw new UsageError(
        `${shown}: ${text} is every address, so every client could choose its client address; name your load balancers`,
      );
    }
  }
  return from;
}

/** Reads and checks the options that several commands share. @throws UsageError */
export function readConfig(options: readonly Option[], argv: readonly string[], env: NodeJS.ProcessEnv) {
  const { values, positionals } = readOptions(options, argv, env, counterpartOfFlag);
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
    ["external-from", parseCidr],
    ["nat64-prefix", parseNat64Prefix],
  ] as const) {
    for (const text of values.get(name) ?? []) {
      const parsed = parse(text);
      if ("error" in parsed) throw new UsageError(`${values.shown(name)}: ${parsed.error}`);
    }
  }
  const sourceAddresses = ipAddresses(values, "source-address");
  if (new Set(sourceAddresses).size < sourceAddresses.length) {
    throw new UsageError(`${values.shown("source-address")}: the address is given twice`);
  }
  const denyStatus = oneOf(values, "deny-status", ["403", "502"]);
  const config: Config = {
    policy: one("policy") ?? "",
    service: one("service"),
    ports: portList(values, "ports"),
    listen: ipPort(values, "listen", ":4750"),
    tls: options === PROXY_OPTIONS ? tlsConfig(values, env) : undefined,
    clientCertificates: values.has("tls-client-ca"),
    proxyProtocolFrom: proxyProtocolFrom(values),
    admin: ipPort(values, "admin", "127.0.0.1:9750"),
    passwordDir: one("password-dir"),
    allowMissingClient: values.has("allow-missing-client"),
    onBadPolicy: oneOf(values, "on-bad-policy", ["exit", "wait"]) ?? "exit",
    resolvers,
    hosts: one("hosts"),
    allowCIDRs: values.get("allow-cidr") ?? [],
    denyCIDRs: values.get("deny-cidr") ?? [],
    nat64Prefixes: values.get("nat64-prefix") ?? [],
    dnsSeconds: wholeNumber(values, "dns-seconds", 1, 60),
    connectSeconds: wholeNumber(values, "connect-seconds", 1, 120),
    upstreamPasswordFile: one("upstream-password-file"),
    idleSeconds: wholeNumber(values, "idle-seconds", 1, 86_400),
    headSeconds: wholeNumber(values, "head-seconds", 1, 120) ?? 10,
    headKiB: wholeNumber(values, "head-kib", 1, 256) ?? MAX_HEAD_BYTES / 1024,
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
    healthcheckPath: urlPath(values, "healthcheck-path"),
    logLevel: oneOf(values, "log-level", LOG_LEVELS) ?? "info",
  };
  return { config, values, positionals, help: values.has("help") };
}

/** Checks that `--policy` is set. @throws UsageError */
export function requirePolicy(config: Config): void {
  if (config.policy === "") throw new UsageError("--policy FILE is required");
}

/** Server settings from the command line, the policy and the limit of open files. */
export interface Settings {
  connectMs: number;
  idleMs: number;
  /** Time from accept to the end of the first request head, and from the first byte to the end of each later one. */
  headMs: number;
  /** Limit in octets of a request head, request line and fields together. */
  headBytes: number;
  /** The configured limit, or less where the limit of open files does not allow it. */
  maxTunnels: number;
  /** The configured limit. */
  maxTunnelsWanted: number;
  /** Limit of client connections, with or without a request. */
  maxConnections: number;
  denyStatus: number;
  accessLog: "all" | "denied" | "none";
  /** Whether plain HTTP gets `Via: 1.1 outrider`. */
  via: boolean;
  /** The path of health checks on the port for clients; undefined: there is none. */
  healthcheckPath: string | undefined;
  /** Drain time after SIGTERM for open tunnels. */
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
    headMs: config.headSeconds * 1000,
    headBytes: config.headKiB * 1024,
    maxTunnels,
    maxTunnelsWanted,
    maxConnections: maxTunnels + shares.idleClients,
    denyStatus: config.denyStatus ?? proxy?.denyStatus ?? 403,
    accessLog: config.accessLog ?? accessLog,
    via: config.via,
    healthcheckPath: config.healthcheckPath,
    drainMs: (config.drainSeconds ?? proxy?.timeouts.drainSeconds ?? 30) * 1000,
  };
}
