import { parseDocument } from "yaml";
import { parseAddress } from "./cidr.ts";
import { type HostPattern, parseHostPattern } from "./host.ts";
import { PolicyError, Reader, type Rule } from "./rules.ts";
import { specialClass } from "./special.ts";

/** What an acl.yaml says, in the words of a policy. */
export interface AclResult {
  policy: { mode: "Enforce"; defaultAction: "Allow" | "Report" | "Deny"; allow: Rule[]; deny: Rule[] };
  /** Lint: what the file says that a person may not expect. */
  warnings: string[];
}

const TOP_KEYS = ["version", "services", "default", "global_allow_list", "global_deny_list"];
const SERVICE_KEYS = ["name", "project", "action", "allowed_domains", "allowed_external_proxies", "mitm_domains"];
/** Smokescreen's actions; in all three the deny list binds. */
const ACTIONS = { enforce: "Deny", report: "Report", open: "Allow" } as const;

interface Service {
  name: string;
  action: keyof typeof ACTIONS | undefined;
  domains: Entries;
}

/** A list of an acl.yaml, sorted into what it holds. */
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
  return value.version === "v1" || TOP_KEYS.slice(1).some((key) => key in value);
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
    if (parseAddress(text) !== null) {
      entries.addresses.push(text);
      continue;
    }
    const pattern = parseHostPattern(text);
    if ("error" in pattern) reader.problem(here, pattern.error);
    else if (pattern.kind === "any") reader.problem(here, `"*" is no name; use action: open to allow everything`);
    else entries.hosts.push(text);
  }
  return entries;
}

function readService(reader: Reader, value: unknown, path: string, warnings: string[]): Service {
  const fields = reader.mapping(value, path, SERVICE_KEYS) ?? {};
  const isDefault = path === "default";
  if (!isDefault && (typeof fields.name !== "string" || fields.name === ""))
    reader.problem(`${path}.name`, "is missing");
  if (fields.action === undefined) reader.problem(`${path}.action`, "is missing: enforce, report or open");
  const action = reader.oneOf(fields.action, `${path}.action`, ["enforce", "report", "open"], "enforce");
  for (const key of ["allowed_external_proxies", "mitm_domains"]) {
    const list = reader.list(fields[key] ?? undefined, `${path}.${key}`, 100_000);
    if (list.length > 0) warnings.push(`${path}.${key} has no effect: chaining and interception are not offered`);
  }
  const domains = readList(reader, fields.allowed_domains, `${path}.allowed_domains`);
  return { name: isDefault ? "default" : String(fields.name), action, domains };
}

interface AclFile {
  services: Service[];
  fallback: Service | undefined;
  allow: Entries;
  deny: Entries;
  warnings: string[];
}

function readFile(text: string): AclFile {
  const reader = new Reader();
  const warnings: string[] = [];
  const spaced = text.replace(/^[\t ]+/gm, (space) => space.replaceAll("\t", "  "));
  if (spaced !== text) warnings.push("the file is indented with tabs, which YAML forbids: read as two spaces each");
  const parsed = parseDocument(spaced);
  const error = parsed.errors[0]?.message.split("\n")[0];
  if (error !== undefined) throw new PolicyError([{ path: "", message: `not valid YAML: ${error}` }]);
  const fields = reader.mapping(parsed.toJS(), "", TOP_KEYS) ?? {};
  if (fields.version !== undefined && fields.version !== "v1") {
    reader.problem("version", `must be v1, not ${JSON.stringify(fields.version)}`);
  }
  const services = reader
    .list(fields.services ?? undefined, "services", 1024)
    .map((value, i) => readService(reader, value, `services[${i}]`, warnings));
  for (const [i, service] of services.entries()) {
    const first = services.findIndex((other) => other.name === service.name);
    if (first !== i)
      reader.problem(`services[${i}].name`, `"${service.name}" is the name of services[${first}] already`);
  }
  const fallback = fields.default == null ? undefined : readService(reader, fields.default, "default", warnings);
  const allow = readList(reader, fields.global_allow_list, "global_allow_list");
  const deny = readList(reader, fields.global_deny_list, "global_deny_list");
  reader.done();
  return { services, fallback, allow, deny, warnings };
}

/** Names of the services of an acl.yaml; empty when only `default` or the global lists speak. @throws PolicyError */
export function aclServices(text: string): string[] {
  return readFile(text).services.map((service) => service.name);
}

function choose(file: AclFile, wanted: string | undefined): Service | undefined {
  const names = file.services.map((service) => service.name).join(", ");
  if (wanted !== undefined) {
    const found = file.services.find((service) => service.name === wanted);
    if (found !== undefined) return found;
    const known = names === "" ? "the file has none" : `the file has ${names}`;
    throw new PolicyError([{ path: "services", message: `no service "${wanted}"; ${known}` }]);
  }
  if (file.services.length > 1) {
    throw new PolicyError([{ path: "services", message: `has several; choose one with --service: ${names}` }]);
  }
  return file.services[0] ?? file.fallback;
}

function covers(deny: HostPattern, text: string): boolean {
  const allowed = parseHostPattern(text);
  if ("error" in allowed || allowed.kind === "any" || deny.kind === "any") return false;
  if (deny.name === allowed.name && deny.kind === allowed.kind) return true;
  return deny.kind === "suffix" && allowed.name.endsWith(`.${deny.name}`);
}

function lintOverlap(file: AclFile, domains: readonly string[]): void {
  for (const text of file.deny.hosts) {
    const deny = parseHostPattern(text);
    if ("error" in deny) continue;
    for (const domain of domains.filter((domain) => covers(deny, domain))) {
      file.warnings.push(`${domain} is allowed and denied (${text}): deny wins here, allow won in Smokescreen`);
    }
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

/**
 * Reads an acl.yaml. Its globs are ours; IP addresses in its lists become CIDRs. Deny lists bind whatever the action.
 * @throws PolicyError with every wrong field
 */
export function readAcl(text: string, options: { service?: string }): AclResult {
  const file = readFile(text);
  const { warnings } = file;
  const service = choose(file, options.service);
  const lists = file.allow.hosts.length + file.allow.addresses.length;
  let defaultAction: "Allow" | "Report" | "Deny" = "Allow";
  if (service?.action !== undefined) defaultAction = ACTIONS[service.action];
  else if (lists > 0) {
    defaultAction = "Deny";
    warnings.push("an allow list without any action: everything else is denied");
  } else warnings.push("no action and no allow list: everything that is not denied is allowed");
  const domains = service?.domains ?? { hosts: [], addresses: [] };
  lintOverlap(file, [...domains.hosts, ...file.allow.hosts]);
  const deny: Rule[] = [];
  if (file.deny.hosts.length > 0) deny.push({ name: "global_deny_list", hosts: file.deny.hosts });
  if (file.deny.addresses.length > 0) {
    deny.push({ name: "global_deny_list-addresses", cidrs: file.deny.addresses.map(single) });
  }
  const allow = [
    ...allowRules("allowed_domains", domains, warnings),
    ...allowRules("global_allow_list", file.allow, warnings),
  ];
  return { policy: { mode: "Enforce", defaultAction, allow, deny }, warnings };
}
