import { type Address, type Cidr, CidrSet, cidr, formatAddress, parseAddress, single } from "./cidr.ts";
import { type ClientEntry, type ClientLimits, DEFAULT_CLIENT } from "./clients.ts";
import { hashDocument, type PolicyDocument } from "./document.ts";
import { HostName, HostSet, isLocalhost, parseHostPattern } from "./host.ts";
import {
  PolicyError,
  type PortRange,
  type PortSpec,
  parseCidrs,
  parsePorts,
  type Rule,
  ruleLabel,
  setName,
} from "./rules.ts";
import { describeClass, forms, isLoopback, neverAllowed, parseNat64Prefix, specialPurpose } from "./special.ts";
import type { Target } from "./target.ts";

/** Codes of the refusals by policy (the whole list: `proxy/outcome/refusals.ts`). */
type DenyCode = "denied-rule" | "not-allowed" | "port" | "address";

/** Settings that the machine and the command line add to a document. */
export interface CompileOptions {
  /** Ranges allowed for every allowed host: special-purpose ranges, and loopback, which only this option opens. */
  allowCIDRs?: readonly string[];
  /** Ranges denied for every host and rule. */
  denyCIDRs?: readonly string[];
  /** Addresses and networks of this machine (its interfaces, its local routes): special-purpose, never allowed on `listenPorts`. */
  ownAddresses?: readonly string[];
  listenPorts?: readonly number[];
  /** Prefixes of NAT64 translators besides 64:ff9b::/96: their addresses are vetted as the IPv4 addresses in them. */
  nat64Prefixes?: readonly string[];
  /**
   * Addresses that upstream sockets are bound to. They are never allowed as targets, and targets of other families have
   * no egress path.
   */
  sourceAddresses?: readonly string[];
  /** Hash of the document, where it is known. */
  hash?: string;
}

/** Why a name or an address is refused. Report mode overrides soft refusals. */
interface Refusal {
  code: DenyCode;
  /** The rule that decided; `default` when no rule matched; absent for an address that its class alone refuses. */
  rule?: string;
  /** Text for the sender; names the class of an address, never the address. */
  reason: string;
}

/** A refusal by the policy's lists, which report mode may override. */
type ListedRefusal = Refusal & { rule: string };

/** One address in a {@link Decision}. */
interface VettedAddress {
  address: string;
  in: boolean;
  code?: DenyCode;
  rule?: string;
  reason?: string;
}

/** The decision for a target with known answers; see {@link decide}. */
export interface Decision {
  verdict: "allow" | "deny";
  code?: DenyCode;
  rule?: string;
  reason: string;
  wouldDeny?: { code: DenyCode; rule: string };
  /** Empty when the name alone was refused. */
  vetted: VettedAddress[];
}

/** A rule with its sets; `ports` null: all ports. */
export interface CompiledRule {
  label: string;
  hosts: HostSet | null;
  except: HostSet | null;
  cidrs: CidrSet | null;
  ports: PortRange[] | null;
  opens: boolean;
}

/**
 * A compiled document: immutable, replaced as a whole. With clients, the set of the document denies everything, and each
 * entry has a set of its own, its view: see {@link viewOf}.
 */
export interface PolicySet {
  readonly document: PolicyDocument;
  readonly hash: string;
  readonly allow: readonly CompiledRule[];
  /** The policy's deny rules. */
  readonly deny: readonly CompiledRule[];
  /** The deny rules of the client's entry. */
  readonly ownDeny: readonly CompiledRule[];
  readonly defaultAction: PolicyDocument["defaultAction"];
  /** Lists whose refusals pass, and are recorded as `wouldDeny`. `allow`: `not-allowed` and `port`. */
  readonly report: { readonly deny: boolean; readonly ownDeny: boolean; readonly allow: boolean };
  /** Name of the client's entry; null: a policy without clients, or the policy itself. */
  readonly entry: string | null;
  readonly limits: ClientLimits;
  /** The set for upstream proxies that a request of this client names. Null: it may name none. */
  readonly hops: PolicySet | null;
  /** The view of each entry, by name. Null: a policy without clients, or a view. */
  readonly views: ReadonlyMap<string, PolicySet> | null;
  readonly fallback: CompiledRule;
  readonly allowCIDRs: CidrSet;
  readonly denyCIDRs: CidrSet;
  readonly blocked: CidrSet;
  readonly own: CidrSet;
  readonly nat64: readonly Cidr[];
  readonly statics: CidrSet;
  readonly staticFamilies: ReadonlySet<4 | 6>;
  readonly listenPorts: ReadonlySet<number>;
}

/** The result of the name stage when it does not refuse. */
interface Candidates {
  rules: readonly CompiledRule[];
  /** The refusal that report mode overrode. */
  overridden?: ListedRefusal;
}

const NO_REPORT: PolicySet["report"] = { deny: false, ownDeny: false, allow: false };

type SharedSets = ReadonlyMap<string, HostSet>;

const NO_SETS: SharedSets = new Map();

const hostSet = (patterns: readonly string[], shared: SharedSets): HostSet => {
  const only = patterns.length === 1 ? setName(patterns[0]!) : null;
  if (only !== null) return shared.get(only)!;
  const set = new HostSet();
  for (const text of patterns) {
    const name = setName(text);
    if (name !== null) {
      set.addSet(shared.get(name)!);
      continue;
    }
    const pattern = parseHostPattern(text);
    if ("error" in pattern) throw new Error(pattern.error);
    set.add(pattern);
  }
  return set;
};

const portRanges = (ports: readonly PortSpec[]): PortRange[] => ports.map((p) => parsePorts(p)!);

function compileRule(rule: Rule, label: string, ports: PortRange[] | null, shared: SharedSets): CompiledRule {
  return {
    label,
    hosts: rule.hosts ? hostSet(rule.hosts, shared) : null,
    except: rule.except ? hostSet(rule.except, shared) : null,
    cidrs: rule.cidrs ? new CidrSet(parseCidrs(rule.cidrs, `${label}.cidrs`)) : null,
    ports: rule.ports ? portRanges(rule.ports) : ports,
    opens: rule.opens !== false,
  };
}

/** Parses an address or a network that is already validated. */
const network = (text: string): Cidr => (text.includes("/") ? cidr(text) : single(parseAddress(text)!));

function nat64Prefix(text: string, i: number): Cidr {
  const prefix = parseNat64Prefix(text);
  if ("error" in prefix) throw new PolicyError([{ path: `nat64-prefix[${i}]`, message: prefix.error }]);
  return prefix;
}

/** Compiles a list of rules. `path`: of the list, for the names of rules without one. */
function compileRules(
  rules: readonly Rule[],
  path: string,
  ports: PortRange[] | null,
  shared: SharedSets,
): CompiledRule[] {
  return rules.map((rule, i) => compileRule(rule, ruleLabel(rule, path, i), ports, shared));
}

/** The view of a client: the policy's parts, replaced or extended by those of the entry. `policy`: compiled without clients. */
function compileView(policy: PolicySet, entry: ClientEntry, shared: SharedSets): PolicySet {
  const { document } = policy;
  const path = `clients.${entry.name}`;
  const ports = entry.ports === undefined ? policy.fallback.ports : portRanges(entry.ports);
  const own = entry.allow && compileRules(entry.allow, `${path}.allow`, ports, shared);
  const mode = entry.mode ?? document.mode;
  const inherited = entry.inheritAllow ? policy.allow : [];
  const view: PolicySet = {
    ...policy,
    allow: own === undefined ? policy.allow : [...own, ...inherited],
    ownDeny: compileRules(entry.deny ?? [], `${path}.deny`, null, shared),
    fallback: entry.ports === undefined ? policy.fallback : { ...policy.fallback, ports },
    defaultAction: entry.defaultAction ?? (own === undefined ? policy.defaultAction : "Deny"),
    report: {
      deny: document.mode === "Report",
      ownDeny: mode === "Report",
      allow: mode === "Report" && (own !== undefined || document.mode === "Report"),
    },
    entry: entry.name,
    limits: { ...policy.limits, ...entry.limits },
  };
  if (entry.upstreamProxies === undefined) return view;
  const hops = compileRules(entry.upstreamProxies, `${path}.upstreamProxies`, null, shared);
  return { ...view, hops: { ...view, allow: hops, defaultAction: "Deny", report: NO_REPORT } };
}

/** A policy with clients: it denies everything, and its views decide. */
function compileClients(policy: PolicySet, clients: readonly ClientEntry[], shared: SharedSets): PolicySet {
  const views = new Map(clients.map((entry) => [entry.name, compileView(policy, entry, shared)]));
  return { ...policy, allow: [], deny: [], defaultAction: "Deny", report: NO_REPORT, views };
}

/** Compiles a valid document. @throws PolicyError when an option is no CIDR */
export function compile(document: PolicyDocument, options: CompileOptions = {}): PolicySet {
  const ports = portRanges(document.ports);
  const sources = options.sourceAddresses ?? [];
  const statics = [...document.staticIPs.flatMap((ip) => [ip.address, ip.sourceAddress ?? ip.address]), ...sources];
  const active = document.staticIPs.filter((ip) => ip.phase !== "Pending").map((ip) => ip.address);
  const usable = sources.length > 0 ? sources : active;
  const shared = new Map((document.hostSets ?? []).map(({ name, hosts }) => [name, hostSet(hosts, NO_SETS)]));
  const report = document.mode === "Report";
  const policy: PolicySet = {
    document,
    hash: options.hash ?? hashDocument(document),
    allow: compileRules(document.allow, "allow", ports, shared),
    deny: compileRules(document.deny, "deny", null, shared),
    ownDeny: [],
    defaultAction: document.defaultAction,
    report: { deny: report, ownDeny: report, allow: report },
    entry: null,
    limits: { maxTunnels: document.proxy.limits.maxTunnelsPerClient },
    hops: null,
    views: null,
    fallback: compileRule({}, "default", ports, NO_SETS),
    allowCIDRs: new CidrSet(parseCidrs(options.allowCIDRs ?? [], "allow-cidr")),
    denyCIDRs: new CidrSet(parseCidrs(options.denyCIDRs ?? [], "deny-cidr")),
    blocked: new CidrSet(parseCidrs(document.blockedCIDRs, "blockedCIDRs")),
    own: new CidrSet((options.ownAddresses ?? []).map(network)),
    nat64: (options.nat64Prefixes ?? []).map(nat64Prefix),
    statics: new CidrSet(statics.map(network)),
    staticFamilies: new Set(usable.map((text) => parseAddress(text)!.family)),
    listenPorts: new Set(options.listenPorts ?? []),
  };
  return document.clients === undefined ? policy : compileClients(policy, document.clients, shared);
}

const withNetworks = (set: PolicySet, own: CidrSet): PolicySet => ({
  ...set,
  own,
  hops: set.hops && { ...set.hops, own },
});

/** The same policy on a machine whose addresses changed; the rest is not compiled again. */
export function withOwn(set: PolicySet, ownAddresses: readonly string[]): PolicySet {
  const own = new CidrSet(ownAddresses.map(network));
  const views = set.views && new Map([...set.views].map(([name, view]) => [name, withNetworks(view, own)]));
  return { ...withNetworks(set, own), views };
}

/**
 * Who sends a request: a client with a proof of its own, one with the shared password, or one without any proof. `name`:
 * null if it is no valid text.
 */
export type Who = { kind: "own"; name: string | null } | { kind: "shared" } | { kind: "missing" };

/** The set that decides the requests of a client: the policy itself without clients. Null: refuse the client. */
export function viewOf(policy: PolicySet, who: Who): PolicySet | null {
  const { views } = policy;
  if (views === null) return policy;
  const shared = policy.document.authentication?.sharedClient ?? DEFAULT_CLIENT;
  const name = who.kind === "own" ? who.name : who.kind === "shared" ? shared : null;
  return (name === null ? undefined : views.get(name)) ?? views.get(DEFAULT_CLIENT) ?? null;
}

/** Whether a rule covers a port. */
export const portFits = (rule: CompiledRule, port: number): boolean =>
  rule.ports === null || rule.ports.some((range) => port >= range[0] && port <= range[1]);

/** Whether the `hosts` and `except` of a rule cover a target. `name`: its host, one object for all rules. */
export function hostFits(rule: CompiledRule, target: Target, name: HostName): boolean {
  if (rule.hosts === null) return rule.opens || target.ip;
  if (target.ip) return false;
  return rule.hosts.has(name) && !(rule.except?.has(name) ?? false);
}

function refuseName(denies: readonly CompiledRule[], target: Target, name: HostName): ListedRefusal | undefined {
  const rule = denies.find((r) => r.cidrs === null && portFits(r, target.port) && hostFits(r, target, name));
  if (rule === undefined) return undefined;
  return { code: "denied-rule", rule: rule.label, reason: `${target.host} is denied by rule ${rule.label}` };
}

function candidatesOf(set: PolicySet, target: Target, name: HostName): CompiledRule[] | ListedRefusal {
  const candidates: CompiledRule[] = [];
  let fits = false;
  for (const rule of set.allow) {
    if (!hostFits(rule, target, name)) continue;
    fits = true;
    if (portFits(rule, target.port)) candidates.push(rule);
  }
  if (set.defaultAction !== "Deny") {
    fits = true;
    if (portFits(set.fallback, target.port)) candidates.push(set.fallback);
  }
  if (candidates.length > 0) return candidates;
  if (fits) return { code: "port", rule: "default", reason: `port ${target.port} of ${target.host} is not allowed` };
  return { code: "not-allowed", rule: "default", reason: `${target.host} is not on the allow list` };
}

/**
 * The name stage: decided before any DNS query. A refusal by a list in Report is `overridden` in the result; one by
 * another list wins over it.
 */
export function decideName(set: PolicySet, target: Target): Refusal | Candidates {
  const { report } = set;
  const name = new HostName(target.host);
  const byPolicy = refuseName(set.deny, target, name);
  if (byPolicy !== undefined && !report.deny) return byPolicy;
  const byEntry = refuseName(set.ownDeny, target, name);
  if (byEntry !== undefined && !report.ownDeny) return byEntry;
  const denied = byPolicy ?? byEntry;
  const candidates = candidatesOf(set, target, name);
  if (Array.isArray(candidates)) return denied ? { rules: candidates, overridden: denied } : { rules: candidates };
  return report.allow ? { rules: [set.fallback], overridden: denied ?? candidates } : candidates;
}

/** One address after vetting. `soft`: the list that refuses is in Report. */
type Vetted =
  | { in: true; rule: string }
  | { in: false; soft: true; refusal: ListedRefusal }
  | { in: false; soft: false; refusal: Refusal };

const listed = (code: DenyCode, rule: string, reason: string, soft: boolean): Vetted => {
  return { in: false, soft, refusal: { code, rule, reason } };
};

const classed = (reason: string): Vetted => ({ in: false, soft: false, refusal: { code: "address", reason } });

function hardRefusal(set: PolicySet, target: Target, views: readonly Address[]): string | undefined {
  for (const view of views) {
    const never = neverAllowed(view);
    if (never !== undefined && !(isLoopback(never) && set.allowCIDRs.has(view))) {
      return describeClass(never);
    }
    if (set.statics.has(view)) return "one of the policy's own static IPs";
    if (set.denyCIDRs.has(view)) return "an address in a range that this proxy denies";
    if (set.listenPorts.has(target.port) && (set.own.has(view) || (never !== undefined && isLoopback(never)))) {
      return "this proxy itself";
    }
  }
  return undefined;
}

const OWN_MACHINE = "an address of the proxy's own machine";

function specialName(set: PolicySet, form: Address): string | undefined {
  const klass = specialPurpose(form);
  if (klass !== undefined) return describeClass(klass);
  if (set.own.has(form)) return OWN_MACHINE;
  if (set.blocked.has(form)) return "in a blocked range";
  return undefined;
}

/** Whether `--allow-cidr` or the `cidrs` of a rule open a special-purpose address for this target. */
function isOpened(set: PolicySet, target: Target, candidates: readonly CompiledRule[], form: Address): boolean {
  if (set.allowCIDRs.has(form)) return true;
  return candidates.some((c) => c.opens && c.cidrs?.has(form) && (c.hosts !== null || target.ip));
}

/**
 * The refusal of an address that after vetting turned out to lead to this machine itself: a local route that {@link
 * CompileOptions.ownAddresses} does not know. Null when the policy opens the address for this target.
 */
export function refuseOwn(set: PolicySet, target: Target, address: Address): Refusal | null {
  const stage = decideName(set, target);
  if (!("code" in stage) && isOpened(set, target, stage.rules, address)) return null;
  return { code: "address", reason: `${target.host} ${target.ip ? "is" : "resolves to"} ${OWN_MACHINE}` };
}

function refuseAddress(denies: readonly CompiledRule[], target: Target, views: readonly Address[]) {
  const name = new HostName(target.host);
  return denies.find(
    (r) =>
      r.cidrs !== null && portFits(r, target.port) && hostFits(r, target, name) && views.some((v) => r.cidrs!.has(v)),
  );
}

/** Vets one address of a target, independently of the others. `raw` is the address to dial. */
function vet(set: PolicySet, target: Target, candidates: readonly CompiledRule[], raw: Address): Vetted {
  const shapes = forms(raw, set.nat64);
  const views = shapes[0] === raw ? shapes : [raw, ...shapes];
  const verb = target.ip ? "is" : "resolves to";
  const hard = hardRefusal(set, target, views);
  if (hard !== undefined) return classed(`${target.host} ${verb} ${hard}`);
  const { report } = set;
  const denied = ({ label }: CompiledRule, soft: boolean) =>
    listed("denied-rule", label, `${target.host} ${verb} an address that rule ${label} denies`, soft);
  const byPolicy = refuseAddress(set.deny, target, views);
  if (byPolicy !== undefined && !report.deny) return denied(byPolicy, false);
  const byEntry = refuseAddress(set.ownDeny, target, views);
  if (byEntry !== undefined && !report.ownDeny) return denied(byEntry, false);
  const later = vetClass(set, target, candidates, raw, shapes, verb);
  // A refusal that binds wins over those in Report.
  const soft = later.in || later.soft ? (byPolicy ?? byEntry) : undefined;
  return soft === undefined ? later : denied(soft, true);
}

function vetClass(
  set: PolicySet,
  target: Target,
  candidates: readonly CompiledRule[],
  raw: Address,
  shapes: readonly Address[],
  verb: string,
): Vetted {
  if (set.staticFamilies.size > 0 || set.statics.size > 0) {
    if (!set.staticFamilies.has(raw.family)) {
      return classed(`${target.host} ${verb} IPv${raw.family}, for which there is no static IP`);
    }
  }
  let isPublic = true;
  for (const shape of shapes) {
    const special = specialName(set, shape);
    if (special === undefined || set.allowCIDRs.has(shape)) continue;
    isPublic = false;
    if (!isOpened(set, target, candidates, shape)) return classed(`${target.host} ${verb} ${special}`);
  }
  // The prefix of a translator may have a local route on this very machine.
  if (shapes[0] !== raw && set.own.has(raw) && !isOpened(set, target, candidates, raw)) {
    return classed(`${target.host} ${verb} ${OWN_MACHINE}`);
  }
  const first = shapes[0]!;
  for (const rule of candidates) {
    if (rule.cidrs === null ? isPublic : rule.cidrs.has(first)) return { in: true, rule: rule.label };
  }
  return listed(
    "not-allowed",
    "default",
    `${target.host} ${verb} an address that no allow rule admits`,
    set.report.allow,
  );
}

/** The outcome of vetting all addresses of a target: those that may be dialled, and the decision for the record. */
interface VettedTarget {
  /** Empty when refused. In the order given. */
  dial: Address[];
  rule: string;
  refusal?: Refusal;
  wouldDeny?: { code: DenyCode; rule: string };
}

/** Vets all addresses of a target and applies Report and the default action. `addresses` must not be empty. */
export function vetAll(set: PolicySet, target: Target, names: Candidates, addresses: readonly Address[]): VettedTarget {
  const dial: Address[] = [];
  const softly: Address[] = [];
  let rule: string | undefined;
  let first: Refusal | undefined;
  let firstSoft: ListedRefusal | undefined;
  for (const address of addresses) {
    const vetted = vet(set, target, names.rules, address);
    if (vetted.in) {
      rule ??= vetted.rule;
      dial.push(address);
      continue;
    }
    first ??= vetted.refusal;
    if (!vetted.soft) continue;
    firstSoft ??= vetted.refusal;
    softly.push(address);
  }
  const overridden = names.overridden && { code: names.overridden.code, rule: names.overridden.rule };
  if (rule !== undefined) {
    if (overridden) return { dial, rule, wouldDeny: overridden };
    if (rule === "default" && set.defaultAction === "Report") {
      return { dial, rule, wouldDeny: { code: "not-allowed", rule } };
    }
    return { dial, rule };
  }
  if (firstSoft !== undefined) {
    const refused = overridden ?? { code: firstSoft.code, rule: firstSoft.rule };
    return { dial: softly, rule: firstSoft.rule, wouldDeny: refused };
  }
  return { dial: [], rule: first!.rule ?? "", refusal: first! };
}

/** Whether the name of a target is sent to the upstream proxy, which resolves it. `localhost` would be that machine itself. */
export function sendsName(set: PolicySet, target: Target): boolean {
  return !target.ip && set.document.upstreamProxy?.resolve === "Upstream" && !isLocalhost(target.host);
}

/**
 * The outcome for a name that the upstream proxy resolves: `vetAll` without addresses. Allow rules with `cidrs` admit no
 * such name, since its addresses are not known here.
 */
export function vetName(set: PolicySet, target: Target, names: Candidates): Omit<VettedTarget, "dial"> {
  const { overridden } = names;
  const would = overridden && { code: overridden.code, rule: overridden.rule };
  const rule = names.rules.find(({ cidrs }) => cidrs === null)?.label;
  if (rule === undefined) {
    const reason = `${target.host} is allowed for some addresses only, and the upstream proxy resolves it`;
    const refusal = { code: "not-allowed", rule: "default", reason } as const;
    if (!set.report.allow) return { rule: "default", refusal };
    return { rule: "default", wouldDeny: would ?? { code: refusal.code, rule: refusal.rule } };
  }
  if (would !== undefined) return { rule, wouldDeny: would };
  const softly = rule === "default" && set.defaultAction === "Report";
  return softly ? { rule, wouldDeny: { code: "not-allowed", rule } } : { rule };
}

/** The complete decision for known answers, without gate and dialling, for `explain` and tests. */
export function decideKnown(set: PolicySet, target: Target, addresses: readonly string[]): Decision {
  const names = decideName(set, target);
  if ("code" in names) return { verdict: "deny", ...names, vetted: [] };
  const parsed = addresses.map((text) => {
    const address = parseAddress(text);
    if (address === null) throw new TypeError(`not an IP address: ${text}`);
    return address;
  });
  const all = vetAll(set, target, names, parsed);
  const vetted = parsed.map((address): VettedAddress => {
    const one = vet(set, target, names.rules, address);
    if (one.in) return { address: formatAddress(address), in: true, rule: one.rule };
    return { address: formatAddress(address), in: all.dial.includes(address), ...one.refusal };
  });
  if (all.refusal) return { verdict: "deny", ...all.refusal, vetted };
  const reason = all.rule === "default" ? "allowed by the default action" : `allowed by rule ${all.rule}`;
  return { verdict: "allow", rule: all.rule, reason, vetted, ...(all.wouldDeny ? { wouldDeny: all.wouldDeny } : {}) };
}
