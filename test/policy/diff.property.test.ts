import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { parseAddress } from "../../proxy/policy/cidr.ts";
import type { ClientEntry } from "../../proxy/policy/clients.ts";
import type { Access, Client } from "../../proxy/policy/diff/clients.ts";
import { sideOf } from "../../proxy/policy/diff/clients.ts";
import { diffPolicies } from "../../proxy/policy/diff/diff.ts";
import { type WrittenDifference as Difference, writeDiff } from "../../proxy/policy/diff/written.ts";
import { makeDocument, type PolicyDocument } from "../../proxy/policy/document.ts";
import { compile, decideName, type PolicySet, sendsName, vetAll, vetName } from "../../proxy/policy/engine.ts";
import { PolicyError, type Rule } from "../../proxy/policy/rules.ts";
import { parseAuthority, type Target } from "../../proxy/policy/target.ts";
import { runs, SHARE } from "../harness/runs.ts";
import { askArb, CLIENTS, clientsDocumentArb, documentArb, optionsArb } from "./arbitraries.ts";
import { ip, plain, range, text, V4, within } from "./evaluator.ts";

/** The differences of random pairs of policies, compared with the engine's own decisions. */

const seed = Number(process.env.SEED ?? Date.now() & 0x7fffffff);
const UNITS = 50_000_000;
/** Addresses at edges for each pair. */
const MAX_EDGES = 30;
const access: Access = { mode: null, allowMissing: false, sharedClient: "default" };
const LOCAL_NAT64 = "64:ff9b:1::/48";
const MAPPED = "::ffff:0:0/96";

type Partially = Partial<PolicyDocument>;

function readable(partial: Partially): PolicyDocument | null {
  const read = (one: Partially) => {
    try {
      return makeDocument(one);
    } catch (error) {
      if (error instanceof PolicyError) return null;
      throw error;
    }
  };
  if (partial.clients === undefined) return read(partial);
  const clients = partial.clients.filter((entry: ClientEntry) => read({ ...partial, clients: [entry] }) !== null);
  return clients.length === 0 ? null : read({ ...partial, clients });
}

/** The most specific pattern of a list that covers a name, by its length; exact names are the most specific. */
function best(patterns: readonly string[], host: string): number {
  const fits = patterns.filter(
    (one) => one === "*" || one === host || (one.startsWith("*.") && host.endsWith(one.slice(1))),
  );
  return Math.max(-1, ...fits.map((one) => (one === host ? 1000 : one.length)));
}

const inRange = (address: bigint, one: string): boolean => {
  if (one.includes("/")) return within(address, one);
  const [low, high] = one.split("-").map(ip) as [bigint, bigint];
  return low <= address && address <= high;
};

const isIsatap = (address: bigint) => address < V4 && ((address >> 32n) & 0xfdffffffn) === 0x5efen;

function layoutOf(address: bigint): Difference["embedded"][number]["layout"] | null {
  if (address >= V4) return null;
  if (within(address, LOCAL_NAT64)) return "local-use NAT64";
  if (within(address, "2001::/32")) return isIsatap(address) ? "Teredo and ISATAP" : "Teredo";
  return isIsatap(address) ? "ISATAP" : null;
}

function covers(one: Difference, client: Client, target: Target, address: bigint): boolean {
  const { clients, hosts, except, ports, literals, addresses, embedded, upstreamProxies } = one;
  if (upstreamProxies) return false;
  if (clients !== null && !clients.some((other) => JSON.stringify(other) === JSON.stringify(client))) return false;
  const onPort = ports.some((range) => {
    const [low, high = low] = range.split("-").map(Number) as [number, number?];
    return low <= target.port && target.port <= high;
  });
  if (!onPort) return false;
  if (target.ip ? !literals : best(hosts, target.host) <= best(except, target.host)) return false;
  const layout = layoutOf(address);
  if (layout === null) return addresses.some((range) => inRange(address, range));
  const last = V4 | (address & 0xffffffffn);
  return embedded.some(
    (other) =>
      other.layout === layout &&
      other.networks.some((range) => inRange(address, range)) &&
      other.lasts.some((range) => inRange(last, range)),
  );
}

/** Whether the engine lets a client reach one address of a target. */
function reaches(set: PolicySet | null, target: Target, address: bigint): boolean {
  if (set === null) return false;
  const stage = decideName(set, target);
  if ("code" in stage) return false;
  if (sendsName(set, target)) return vetName(set, target, stage).refusal === undefined;
  return vetAll(set, target, stage, [parseAddress(text(address))!]).dial.length > 0;
}

const ISATAP = ["2606:4700::5efe:0:0", "2600::200:5efe:0:0", "2002:808:808::5efe:0:0", "2001:0:808:808::"].map(ip);

/** Addresses at the edges of the differences. */
function edgesOf(differences: readonly Difference[]): bigint[] {
  const found: bigint[] = [];
  for (const { addresses, embedded } of differences) {
    for (const one of addresses) {
      const [low, high] = one.includes("/") ? range(one) : (one.split("-").map(ip) as [bigint, bigint]);
      found.push(low, high);
      if (low > 0n && low !== V4) found.push(low - 1n);
      if (high !== V4 - 1n && high !== V4 + 0xffffffffn) found.push(high + 1n);
    }
    for (const { networks, lasts } of embedded) {
      const [network] = networks.map((one) => (one.includes("/") ? range(one)[0] : ip(one.split("-")[0]!)));
      for (const one of lasts) {
        const [low, high] = one.includes("/") ? range(one) : (one.split("-").map(ip) as [bigint, bigint]);
        for (const last of [low, high]) {
          const low32 = last & 0xffffffffn;
          found.push(network! | low32, ...ISATAP.map((one) => one | low32));
        }
      }
    }
  }
  const usable = found.filter((address) => !within(address, MAPPED) && !within(address, LOCAL_NAT64));
  // Those that embed an address are few.
  const embedding = usable.filter((address) => layoutOf(address) !== null);
  return [...new Set([...embedding.slice(0, MAX_EDGES / 2), ...usable.slice(0, MAX_EDGES)])];
}

const targetOf = (host: string | bigint, port: number): Target => {
  const name = typeof host === "string" ? host : text(host);
  return parseAuthority(`${name.includes(":") ? `[${name}]` : name}:${port}`)!;
};

const policyArb: fc.Arbitrary<Partially> = fc.oneof(
  documentArb as fc.Arbitrary<Partially>,
  clientsDocumentArb as fc.Arbitrary<Partially>,
  fc
    .tuple(clientsDocumentArb, fc.constantFrom("Local" as const, "Upstream" as const))
    .map(([one, resolve]): Partially => ({ ...one, upstreamProxy: { url: "http://proxy.test:3128", resolve } })),
);

/** Networks that divide those which embed IPv4 addresses. */
const DIVIDING = [
  ..."2606:4700::5efe:808:800/120 2606:4700::5efe:a00:0/108 2001:0:808:808::f7f7:f7f7/128 2001:0:808:808::f7f7:0/112".split(
    " ",
  ),
  ..."64:ff9b::808:808/128 64:ff9b::a00:0/108 2002:808:808::/56 2002:808:808:0:0:5efe:808:0/112 8.8.8.8/32".split(" "),
];
const extraArb: fc.Arbitrary<Rule> = fc
  .tuple(
    fc.uniqueArray(fc.constantFrom(...DIVIDING), { minLength: 1, maxLength: 3 }),
    fc.constantFrom<string[][]>([], ["*.example.com"], ["example.com", "*.a.example.com", "fresh.test"]),
  )
  .map(([cidrs, hosts]): Rule => (hosts.length === 0 ? { cidrs } : { hosts, cidrs }));

/** A policy, and another one, or the same one with few edits. */
const pairArb = fc
  .tuple(
    policyArb,
    policyArb,
    fc.constantFrom("other", "some parts", "one list", "one rule", "one rule less"),
    fc.nat(6),
    extraArb,
    fc.constantFrom("allow" as const, "deny" as const),
  )
  .map(([old, other, kind, which, extra, list]): [Partially, Partially] => {
    if (kind === "other") return [old, other];
    if (kind === "one list") return [old, { ...old, [list]: other[list] }];
    if (kind === "one rule") return [old, { ...old, [list]: [...old[list]!, extra] }];
    if (kind === "one rule less")
      return [
        { ...old, [list]: [extra, ...old[list]!] },
        { ...old, [list]: old[list]!.slice(1) },
      ];
    const keys = ["mode", "defaultAction", "ports", "allow", "deny", "blockedCIDRs", "staticIPs"] as const;
    const edited: Partially = { ...old };
    for (const key of [keys[which]!, keys[(which + 3) % keys.length]!]) Object.assign(edited, { [key]: other[key] });
    return [old, edited];
  });

/** Names besides those that patterns name. */
const NAMES = ["z.example.com", "z.a.example.com", "a.b.a.example.com", "fresh.test", "a.test", "a"];

const clientOf = (name: string | null): Client =>
  name === null ? { kind: "missing" } : name === "default" ? { kind: "other" } : { kind: "named", name };

test(`the engine decides otherwise exactly where the difference says so (SEED=${seed})`, { timeout: 180_000 }, (t) => {
  const seen = new Map<string, number>();
  let questions = 0;
  fc.assert(
    fc.property(
      pairArb,
      optionsArb,
      fc.array(fc.tuple(askArb, fc.option(fc.constantFrom(...NAMES)), fc.constantFrom(...CLIENTS, null)), {
        minLength: 6,
        maxLength: 6,
      }),
      ([before, after], { allowCIDRs, denyCIDRs, ownAddresses }, asks) => {
        const [old, now] = [readable(before), readable(after)];
        if (old === null || now === null) return;
        const options = { allowCIDRs, denyCIDRs, ownAddresses };
        const [one, other] = [old, now].map((document) => ({ policy: compile(document, options), access })) as [
          { policy: PolicySet; access: Access },
          { policy: PolicySet; access: Access },
        ];
        const { differences } = writeDiff(diffPolicies(one, other, UNITS));
        const edges = edgesOf(differences);
        for (const [{ host: asked, port, found }, named, who] of asks) {
          const host = named ?? asked;
          const client = clientOf(
            who !== null && [one, other].some(({ policy }) => policy.views?.has(who)) ? who : null,
          );
          const [set, next] = [one, other].map((side) => sideOf(side, null, client)) as [PolicySet, PolicySet];
          const addresses = typeof host === "bigint" ? [plain(host)] : [...found.map(plain), ...edges];
          const cases = addresses
            .filter((address) => !within(address, LOCAL_NAT64))
            .flatMap((address) => [
              [targetOf(host, port), address] as const,
              [targetOf(address, port), address] as const,
            ])
            .filter(([target, address]) => !target.ip || target.host === parseAuthorityHost(address));
          for (const [target, address] of cases) {
            const was = reaches(set, target, address);
            const is = reaches(next, target, address);
            const said = differences.filter((difference) => covers(difference, client, target, address));
            const want = was === is ? [] : [is];
            assert.deepEqual(
              said.map(({ change }) => change === "opens"),
              want,
              `${JSON.stringify(client)} asks for ${target.host}:${port} at ${text(address)}: ${was} then ${is}`,
            );
            questions++;
            const kind = want.length === 0 ? "same" : is ? "opens" : "closes";
            const how = `${kind} ${target.ip ? "literal" : "name"} ${layoutOf(address) ?? (address >= V4 ? "IPv4" : "IPv6")}`;
            seen.set(how, (seen.get(how) ?? 0) + 1);
          }
        }
      },
    ),
    { numRuns: runs(100), seed, interruptAfterTimeLimit: 150_000, markInterruptAsFailure: true },
  );
  t.diagnostic(`${questions} questions: ${JSON.stringify(Object.fromEntries([...seen].sort()))}`);
  for (const kind of ["opens", "closes"]) {
    for (const how of ["name IPv4", "name IPv6", "name ISATAP", "literal IPv4", "literal IPv6"]) {
      assert.ok((seen.get(`${kind} ${how}`) ?? 0) > 20 * SHARE, `${kind} ${how}: ${seen.get(`${kind} ${how}`) ?? 0}`);
    }
  }
});

/** The text of an address as the host of a target. */
const parseAuthorityHost = (address: bigint): string => targetOf(address, 1).host;
