import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { formatAddress, parseAddress } from "../../proxy/policy/cidr.ts";
import { makeDocument, type PolicyDocument, type StaticIP } from "../../proxy/policy/document.ts";
import { compile, decide } from "../../proxy/policy/engine.ts";
import type { Rule } from "../../proxy/policy/rules.ts";
import { parseAuthority } from "../../proxy/policy/target.ts";
import { evaluate } from "./reference.ts";

const RUNS = 25_000;
/** Shrinking a counterexample may go on for ever; this ends it. */
const LIMIT_MS = 120_000;
const seed = Number(process.env.SEED ?? Date.now() & 0x7fffffff);

/** Few values of each kind, so that rules, targets and answers meet often. */
const names = [
  "example.com",
  "a.example.com",
  "b.a.example.com",
  "aexample.com",
  "other.test",
  "com",
  "x_y.other.test",
];
const patterns = [
  ...names,
  ...names.map((name) => `*.${name}`),
  "*",
  "EXAMPLE.com.",
  "bücher.example",
  "*.bücher.example",
];
const ports = [1, 22, 80, 443, 1023, 1024, 4750, 8080, 65535];
const portSpecs: (number | string)[] = [...ports, "1-1023", "1024-65535", "79-81", "443-8080"];
const addresses = [
  ...[
    "93.184.216.34",
    "8.8.8.8",
    "10.0.0.5",
    "10.255.255.255",
    "11.0.0.0",
    "9.255.255.255",
    "172.15.255.255",
    "172.16.0.1",
  ],
  ...["172.31.255.255", "172.32.0.0", "192.168.1.1", "127.0.0.1", "127.255.255.255", "169.254.169.254", "169.254.0.1"],
  ...["100.64.0.1", "100.100.100.200", "100.128.0.0", "192.0.0.9", "192.0.0.192", "198.18.0.1", "198.51.100.7"],
  ...[
    "203.0.113.10",
    "203.0.113.11",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "0.0.0.0",
    "0.1.2.3",
    "168.63.129.16",
  ],
  ...["::", "::1", "2606:4700::1111", "2001:db8::1", "fd00::1", "fd00:ec2::254", "fe80::1", "ff02::1", "fec0::1"],
  ...["::ffff:10.0.0.5", "::ffff:8.8.8.8", "::10.0.0.5", "::ffff:0:10.0.0.5", "64:ff9b::10.0.0.5", "64:ff9b::8.8.8.8"],
  ...[
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::10.0.0.5",
    "64:ff9b:1:a00:0:500::",
    "64:ff9b:1:808:8:800::",
    "2002:a00:5::1",
  ],
  ...[
    "2002:808:808::1",
    "2001:0:808:808:0:0:f5ff:fffa",
    "2001:0:a00:5::f7f7:f7f7",
    "2600::5efe:10.0.0.5",
    "2600::200:5efe:8.8.8.8",
  ],
  ...["2001:20::1", "2001:1::1", "2001:3::1", "3fff::1", "5f00::1", "100::1", "64:ff9b::203.0.113.10", "203.0.113.12"],
];
const cidrs = [
  ...["10.0.0.0/8", "10.0.0.4/30", "10.0.0.5/32", "0.0.0.0/0", "::/0", "172.16.0.0/12", "8.8.8.0/24", "8.0.0.0/7"],
  ...[
    "127.0.0.0/8",
    "::1/128",
    "64:ff9b::/96",
    "::ffff:0:0/96",
    "2002::/16",
    "fd00::/8",
    "2606:4700::/32",
    "203.0.113.0/24",
  ],
  ...["169.254.0.0/16", "100.64.0.0/10", "198.18.0.0/15", "2001::/23", "2600::/16", "64:ff9b:1::/48", "192.0.0.0/24"],
];

const some = <T>(values: readonly T[], max: number) =>
  fc.uniqueArray(fc.constantFrom(...values), { minLength: 1, maxLength: max });
const optional = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined, freq: 2 });

const ruleArb: fc.Arbitrary<Rule> = fc
  .record({
    hosts: optional(some(patterns, 3)),
    except: optional(some(patterns, 2)),
    cidrs: optional(some(cidrs, 3)),
    ports: optional(some(portSpecs, 3)),
    opens: fc.constantFrom(undefined, undefined, undefined, false),
  })
  .filter(
    (rule) =>
      (rule.hosts ?? rule.cidrs ?? rule.ports) !== undefined && (rule.except === undefined || rule.hosts !== undefined),
  )
  .map((rule) => Object.fromEntries(Object.entries(rule).filter(([, value]) => value !== undefined)) as Rule);

const staticArb = fc.constantFrom<StaticIP[]>(
  [],
  [],
  [],
  [{ address: "203.0.113.10" }],
  [{ address: "203.0.113.10", sourceAddress: "10.0.0.5" }, { address: "2001:db8::1" }],
  [{ address: "203.0.113.10", phase: "Pending" as const }, { address: "2606:4700::1" }],
);

const blockedArb = fc.oneof(
  { weight: 3, arbitrary: fc.constant<string[]>([]) },
  { weight: 1, arbitrary: some<string>(["8.8.8.0/24", "2606:4700::/32", "11.0.0.0/8"], 2) },
);

const documentArb: fc.Arbitrary<PolicyDocument> = fc
  .record({
    mode: fc.constantFrom("Enforce" as const, "Report" as const),
    defaultAction: fc.constantFrom("Allow" as const, "Report" as const, "Deny" as const),
    ports: some(portSpecs, 4),
    allow: fc.array(ruleArb, { maxLength: 4 }),
    deny: fc.array(ruleArb, { maxLength: 2 }),
    blockedCIDRs: blockedArb,
    staticIPs: staticArb,
  })
  .map((fields) => makeDocument(fields));

const optionsArb = fc.record({
  allowCIDRs: fc.oneof({ weight: 3, arbitrary: fc.constant<string[]>([]) }, some(cidrs, 2)),
  denyCIDRs: fc.oneof({ weight: 3, arbitrary: fc.constant<string[]>([]) }, some(cidrs, 2)),
  ownAddresses: fc.oneof(fc.constant<string[]>([]), some(["8.8.8.8", "127.0.0.1", "10.0.0.5", "2606:4700::1111"], 3)),
  listenPorts: fc.constantFrom<number[]>([], [4750], [80, 4750]),
});

const addressArb = fc.oneof(
  { weight: 5, arbitrary: fc.constantFrom(...addresses) },
  { weight: 1, arbitrary: fc.ipV4() },
  { weight: 1, arbitrary: fc.ipV6().filter((text) => parseAddress(text) !== null) },
);
const hostArb = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.constantFrom(
      ...names,
      "deep.sub.b.a.example.com",
      "xn--bcher-kva.example",
      "www.xn--bcher-kva.example",
    ),
  },
  { weight: 2, arbitrary: addressArb.map((text) => (text.includes(":") ? `[${text}]` : text)) },
);

test(`the engine decides as the naive evaluator does: ${RUNS} random policies, targets and answers (SEED=${seed})`, () => {
  const verdicts = new Map<string, number>();
  fc.assert(
    fc.property(
      documentArb,
      optionsArb,
      hostArb,
      fc.constantFrom(...ports),
      fc.array(addressArb, { minLength: 1, maxLength: 4 }),
      (document, options, host, port, found) => {
        const target = parseAuthority(`${host}:${port}`);
        assert.ok(target);
        const answers = (target.ip ? [target.host] : found).map((text) => formatAddress(parseAddress(text)!));
        const decision = decide(compile(document, options), target, answers);
        const { dial, ...expected } = evaluate(document, options, target, answers);
        const got = {
          verdict: decision.verdict,
          ...(decision.code === undefined ? {} : { code: decision.code }),
          ...(decision.rule === undefined ? {} : { rule: decision.rule }),
          ...(decision.wouldDeny === undefined ? {} : { wouldDeny: decision.wouldDeny }),
        };
        assert.deepEqual(got, expected);
        const dialled = decision.verdict === "allow" ? decision.vetted.filter((v) => v.in).map((v) => v.address) : [];
        assert.deepEqual(dialled, dial);
        const kind = `${got.verdict}/${got.code ?? "-"}/${got.wouldDeny?.code ?? "-"}`;
        verdicts.set(kind, (verdicts.get(kind) ?? 0) + 1);
      },
    ),
    { numRuns: RUNS, seed, interruptAfterTimeLimit: LIMIT_MS, markInterruptAsFailure: true },
  );
  // Every kind of outcome must have been met, or the generator proves nothing.
  for (const kind of ["allow/-/-", "deny/denied-rule/-", "deny/not-allowed/-", "deny/port/-", "deny/address/-"]) {
    assert.ok((verdicts.get(kind) ?? 0) > 100, `only ${verdicts.get(kind) ?? 0} of ${kind}`);
  }
  for (const code of ["denied-rule", "not-allowed", "port"])
    assert.ok((verdicts.get(`allow/-/${code}`) ?? 0) > 50, code);
});

test("a rule's cidrs open a private range for its hosts and ports only", () => {
  const set = compile(
    makeDocument({
      defaultAction: "Allow",
      allow: [{ hosts: ["orders.shop"], cidrs: ["10.96.0.0/12"], ports: [8080] }],
    }),
  );
  const ask = (target: string, address: string) => decide(set, parseAuthority(target)!, [address]).verdict;
  assert.equal(ask("orders.shop:8080", "10.96.3.4"), "allow");
  assert.equal(ask("orders.shop:80", "10.96.3.4"), "deny");
  assert.equal(ask("other.shop:8080", "10.96.3.4"), "deny");
  assert.equal(ask("orders.shop:8080", "10.1.3.4"), "deny");
  assert.equal(ask("orders.shop:8080", "8.8.8.8"), "allow");
});

test("no document opens metadata or loopback, whatever it says", () => {
  const set = compile(
    makeDocument({
      mode: "Report",
      allow: [{ hosts: ["*"], cidrs: ["0.0.0.0/0", "::/0"] }, { cidrs: ["0.0.0.0/0", "::/0"] }],
    }),
  );
  for (const address of [
    "169.254.169.254",
    "127.0.0.1",
    "::1",
    "fe80::1",
    "100.100.100.200",
    "64:ff9b::a9fe:a9fe",
    "::ffff:127.0.0.1",
  ]) {
    const decision = decide(set, parseAuthority("evil.example:80")!, [address]);
    assert.equal(decision.code, "address", address);
  }
});
