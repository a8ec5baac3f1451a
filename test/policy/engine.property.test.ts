import assert from "node:assert/strict";
import { test } from "node:test";
import { domainToASCII } from "node:url";
import fc from "fast-check";
import { makeDocument, type PolicyDocument, type StaticIP } from "../../proxy/policy/document.ts";
import { compile, decide } from "../../proxy/policy/engine.ts";
import type { PortSpec, Rule } from "../../proxy/policy/rules.ts";
import { parseAuthority, type Target } from "../../proxy/policy/target.ts";
import { IANA_IPV4, IANA_IPV6 } from "./registries.ts";

/**
 * A second evaluator of a policy, stage by stage from the description of the algorithm, that shares no code with the
 * engine nor with `reference.ts`. An address is one big integer; an IPv4 address has bit 128 set, so that the
 * families never meet.
 */
const V4 = 1n << 128n;
const GROUP = /^[0-9a-f]{1,4}$/;

function ip(text: string): bigint {
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

function text(address: bigint): string {
  if (address >= V4) return [24n, 16n, 8n, 0n].map((shift) => (address >> shift) & 255n).join(".");
  return [7n, 6n, 5n, 4n, 3n, 2n, 1n, 0n].map((i) => ((address >> (i * 16n)) & 0xffffn).toString(16)).join(":");
}

const ranges = new Map<string, readonly [first: bigint, last: bigint]>();
function range(cidr: string): readonly [first: bigint, last: bigint] {
  const known = ranges.get(cidr);
  if (known !== undefined) return known;
  const [base, length] = cidr.split("/") as [string, string];
  const first = ip(base);
  const made = [first, first + (1n << BigInt((first >= V4 ? 32 : 128) - Number(length))) - 1n] as const;
  ranges.set(cidr, made);
  return made;
}

const within = (address: bigint, cidr: string) => range(cidr)[0] <= address && address <= range(cidr)[1];
const withinAny = (address: bigint, cidrs: readonly string[]) => cidrs.some((cidr) => within(address, cidr));

/** Not globally reachable, less the carved-out rows that are (both IANA registries, and the ranges added to them). */
const SPECIAL = [
  ..."0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24".split(" "),
  ..."192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4".split(" "),
  ..."::/96 ::ffff:0:0/96 ::ffff:0:0:0/96 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001::/23 2001:db8::/32".split(" "),
  ..."2002::/16 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8".split(" "),
];
const REACHABLE = [
  ..."192.0.0.9/32 192.0.0.10/32 2001:1::1/128 2001:1::2/128 2001:1::3/128 2001:3::/32 2001:4:112::/48".split(" "),
  ..."2001:20::/28 2001:30::/28".split(" "),
];
const NEVER = [
  ..."169.254.169.254/32 fd00:ec2::254/128 100.100.100.200/32 192.0.0.192/32 168.63.129.16/32".split(" "),
  ..."fd20:ce::254/128 169.254.0.0/16 fe80::/10 0.0.0.0/32 ::/128 224.0.0.0/4 ff00::/8 255.255.255.255/32".split(" "),
];
const LOOPBACK = ["127.0.0.0/8", "::1/128"];
const registrySpecial = (address: bigint) => withinAny(address, SPECIAL) && !withinAny(address, REACHABLE);

/** The address and the IPv4 addresses in it; of well-known NAT64 only the latter. */
function formsOf(raw: bigint): bigint[] {
  if (raw >= V4) return [raw];
  const word = (shift: bigint) => V4 | ((raw >> shift) & 0xffffffffn);
  const low = word(0n);
  if (within(raw, "64:ff9b::/96")) return [low];
  const found = [raw];
  if (within(raw, "::ffff:0:0/96") || within(raw, "::ffff:0:0:0/96")) found.push(low);
  if (within(raw, "::/96") && raw > 1n) found.push(low);
  if (within(raw, "64:ff9b:1::/48")) {
    const split = V4 | (((raw >> 64n) & 0xffffn) << 16n) | ((raw >> 40n) & 0xffffn);
    found.push((raw & ((1n << 40n) - 1n)) === 0n ? split : low);
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

const onPort = (specs: readonly PortSpec[], port: number) =>
  specs.some((spec) => {
    const ends = `${spec}`.split("-").map(Number);
    return ends[0]! <= port && port <= ends.at(-1)!;
  });

interface Options {
  allowCIDRs: string[];
  denyCIDRs: string[];
  ownAddresses: string[];
  listenPorts: number[];
}
interface Refused {
  code: string;
  rule?: string;
}
interface Outcome extends Partial<Refused> {
  verdict: "allow" | "deny";
  wouldDeny?: Refused;
  in: bigint[];
}
type Candidate = Rule & { label: string };

/** What becomes of one address: who admits it, or the refusals in their order. */
function vetOne(
  doc: PolicyDocument,
  o: Options,
  target: Target,
  candidates: Candidate[],
  denies: Candidate[],
  raw: bigint,
) {
  const forms = formsOf(raw);
  const all = [raw, ...forms];
  const own = o.ownAddresses.map(ip);
  const statics = doc.staticIPs.flatMap((s) =>
    s.sourceAddress ? [ip(s.address), ip(s.sourceAddress)] : [ip(s.address)],
  );
  const hard = all.some((form) => {
    if (withinAny(form, NEVER) || statics.includes(form) || withinAny(form, o.denyCIDRs)) return true;
    const loopback = withinAny(form, LOOPBACK);
    if (loopback && !withinAny(form, o.allowCIDRs)) return true;
    return o.listenPorts.includes(target.port) && (loopback || own.includes(form));
  });
  const deny = denies.find((rule) => rule.cidrs !== undefined && all.some((form) => withinAny(form, rule.cidrs!)));
  const usable = doc.staticIPs.filter((s) => s.phase !== "Pending");
  const noSource = doc.staticIPs.length > 0 && !usable.some((s) => ip(s.address) >= V4 === raw >= V4);
  const closed = forms.filter((form) => {
    if (withinAny(form, o.allowCIDRs)) return false;
    return registrySpecial(form) || withinAny(form, doc.blockedCIDRs) || own.includes(form);
  });
  const opens = (rule: Candidate, form: bigint) =>
    rule.cidrs !== undefined &&
    withinAny(form, rule.cidrs) &&
    (rule.hosts !== undefined || target.ip) &&
    rule.opens !== false;
  const shut = closed.some((form) => !candidates.some((rule) => opens(rule, form)));
  const admitting = candidates.find((rule) =>
    rule.cidrs === undefined ? closed.length === 0 : withinAny(forms[0]!, rule.cidrs),
  );
  const bound = hard || noSource || shut;
  if (hard) return { bound, reason: { code: "address" } };
  if (deny !== undefined) return { bound, reason: { code: "denied-rule", rule: deny.label } };
  if (bound) return { bound, reason: { code: "address" } };
  if (admitting === undefined) return { bound, reason: { code: "not-allowed", rule: "default" } };
  return { bound, admitting: admitting.label };
}

function judge(doc: PolicyDocument, o: Options, target: Target, answers: readonly bigint[]): Outcome {
  const labelled = (rules: Rule[], list: string): Candidate[] =>
    rules.map((rule, i) => ({ ...rule, label: rule.name ?? `${list}[${i}]` }));
  const hostFits = ({ hosts, except, opens }: Rule) =>
    (hosts === undefined && (opens !== false || target.ip)) ||
    (hosts !== undefined && !target.ip && named(hosts, target.host) && !named(except ?? [], target.host));
  const denies = labelled(doc.deny, "deny").filter(
    (rule) => hostFits(rule) && (rule.ports === undefined || onPort(rule.ports, target.port)),
  );
  const fallback: Candidate = { label: "default", ports: doc.ports };
  const butForPort = labelled(doc.allow, "allow").filter(hostFits);
  if (doc.defaultAction !== "Deny") butForPort.push(fallback);
  const candidates = butForPort.filter((rule) => onPort(rule.ports ?? doc.ports, target.port));
  const denied = denies.find((rule) => rule.cidrs === undefined);
  let atName: Refused | undefined;
  if (denied !== undefined) atName = { code: "denied-rule", rule: denied.label };
  else if (candidates.length === 0) atName = { code: butForPort.length > 0 ? "port" : "not-allowed", rule: "default" };
  if (atName !== undefined && doc.mode === "Enforce") return { verdict: "deny", ...atName, in: [] };

  const asked = candidates.length > 0 ? candidates : [fallback];
  const vetted = answers.map((raw) => ({ raw, ...vetOne(doc, o, target, asked, denies, raw) }));
  const good = vetted.filter((v) => v.reason === undefined);
  if (good.length > 0) {
    const rule = good[0]!.admitting!;
    const default_ = rule === "default" && doc.defaultAction === "Report" ? { code: "not-allowed", rule } : undefined;
    const wouldDeny = atName ?? default_;
    return { verdict: "allow", rule, ...(wouldDeny && { wouldDeny }), in: good.map((v) => v.raw) };
  }
  if (doc.mode === "Enforce") return { verdict: "deny", ...vetted[0]!.reason!, in: [] };
  const soft = vetted.filter((v) => !v.bound);
  if (soft.length === 0) return { verdict: "deny", code: "address", in: [] };
  const wouldDeny = atName ?? soft[0]!.reason!;
  return { verdict: "allow", rule: soft[0]!.reason!.rule!, wouldDeny, in: soft.map((v) => v.raw) };
}

/** Few names, ports and ranges, so that rules, targets and answers meet; addresses stand on the edges of the ranges. */
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
  ..."203.0.113.0/24 100.64.0.0/10 169.254.0.0/16 ::/0 ::1/128 ::/96 ::ffff:0:0/96 64:ff9b::/96 64:ff9b:1::/48".split(
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
  // The byte between the two layouts is not zero: the last 32 bits count, though they are zero.
  (low) => ip("64:ff9b:1::1:0:0") | ((low >> 16n) << 64n) | ((low & 0xffffn) << 40n),
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
const documentArb = fc.record({
  mode: fc.constantFrom("Enforce" as const, "Enforce" as const, "Report" as const),
  defaultAction: fc.constantFrom("Allow" as const, "Report" as const, "Deny" as const),
  ports: fc.oneof(fc.constant<PortSpec[]>(["1-65535"]), some(SPECS, 4)),
  allow: rulesArb("allow", 4),
  deny: rulesArb("deny", 2),
  blockedCIDRs: rarely(some(["8.8.8.0/24", "2606:4700::/32", "93.0.0.0/8"], 2)),
  staticIPs: rarely(fc.constantFrom(...STATICS)),
});
const optionsArb: fc.Arbitrary<Options> = fc.record({
  allowCIDRs: fc.oneof(fc.constant<string[]>(["127.0.0.0/8", "::1/128"]), rarely(some(CIDRS, 2))),
  denyCIDRs: rarely(some(CIDRS, 2)),
  ownAddresses: rarely(some(["8.8.8.8", "127.0.0.1", "10.0.0.5", "2606:4700::10"], 3)),
  listenPorts: fc.constantFrom<number[]>([], [4750], [80, 4750]),
});
const askArb = fc.record({
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

const POLICIES = 15_000;
const ASKS = 6;
const seed = Number(process.env.SEED ?? Date.now() & 0x7fffffff);

test(`two minds decide alike: ${POLICIES} policies, ${ASKS} targets with answers each (SEED=${seed})`, (t) => {
  const seen = new Map<string, number>();
  const oneCase = (
    doc: PolicyDocument,
    set: ReturnType<typeof compile>,
    o: Options,
    ask: { host: string | bigint; port: number; found: bigint[] },
  ) => {
    const literal = typeof ask.host === "bigint";
    const host = typeof ask.host === "string" ? ask.host : text(ask.host);
    const target = parseAuthority(`${host.includes(":") ? `[${host}]` : host}:${ask.port}`);
    assert.ok(target !== null && target.ip === literal && target.port === ask.port, host);
    const answers = typeof ask.host === "bigint" ? [ask.host] : ask.found;
    const decision = decide(set, target, answers.map(text));
    const got: Outcome = {
      verdict: decision.verdict,
      ...(decision.code !== undefined && { code: decision.code }),
      ...(decision.rule !== undefined && { rule: decision.rule }),
      ...(decision.wouldDeny !== undefined && { wouldDeny: { ...decision.wouldDeny } }),
      in: decision.vetted.filter((v) => v.in).map((v) => ip(v.address)),
    };
    const want = judge(doc, o, target, answers);
    assert.deepEqual(got, want, `${host}:${ask.port} answers ${answers.map(text).join(" ")}`);
    const kind = `${doc.mode} ${want.verdict} ${want.code ?? want.wouldDeny?.code ?? "plain"}`;
    seen.set(kind, (seen.get(kind) ?? 0) + 1);
  };
  fc.assert(
    fc.property(
      documentArb,
      optionsArb,
      fc.array(askArb, { minLength: ASKS, maxLength: ASKS }),
      (partial, options, asks) => {
        const doc = makeDocument(partial);
        const set = compile(doc, options);
        for (const ask of asks) oneCase(doc, set, options, ask);
      },
    ),
    { numRuns: POLICIES, seed, interruptAfterTimeLimit: 100_000, markInterruptAsFailure: true },
  );
  t.diagnostic(JSON.stringify(Object.fromEntries([...seen].sort())));
  // A kind of outcome that is hardly met is not tested.
  const enforced = [
    "allow plain",
    "allow not-allowed",
    "deny denied-rule",
    "deny not-allowed",
    "deny port",
    "deny address",
  ];
  const reported = ["allow plain", "allow denied-rule", "allow not-allowed", "allow port", "deny address"];
  for (const kind of [...enforced.map((k) => `Enforce ${k}`), ...reported.map((k) => `Report ${k}`)]) {
    assert.ok((seen.get(kind) ?? 0) > 100, `${kind}: ${seen.get(kind) ?? 0} cases`);
  }
});

test("an address that embeds IPv4 in two layouts is vetted as all of them", () => {
  const set = compile(makeDocument({ allow: [{ hosts: ["a.example"], cidrs: ["2002::/16", "2001::/32"] }] }));
  const target = parseAuthority("a.example:443")!;
  for (const inner of ["169.254.169.254", "10.0.0.5", "127.0.0.1"]) {
    for (const outer of ["2002:808:808::5efe:", "2002:808:808::200:5efe:", "2001:0:808:808:0:5efe:"]) {
      const { verdict, code } = decide(set, target, [text(ip(`${outer}${inner}`))]);
      assert.deepEqual({ verdict, code }, { verdict: "deny", code: "address" }, `${outer}${inner}`);
    }
  }
  assert.equal(decide(set, target, ["2002:808:808::5efe:8.8.8.8"]).verdict, "allow");
});

test("every registry row is decided as its column Globally Reachable says: edges, and the neighbours by their own rows", () => {
  // Rows inside of others that the shared table leaves out; the well-known NAT64 prefix is judged by what it embeds.
  const rows = [...IANA_IPV4, ...IANA_IPV6, ["192.88.99.2/32", false] as const];
  const longest = (address: bigint) =>
    rows
      .filter(([cidr]) => within(address, cidr))
      .sort(([a], [b]) => Number(b.split("/")[1]) - Number(a.split("/")[1]))[0];
  const set = compile(makeDocument({}));
  let checked = 0;
  for (const [cidr] of rows) {
    const [first, last] = range(cidr);
    for (const address of [first - 1n, first, last, last + 1n]) {
      if (address < 0n || address === V4 - 1n || address >= V4 + (1n << 32n)) continue;
      const row = longest(address);
      const want = row === undefined || row[1] === true ? "allow" : "deny";
      const target = parseAuthority(address >= V4 ? `${text(address)}:443` : `[${text(address)}]:443`)!;
      assert.equal(decide(set, target, [text(address)]).verdict, want, `${text(address)}, at ${cidr}`);
      checked++;
    }
  }
  assert.ok(checked > 200, `${checked} addresses`);
});
