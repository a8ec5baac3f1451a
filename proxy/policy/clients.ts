import {
  hostError,
  namesShown,
  type PortSpec,
  type Reader,
  type Rule,
  type RuleContext,
  readPorts,
  readRules,
  shown,
  strings,
  UNSAFE,
} from "./rules.ts";

/** A list of host patterns that rules refer to as `set:NAME`. It has at least one pattern and refers to no set. */
export interface HostList {
  name: string;
  hosts: string[];
}

/** Limits of one client. An absent field: the policy's limit. */
export interface ClientLimits {
  /** Open tunnels and requests at once; 0: no limit. */
  maxTunnels?: number;
  requestsPerSecond?: number;
  /** Requests that may come at once. Default: twice `requestsPerSecond`. */
  burst?: number;
}

/** The rules of one client. How they join those of the policy: docs/proxy.md, Clients. */
export interface ClientEntry {
  name: string;
  allow?: Rule[];
  inheritAllow?: true;
  deny?: Rule[];
  defaultAction?: "Allow" | "Report" | "Deny";
  mode?: "Enforce" | "Report";
  ports?: PortSpec[];
  limits?: ClientLimits;
  /** Upstream proxies that its requests may name. Rules without `ports` cover all ports. */
  upstreamProxies?: Rule[];
}

/** Kinds of proof that a policy asks clients for. */
export const AUTHENTICATION_MODES = ["None", "Basic", "TLS", "BasicOrTLS"] as const;
type AuthenticationMode = (typeof AUTHENTICATION_MODES)[number];

/** Whether a mode reads passwords. */
export const readsPasswords = (mode: AuthenticationMode): boolean => mode === "Basic" || mode === "BasicOrTLS";

/** Whether a mode reads client certificates. */
export const readsCertificates = (mode: AuthenticationMode): boolean => mode === "TLS" || mode === "BasicOrTLS";

/** How clients authenticate. */
export interface Authentication {
  mode: AuthenticationMode;
  /** Admit requests without any proof, as the client `default`. */
  allowMissing: boolean;
  /** The client of requests with the shared password. */
  sharedClient: string;
}

/** The entry of every client without an entry of its own. */
export const DEFAULT_CLIENT = "default";
/** Limit of the clients of a document. That of the CRD is lower. */
export const MAX_CLIENTS = 1024;
/** Limit of the host sets of a document. That of the CRD is lower. */
export const MAX_HOST_SETS = 2048;
/** Limit of the hosts and CIDRs of a document with clients or host sets, in total. */
export const MAX_TOTAL = 1_000_000;
const MAX_LIMIT = 1_000_000;
/** Limit of a client's name of an acl.yaml, in characters. */
export const MAX_CLIENT_NAME = 128;
const SET_NAME = /^[A-Za-z0-9](?:[-A-Za-z0-9]{0,61}[A-Za-z0-9])?$/;
/** With `:` and `/`, since certificates name clients by URI (SPIFFE). No user name has `:`, and no password file `/`. */
const CLIENT_NAME = /^[A-Za-z0-9](?:[-._:/A-Za-z0-9]{0,126}[A-Za-z0-9])?$/;
/** Names of password files with another meaning, and the user name that injection writes. */
const RESERVED = ["PROXY_PASSWORD", "PROXY_PASSWORD_PREVIOUS", "outrider"];
const ENTRY_KEYS = [
  "name",
  "allow",
  "inheritAllow",
  "deny",
  "defaultAction",
  "mode",
  "ports",
  "limits",
  "upstreamProxies",
];

const byName = (a: { name: string }, b: { name: string }): number => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);

/** The items of a list that must not be empty. */
function filled(reader: Reader, value: unknown, path: string, max: number): unknown[] {
  if (Array.isArray(value) && value.length === 0) reader.problem(path, "is empty; remove the field");
  return reader.list(value, path, max);
}

/** Reports a name that an earlier item of the list has. */
function refuseTwice(reader: Reader, seen: Set<string>, name: string, path: string): void {
  if (seen.has(name)) reader.problem(path, `${shown(name)} is given twice`);
  seen.add(name);
}

/** Reads `hostSets`, sorted by name. */
export function readHostSets(reader: Reader, value: unknown, path: string): HostList[] {
  const seen = new Set<string>();
  const sets = filled(reader, value, path, MAX_HOST_SETS).map((item, i): HostList => {
    const here = `${path}[${i}]`;
    const fields = reader.mapping(item, here, ["name", "hosts"]) ?? {};
    const name = typeof fields.name === "string" ? fields.name : "";
    if (!SET_NAME.test(name)) reader.problem(`${here}.name`, "must be 1 to 63 letters, digits or '-'");
    refuseTwice(reader, seen, name, `${here}.name`);
    if (fields.hosts === undefined) reader.problem(`${here}.hosts`, "is missing; name at least one host");
    return { name, hosts: strings(reader, fields.hosts, `${here}.hosts`, hostError) };
  });
  return sets.sort(byName);
}

/** Why a text is no name of a client in a manifest; undefined: it is one. */
export function clientNameProblem(name: string): string | undefined {
  if (!CLIENT_NAME.test(name)) {
    return 'must be 1 to 128 letters, digits and "._:/-", with a letter or digit at both ends';
  }
  return RESERVED.includes(name) ? `${shown(name)} is reserved; use another name` : undefined;
}

function clientName(reader: Reader, value: unknown, path: string, internal: boolean): string {
  const name = typeof value === "string" ? value : "";
  if (internal) {
    const good = name.length >= 1 && name.length <= MAX_CLIENT_NAME && name.search(UNSAFE) === -1;
    if (!good) reader.problem(path, `must be 1 to ${MAX_CLIENT_NAME} characters without control characters`);
    return name;
  }
  const problem = clientNameProblem(name);
  if (problem !== undefined) reader.problem(path, problem);
  return name;
}

function readLimits(reader: Reader, value: unknown, path: string): ClientLimits {
  const fields = reader.mapping(value, path, ["maxTunnels", "requestsPerSecond", "burst"]) ?? {};
  const { maxTunnels, requestsPerSecond, burst } = fields;
  const limits: ClientLimits = {};
  const read = (key: keyof ClientLimits, min: number, fallback: number): number =>
    reader.integer(fields[key], `${path}.${key}`, min, MAX_LIMIT, fallback);
  if (maxTunnels !== undefined) limits.maxTunnels = read("maxTunnels", 0, 0);
  if (requestsPerSecond !== undefined) {
    limits.requestsPerSecond = read("requestsPerSecond", 1, 1);
    limits.burst = read("burst", 1, Math.min(MAX_LIMIT, 2 * limits.requestsPerSecond));
  } else if (burst !== undefined) {
    reader.problem(`${path}.burst`, "has no effect without requestsPerSecond; add it, or remove burst");
  } else if (maxTunnels === undefined) reader.problem(path, "is empty; remove the field");
  return limits;
}

/** Names and defaults of the policy that every entry depends on. */
interface ClientContext extends Omit<RuleContext, "names"> {
  policyNames: ReadonlyMap<string, string>;
  policyDefault: "Allow" | "Report" | "Deny";
}

/** Reports fields that would have no effect: a user would believe in them. */
function refuseIdle(reader: Reader, entry: ClientEntry, path: string, context: ClientContext): void {
  const { allow, deny, mode, ports, inheritAllow } = entry;
  if (allow !== undefined) return;
  if (inheritAllow) {
    reader.problem(
      `${path}.inheritAllow`,
      "has no effect without allow, where the policy's rules apply anyway; remove it",
    );
  }
  if (mode === "Report" && deny === undefined) {
    reader.problem(`${path}.mode`, "has no list to report on; write defaultAction: Report");
  }
  if (ports !== undefined && (entry.defaultAction ?? context.policyDefault) === "Deny") {
    reader.problem(`${path}.ports`, "has no effect; the policy's rules keep the policy's ports");
  }
}

function readEntry(reader: Reader, value: unknown, path: string, context: ClientContext): ClientEntry {
  const fields = reader.mapping(value, path, ENTRY_KEYS) ?? {};
  const entry: ClientEntry = { name: clientName(reader, fields.name, `${path}.name`, context.internal) };
  const rules = { names: new Map(context.policyNames), internal: context.internal, sets: context.sets };
  const list = (key: "allow" | "deny" | "upstreamProxies"): Rule[] => {
    if (Array.isArray(fields[key]) && fields[key].length === 0) {
      reader.problem(`${path}.${key}`, "is empty; remove the field");
    }
    return readRules(reader, fields[key], `${path}.${key}`, rules);
  };
  if (fields.allow !== undefined) entry.allow = list("allow");
  if (fields.inheritAllow === true) entry.inheritAllow = true;
  else if (fields.inheritAllow !== undefined && fields.inheritAllow !== false) {
    reader.problem(`${path}.inheritAllow`, `must be true or false, not ${shown(fields.inheritAllow)}`);
  }
  if (fields.deny !== undefined) entry.deny = list("deny");
  const word = <T extends string>(key: string, words: readonly T[]): T =>
    reader.oneOf(fields[key], `${path}.${key}`, words, words[0]!);
  if (fields.defaultAction !== undefined) entry.defaultAction = word("defaultAction", ["Deny", "Allow", "Report"]);
  if (fields.mode !== undefined) entry.mode = word("mode", ["Enforce", "Report"]);
  if (fields.ports !== undefined) entry.ports = readPorts(reader, fields.ports, `${path}.ports`);
  if (entry.ports?.length === 0) reader.problem(`${path}.ports`, "is empty; remove the field");
  if (fields.limits !== undefined) entry.limits = readLimits(reader, fields.limits, `${path}.limits`);
  if (fields.upstreamProxies !== undefined) entry.upstreamProxies = list("upstreamProxies");
  refuseIdle(reader, entry, path, context);
  return entry;
}

/** Reads `clients`, sorted by name. */
export function readClients(reader: Reader, value: unknown, path: string, context: ClientContext): ClientEntry[] {
  const seen = new Set<string>();
  const entries = filled(reader, value, path, MAX_CLIENTS).map((item, i) => {
    const entry = readEntry(reader, item, `${path}[${i}]`, context);
    refuseTwice(reader, seen, entry.name, `${path}[${i}].name`);
    return entry;
  });
  return entries.sort(byName);
}

/** Reads `authentication` of a document. `clients`: names of the entries, null without entries. */
export function readAuthentication(
  reader: Reader,
  value: unknown,
  path: string,
  clients: ReadonlySet<string> | null,
): Authentication | undefined {
  if (value === undefined) return undefined;
  const fields = reader.mapping(value, path, ["mode", "allowMissing", "sharedClient"]) ?? {};
  const mode = reader.oneOf(fields.mode, `${path}.mode`, AUTHENTICATION_MODES, "None");
  const { allowMissing = false, sharedClient = DEFAULT_CLIENT } = fields;
  if (typeof allowMissing !== "boolean") {
    reader.problem(`${path}.allowMissing`, `must be true or false, not ${shown(allowMissing)}`);
  } else if (allowMissing && !clients?.has(DEFAULT_CLIENT)) {
    const problem =
      clients === null ? "needs clients" : `needs the client default; the policy has ${namesShown(clients)}`;
    reader.problem(`${path}.allowMissing`, problem);
  }
  if (mode === "None" && allowMissing !== true) {
    reader.problem(`${path}.mode`, "None needs allowMissing: true; write Basic, TLS or BasicOrTLS");
  }
  return {
    mode,
    allowMissing: allowMissing === true,
    sharedClient: clientName(reader, sharedClient, `${path}.sharedClient`, true),
  };
}

const sizeOf = (rules: readonly Rule[] = []): number =>
  rules.reduce((sum, { hosts = [], except = [], cidrs = [] }) => sum + hosts.length + except.length + cidrs.length, 0);

/** Hosts and CIDRs of a policy; a host set counts once, however many rules refer to it. */
export function totalOf(parts: { allow: Rule[]; deny: Rule[]; hostSets: HostList[]; clients: ClientEntry[] }): number {
  const sets = parts.hostSets.reduce((sum, { hosts }) => sum + hosts.length, 0);
  const entries = parts.clients.reduce(
    (sum, { allow, deny, upstreamProxies }) => sum + sizeOf(allow) + sizeOf(deny) + sizeOf(upstreamProxies),
    0,
  );
  return sizeOf(parts.allow) + sizeOf(parts.deny) + sets + entries;
}
