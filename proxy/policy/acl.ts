import { type Entries, Lint, Overlaps } from "./acl-lint.ts";
import { formatAddress, parseAddress } from "./cidr.ts";
import type { Identities } from "./client-warnings.ts";
import { type ClientEntry, DEFAULT_CLIENT, type HostList, MAX_CLIENT_NAME } from "./clients.ts";
import { DEFAULT_PORTS } from "./document.ts";
import { parseHostPattern } from "./host.ts";
import { type ParsedText, parseText } from "./parse.ts";
import { PolicyError, Reader, type Rule, shown, UNSAFE } from "./rules.ts";
import { specialClass } from "./special.ts";

/** The policy of an acl.yaml. */
export interface AclPolicy {
  mode: "Enforce";
  defaultAction: "Allow" | "Report" | "Deny";
  allow: Rule[];
  deny: Rule[];
  /** The lists that several services share. */
  hostSets?: HostList[];
  /** One for each service and for `default`. Absent: one set of rules for all clients. */
  clients?: ClientEntry[];
}

/** The content of an acl.yaml, in the terms of a policy. */
interface AclResult {
  policy: AclPolicy;
  /** Name of the service, or `default`, that applies to every client; undefined: the lists or the clients decide. */
  service: string | undefined;
  /** The client of requests with the shared password. */
  sharedClient: string;
  /** Lint warnings about parts of the file that users may not expect. */
  warnings: string[];
}

/** The choice of the services of an acl.yaml that apply. */
export interface AclChoice {
  /** The name of a service, or `default`, for all clients. Undefined: each service is a client. */
  service?: string | undefined;
  /** Default: the proxy reads neither passwords nor certificates. */
  identities?: Identities | undefined;
}

/** Identities at a proxy that reads neither passwords nor certificates. */
export const WITHOUT_PROOFS: Identities = { shared: false, own: false, missing: true };

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
const DEFAULT = DEFAULT_CLIENT;

/** The port policy of an acl.yaml, which has no field for it. */
export const PORTS_OF_ACL = `only the ports ${DEFAULT_PORTS.join(", ")} are allowed, and Smokescreen allows every port`;

/** A hint for users who want to allow every target. */
const OPEN_HINT = "to allow everything but global_deny_list, write default: {action: open}";

interface Service {
  name: string;
  action: keyof typeof ACTIONS | undefined;
  domains: Entries;
  /** Hosts that its clients may name as upstream proxies. */
  proxies: Entries;
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

/**
 * Reads `allowed_domains`, each list once: services share one by a YAML alias, or have equal ones. Equal lists are one
 * object.
 */
class DomainLists {
  readonly #byValue = new Map<unknown, Entries>();
  readonly #byContent = new Map<string, Entries>();

  read(reader: Reader, value: unknown, path: string): Entries {
    const known = this.#byValue.get(value);
    if (known !== undefined) return known;
    const entries = readList(reader, value, path);
    const content = `${entries.hosts.join()} ${entries.addresses.join()}`;
    const equal = this.#byContent.get(content) ?? entries;
    this.#byContent.set(content, equal);
    this.#byValue.set(value, equal);
    return equal;
  }
}

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

function readService(
  reader: Reader,
  value: unknown,
  path: string,
  { lists, lint }: { lists: DomainLists; lint: Lint },
): Service {
  const fields = reader.mapping(value, path, SERVICE_KEYS) ?? {};
  const isDefault = path === DEFAULT;
  if (!isDefault && (typeof fields.name !== "string" || fields.name === ""))
    reader.problem(`${path}.name`, "is missing");
  if (typeof fields.project === "object" && fields.project !== null) {
    reader.problem(`${path}.project`, "must be a string");
  }
  if (fields.action === undefined) reader.problem(`${path}.action`, "is missing: enforce, report or open");
  const action = reader.oneOf(fields.action, `${path}.action`, ["enforce", "report", "open"], "enforce");
  const mitm = reader.list(fields.mitm_domains ?? undefined, `${path}.mitm_domains`, 100_000);
  if (mitm.length > 0) lint.add(`${path}.mitm_domains has no effect: interception is not offered`);
  const domains = lists.read(reader, fields.allowed_domains, `${path}.allowed_domains`);
  const proxies = readList(reader, fields.allowed_external_proxies, `${path}.allowed_external_proxies`);
  return { name: isDefault ? DEFAULT : String(fields.name), action, domains, proxies };
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
  lint: Lint;
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
  const lint = new Lint();
  const parts = { lists: new DomainLists(), lint };
  if (tabs) lint.add("the file is indented with tabs, which YAML forbids: read as two spaces each");
  const fields = reader.mapping(withoutExtensions(value), "", TOP_KEYS) ?? {};
  if (fields.version !== undefined && fields.version !== "v1") {
    reader.problem("version", `must be v1, not ${shown(fields.version)}`);
  }
  const has = (key: string) => Object.hasOwn(fields, key);
  if (!DECIDING_KEYS.some(has)) reader.problem("services", `is missing, and so is default; ${OPEN_HINT}`);
  if (has(MISSING_ROLE)) {
    lint.add(
      `${MISSING_ROLE} has no effect: without passwords and client certificates, ${DEFAULT} applies to every client`,
    );
  }
  const services = reader
    .list(fields.services ?? undefined, "services", 1024)
    .map((entry, i) => readService(reader, entry, `services[${i}]`, parts));
  checkNames(reader, services, has(DEFAULT));
  if (has("default") && fields.default == null) reader.problem("default", "is empty; give it an action, or remove it");
  const fallback = fields.default == null ? undefined : readService(reader, fields.default, "default", parts);
  const allow = readList(reader, fields.global_allow_list, "global_allow_list");
  const deny = readList(reader, fields.global_deny_list, "global_deny_list");
  reader.done();
  const hasAllowList = has("global_allow_list");
  return { services, hasServices: has("services"), fallback, hasAllowList, allow, deny, lint };
}

/** Everything that `--service` can name. */
const choicesOf = ({ services, fallback }: AclFile): Service[] =>
  fallback === undefined ? services : [...services, fallback];

const namesOf = (services: readonly Service[]): string => services.map((service) => service.name).join(", ");

function findService(file: AclFile, wanted: string): Service {
  const choices = choicesOf(file);
  const found = choices.find((service) => service.name === wanted);
  if (found !== undefined) return found;
  const known = choices.length === 0 ? "the file has none" : `the file has ${namesOf(choices)}`;
  throw new PolicyError([{ path: "services", message: `no service "${wanted}"; ${known}` }]);
}

function allowRules(name: string, { hosts, addresses }: Entries): Rule[] {
  const rules: Rule[] = [];
  if (hosts.length > 0) rules.push({ name, hosts });
  if (addresses.length > 0) rules.push({ name: `${name}-addresses`, cidrs: addresses.map(single), opens: false });
  return rules;
}

function denyRules({ deny: { hosts, addresses } }: AclFile): Rule[] {
  const rules: Rule[] = [];
  if (hosts.length > 0) rules.push({ name: "global_deny_list", hosts });
  if (addresses.length > 0) rules.push({ name: "global_deny_list-addresses", cidrs: addresses.map(single) });
  return rules;
}

/** Warns of addresses in an allow list that stay closed. */
function lintClosed(lint: Lint, name: string, { addresses }: Entries, services?: readonly string[]): void {
  for (const address of addresses) {
    const klass = specialClass(address);
    if (klass === null) continue;
    lint.add(
      `${name}: ${address} (${klass}) stays closed: an allow list opens no such range; see --allow-cidr`,
      services,
    );
  }
}

/**
 * Warns of overlaps of allowed and denied entries, and of closed addresses. Deny wins; in Smokescreen a service's own
 * allowed domains won.
 */
function lintLists(file: AclFile, services: ReadonlyMap<Entries, readonly string[]>): void {
  const { lint, allow } = file;
  const overlaps = new Overlaps(file.deny);
  for (const [domains, names] of services) {
    for (const text of overlaps.denied(domains, " here, allow won in Smokescreen")) lint.add(text, names);
  }
  for (const text of overlaps.denied(allow, "")) lint.add(text);
  for (const [domains, names] of services) {
    for (const text of overlaps.allowed(domains)) lint.add(text, names);
  }
  if (overlaps.cut) lint.add("further overlaps of allowed and denied entries are not listed");
  for (const [domains, names] of services) lintClosed(lint, "allowed_domains", domains, names);
  lintClosed(lint, "global_allow_list", allow);
}

/** The default action for targets on no list, when neither a service nor `default` has an action. */
function actionOfLists(file: AclFile): "Allow" | "Deny" {
  const { lint } = file;
  if (file.hasServices) {
    // Smokescreen denies clients without a service. Its allow list is for clients with one.
    lint.add(`services is empty and there is no default: everything is denied; ${OPEN_HINT}`);
    return "Deny";
  }
  if (file.hasAllowList) {
    const { hosts, addresses } = file.allow;
    const none = hosts.length + addresses.length === 0;
    const what = none ? `global_allow_list is empty: everything is denied; ${OPEN_HINT}` : undefined;
    lint.add(what ?? "an allow list without any action: everything else is denied");
    return "Deny";
  }
  lint.add("no action and no allow list: everything that is not denied is allowed");
  return "Allow";
}

/** One set of rules for all clients, those of a service or of the global lists alone. */
function forAll(file: AclFile, service: Service | undefined): AclResult {
  const defaultAction = service?.action === undefined ? actionOfLists(file) : ACTIONS[service.action];
  const domains = service?.domains ?? { hosts: [], addresses: [] };
  if (service !== undefined && service.proxies.hosts.length + service.proxies.addresses.length > 0) {
    file.lint.add("allowed_external_proxies has no effect with one set of rules for all clients: name two services");
  }
  lintLists(file, new Map([[domains, []]]));
  const closed = service === undefined && file.hasServices;
  const allow = closed
    ? []
    : [...allowRules("allowed_domains", domains), ...allowRules("global_allow_list", file.allow)];
  return {
    policy: { mode: "Enforce", defaultAction, allow, deny: denyRules(file) },
    service: service?.name,
    sharedClient: DEFAULT,
    warnings: file.lint.lines(1),
  };
}

/** Refuses names that are no names of clients. @throws PolicyError */
function checkClients(services: readonly Service[]): void {
  const reader = new Reader();
  for (const [i, { name }] of services.entries()) {
    const path = `services[${i}].name`;
    if (name === DEFAULT) {
      reader.problem(path, `"${DEFAULT}" is the section for all other clients; write it as one, or rename the service`);
    } else if (name.length > MAX_CLIENT_NAME || name.search(UNSAFE) !== -1) {
      reader.problem(path, `must be 1 to ${MAX_CLIENT_NAME} characters without control characters; rename the service`);
    }
  }
  reader.done();
}

/**
 * Checks that some clients can get a service, and warns of those that cannot. `authed`: the service of clients with the
 * shared password. @throws PolicyError with the ways out if there are none
 */
function checkReach({ services, fallback, lint }: AclFile, authed: Service | undefined, who: Identities): void {
  if (who.own) {
    if (fallback !== undefined) return;
    const shared = who.shared && authed === undefined ? `, and those with the shared password,` : "";
    lint.add(
      `services: there is no ${DEFAULT}: clients of no service${shared} are refused; add ${DEFAULT} to serve them`,
    );
    return;
  }
  const byPassword = who.shared ? (authed ?? fallback) : undefined;
  const byNone = who.missing ? fallback : undefined;
  const applies = new Set([byPassword, byNone].filter((service) => service !== undefined));
  const password = authed === undefined || who.shared ? "" : `, set PROXY_PASSWORD to apply ${AUTHED}`;
  const ways = `choose one with --service NAME, give clients passwords of their own (--password-dir) or certificates${password}`;
  if (applies.size === 0) {
    const missing = who.shared ? `neither ${AUTHED} nor ${DEFAULT}` : `no ${DEFAULT}`;
    const clients = `clients ${who.shared ? "with the" : "without a"} password`;
    const message = `none applies: there is ${missing} for ${clients}; ${ways}, or add ${DEFAULT}; the file has ${namesOf(services)}`;
    throw new PolicyError([{ path: "services", message }]);
  }
  const unused = services.filter((service) => !applies.has(service));
  if (unused.length === 0) return;
  const names = [...applies].map(({ name }) => name).join(" or ");
  lint.add(`services: ${names} applies to every client; ${ways}; not used: ${namesOf(unused)}`);
}

/** Names of the services of each list; equal lists are one object. */
function servicesByList(services: readonly Service[]): Map<Entries, string[]> {
  const lists = new Map<Entries, string[]>();
  for (const { name, domains } of services) {
    const names = lists.get(domains);
    if (names === undefined) lists.set(domains, [name]);
    else names.push(name);
  }
  return lists;
}

/** Each service is a client, and `default` has the rules of all others. @throws PolicyError */
function forClients(file: AclFile, identities: Identities): AclResult {
  checkClients(file.services);
  const authed = file.services.find(({ name }) => name === AUTHED);
  checkReach(file, authed, identities);
  const services = choicesOf(file);
  const lists = servicesByList(services);
  lintLists(file, lists);
  const hostSets: HostList[] = [];
  const rules = new Map<Entries, Rule[]>();
  for (const [domains, { length }] of lists) {
    let { hosts } = domains;
    if (length > 1 && hosts.length > 0) {
      hostSets.push({ name: `domains-${hostSets.length + 1}`, hosts });
      hosts = [`set:${hostSets.at(-1)!.name}`];
    }
    rules.set(domains, allowRules("allowed_domains", { ...domains, hosts }));
  }
  const clients = services.map(({ name, action, domains, proxies }): ClientEntry => {
    const allow = rules.get(domains)!;
    const own = allow.length === 0 ? {} : ({ allow, inheritAllow: true } as const);
    const upstreamProxies = allowRules("allowed_external_proxies", proxies);
    return {
      name,
      ...own,
      defaultAction: ACTIONS[action!],
      ...(upstreamProxies.length > 0 ? { upstreamProxies } : {}),
    };
  });
  const policy: AclPolicy = {
    mode: "Enforce",
    defaultAction: "Deny",
    allow: allowRules("global_allow_list", file.allow),
    deny: denyRules(file),
    ...(hostSets.length === 0 ? {} : { hostSets }),
    clients,
  };
  const sharedClient = authed === undefined ? DEFAULT : AUTHED;
  return { policy, service: undefined, sharedClient, warnings: file.lint.lines(services.length) };
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
  if (choice.service !== undefined) return forAll(file, findService(file, choice.service));
  if (file.services.length === 0) return forAll(file, file.fallback);
  return forClients(file, choice.identities ?? WITHOUT_PROOFS);
}
