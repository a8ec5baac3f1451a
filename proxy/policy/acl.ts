import { formatAddress, parseAddress } from "./cidr.ts";
import { DEFAULT_PORTS } from "./document.ts";
import { type HostPattern, parseHostPattern } from "./host.ts";
import { type ParsedText, parseText } from "./parse.ts";
import { PolicyError, Reader, type Rule, shown } from "./rules.ts";
import { specialClass } from "./special.ts";

/** The content of an acl.yaml, in the terms of a policy. */
interface AclResult {
  policy: { mode: "Enforce"; defaultAction: "Allow" | "Report" | "Deny"; allow: Rule[]; deny: Rule[] };
  /** Name of the service that applies, or `default`; undefined: the file has neither, and its lists decide. */
  service: string | undefined;
  /** Lint warnings about parts of the file that users may not expect. */
  warnings: string[];
}

/** The choice of the service of an acl.yaml that applies to the clients. */
export interface AclChoice {
  /** The name of a service, or `default`. */
  service?: string | undefined;
  /** Clients present the shared password. mole gives them the role `authed`. */
  sharedPassword?: boolean | undefined;
}

/** Keys of which a file needs one, since they decide. */
const DECIDING_KEYS = ["services", "default", "global_allow_list", "global_deny_list"];
/** A key of Smokescreen's config.yaml. Smokescreen ignores it here. */
const MISSING_ROLE = "allow_missing_role";
/** `x-…`: keys for anchors, which are ignored. */
const TOP_KEYS = ["version", ...DECIDING_KEYS, MISSING_ROLE, "x-…"];
const SERVICE_KEYS = ["name", "project", "action", "allowed_domains", "allowed_external_proxies", "mitm_domains"];
/** Smokescreen's actions; the deny list applies in all three. */
const ACTIONS = { enforce: "Deny", report: "Report", open: "Allow" } as const;

/** Role of clients with the shared password. */
const AUTHED = "authed";
/** The section for clients of no service. */
const DEFAULT = "default";

/** The port policy of an acl.yaml, which has no field for it. */
export const PORTS_OF_ACL = `only the ports ${DEFAULT_PORTS.join(", ")} are allowed, and Smokescreen allows every port`;

/** A hint for users who want to allow every target. */
const OPEN_HINT = "to allow everything but global_deny_list, write default: {action: open}";

interface Service {
  name: string;
  action: keyof typeof ACTIONS | undefined;
  domains: Entries;
}

/** A list of an acl.yaml, sorted by the kind of its entries. */
interface Entries {
  hosts: string[];
  addresses: string[];
}

function isMapping(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Whether a YAML value is an acl.yaml of Smokescreen or mole (stripe/smokescreen pkg/smokescreen/acl/v1). */
export function looksLikeAcl(value: unknown): boolean {
  if (!isMapping(value) || "kind" in value || "apiVersion" in value) return false;
  return value.version === "v1" || DECIDING_KEYS.some((key) => key in value);
}

const single = (address: string): string => `${address}/${address.includes(":") ? 128 : 32}`;

function readList(reader: Reader, value: unknown, path: string): Entries {
  const entries: Entries = { hosts: [], addresses: [] };
  for (const [i, text] of reader.list(value ?? undefined, path, 100_000).entries()) {
    const here = `${path}[${i}]`;
    if (typeof text !== "string") {
      reader.problem(here, "must be a string");
      continue;
    }
    const address = parseAddress(text);
    if (address !== null) {
      entries.addresses.push(formatAddress(address));
      continue;
    }
    const pattern = parseHostPattern(text, "acl");
    if ("error" in pattern) reader.problem(here, pattern.error);
    else if (pattern.kind === "any") reader.problem(here, `"*" is no name; use action: open to allow everything`);
    else entries.hosts.push(text);
  }
  return entries;
}

function readService(reader: Reader, value: unknown, path: string, warnings: string[]): Service {
  const fields = reader.mapping(value, path, SERVICE_KEYS) ?? {};
  const isDefault = path === DEFAULT;
  if (!isDefault && (typeof fields.name !== "string" || fields.name === ""))
    reader.problem(`${path}.name`, "is missing");
  if (typeof fields.project === "object" && fields.project !== null) {
    reader.problem(`${path}.project`, "must be a string");
  }
  if (fields.action === undefined) reader.problem(`${path}.action`, "is missing: enforce, report or open");
  const action = reader.oneOf(fields.action, `${path}.action`, ["enforce", "report", "open"], "enforce");
  for (const key of ["allowed_external_proxies", "mitm_domains"]) {
    const list = reader.list(fields[key] ?? undefined, `${path}.${key}`, 100_000);
    if (list.length > 0) warnings.push(`${path}.${key} has no effect: chaining and interception are not offered`);
  }
  const domains = readList(reader, fields.allowed_domains, `${path}.allowed_domains`);
  return { name: isDefault ? DEFAULT : String(fields.name), action, domains };
}

interface AclFile {
  services: Service[];
  /** The file has the key `services`, even if the list is empty. */
  hasServices: boolean;
  fallback: Service | undefined;
  /** The file has the key `global_allow_list`, even if the list is empty. */
  hasAllowList: boolean;
  allow: Entries;
  deny: Entries;
  warnings: string[];
}

function checkNames(reader: Reader, services: readonly Service[], hasDefault: boolean): void {
  const first = new Map<string, string>(hasDefault ? [[DEFAULT, `the section ${DEFAULT}`]] : []);
  for (const [i, { name }] of services.entries()) {
    const before = first.get(name);
    if (before === undefined) first.set(name, `services[${i}]`);
    else reader.problem(`services[${i}].name`, `"${name}" is the name of ${before} already`);
  }
}

/** The top-level keys without those that are only for anchors. */
function withoutExtensions(value: unknown): unknown {
  if (!isMapping(value)) return value;
  return Object.fromEntries(Object.entries(value).filter(([key]) => !key.startsWith("x-")));
}

function readFile({ value, tabs }: ParsedText): AclFile {
  const reader = new Reader();
  const warnings: string[] = [];
  if (tabs) warnings.push("the file is indented with tabs, which YAML forbids: read as two spaces each");
  const fields = reader.mapping(withoutExtensions(value), "", TOP_KEYS) ?? {};
  if (fields.version !== undefined && fields.version !== "v1") {
    reader.problem("version", `must be v1, not ${shown(fields.version)}`);
  }
  const has = (key: string) => Object.hasOwn(fields, key);
  if (!DECIDING_KEYS.some(has)) reader.problem("services", `is missing, and so is default; ${OPEN_HINT}`);
  if (has(MISSING_ROLE)) {
    warnings.push(`${MISSING_ROLE} has no effect: without a password, ${DEFAULT} applies to every client`);
  }
  const services = reader
    .list(fields.services ?? undefined, "services", 1024)
    .map((entry, i) => readService(reader, entry, `services[${i}]`, warnings));
  checkNames(reader, services, has(DEFAULT));
  if (has("default") && fields.default == null) reader.problem("default", "is empty; give it an action, or remove it");
  const fallback = fields.default == null ? undefined : readService(reader, fields.default, "default", warnings);
  const allow = readList(reader, fields.global_allow_list, "global_allow_list");
  const deny = readList(reader, fields.global_deny_list, "global_deny_list");
  reader.done();
  const hasAllowList = has("global_allow_list");
  return { services, hasServices: has("services"), fallback, hasAllowList, allow, deny, warnings };
}

/** Everything that `--service` can name. */
const choicesOf = ({ services, fallback }: AclFile): Service[] =>
  fallback === undefined ? services : [...services, fallback];

const namesOf = (services: readonly Service[]): string => services.map((service) => service.name).join(", ");

/**
 * Names of the services of an acl.yaml, and `default` if it has one beside them; empty when only `default` or the global
 * lists decide. @throws PolicyError
 */
export function aclServices(parsed: ParsedText): string[] {
  const file = readFile(parsed);
  return file.services.length === 0 ? [] : choicesOf(file).map((service) => service.name);
}

function findService(file: AclFile, wanted: string): Service {
  const choices = choicesOf(file);
  const found = choices.find((service) => service.name === wanted);
  if (found !== undefined) return found;
  const known = choices.length === 0 ? "the file has none" : `the file has ${namesOf(choices)}`;
  throw new PolicyError([{ path: "services", message: `no service "${wanted}"; ${known}` }]);
}

/** Refuses a file that has no service for the clients, and names the ways out. @throws PolicyError */
function refuseChoice({ services }: AclFile, authed: Service | undefined, sharedPassword: boolean): never {
  const missing = sharedPassword ? `neither ${AUTHED} nor ${DEFAULT}` : `no ${DEFAULT}`;
  const clients = `clients ${sharedPassword ? "with the" : "without a"} password`;
  const password = authed === undefined ? "" : `, set PROXY_PASSWORD to apply ${AUTHED}`;
  const ways = `choose one with --service NAME${password}, or add ${DEFAULT}`;
  const message = `none applies: there is ${missing} for ${clients}; ${ways}; the file has ${namesOf(services)}`;
  throw new PolicyError([{ path: "services", message }]);
}

/**
 * The service for all clients: the chosen one; else, for clients with the shared password, `authed`; else `default`. The
 * name of a service is an identity, so another service is never a substitute. Undefined: the file has neither services
 * nor `default`. @throws PolicyError
 */
function choose(file: AclFile, { service: wanted, sharedPassword = false }: AclChoice): Service | undefined {
  if (wanted !== undefined) return findService(file, wanted);
  const authed = file.services.find((service) => service.name === AUTHED);
  const chosen = (sharedPassword ? authed : undefined) ?? file.fallback;
  if (chosen === undefined && file.services.length > 0) refuseChoice(file, authed, sharedPassword);
  lintUnused(file, chosen, authed, sharedPassword);
  return chosen;
}

/** One service applies to all clients: the others, if there are some, have no effect. */
function lintUnused(
  file: AclFile,
  chosen: Service | undefined,
  authed: Service | undefined,
  sharedPassword: boolean,
): void {
  const unused = file.services.filter((service) => service !== chosen);
  if (chosen === undefined || unused.length === 0) return;
  const password = authed === undefined || sharedPassword ? "" : `, or set PROXY_PASSWORD to apply ${AUTHED}`;
  file.warnings.push(
    `services: ${chosen.name} applies to every client; choose another one with --service NAME${password}; not used: ${namesOf(unused)}`,
  );
}

/**
 * Entries by the names or addresses that they match: each comparison takes one lookup per label, also in a list of many
 * thousands.
 */
type Index = ReadonlyMap<string, string>;

function patternOf(text: string): HostPattern {
  const pattern = parseHostPattern(text);
  return "error" in pattern ? { kind: "exact", name: text } : pattern; // An address matches only itself.
}

const keyOf = (pattern: HostPattern): string => `${pattern.kind} ${pattern.name}`;

function indexOf(entries: Entries): Index {
  return new Map([...entries.hosts, ...entries.addresses].map((text) => [keyOf(patternOf(text)), text]));
}

/** The entry that matches everything that `text` matches. */
function covering(index: Index, text: string): string | undefined {
  const pattern = patternOf(text);
  const same = index.get(keyOf(pattern));
  if (same !== undefined) return same;
  for (let dot = pattern.name.indexOf("."); dot !== -1; dot = pattern.name.indexOf(".", dot + 1)) {
    const wider = index.get(keyOf({ kind: "suffix", name: pattern.name.slice(dot + 1) }));
    if (wider !== undefined) return wider;
  }
  return undefined;
}

/** Overlaps of allowed and denied entries. Deny wins; in Smokescreen a service's own allowed domains won. */
function lintOverlap(file: AclFile, domains: Entries): void {
  const denied = indexOf(file.deny);
  for (const [list, entries] of [
    ["allowed_domains", domains],
    ["global_allow_list", file.allow],
  ] as const) {
    const otherwise = list === "allowed_domains" ? " here, allow won in Smokescreen" : "";
    for (const text of indexOf(entries).values()) {
      const deny = covering(denied, text);
      if (deny !== undefined) file.warnings.push(`${text} is allowed and denied (${deny}): deny wins${otherwise}`);
    }
  }
  const allowed = indexOf(domains);
  for (const [key, text] of denied) {
    const allow = allowed.has(key) ? undefined : covering(allowed, text);
    if (allow === undefined) continue;
    file.warnings.push(`${text} is denied, and allowed by ${allow}: deny wins here, allow won in Smokescreen`);
  }
}

function allowRules(name: string, entries: Entries, warnings: string[]): Rule[] {
  const rules: Rule[] = [];
  if (entries.hosts.length > 0) rules.push({ name, hosts: entries.hosts });
  if (entries.addresses.length === 0) return rules;
  for (const address of entries.addresses) {
    const klass = specialClass(address);
    if (klass === null) continue;
    warnings.push(`${name}: ${address} (${klass}) stays closed: an allow list opens no such range; see --allow-cidr`);
  }
  rules.push({ name: `${name}-addresses`, cidrs: entries.addresses.map(single), opens: false });
  return rules;
}

/** The default action for targets on no list, when neither a service nor `default` has an action. */
function actionOfLists(file: AclFile): "Allow" | "Deny" {
  const { warnings } = file;
  if (file.hasServices) {
    // Smokescreen denies clients without a service. Its allow list is for clients with one.
    warnings.push(`services is empty and there is no default: everything is denied; ${OPEN_HINT}`);
    return "Deny";
  }
  if (file.hasAllowList) {
    const { hosts, addresses } = file.allow;
    const none = hosts.length + addresses.length === 0;
    const what = none ? `global_allow_list is empty: everything is denied; ${OPEN_HINT}` : undefined;
    warnings.push(what ?? "an allow list without any action: everything else is denied");
    return "Deny";
  }
  warnings.push("no action and no allow list: everything that is not denied is allowed");
  return "Allow";
}

/**
 * Converts an acl.yaml. Its globs have the same meaning as ours; IP addresses in its lists become CIDRs. Deny lists
 * apply to every action. @throws PolicyError with every wrong field
 */
export function readAcl(text: string, choice: AclChoice): AclResult {
  return readParsedAcl(parseText(text), choice);
}

/** The same for a parsed text. @throws PolicyError with every wrong field */
export function readParsedAcl(parsed: ParsedText, choice: AclChoice): AclResult {
  const file = readFile(parsed);
  const { warnings } = file;
  const service = choose(file, choice);
  const defaultAction = service?.action === undefined ? actionOfLists(file) : ACTIONS[service.action];
  const domains = service?.domains ?? { hosts: [], addresses: [] };
  lintOverlap(file, domains);
  const deny: Rule[] = [];
  if (file.deny.hosts.length > 0) deny.push({ name: "global_deny_list", hosts: file.deny.hosts });
  if (file.deny.addresses.length > 0) {
    deny.push({ name: "global_deny_list-addresses", cidrs: file.deny.addresses.map(single) });
  }
  const closed = service === undefined && file.hasServices;
  const allow = closed
    ? []
    : [...allowRules("allowed_domains", domains, warnings), ...allowRules("global_allow_list", file.allow, warnings)];
  return { policy: { mode: "Enforce", defaultAction, allow, deny }, service: service?.name, warnings };
}
