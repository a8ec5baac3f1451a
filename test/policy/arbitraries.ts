import fc from "fast-check";
import type { ClientEntry, HostList } from "../../proxy/policy/clients.ts";
import type { StaticIP } from "../../proxy/policy/document.ts";
import type { PortSpec, Rule } from "../../proxy/policy/rules.ts";
import { ip, NEVER, type Options, REACHABLE, range, SPECIAL, V4 } from "./evaluator.ts";

/**
 * Few names, ports and ranges, so that rules, targets and answers overlap; addresses are at the edges of the ranges.
 */
const NAMES =
  "example.com a.example.com b.a.example.com aexample.com other.test x_y.other.test xn--bcher-kva.test".split(" ");
const PATTERNS = [
  ...NAMES,
  ...NAMES.map((n) => `*.${n}`),
  "*",
  "EXAMPLE.com.",
  "*.Example.COM",
  "bücher.test",
  "*.test",
];
const PORTS = [1, 79, 80, 443, 1023, 1024, 4750, 8080, 65535];
const SPECS: PortSpec[] = [...PORTS, "1-1023", "1024-65535", "79-80", "443-8080"];
const CIDRS = [
  ..."0.0.0.0/0 10.0.0.0/8 10.0.0.4/30 10.0.0.5/32 8.8.8.0/24 8.0.0.0/7 127.0.0.0/8 172.16.0.0/12 192.0.0.0/24".split(
    " ",
  ),
  ..."203.0.113.0/24 100.64.0.0/10 169.254.0.0/16 ::/0 ::1/128 ::/96 ::ffff:0:0:0/96 64:ff9b::/96 64:ff9b:1::/48".split(
    " ",
  ),
  ..."2001::/23 2001::/32 2002::/16 2002:a00::/24 fd00::/8 2606:4700::/32 2600::/16".split(" "),
];
const STATICS: StaticIP[][] = [
  [{ address: "203.0.113.10" }],
  [
    { address: "203.0.113.10", sourceAddress: "93.184.216.34" },
    { address: "2606:4700::10", phase: "Retiring" },
  ],
  [{ address: "203.0.113.10", phase: "Pending" }, { address: "2606:4700::10" }],
  [{ address: "8.8.8.8", phase: "Pending" }],
];
const metadata = NEVER.filter((cidr) => /\/(32|128)$/.test(cidr));
const edges = [...CIDRS, ...SPECIAL, ...REACHABLE, ...metadata, "8.8.8.8/32", "93.184.216.34/32", "2606:4700::10/128"]
  .flatMap((cidr) => [range(cidr)[0] - 1n, range(cidr)[0], range(cidr)[1], range(cidr)[1] + 1n])
  .filter((n) => n >= 0n && n !== V4 - 1n && n < V4 + (1n << 32n));
const EMBED: ((low: bigint) => bigint)[] = [
  ..."::ffff:0:0 :: ::ffff:0:0:0 64:ff9b:: 64:ff9b:1:: 64:ff9b:1:7:: 2600::5efe:0:0 2600::200:5efe:0:0"
    .split(" ")
    .map((base) => (low: bigint) => ip(base) | low),
  (low) => ip("64:ff9b:1::") | ((low >> 16n) << 64n) | ((low & 0xffffn) << 40n),
  // The byte after the address is not zero: a translator ignores it.
  (low) => ip("64:ff9b:1::1:0:0") | ((low >> 16n) << 64n) | ((low & 0xffffn) << 40n),
  (low) => ip("64:ff9b:1:5::") | ((low >> 24n) << 64n) | ((low & 0xffffffn) << 32n),
  (low) => ip("64:ff9b:1:7::") | (low << 24n),
  // Configured prefixes; bits 64 to 71 and those after the address are not zero.
  (low) => ip("2606:4700::ff00:0:0:1") | (low << 64n),
  (low) => ip("fd64::") | low,
  (low) => ip("fd64:0:0:1:ab00:0:0:1") | (low << 24n),
  (low) => ip("2002::1") | (low << 80n),
  (low) => ip("2001::f7f7:f7f7") | (low << 64n),
  (low) => ip("2001:0:808:808::") | (low ^ 0xffffffffn),
  // Two layouts in one address: an ISATAP interface behind 6to4 or Teredo.
  (low) => ip("2002:808:808::5efe:0:0") | low,
  (low) => ip("2002:0:0::200:5efe:808:808") | (low << 80n),
  (low) => ip("2001:0:808:808:0:5efe:0:0") | low,
];
const edge4 = fc.constantFrom(...new Set(edges.filter((n) => n >= V4)));
const addressArb = fc.oneof(
  { weight: 3, arbitrary: edge4 },
  { weight: 2, arbitrary: fc.constantFrom(...new Set(edges.filter((n) => n < V4))) },
  { weight: 2, arbitrary: fc.tuple(edge4, fc.constantFrom(...EMBED)).map(([n, embed]) => embed(n ^ V4)) },
  {
    weight: 2,
    arbitrary: fc.constantFrom(...["8.8.8.8", "93.184.216.34", "2606:4700::10", "127.0.0.2", "10.0.0.5"].map(ip)),
  },
  { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: (1n << 32n) - 1n }).map((n) => V4 | n) },
  { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: V4 - 1n }) },
);

const some = <T>(values: readonly T[], max: number) =>
  fc.uniqueArray(fc.constantFrom(...values), { minLength: 1, maxLength: max });
const ruleArb: fc.Arbitrary<Rule> = fc
  .record(
    {
      hosts: fc.oneof(fc.constant(["*"]), some(PATTERNS, 3)),
      except: some(PATTERNS, 2),
      cidrs: some(CIDRS, 3),
      ports: some(SPECS, 3),
      opens: fc.constant(false),
    },
    { requiredKeys: [] },
  )
  .map(({ except, opens, ...rest }): Rule => {
    const rule = Object.keys(rest).length === 0 ? { ports: [443] } : rest;
    return {
      ...rule,
      ...(rule.hosts && except && { except }),
      ...(rule.cidrs && opens === false && { opens }),
    } as Rule;
  });
const rulesArb = (list: string, maxLength: number) =>
  fc
    .array(ruleArb, { maxLength })
    .chain((rules) =>
      fc.boolean().map((name) => rules.map((rule, i) => (name && i === 0 ? { ...rule, name: `first-${list}` } : rule))),
    );
const rarely = <T>(arbitrary: fc.Arbitrary<T[]>) =>
  fc.oneof({ weight: 3, arbitrary: fc.constant<T[]>([]) }, { weight: 1, arbitrary });
export const documentArb = fc.record({
  mode: fc.constantFrom("Enforce" as const, "Enforce" as const, "Report" as const),
  defaultAction: fc.constantFrom("Allow" as const, "Report" as const, "Deny" as const),
  ports: fc.oneof(fc.constant<PortSpec[]>(["1-65535"]), some(SPECS, 4)),
  allow: rulesArb("allow", 4),
  deny: rulesArb("deny", 2),
  blockedCIDRs: rarely(some(["8.8.8.0/24", "2606:4700::/32", "93.0.0.0/8"], 2)),
  staticIPs: rarely(fc.constantFrom(...STATICS)),
});
const SETS = ["one", "two", "constructor"];
const hostSetsArb: fc.Arbitrary<HostList[]> = fc
  .uniqueArray(fc.constantFrom(...SETS), { maxLength: 3 })
  .chain((names) => fc.tuple(...names.map((name) => some(PATTERNS, 3).map((hosts) => ({ name, hosts })))));
/** Names of clients; two have no entry in any policy. */
export const CLIENTS = ["alpha", "beta", "default", "__proto__", "Alpha", "toString"];
const entryArb: fc.Arbitrary<Omit<ClientEntry, "name">> = fc.record(
  {
    allow: rulesArb("own", 3),
    inheritAllow: fc.constant(true as const),
    deny: rulesArb("deny-own", 2),
    defaultAction: fc.constantFrom("Allow" as const, "Report" as const, "Deny" as const),
    mode: fc.constantFrom("Enforce" as const, "Report" as const),
    ports: some(SPECS, 3),
  },
  { requiredKeys: [] },
);

/** Rules in which some patterns are references to a set: `pick` decides which. */
function withRefs(rules: Rule[], sets: HostList[], pick: number): Rule[] {
  if (sets.length === 0) return rules;
  const refer = (list: string[], salt: number) =>
    list.map((item, i) => ((pick + i + salt) % 3 === 0 ? `set:${sets[(pick + i) % sets.length]!.name}` : item));
  return rules.map((rule, i) => ({
    ...rule,
    ...(rule.hosts && { hosts: refer(rule.hosts, i) }),
    ...(rule.except && { except: refer(rule.except, i + 1) }),
  }));
}

/** A policy with clients and host sets. Entries may have fields without effect, which the reader refuses. */
export const clientsDocumentArb = fc
  .tuple(
    documentArb,
    hostSetsArb,
    fc.uniqueArray(fc.constantFrom(...CLIENTS.slice(0, 4)), { minLength: 1, maxLength: 4 }),
    fc.array(entryArb, { minLength: 4, maxLength: 4 }),
    fc.nat(11),
  )
  .map(([partial, hostSets, names, entries, pick]) => ({
    ...partial,
    version: 2 as const,
    allow: withRefs(partial.allow, hostSets, pick),
    deny: withRefs(partial.deny, hostSets, pick + 1),
    ...(hostSets.length > 0 && { hostSets }),
    clients: names.map((name, i): ClientEntry => {
      const { allow, deny, ...rest } = entries[i]!;
      return {
        name,
        ...rest,
        ...(allow && allow.length > 0 && { allow: withRefs(allow, hostSets, pick + 2) }),
        ...(deny && deny.length > 0 && { deny: withRefs(deny, hostSets, pick + 3) }),
      };
    }),
  }));
export const optionsArb: fc.Arbitrary<Options> = fc.record({
  allowCIDRs: fc.oneof(fc.constant<string[]>(["127.0.0.0/8", "::1/128"]), rarely(some(CIDRS, 2))),
  denyCIDRs: rarely(some(CIDRS, 2)),
  ownAddresses: rarely(
    some(["8.8.8.8", "127.0.0.1", "10.0.0.5", "2606:4700::10", "8.8.8.0/24", "fd64::/64", "93.184.0.0/16"], 3),
  ),
  nat64Prefixes: rarely(some(["2606:4700::/32", "fd64::/96", "fd64:0:0:1::/64", "64:ff9b:1:7::/64", "2600::/40"], 3)),
  listenPorts: fc.constantFrom<number[]>([], [4750], [80, 4750]),
});
export const askArb = fc.record({
  host: fc.oneof(
    {
      weight: 3,
      arbitrary: fc.constantFrom(...NAMES, "deep.b.a.example.com", "www.xn--bcher-kva.test", "unlisted.invalid"),
    },
    { weight: 1, arbitrary: addressArb },
  ),
  port: fc.constantFrom(...PORTS),
  found: fc.array(addressArb, { minLength: 1, maxLength: 4 }),
});
