import { domainToASCII } from "node:url";
import type { PolicyDocument } from "../../proxy/policy/document.ts";
import type { Rule } from "../../proxy/policy/rules.ts";
import { IANA_IPV4, IANA_IPV6 } from "./registries.ts";

/**
 * A naive evaluator of a policy, written from the algorithm's description and not from the engine: addresses are big
 * integers, everything is a linear search, nothing is compiled.
 */

interface Ip {
  family: 4 | 6;
  bits: bigint;
}

interface Options {
  allowCIDRs: string[];
  denyCIDRs: string[];
  ownAddresses: string[];
  listenPorts: number[];
}

export interface ReferenceDecision {
  verdict: "allow" | "deny";
  code?: string;
  rule?: string;
  wouldDeny?: { code: string; rule: string };
  dial: string[];
}

/** Text of an address to bits. */
export function toBits(text: string): Ip {
  if (!text.includes(":")) {
    return { family: 4, bits: text.split(".").reduce((bits, part) => bits * 256n + BigInt(part), 0n) };
  }
  let full = text;
  const dotted = /(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(text);
  if (dotted !== null) {
    const [a, b, c, d] = dotted.slice(1).map(Number) as [number, number, number, number];
    full = `${text.slice(0, dotted.index)}${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`;
  }
  const [left, right] = full.split("::") as [string, string?];
  const head = left === "" ? [] : left.split(":");
  const tail = right === undefined || right === "" ? [] : right.split(":");
  const zeros = right === undefined ? 0 : 8 - head.length - tail.length;
  const groups = [...head, ...Array<string>(zeros).fill("0"), ...tail];
  return { family: 6, bits: groups.reduce((bits, group) => bits * 65536n + BigInt(`0x${group}`), 0n) };
}

function inside(cidr: string, ip: Ip): boolean {
  const [base, length] = cidr.split("/") as [string, string];
  const network = toBits(base);
  if (network.family !== ip.family) return false;
  const shift = BigInt((ip.family === 4 ? 32 : 128) - Number(length));
  return network.bits >> shift === ip.bits >> shift;
}

const anyInside = (cidrs: readonly string[], ip: Ip): boolean => cidrs.some((cidr) => inside(cidr, ip));
const v4 = (bits: bigint): Ip => ({ family: 4, bits: bits & 0xffffffffn });

/** The addresses as which one is judged. */
function faces(ip: Ip): Ip[] {
  if (ip.family === 4) return [ip];
  const low = ip.bits & 0xffffffffn;
  if (inside("64:ff9b::/96", ip)) return [v4(low)];
  const all = [ip];
  if (inside("::ffff:0:0/96", ip) || inside("::ffff:0:0:0/96", ip)) all.push(v4(low));
  if (inside("::/96", ip) && low > 1n) all.push(v4(low));
  if (inside("64:ff9b:1::/48", ip)) {
    const upper = (ip.bits >> 64n) & 0xffffn;
    const lower = (ip.bits >> 40n) & 0xffffn;
    all.push((ip.bits & 0xffffffffffn) === 0n ? v4((upper << 16n) | lower) : v4(low));
  }
  if (inside("2002::/16", ip)) all.push(v4(ip.bits >> 80n));
  if (inside("2001::/32", ip)) all.push(v4(ip.bits >> 64n), v4(low ^ 0xffffffffn));
  const marker = (ip.bits >> 32n) & 0xffffffffn;
  if (marker === 0x00005efen || marker === 0x02005efen) all.push(v4(low));
  return all;
}

const NEVER = [
  ...["169.254.169.254/32", "fd00:ec2::254/128", "fd20:ce::254/128", "100.100.100.200/32", "192.0.0.192/32"],
  ...["168.63.129.16/32", "169.254.0.0/16", "fe80::/10", "0.0.0.0/32", "::/128", "224.0.0.0/4", "ff00::/8"],
  "255.255.255.255/32",
];
const LOOPBACK = ["127.0.0.0/8", "::1/128"];

/** What the registries say of an address: the longest row that contains it wins. */
export function isSpecial(ip: Ip): boolean {
  const rows = (ip.family === 4 ? IANA_IPV4 : IANA_IPV6).filter(([cidr]) => inside(cidr, ip));
  rows.sort((a, b) => Number(b[0].split("/")[1]) - Number(a[0].split("/")[1]));
  return rows.length > 0 && rows[0]![1] !== true;
}

function hostMatches(pattern: string, host: string): boolean {
  if (pattern === "*") return true;
  const wild = pattern.startsWith("*.");
  const name = domainToASCII(wild ? pattern.slice(2) : pattern)
    .toLowerCase()
    .replace(/\.$/, "");
  return wild ? host.endsWith(`.${name}`) : host === name;
}

function portMatches(ports: readonly (number | string)[], port: number): boolean {
  return ports.some((entry) => {
    const [low, high] = String(entry).split("-").map(Number) as [number, number?];
    return port >= low && port <= (high ?? low);
  });
}

/** The whole decision for known answers. */
export function evaluate(
  document: PolicyDocument,
  options: Options,
  target: { host: string; port: number; ip: boolean },
  answers: readonly string[],
): ReferenceDecision {
  const fitsHost = (rule: Rule) => {
    if (rule.hosts === undefined) return rule.opens !== false || target.ip;
    if (target.ip || !rule.hosts.some((pattern) => hostMatches(pattern, target.host))) return false;
    return !(rule.except ?? []).some((pattern) => hostMatches(pattern, target.host));
  };
  const denyFits = (rule: Rule) => fitsHost(rule) && (rule.ports === undefined || portMatches(rule.ports, target.port));
  const nameOf = (rule: Rule, list: "allow" | "deny") => rule.name ?? `${list}[${document[list].indexOf(rule)}]`;
  const report = document.mode === "Report";

  // 2 name
  let refused: { code: string; rule: string } | undefined;
  const denyRule = document.deny.find((rule) => rule.cidrs === undefined && denyFits(rule));
  if (denyRule !== undefined) refused = { code: "denied-rule", rule: nameOf(denyRule, "deny") };
  const wouldFit: { rule: Rule | null; label: string; ports: readonly (number | string)[] }[] = document.allow
    .filter(fitsHost)
    .map((rule) => ({ rule, label: nameOf(rule, "allow"), ports: rule.ports ?? document.ports }));
  const fallback = { rule: null, label: "default", ports: document.ports };
  if (document.defaultAction !== "Deny") wouldFit.push(fallback);
  let candidates = wouldFit.filter(({ ports }) => portMatches(ports, target.port));
  if (candidates.length === 0) {
    refused ??= { code: wouldFit.length > 0 ? "port" : "not-allowed", rule: "default" };
    candidates = [fallback];
  }
  if (refused !== undefined && !report) return { verdict: "deny", ...refused, dial: [] };

  // 5 vet
  const families = new Set(
    document.staticIPs.filter((ip) => ip.phase !== "Pending").map((ip) => toBits(ip.address).family),
  );
  const statics = document.staticIPs.flatMap((ip) => [ip.address, ip.sourceAddress ?? ip.address]);
  const equals = (text: string, ip: Ip) => inside(`${text}/${text.includes(":") ? 128 : 32}`, ip);
  const dial: string[] = [];
  const softly: string[] = [];
  let rule: string | undefined;
  let first: { code: string; rule?: string } | undefined;
  let firstSoft: { code: string; rule: string } | undefined;
  for (const text of answers) {
    const raw = toBits(text);
    const seen = faces(raw);
    const all = [raw, ...seen];
    const never = all.some((ip) => {
      const loop = anyInside(LOOPBACK, ip);
      const own = loop || options.ownAddresses.some((address) => equals(address, ip));
      return (
        anyInside(NEVER, ip) ||
        (loop && !anyInside(options.allowCIDRs, ip)) ||
        statics.some((address) => equals(address, ip)) ||
        (own && options.listenPorts.includes(target.port)) ||
        anyInside(options.denyCIDRs, ip)
      );
    });
    if (never) {
      first ??= { code: "address" };
      continue;
    }
    const isClosed = (ip: Ip) =>
      (isSpecial(ip) || anyInside(document.blockedCIDRs, ip) || options.ownAddresses.some((own) => equals(own, ip))) &&
      !anyInside(options.allowCIDRs, ip);
    const closed = seen.filter(isClosed);
    const opens = (candidate: Rule | null, ip: Ip) =>
      candidate?.cidrs !== undefined &&
      candidate.opens !== false &&
      anyInside(candidate.cidrs, ip) &&
      (candidate.hosts !== undefined || target.ip);
    const noFamily = document.staticIPs.length > 0 && !families.has(raw.family);
    const shut = noFamily || closed.some((ip) => !candidates.some((candidate) => opens(candidate.rule, ip)));
    const deny = document.deny.find(
      (r) => r.cidrs !== undefined && denyFits(r) && all.some((ip) => anyInside(r.cidrs!, ip)),
    );
    if (deny !== undefined && !(report && shut)) {
      const refusal = { code: "denied-rule", rule: nameOf(deny, "deny") };
      first ??= refusal;
      if (!shut) {
        firstSoft ??= refusal;
        softly.push(text);
      }
      continue;
    }
    if (shut) {
      first ??= { code: "address" };
      continue;
    }
    const admits = (candidate: Rule | null) =>
      candidate?.cidrs === undefined ? closed.length === 0 : anyInside(candidate.cidrs, seen[0]!);
    const admitting = candidates.find((candidate) => admits(candidate.rule));
    if (admitting === undefined) {
      first ??= { code: "not-allowed", rule: "default" };
      firstSoft ??= { code: "not-allowed", rule: "default" };
      softly.push(text);
      continue;
    }
    rule ??= admitting.label;
    dial.push(text);
  }
  if (rule !== undefined) {
    if (refused !== undefined) return { verdict: "allow", rule, wouldDeny: refused, dial };
    if (rule === "default" && document.defaultAction === "Report") {
      return { verdict: "allow", rule, wouldDeny: { code: "not-allowed", rule: "default" }, dial };
    }
    return { verdict: "allow", rule, dial };
  }
  if (report && firstSoft !== undefined) {
    return { verdict: "allow", rule: firstSoft.rule, wouldDeny: refused ?? firstSoft, dial: softly };
  }
  return { verdict: "deny", ...first!, dial: [] };
}
