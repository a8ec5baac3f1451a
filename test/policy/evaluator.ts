import assert from "node:assert/strict";
import { domainToASCII } from "node:url";
import type { PolicyDocument } from "../../proxy/policy/document.ts";
import type { PortSpec, Rule } from "../../proxy/policy/rules.ts";
import type { Target } from "../../proxy/policy/target.ts";

/**
 * A naive evaluator of a policy, stage by stage from the description of the algorithm, that shares no code with the
 * engine. An address is one big integer; an IPv4 address has bit 128 set, so that the families never meet.
 */
export const V4 = 1n << 128n;
const GROUP = /^[0-9a-f]{1,4}$/;

export function ip(text: string): bigint {
  if (!text.includes(":")) return V4 | text.split(".").reduce((n, part) => (n << 8n) | BigInt(part), 0n);
  const dotted = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(text);
  if (dotted !== null) {
    const low = ip(dotted[2]!) ^ V4;
    return ip(`${dotted[1]}${(low >> 16n).toString(16)}:${(low & 0xffffn).toString(16)}`);
  }
  const halves = text.split("::").map((half) => half.split(":").filter((group) => group !== ""));
  const [left, right = []] = halves as [string[], string[]?];
  const groups = [...left, ...Array<string>(8 - left.length - right.length).fill("0"), ...right];
  assert.ok(
    groups.every((group) => GROUP.test(group)),
    text,
  );
  return groups.reduce((n, group) => (n << 16n) | BigInt(`0x${group}`), 0n);
}

export function text(address: bigint): string {
  if (address >= V4) return [24n, 16n, 8n, 0n].map((shift) => (address >> shift) & 255n).join(".");
  return [7n, 6n, 5n, 4n, 3n, 2n, 1n, 0n].map((i) => ((address >> (i * 16n)) & 0xffffn).toString(16)).join(":");
}

const ranges = new Map<string, readonly [first: bigint, last: bigint]>();
export function range(cidr: string): readonly [first: bigint, last: bigint] {
  const known = ranges.get(cidr);
  if (known !== undefined) return known;
  const [base, length] = cidr.split("/") as [string, string];
  const first = ip(base);
  const made = [first, first + (1n << BigInt((first >= V4 ? 32 : 128) - Number(length))) - 1n] as const;
  ranges.set(cidr, made);
  return made;
}

export const within = (address: bigint, cidr: string) => range(cidr)[0] <= address && address <= range(cidr)[1];
export const withinAny = (address: bigint, cidrs: readonly string[]) => cidrs.some((cidr) => within(address, cidr));

/** Not globally reachable, without the exceptions that are (both IANA registries, and the ranges added to them). */
export const SPECIAL = [
  ..."0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24".split(" "),
  ..."192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4".split(" "),
  ..."::/96 ::ffff:0:0/96 ::ffff:0:0:0/96 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001::/23 2001:db8::/32".split(" "),
  ..."2002::/16 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8".split(" "),
];
export const REACHABLE = [
  ..."192.0.0.9/32 192.0.0.10/32 2001:1::1/128 2001:1::2/128 2001:1::3/128 2001:3::/32 2001:4:112::/48".split(" "),
  ..."2001:20::/28 2001:30::/28".split(" "),
];
export const NEVER = [
  ..."169.254.169.254/32 fd00:ec2::/32 100.100.100.200/32 192.0.0.192/32 168.63.129.16/32 fd00:42::42/128".split(" "),
  ..."fd00:c1::a9fe:a9fe/128 fd00:100::100:200/128 fd00:a9fe:a9fe::1/128".split(" "),
  ..."fd20:ce::254/128 169.254.0.0/16 fe80::/10 0.0.0.0/32 ::/128 224.0.0.0/4 ff00::/8 255.255.255.255/32".split(" "),
];
const LOOPBACK = ["127.0.0.0/8", "::1/128"];
export const registrySpecial = (address: bigint) => withinAny(address, SPECIAL) && !withinAny(address, REACHABLE);

/** An IPv4-mapped address is the IPv4 address in it. */
export const plain = (raw: bigint) => (within(raw, "::ffff:0:0/96") ? V4 | (raw & 0xffffffffn) : raw);

/**
 * The IPv4 address that a translator with this prefix length reads: the bits after the prefix, without bits 64 to 71.
 */
function translated(raw: bigint, length: number): bigint {
  const bits = raw.toString(2).padStart(128, "0").split("");
  const usable = bits.flatMap((bit, i) => (length < 96 && i >= 64 && i < 72 ? [] : [[i, bit] as const]));
  const behind = usable.filter(([i]) => i >= length).slice(0, 32);
  return V4 | BigInt(`0b${behind.map(([, bit]) => bit).join("")}`);
}

/** The address and the IPv4 addresses in it; for well-known NAT64 and a configured prefix only the latter. */
export function formsOf(raw: bigint, nat64: readonly string[]): bigint[] {
  if (raw >= V4) return [raw];
  const word = (shift: bigint) => V4 | ((raw >> shift) & 0xffffffffn);
  const low = word(0n);
  if (within(raw, "64:ff9b::/96")) return [low];
  const prefixes = nat64.filter((prefix) => within(raw, prefix));
  if (prefixes.length > 0) return prefixes.map((prefix) => translated(raw, Number(prefix.split("/")[1])));
  const found = [raw];
  if (within(raw, "::ffff:0:0:0/96")) found.push(low);
  if (within(raw, "::/96") && raw > 1n) found.push(low);
  if (within(raw, "64:ff9b:1::/48")) {
    const all = [48, 56, 64, 96].map((length) => translated(raw, length));
    const some = all.filter((one) => !within(one, "0.0.0.0/8"));
    found.push(...(some.length > 0 ? some : [low]));
  }
  if (within(raw, "2002::/16")) found.push(word(80n));
  if (within(raw, "2001::/32")) found.push(word(64n), V4 | (~raw & 0xffffffffn));
  if (["5efe", "2005efe"].includes(((raw >> 32n) & 0xffffffffn).toString(16))) found.push(low);
  return found;
}

function named(patterns: readonly string[], name: string): boolean {
  return patterns.some((pattern) => {
    if (pattern === "*") return true;
    const wild = pattern.startsWith("*.");
    const ascii = domainToASCII(pattern.slice(wild ? 2 : 0).replace(/\.$/, ""));
    return wild ? name.length > ascii.length + 1 && name.endsWith(`.${ascii}`) : name === ascii;
  });
}

export const onPort = (specs: readonly PortSpec[], port: number) =>
  specs.some((spec) => {
    const ends = `${spec}`.split("-").map(Number);
    return ends[0]! <= port && port <= ends.at(-1)!;
  });

export interface Options {
  allowCIDRs: string[];
  denyCIDRs: string[];
  /** Addresses and networks. */
  ownAddresses: string[];
  nat64Prefixes: string[];
  listenPorts: number[];
}
interface Refused {
  code: string;
  rule?: string;
}
export interface Outcome extends Partial<Refused> {
  verdict: "allow" | "deny";
  wouldDeny?: Refused;
  in: bigint[];
}
type Candidate = Rule & { label: string };
/** A deny rule that matches host and port. `soft`: its list is in Report. */
type Deny = Candidate & { soft: boolean };

/** A rule with the patterns of its host sets in place of the references. */
function expanded(doc: PolicyDocument, rule: Rule): Rule {
  const patterns = (list: string[]) =>
    list.flatMap((item) => {
      if (!item.startsWith("set:")) return [item];
      return (doc.hostSets ?? []).filter(({ name }) => `set:${name}` === item).flatMap(({ hosts }) => hosts);
    });
  return {
    ...rule,
    ...(rule.hosts && { hosts: patterns(rule.hosts) }),
    ...(rule.except && { except: patterns(rule.except) }),
  };
}

/** The rules that decide for one client, with all defaults: each deny rule has its list's mode, each allow rule its ports. */
export interface Rights {
  deny: Deny[];
  allow: (Candidate & { ports: PortSpec[] })[];
  defaultAction: string;
  /** Of the default action. */
  ports: PortSpec[];
  /** Whether `not-allowed` and `port` pass. */
  allowSoft: boolean;
}

/** The rights of a client by the table of the ADR; null: no entry. `who`: a name, or null for a client without one. */
export function rightsOf(doc: PolicyDocument, who: string | null): Rights | null {
  const label = (rules: Rule[], list: string): Candidate[] =>
    rules.map((rule, i) => ({ ...expanded(doc, rule), label: rule.name ?? `${list}[${i}]` }));
  const ported = (rules: Candidate[], ports: PortSpec[]) =>
    rules.map((rule) => ({ ...rule, ports: rule.ports ?? ports }));
  const reporting = doc.mode === "Report";
  const deny = label(doc.deny, "deny").map((rule) => ({ ...rule, soft: reporting }));
  const allow = ported(label(doc.allow, "allow"), doc.ports);
  if (doc.clients === undefined) {
    return { deny, allow, defaultAction: doc.defaultAction, ports: doc.ports, allowSoft: reporting };
  }
  const find = (name: string | null) => doc.clients!.find((entry) => entry.name === name);
  const entry = find(who) ?? find("default");
  if (entry === undefined) return null;
  const at = (list: string) => `clients.${entry.name}.${list}`;
  const mode = entry.mode ?? doc.mode;
  const ports = entry.ports ?? doc.ports;
  const own = entry.allow && ported(label(entry.allow, at("allow")), ports);
  return {
    deny: [...deny, ...label(entry.deny ?? [], at("deny")).map((rule) => ({ ...rule, soft: mode === "Report" }))],
    allow: own === undefined ? allow : entry.inheritAllow ? [...own, ...allow] : own,
    defaultAction: entry.defaultAction ?? (own === undefined ? doc.defaultAction : "Deny"),
    ports,
    allowSoft: mode === "Report" && (own !== undefined || reporting),
  };
}

/** Whether a rule matches the host of a target; its ports and addresses aside. */
export const hostFits = ({ hosts, except, opens }: Rule, target: Target): boolean =>
  (hosts === undefined && (opens !== false || target.ip)) ||
  (hosts !== undefined && !target.ip && named(hosts, target.host) && !named(except ?? [], target.host));

/** The result for one address: the rule that admits it, or the refusals in order. */
function vetOne(
  doc: PolicyDocument,
  o: Options,
  target: Target,
  candidates: Candidate[],
  denies: Deny[],
  allowSoft: boolean,
  raw: bigint,
): { bound: boolean; reason?: Refused; admitting?: string } {
  const forms = formsOf(raw, o.nat64Prefixes);
  const all = [raw, ...forms];
  const isOwn = (form: bigint) =>
    o.ownAddresses.some((own) => (own.includes("/") ? within(form, own) : form === ip(own)));
  const statics = doc.staticIPs.flatMap((s) =>
    s.sourceAddress ? [ip(s.address), ip(s.sourceAddress)] : [ip(s.address)],
  );
  const hard = all.some((form) => {
    if (withinAny(form, NEVER) || statics.includes(form) || withinAny(form, o.denyCIDRs)) return true;
    const loopback = withinAny(form, LOOPBACK);
    if (loopback && !withinAny(form, o.allowCIDRs)) return true;
    return o.listenPorts.includes(target.port) && (loopback || isOwn(form));
  });
  const denyOf = (soft: boolean) =>
    denies.find(
      (rule) => rule.soft === soft && rule.cidrs !== undefined && all.some((form) => withinAny(form, rule.cidrs!)),
    );
  const [binding, reported] = [denyOf(false), denyOf(true)];
  const usable = doc.staticIPs.filter((s) => s.phase !== "Pending");
  const noSource = doc.staticIPs.length > 0 && !usable.some((s) => ip(s.address) >= V4 === raw >= V4);
  const closed = forms.filter((form) => {
    if (withinAny(form, o.allowCIDRs)) return false;
    return registrySpecial(form) || withinAny(form, doc.blockedCIDRs) || isOwn(form);
  });
  // The address of a translator may belong to this machine.
  const closedRaw = !forms.includes(raw) && isOwn(raw) && !withinAny(raw, o.allowCIDRs);
  const opens = (rule: Candidate, form: bigint) =>
    rule.cidrs !== undefined &&
    withinAny(form, rule.cidrs) &&
    (rule.hosts !== undefined || target.ip) &&
    rule.opens !== false;
  const shut = [...closed, ...(closedRaw ? [raw] : [])].some((form) => !candidates.some((rule) => opens(rule, form)));
  const admitting = candidates.find((rule) =>
    rule.cidrs === undefined ? closed.length === 0 : withinAny(forms[0]!, rule.cidrs),
  );
  const notAllowed = { code: "not-allowed", rule: "default" };
  if (hard) return { bound: true, reason: { code: "address" } };
  if (binding !== undefined) return { bound: true, reason: { code: "denied-rule", rule: binding.label } };
  if (noSource || shut) return { bound: true, reason: { code: "address" } };
  if (admitting === undefined && !allowSoft) return { bound: true, reason: notAllowed };
  if (reported !== undefined) return { bound: false, reason: { code: "denied-rule", rule: reported.label } };
  if (admitting === undefined) return { bound: false, reason: notAllowed };
  return { bound: false, admitting: admitting.label };
}

/** `who`: the name of a client with a proof of its own, or null; without clients it has no effect. */
export function judge(
  doc: PolicyDocument,
  o: Options,
  target: Target,
  answered: readonly bigint[],
  who: string | null = null,
): Outcome {
  const answers = answered.map(plain);
  const rights = rightsOf(doc, who);
  if (rights === null) return { verdict: "deny", code: "client", in: [] };
  const denies = rights.deny.filter(
    (rule) => hostFits(rule, target) && (rule.ports === undefined || onPort(rule.ports, target.port)),
  );
  const fallback = { label: "default", ports: rights.ports };
  const butForPort: (Candidate & { ports: PortSpec[] })[] = rights.allow.filter((rule) => hostFits(rule, target));
  if (rights.defaultAction !== "Deny") butForPort.push(fallback);
  const candidates = butForPort.filter((rule) => onPort(rule.ports, target.port));
  const refusals = denies
    .filter((rule) => rule.cidrs === undefined)
    .map(({ label, soft }) => ({ code: "denied-rule", rule: label, soft }));
  if (candidates.length === 0) {
    const code = butForPort.length > 0 ? "port" : "not-allowed";
    refusals.push({ code, rule: "default", soft: rights.allowSoft });
  }
  const refusal = refusals.find(({ soft }) => !soft) ?? refusals[0];
  const atName = refusal && { code: refusal.code, rule: refusal.rule };
  if (refusal?.soft === false) return { verdict: "deny", ...atName, in: [] };

  const asked = candidates.length > 0 ? candidates : [fallback];
  const vetted = answers.map((raw) => ({ raw, ...vetOne(doc, o, target, asked, denies, rights.allowSoft, raw) }));
  const good = vetted.filter((v) => v.reason === undefined);
  if (good.length > 0) {
    const rule = good[0]!.admitting!;
    const reported =
      rule === "default" && rights.defaultAction === "Report" ? { code: "not-allowed", rule } : undefined;
    const wouldDeny = atName ?? reported;
    return { verdict: "allow", rule, ...(wouldDeny && { wouldDeny }), in: good.map((v) => v.raw) };
  }
  const soft = vetted.filter((v) => !v.bound);
  if (soft.length === 0) return { verdict: "deny", ...vetted[0]!.reason!, in: [] };
  const wouldDeny = atName ?? soft[0]!.reason!;
  return { verdict: "allow", rule: soft[0]!.reason!.rule!, wouldDeny, in: soft.map((v) => v.raw) };
}
