import { setImmediate as turn } from "node:timers/promises";
import { Document } from "yaml";
import { type Option, optionHelp, portList, readOptions } from "../cli/options.ts";
import { printWarning } from "../cli/print.ts";
import { startProgress } from "../cli/progress.ts";
import { UsageError } from "../cli/usage-error.ts";
import { readSmallText } from "../config/files.ts";
import { MAX_POLICY_BYTES } from "../config/load.ts";
import { type AclPolicy, PORTS_OF_ACL, readParsedAcl } from "../policy/acl.ts";
import { Lint } from "../policy/acl-lint.ts";
import { identityWarnings } from "../policy/client-warnings.ts";
import { type ClientEntry, clientNameProblem, DEFAULT_CLIENT, type HostList } from "../policy/clients.ts";
import { parseInSteps, withoutPauses } from "../policy/parse.ts";
import { PolicyError, type PortSpec, type Rule, setName, shown } from "../policy/rules.ts";
import { specialClass } from "../policy/special.ts";

const OPTIONS: readonly Option[] = [
  {
    name: "service",
    value: "NAME",
    help: "only this service, for all clients (default: each service is a client)",
  },
  {
    name: "ports",
    value: "PORTS",
    repeat: true,
    help: "`spec.ports` of the manifest, such as 1-65535 for every port",
  },
  { name: "help", help: "print this help" },
];

const HELP = `Usage: outrider import FILE [--service NAME]

Converts a Smokescreen or mole acl.yaml to an EgressPolicy manifest on stdout. Lint warnings go to stderr,
and so does the progress of a long import if stderr is a terminal.
Each service becomes a client. Such a manifest needs spec.authentication, which you add.

${optionHelp(OPTIONS)}`;

const MAX_NAME = 40;

function manifestName(service: string): string {
  const name = service
    .toLowerCase()
    .replace(/[^a-z0-9-]+/g, "-")
    .replace(/^[^a-z]+/, "")
    .slice(0, MAX_NAME)
    .replace(/-+$/, "");
  return name === "" ? "webhooks" : name;
}

/** Limits of an EgressPolicy (crds/egresspolicies.yaml). */
const MAX = { clients: 256, sets: 64, setHosts: 20_000, ruleHosts: 20_000, ruleCIDRs: 500 };
/** Limits of the lists of one client there. */
const MAX_OF_CLIENT = { rules: 16, hosts: 256, cidrs: 64 };

/** A manifest cannot express that a CIDR only admits: addresses that it would open are left out. */
function closeSpecial(rule: Rule, warn: (text: string) => void): Rule[] {
  if (rule.opens !== false) return [rule];
  const cidrs = (rule.cidrs ?? []).filter((text) => {
    const klass = specialClass(text.replace(/\/\d+$/, ""));
    if (klass === null) return true;
    warn(`${rule.name}: ${text} (${klass}) is left out; write a rule with cidrs to open it`);
    return false;
  });
  const { opens: _, ...rest } = rule;
  if (cidrs.length > 0) {
    warn(`${rule.name}: ${cidrs.join(", ")} also admits names that resolve to it; acl.yaml means the literal`);
  }
  return cidrs.length === 0 ? [] : [{ ...rest, cidrs }];
}

function chunks<T>(list: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(list.length / size) }, (_, i) => list.slice(i * size, (i + 1) * size));
}

const numbered = (name: string, i: number): string => (i === 0 ? name : `${name}-${i + 1}`);

/** A rule of an acl.yaml, which has either hosts or cidrs, as rules within the limits. */
function split(rule: Rule, maxHosts: number, maxCIDRs: number): Rule[] {
  const name = (i: number) => numbered(rule.name!, i);
  if (rule.hosts !== undefined) return chunks(rule.hosts, maxHosts).map((hosts, i) => ({ name: name(i), hosts }));
  return chunks(rule.cidrs!, maxCIDRs).map((cidrs, i) => ({ name: name(i), cidrs }));
}

/** The lists of clients that become host sets: those that several share, and those that a rule of a client cannot hold. */
class Sets {
  readonly hostSets: HostList[] = [];
  readonly #shared: ReadonlyMap<string, string[]>;
  readonly #references = new Map<string[], string[]>();
  readonly #keepsShort: boolean;

  constructor({ hostSets = [], clients = [] }: AclPolicy) {
    this.#shared = new Map(hostSets.map(({ name, hosts }) => [name, hosts]));
    const rules = clients.flatMap(({ allow = [], upstreamProxies = [] }) => [...allow, ...upstreamProxies]);
    const lists = new Set(rules.map(({ hosts = [] }) => this.#listOf(hosts)));
    const long = [...lists].filter((hosts) => hosts.length > MAX_OF_CLIENT.hosts);
    const sets = long.reduce((sum, hosts) => sum + Math.ceil(hosts.length / MAX.setHosts), 0);
    const short = hostSets.filter(({ hosts }) => hosts.length <= MAX_OF_CLIENT.hosts);
    this.#keepsShort = sets + short.length <= MAX.sets;
    if (sets <= MAX.sets) return;
    const message = `an EgressPolicy has at most ${MAX.sets} host sets, and the lists of more than ${MAX_OF_CLIENT.hosts} hosts need ${sets}; import single services with --service NAME`;
    throw new PolicyError([{ path: "services", message }]);
  }

  /** The hosts of a rule, without a reference. */
  #listOf(hosts: string[]): string[] {
    return this.#shared.get(setName(hosts[0] ?? "") ?? "") ?? hosts;
  }

  /** The hosts of a client's rule: as they are, or references. */
  refer(hosts: string[]): string[] {
    const list = this.#listOf(hosts);
    const isShared = list !== hosts;
    if (list.length <= MAX_OF_CLIENT.hosts && !(isShared && this.#keepsShort)) return list;
    const known = this.#references.get(list);
    if (known !== undefined) return known;
    const name = `domains-${this.#references.size + 1}`;
    const parts = chunks(list, MAX.setHosts).map((part, i) => ({ name: numbered(name, i), hosts: part }));
    this.hostSets.push(...parts);
    const references = parts.map((part) => `set:${part.name}`);
    this.#references.set(list, references);
    return references;
  }
}

function checkClients(clients: readonly ClientEntry[]): void {
  const problems = clients.flatMap(({ name }) => {
    const problem = clientNameProblem(name);
    return problem === undefined
      ? []
      : [{ path: `services: ${shown(name)}`, message: `${problem}; rename the service and its certificate` }];
  });
  if (clients.length > MAX.clients) {
    const message = `an EgressPolicy has at most ${MAX.clients} clients, not ${clients.length}; import single services with --service NAME`;
    problems.push({ path: "services", message });
  }
  if (problems.length > 0) throw new PolicyError(problems);
}

/** A list of a client within the limits of an EgressPolicy. @throws PolicyError */
function importList(list: readonly Rule[], client: string, sets: Sets, lint: Lint): Rule[] {
  const rules = list
    .flatMap((rule) => closeSpecial(rule, (text) => lint.add(text, [client])))
    .map((rule) => (rule.hosts === undefined ? rule : { ...rule, hosts: sets.refer(rule.hosts) }))
    .flatMap((rule) => split(rule, MAX_OF_CLIENT.hosts, MAX_OF_CLIENT.cidrs));
  if (rules.length > MAX_OF_CLIENT.rules) {
    const message = `has more addresses than the ${MAX_OF_CLIENT.rules} rules of a client hold, ${MAX_OF_CLIENT.cidrs} each; import it with --service`;
    throw new PolicyError([{ path: `services: ${shown(client)}`, message }]);
  }
  return rules;
}

/** A client within the limits of an EgressPolicy. Without rules it has the policy's. @throws PolicyError */
function importClient(client: ClientEntry, sets: Sets, lint: Lint): ClientEntry {
  const { name, allow = [], inheritAllow: _, upstreamProxies = [], ...rest } = client;
  const rules = importList(allow, name, sets, lint);
  const proxies = importList(upstreamProxies, name, sets, lint);
  return {
    name,
    ...(rules.length === 0 ? {} : { allow: rules, inheritAllow: true }),
    ...rest,
    ...(proxies.length === 0 ? {} : { upstreamProxies: proxies }),
  };
}

/** A comment in the manifest, since no mode fits every user. */
const AUTHENTICATION = ` Add authentication: clients need a proof of their name.
 mode Basic reads passwords (secretRef: a Secret with one key for each client), mode TLS client certificates
 (proxy.tls.clientCA), and mode BasicOrTLS both.`;

/** The change for clients with the shared password, which an acl.yaml gives the service `authed`. */
const sharedChanges = (client: string): string =>
  `the shared password (PROXY_PASSWORD) selects ${DEFAULT_CLIENT} in an EgressPolicy, and ${client} in the acl.yaml; give these clients a password of their own with the user name ${client}`;

/** Expected seconds for each MiB of an acl.yaml, by the parts of an import. */
const SECONDS_PER_MIB = { "read the lists": 0.3, "check the lists": 0.1, "write the manifest": 0.15 };
const MIB = 1024 * 1024;
/** A shorter import shows no progress. */
const SHOW_AFTER_MS = 1000;

interface ImportStep {
  part: keyof typeof SECONDS_PER_MIB;
  /** Share of the text that is read. */
  share?: number;
}

interface ImportChoice {
  service?: string | undefined;
  ports?: readonly PortSpec[] | undefined;
}

interface Imported {
  yaml: string;
  warnings: string[];
}

/** A manifest and lint warnings for the text of an acl.yaml. @throws PolicyError */
export function importAcl(text: string, choice: ImportChoice): Imported {
  return withoutPauses(importInSteps(text, choice));
}

/** The same in steps. Each yields the part of the work that follows. @throws PolicyError */
function* importInSteps(text: string, { service, ports }: ImportChoice): Generator<ImportStep, Imported> {
  const identities = { shared: true, own: true, missing: false };
  const parsing = parseInSteps(text);
  let step = parsing.next();
  for (; !step.done; step = parsing.next()) {
    yield step.value < 1 ? { part: "read the lists", share: step.value } : { part: "check the lists" };
  }
  const { policy, sharedClient, warnings } = readParsedAcl(step.value, { service, identities });
  const lint = new Lint();
  const rules = (list: readonly Rule[]): Rule[] =>
    list
      .flatMap((rule) => closeSpecial(rule, (warning) => lint.add(warning)))
      .flatMap((rule) => split(rule, MAX.ruleHosts, MAX.ruleCIDRs));
  const [allow, deny] = [rules(policy.allow), rules(policy.deny)];
  checkClients(policy.clients ?? []);
  const sets = new Sets(policy);
  const clients = policy.clients?.map((entry) => importClient(entry, sets, lint));
  const document = new Document({
    apiVersion: "egress.outrider.dev/v1alpha1",
    kind: "EgressPolicy",
    metadata: { name: manifestName(service ?? "webhooks") },
    spec: {
      mode: policy.mode,
      defaultAction: policy.defaultAction,
      ...(ports === undefined ? {} : { ports }),
      ...(allow.length > 0 ? { allow } : {}),
      ...(deny.length > 0 ? { deny } : {}),
      ...(sets.hostSets.length > 0 ? { hostSets: sets.hostSets } : {}),
      ...(clients === undefined ? {} : { clients }),
    },
  });
  const own: string[] = [];
  if (ports === undefined) own.push(`${PORTS_OF_ACL}; set spec.ports to allow others, or use --ports`);
  if (clients !== undefined) {
    const notes = sharedClient === DEFAULT_CLIENT ? [] : [sharedChanges(sharedClient)];
    own.push("spec.authentication is not in the manifest: add the mode Basic, TLS or BasicOrTLS", ...notes);
    document.contents!.commentBefore = [AUTHENTICATION, ...notes.map((note) => ` ${note}`)].join("\n");
  }
  // Here the shared password gives default, not authed.
  const names = identityWarnings(policy, identities, DEFAULT_CLIENT);
  yield { part: "write the manifest" };
  return { yaml: document.toString(), warnings: [...own, ...warnings, ...lint.lines(clients?.length ?? 1), ...names] };
}

/** Imports with progress on a terminal, so that Ctrl-C has an effect between the steps. @throws PolicyError */
async function importWithProgress(text: string, choice: ImportChoice): Promise<Imported> {
  const parts = Object.entries(SECONDS_PER_MIB).map(([name, seconds]) => {
    return { name, seconds: (seconds * text.length) / MIB };
  });
  const progress = startProgress(parts, { afterMs: SHOW_AFTER_MS });
  try {
    const steps = importInSteps(text, choice);
    for (;;) {
      const { done, value } = steps.next();
      if (done) return value;
      progress.show(value.part, value.share);
      await turn();
    }
  } finally {
    progress.end();
  }
}

/** `outrider import`: returns the exit status. @throws UsageError */
export async function runImport(argv: readonly string[]): Promise<number> {
  const { values, positionals } = readOptions(OPTIONS, argv, process.env);
  if (values.has("help")) {
    console.log(HELP);
    return 0;
  }
  const [file, ...more] = positionals;
  if (file === undefined || more.length > 0) throw new UsageError("import needs exactly one FILE");
  let text: string;
  try {
    text = readSmallText(file, { maxBytes: MAX_POLICY_BYTES, pipe: true });
  } catch (error) {
    throw new UsageError(`${file}: ${(error as Error).message}`);
  }
  const choice = { service: values.get("service")?.[0], ports: portList(values, "ports") };
  try {
    // The parser of YAML reads a variable for each token. A plain object is faster than that of Node: a tenth of the time.
    process.env = { ...process.env };
    const { yaml, warnings } = await importWithProgress(text, choice);
    for (const warning of warnings) printWarning(warning);
    process.stdout.write(yaml);
    return 0;
  } catch (error) {
    if (error instanceof PolicyError) throw new UsageError(`${file}: ${error.message}`);
    throw error;
  }
}
