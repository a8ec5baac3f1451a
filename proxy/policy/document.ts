import { createHash } from "node:crypto";
import { parseAddress } from "./cidr.ts";
import {
  type Authentication,
  type ClientEntry,
  type HostList,
  MAX_TOTAL,
  readAuthentication,
  readClients,
  readHostSets,
  readsCertificates,
  totalOf,
} from "./clients.ts";
import { type PortSpec, Reader, type Rule, readCidrs, readPorts, readRules, shown } from "./rules.ts";
import { readUpstreamProxy, type UpstreamProxy } from "./upstream-proxy.ts";

/** One address that receivers may rely on. `sourceAddress` is the address to bind (default: `address`). */
export interface StaticIP {
  address: string;
  sourceAddress?: string;
  phase?: "Active" | "Pending" | "Retiring";
}

/** Settings of the proxy in a policy. Command-line options override them. */
interface ProxySettings {
  timeouts: { dnsSeconds: number; connectSeconds: number; idleSeconds: number; drainSeconds: number };
  limits: { maxTunnels: number; maxTunnelsPerClient: number };
  denyStatus: 403 | 502;
  reasonDetail: "Class" | "Full";
  accessLog: "All" | "Denied" | "None";
}

/** Settings of the source address verification (all times in seconds). */
export interface Verification {
  echoURLs: string[];
  intervalSeconds: number;
  timeoutSeconds: number;
  staleAfterSeconds: number;
  onUnverified: "Block" | "Allow";
}

/**
 * The wire form of a policy: the operator sends it to proxies, and a proxy without operator builds it from its file.
 * JSON Schema: `docs/policy-document.schema.json`.
 */
export interface PolicyDocument {
  /** 2 with `hostSets`, `clients`, `upstreamProxy`, or a mode that reads certificates: older proxies reject it. */
  version: 1 | 2;
  /** `namespace/name`: shown in answers and records. */
  policy: string;
  /** Report: a refusal by deny rules, by not-allowed or by port passes, and the record has it as `wouldDeny`. */
  mode: "Enforce" | "Report";
  /** For targets that no allow rule matches. */
  defaultAction: "Allow" | "Report" | "Deny";
  /** Ports of allow rules without `ports`, and of the default action. */
  ports: PortSpec[];
  allow: Rule[];
  deny: Rule[];
  /** Special-purpose ranges in addition to the IANA registries: pod, service and node ranges. */
  blockedCIDRs: string[];
  staticIPs: StaticIP[];
  verification?: Verification;
  proxy: ProxySettings;
  /** Version 2 only, as all fields below. Absent: the start options of the proxy decide. */
  authentication?: Authentication;
  /** Sorted by name; never empty. */
  hostSets?: HostList[];
  /** Sorted by name; never empty. With clients, a request without an entry is refused. */
  clients?: ClientEntry[];
  /** Absent: connections to targets are direct. */
  upstreamProxy?: UpstreamProxy;
}

/** Ports that a policy without `ports` allows. */
export const DEFAULT_PORTS: readonly PortSpec[] = [80, 443, "1024-65535"];

const DOCUMENT_KEYS = [
  "version",
  "policy",
  "mode",
  "defaultAction",
  "ports",
  "allow",
  "deny",
  "blockedCIDRs",
  "staticIPs",
  "verification",
  "proxy",
] as const;

/** Keys that only version 2 has. */
const KEYS_2 = ["authentication", "hostSets", "clients", "upstreamProxy"] as const;

/** Limit of the static IPs of a document; that of the CRD is not higher. */
export const MAX_STATIC_IPS = 64;
/** Limit of the echo URLs; that of the CRD is not higher. */
export const MAX_ECHO_URLS = 8;

function readStaticIPs(reader: Reader, value: unknown, path: string): StaticIP[] {
  const seen = new Set<string>();
  return reader.list(value, path, MAX_STATIC_IPS).map((entry, i) => {
    const here = `${path}[${i}]`;
    const fields = reader.mapping(entry, here, ["address", "sourceAddress", "phase"]) ?? {};
    const ip: StaticIP = { address: typeof fields.address === "string" ? fields.address : "" };
    if (parseAddress(ip.address) === null) reader.problem(`${here}.address`, "must be an IP address");
    if (seen.has(ip.address)) reader.problem(`${here}.address`, `${ip.address} is given twice`);
    seen.add(ip.address);
    if (fields.sourceAddress !== undefined) {
      ip.sourceAddress = typeof fields.sourceAddress === "string" ? fields.sourceAddress : "";
      if (parseAddress(ip.sourceAddress) === null) reader.problem(`${here}.sourceAddress`, "must be an IP address");
    }
    ip.phase = reader.oneOf(fields.phase, `${here}.phase`, ["Active", "Pending", "Retiring"], "Active");
    return ip;
  });
}

function readVerification(reader: Reader, value: unknown, path: string): Verification | undefined {
  if (value === undefined) return undefined;
  const keys = ["echoURLs", "intervalSeconds", "timeoutSeconds", "staleAfterSeconds", "onUnverified"];
  const f = reader.mapping(value, path, keys) ?? {};
  const echoURLs = reader.list(f.echoURLs, `${path}.echoURLs`, MAX_ECHO_URLS);
  if (echoURLs.length === 0) reader.problem(`${path}.echoURLs`, "is empty; name at least one echo URL");
  for (const [i, url] of echoURLs.entries()) {
    const good = typeof url === "string" && URL.canParse(url) && /^https?:$/.test(new URL(url).protocol);
    if (!good) reader.problem(`${path}.echoURLs[${i}]`, "must be an http or https URL");
  }
  return {
    echoURLs: echoURLs as string[],
    intervalSeconds: reader.integer(f.intervalSeconds, `${path}.intervalSeconds`, 1, 3600, 30),
    timeoutSeconds: reader.integer(f.timeoutSeconds, `${path}.timeoutSeconds`, 1, 60, 5),
    staleAfterSeconds: reader.integer(f.staleAfterSeconds, `${path}.staleAfterSeconds`, 1, 86_400, 600),
    onUnverified: reader.oneOf(f.onUnverified, `${path}.onUnverified`, ["Block", "Allow"], "Block"),
  };
}

/** Reads `proxy` of a document. The manifest's `proxy` has more keys, which only the operator uses (`ignored`). */
function readProxy(reader: Reader, value: unknown, path: string, ignored: readonly string[]): ProxySettings {
  const keys = ["timeouts", "limits", "denyStatus", "reasonDetail", "accessLog", ...ignored];
  const f = reader.mapping(value ?? {}, path, keys) ?? {};
  const timeoutKeys = ["dnsSeconds", "connectSeconds", "idleSeconds", "drainSeconds"];
  const t = reader.mapping(f.timeouts ?? {}, `${path}.timeouts`, timeoutKeys) ?? {};
  const l = reader.mapping(f.limits ?? {}, `${path}.limits`, ["maxTunnels", "maxTunnelsPerClient"]) ?? {};
  const time = (key: string, max: number, fallback: number) =>
    reader.integer(t[key], `${path}.timeouts.${key}`, 1, max, fallback);
  const limit = (key: string, min: number, fallback: number) =>
    reader.integer(l[key], `${path}.limits.${key}`, min, 1_000_000, fallback);
  const status = reader.integer(f.denyStatus, `${path}.denyStatus`, 400, 599, 403);
  if (status !== 403 && status !== 502) reader.problem(`${path}.denyStatus`, `must be 403 or 502, not ${status}`);
  return {
    timeouts: {
      dnsSeconds: time("dnsSeconds", 60, 2),
      connectSeconds: time("connectSeconds", 120, 5),
      idleSeconds: time("idleSeconds", 86_400, 300),
      drainSeconds: time("drainSeconds", 86_400, 30),
    },
    limits: { maxTunnels: limit("maxTunnels", 1, 10_000), maxTunnelsPerClient: limit("maxTunnelsPerClient", 0, 0) },
    denyStatus: status === 502 ? 502 : 403,
    reasonDetail: reader.oneOf(f.reasonDetail, `${path}.reasonDetail`, ["Class", "Full"], "Class"),
    accessLog: reader.oneOf(f.accessLog, `${path}.accessLog`, ["All", "Denied", "None"], "All"),
  };
}

/** Where and how to read the fields of a policy. */
interface FieldOptions {
  /** Path of the parent: `""` or `spec`. */
  path: string;
  policy: string;
  ignoredProxyKeys?: readonly string[];
  /** Keys of `upstreamProxy` that only the operator uses. */
  ignoredUpstreamKeys?: readonly string[];
  internalRules?: boolean;
  /** The input may have the keys of version 2. */
  version2?: boolean;
}

/**
 * Reads the keys of version 2 into a document. The names of the host sets are known before, since rules refer to them.
 */
function addVersion2(
  reader: Reader,
  document: PolicyDocument,
  fields: Record<string, unknown>,
  hostSets: HostList[] | undefined,
  context: { at: (key: string) => string; names: ReadonlyMap<string, string>; options: FieldOptions },
): void {
  const { at, names, options } = context;
  const internal = options.internalRules ?? false;
  const sets = new Set((hostSets ?? []).map(({ name }) => name));
  const rules = { internal, sets, policyNames: names, policyDefault: document.defaultAction };
  const clients = fields.clients === undefined ? undefined : readClients(reader, fields.clients, at("clients"), rules);
  const entries = clients === undefined ? null : new Set(clients.map(({ name }) => name));
  const authentication = readAuthentication(reader, fields.authentication, at("authentication"), entries);
  const certificates = authentication !== undefined && readsCertificates(authentication.mode);
  const upstreamProxy =
    fields.upstreamProxy === undefined
      ? undefined
      : readUpstreamProxy(reader, fields.upstreamProxy, at("upstreamProxy"), options.ignoredUpstreamKeys ?? []);
  const needs2 = certificates || [clients, hostSets, upstreamProxy].some((field) => field !== undefined);
  if (!needs2) return;
  document.version = 2;
  if (authentication !== undefined) document.authentication = authentication;
  if (hostSets !== undefined) document.hostSets = hostSets;
  if (clients !== undefined) document.clients = clients;
  if (upstreamProxy !== undefined) document.upstreamProxy = upstreamProxy;
  const { allow, deny } = document;
  const total = totalOf({ allow, deny, hostSets: hostSets ?? [], clients: clients ?? [] });
  if (total > MAX_TOTAL) {
    reader.problem(
      at(clients === undefined ? "hostSets" : "clients"),
      `the policy has ${total} hosts and CIDRs; at most ${MAX_TOTAL} are allowed`,
    );
  }
}

/** Reads the fields that document and manifest share. @throws PolicyError with every wrong field */
export function readFields(fields: Record<string, unknown>, options: FieldOptions): PolicyDocument {
  const reader = new Reader();
  const at = (key: string) => (options.path === "" ? key : `${options.path}.${key}`);
  const names = new Map<string, string>();
  const version2 = options.version2 ?? false;
  const hostSets =
    version2 && fields.hostSets !== undefined ? readHostSets(reader, fields.hostSets, at("hostSets")) : undefined;
  const sets = version2 ? new Set((hostSets ?? []).map(({ name }) => name)) : null;
  const ports = fields.ports === undefined ? [...DEFAULT_PORTS] : readPorts(reader, fields.ports, at("ports"));
  if (ports.length === 0) reader.problem(at("ports"), "is empty; name at least one, or leave the field out");
  const internal = options.internalRules ?? false;
  const verification = readVerification(reader, fields.verification, at("verification"));
  const document: PolicyDocument = {
    version: 1,
    policy: options.policy,
    mode: reader.oneOf(fields.mode, at("mode"), ["Enforce", "Report"], "Enforce"),
    defaultAction: reader.oneOf(fields.defaultAction, at("defaultAction"), ["Allow", "Report", "Deny"], "Allow"),
    ports,
    allow: readRules(reader, fields.allow, at("allow"), { names, internal, sets }),
    deny: readRules(reader, fields.deny, at("deny"), { names, internal, sets }),
    blockedCIDRs: readCidrs(reader, fields.blockedCIDRs, at("blockedCIDRs")),
    staticIPs: readStaticIPs(reader, fields.staticIPs, at("staticIPs")),
    ...(verification === undefined ? {} : { verification }),
    proxy: readProxy(reader, fields.proxy, at("proxy"), options.ignoredProxyKeys ?? []),
  };
  if (version2) addVersion2(reader, document, fields, hostSets, { at, names, options });
  reader.done();
  return document;
}

/** A document from parsed JSON. @throws PolicyError */
export function readDocument(value: unknown): PolicyDocument {
  const reader = new Reader();
  const version2 = typeof value === "object" && value !== null && "version" in value && value.version === 2;
  const fields = reader.mapping(value, "", version2 ? [...DOCUMENT_KEYS, ...KEYS_2] : DOCUMENT_KEYS) ?? {};
  if (fields.version !== 1 && !version2) reader.problem("version", `must be 1 or 2, not ${shown(fields.version)}`);
  if (typeof fields.policy !== "string" || !/^[!-~]{1,320}$/.test(fields.policy)) {
    reader.problem("policy", "must be namespace/name, in printable ASCII");
  }
  reader.done();
  const document = readFields(fields, { path: "", policy: fields.policy as string, internalRules: true, version2 });
  // One policy has one hash.
  if (version2 && document.version === 1) {
    reader.problem("version", "must be 1 without clients, hostSets, upstreamProxy, and a mode that reads certificates");
    reader.done();
  }
  return document;
}

/** A complete document from some of its fields, with defaults for the others. @throws PolicyError */
export function makeDocument(partial: Partial<PolicyDocument>): PolicyDocument {
  return readDocument({ version: 1, policy: "test/test", ...partial });
}

/** Equal input gives equal bytes: keys in the order of {@link PolicyDocument}, with all defaults. */
export function encodeDocument(document: PolicyDocument): string {
  return `${JSON.stringify(readDocument(document))}\n`;
}

/** The identity of a document everywhere: `sha256:` and 64 hex digits of its encoded bytes. */
export function hashDocument(document: PolicyDocument): string {
  return `sha256:${createHash("sha256").update(encodeDocument(document)).digest("hex")}`;
}
