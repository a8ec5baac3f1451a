import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import { providerOf } from "../../operator/providers/index.ts";
import type { Facts } from "../../operator/reconcile/facts/facts.ts";
import { MAX_BYTES, networkPolicies } from "../../operator/reconcile/network/network-policies.ts";
import { formatAddress, parseAddress } from "../../proxy/policy/cidr.ts";
import { compile, decideKnown, type PolicySet, viewOf } from "../../proxy/policy/engine.ts";
import { readManifest } from "../../proxy/policy/policy-file.ts";
import { PolicyError } from "../../proxy/policy/rules.ts";
import { forms } from "../../proxy/policy/special.ts";
import { parseAuthority } from "../../proxy/policy/target.ts";
import { withDefaults } from "../harness/defaults.ts";
import { ip, NEVER, REACHABLE, range, registrySpecial, SPECIAL, text, V4, within } from "../policy/evaluator.ts";
import { assertBlocks, lets } from "./np-evaluator.ts";

/** Compares the NetworkPolicy of proxies with the decisions of the policy engine. */

const seed = Number(process.env.SEED ?? Date.now() & 0x7fffffff);
const policyOf = (spec: object): EgressPolicy =>
  ({
    apiVersion: "egress.outrider.dev/v1alpha1",
    kind: "EgressPolicy",
    metadata: { name: "webhooks", namespace: "convoy", uid: "1" },
    spec: withDefaults(spec),
  }) as EgressPolicy;

function made(spec: object, blockedCIDRs: readonly string[] = [], rest: Partial<Facts> = {}) {
  const policy = policyOf(spec);
  const facts = { policy, blockedCIDRs, proxies: [], nodes: [], ...rest } as unknown as Facts;
  const result = networkPolicies(facts, policy.spec, providerOf(policy.spec)!.shape, ["outrider-system"]);
  for (const object of result.objects) assertBlocks(object);
  const named = (name: string) => result.objects.find(({ metadata }) => metadata.name === name);
  return { ...result, proxy: named("webhooks-egress")!, senders: named("webhooks-egress-senders")! };
}

const DNS_PORTS = [53, 5353];
const withClients = { authentication: { mode: "Basic", secretRef: { name: "passwords" } } };
const one = (address: string) => ip(address);

for (const [what, spec, reached, closed] of [
  [
    "nothing but defaults",
    {},
    [
      "8.8.8.8 443",
      "8.8.8.8 80",
      "8.8.8.8 1024",
      "8.8.8.8 65535",
      "2606:4700::1 443",
      "192.0.0.9 443",
      "64:ff9b::808:808 443",
    ],
    [
      "8.8.8.8 25",
      "10.0.0.1 443",
      "fd00::1 443",
      "169.254.169.254 80",
      "168.63.129.16 80",
      "64:ff9b::a00:1 443",
      "::1 80",
    ],
  ],
  [
    "an allow rule that opens a private range, at its ports",
    { allow: [{ hosts: ["a.example"], cidrs: ["10.96.0.0/12"], ports: [8080, "9000-9010"] }] },
    ["10.96.0.1 8080", "10.111.255.255 9005", "8.8.8.8 443", "64:ff9b::a60:1 8080"],
    ["10.96.0.1 443", "10.112.0.0 8080", "10.95.255.255 8080", "10.96.0.1 8999"],
  ],
  [
    "all of IPv4 opened: what is never allowed stays closed",
    { allow: [{ hosts: ["a.example"], cidrs: ["0.0.0.0/0"] }] },
    ["10.0.0.1 443", "192.168.1.1 80", "8.8.8.8 443"],
    ["169.254.169.254 80", "127.0.0.1 80", "100.100.100.200 80", "192.0.0.192 80", "224.0.0.1 80", "fd00::1 443"],
  ],
  [
    "a range of unique local addresses around cloud metadata",
    { allow: [{ hosts: ["a.example"], cidrs: ["fd00::/8"] }] },
    ["fd00::1 443", "fd00:ec3::254 443", "fd20:ce::253 443"],
    ["fd00:ec2::254 443", "fd00:ec2::23 80", "fd20:ce::254 80", "fc00::1 443"],
  ],
  [
    "defaultAction Deny with networks alone: no public address but theirs",
    { defaultAction: "Deny", allow: [{ hosts: ["a.example"], cidrs: ["8.8.8.0/24"] }] },
    ["8.8.8.8 443"],
    ["8.8.4.4 443", "10.0.0.1 443", "2606:4700::1 443"],
  ],
  [
    "echo URLs, whatever the lists say",
    {
      defaultAction: "Deny",
      staticIPs: [{ address: "203.0.113.10" }],
      verification: { echoURLs: ["https://echo.example:8443/ip", "http://echo.example/ip"] },
    },
    ["8.8.8.8 8443", "8.8.8.8 80"],
    ["8.8.8.8 443", "10.0.0.1 8443", "2606:4700::1 80"],
  ],
  [
    "an upstream proxy with an address: exactly that, of any family, and no echo URL",
    {
      staticIPs: [{ address: "203.0.113.10" }],
      verification: { echoURLs: ["https://echo.example/ip"] },
      mode: "Report",
      allow: [{ hosts: ["a.example"], cidrs: ["10.0.0.0/8"] }],
      upstreamProxy: { url: "http://[fd00:0::5]:3128/" },
    },
    ["fd00::5 3128"],
    ["fd00::5 443", "fd00::6 3128", "8.8.8.8 443", "8.8.8.8 3128", "10.0.0.1 443", "2606:4700::1 443"],
  ],
  [
    "an upstream proxy on a public address",
    { upstreamProxy: { url: "http://8.8.8.8:3128", resolve: "Upstream" } },
    ["8.8.8.8 3128"],
    ["8.8.8.8 443", "8.8.4.4 3128"],
  ],
  [
    "an upstream proxy on an address that is never allowed",
    { upstreamProxy: { url: "http://169.254.169.254:80" } },
    [],
    ["169.254.169.254 80", "8.8.8.8 80"],
  ],
  [
    "an upstream proxy with a host name: its port of public addresses",
    { upstreamProxy: { url: "http://proxy.corp.example:3128" } },
    ["8.8.8.8 3128", "2606:4700::1 3128"],
    ["8.8.8.8 443", "10.0.0.1 3128", "169.254.169.254 3128"],
  ],
  [
    "upstream proxies that requests of a client name, beside the policy's",
    {
      ...withClients,
      upstreamProxy: { url: "http://10.0.0.5:3128" },
      clients: [
        { name: "a", upstreamProxies: [{ hosts: ["p.example"], cidrs: ["10.1.0.0/16"], ports: [3129] }] },
        { name: "b", allow: [{ hosts: ["t.example"], cidrs: ["10.2.0.0/16"] }] },
      ],
    },
    ["10.0.0.5 3128", "10.1.0.1 3129"],
    ["10.0.0.5 3129", "10.1.0.1 3128", "10.2.0.1 443", "8.8.8.8 443"],
  ],
  [
    "upstream proxies that requests of a client name, beside the targets",
    {
      ...withClients,
      defaultAction: "Deny",
      clients: [
        { name: "a", allow: [{ hosts: ["t.example"] }], upstreamProxies: [{ hosts: ["p.example"] }], ports: [443] },
      ],
    },
    ["8.8.8.8 443", "8.8.8.8 25"],
    ["10.0.0.1 3128"],
  ],
  [
    "static IPs of one family: the other has no way out",
    {
      staticIPs: [{ address: "203.0.113.10" }, { address: "2606:4700::10", phase: "Pending" }],
      allow: [{ hosts: ["a.example"], cidrs: ["fd00::/8", "10.0.0.0/8"] }],
    },
    ["8.8.8.8 443", "10.0.0.1 443"],
    ["2606:4700::1 443", "fd00::1 443", "64:ff9b::808:808 443"],
  ],
  [
    "Report mode: any port of public addresses, and no private range the more",
    { mode: "Report", defaultAction: "Deny" },
    ["8.8.8.8 25", "8.8.8.8 1"],
    ["10.0.0.1 443"],
  ],
  [
    "clients: what any of them may reach, and nothing of the policy that none of them uses",
    {
      ...withClients,
      defaultAction: "Allow",
      ports: [443],
      allow: [{ hosts: ["p.example"], cidrs: ["10.0.0.0/8"] }],
      clients: [
        { name: "billing", allow: [{ hosts: ["b.example"], cidrs: ["172.16.0.0/12"] }], ports: [8443] },
        { name: "default", allow: [{ hosts: ["d.example"], ports: [9443] }] },
      ],
    },
    ["172.16.0.1 8443", "8.8.8.8 9443"],
    ["172.16.0.1 443", "10.0.0.1 443", "8.8.8.8 443", "8.8.8.8 8443"],
  ],
  [
    "a client that inherits: the policy's rules keep the policy's ports",
    {
      ...withClients,
      defaultAction: "Deny",
      ports: [443],
      allow: [{ hosts: ["p.example"], cidrs: ["10.0.0.0/8"] }],
      clients: [{ name: "billing", inheritAllow: true, allow: [{ hosts: ["b.example"] }], ports: [8443] }],
    },
    ["10.0.0.1 443", "8.8.8.8 8443"],
    ["10.0.0.1 8443", "8.8.8.8 443"],
  ],
  [
    "one client in Report mode: any port of public addresses",
    {
      ...withClients,
      defaultAction: "Deny",
      clients: [
        { name: "billing", mode: "Report", allow: [{ hosts: ["b.example"], ports: [443] }] },
        { name: "default" },
      ],
    },
    ["8.8.8.8 25"],
    ["10.0.0.1 443"],
  ],
  [
    "a policy in Report mode whose clients all enforce",
    {
      ...withClients,
      mode: "Report",
      defaultAction: "Allow",
      ports: [443],
      clients: [{ name: "billing", mode: "Enforce" }],
    },
    ["8.8.8.8 443"],
    ["8.8.8.8 25"],
  ],
] as const) {
  test(`the NetworkPolicy of the proxies: ${what}`, () => {
    const { proxy, widened } = made(spec);
    assert.equal(widened, undefined);
    for (const [list, wanted] of [
      [reached, true],
      [closed, false],
    ] as const) {
      for (const target of list) {
        const [address, port] = target.split(" ") as [string, string];
        assert.equal(lets(proxy, "to", one(address), Number(port)), wanted, target);
        assert.equal(lets(proxy, "to", one(address), Number(port), "UDP"), false, `${target}, UDP`);
      }
    }
    for (const port of DNS_PORTS) {
      for (const protocol of ["TCP", "UDP"] as const) {
        assert.ok(lets(proxy, "to", one("169.254.20.10"), port, protocol), `DNS at ${port}, ${protocol}`);
      }
    }
  });
}

test("blocks public ranges of the cluster unless a rule opens them", () => {
  const allow = [{ hosts: ["a.example"], cidrs: ["34.118.1.0/24"], ports: [8443] }];
  const { proxy } = made({ allow }, ["34.118.0.0/16", "2600:1f00::/32", "192.0.0.9/32"]);
  const out = (address: string, port: number) => lets(proxy, "to", one(address), port);
  assert.deepEqual(
    ["34.118.2.1", "34.118.1.1", "34.117.0.1", "2600:1f00::1", "192.0.0.9", "64:ff9b::2276:201"].map((a) =>
      out(a, 443),
    ),
    [false, false, true, false, false, false],
  );
  assert.deepEqual([out("34.118.1.1", 8443), out("34.118.2.1", 8443)], [true, false]);
  const everything = made({}, ["0.0.0.0/0", "::/0"]).proxy;
  assert.equal(lets(everything, "to", one("8.8.8.8"), 443), false);
});

const CIDRS = (
  "0.0.0.0/0 10.0.0.0/8 10.0.0.4/30 10.0.0.5/32 8.8.8.0/24 8.0.0.0/7 172.16.0.0/12 172.16.0.0/13 192.0.0.0/24 203.0.113.0/24 " +
  "100.64.0.0/10 169.254.0.0/16 127.0.0.0/8 ::/0 ::/96 64:ff9b::/96 64:ff9b::a00:0/104 2001::/23 2002::/16 fd00::/8 fc00::/8 " +
  "fd20:ce::/48 2606:4700::/32 2600::/16"
).split(" ");
const PORTS = [1, 80, 443, 1023, 1024, 8080, 65_535];
const portsArb = fc.uniqueArray(fc.constantFrom(...PORTS, "1-1023", "1024-65535", "443-8080", "8080-8081"), {
  minLength: 1,
  maxLength: 4,
});
const ruleArb = fc.record(
  {
    hosts: fc.constant(true),
    cidrs: fc.uniqueArray(fc.constantFrom(...CIDRS), { minLength: 1, maxLength: 4 }),
    ports: portsArb,
  },
  { requiredKeys: [] },
);
const specArb = fc.record(
  {
    mode: fc.constantFrom("Enforce", "Enforce", "Report"),
    defaultAction: fc.constantFrom("Allow", "Deny", "Report"),
    ports: portsArb,
    allow: fc.array(ruleArb, { maxLength: 4 }),
    staticIPs: fc.constantFrom(
      [{ address: "203.0.113.10" }],
      [{ address: "203.0.113.10", phase: "Pending" }, { address: "2606:4700::10" }],
      [{ address: "203.0.113.10" }, { address: "2606:4700::10", phase: "Retiring" }],
    ),
  },
  { requiredKeys: [] },
);
const clientArb = fc.record(
  {
    allow: fc.array(ruleArb, { minLength: 1, maxLength: 3 }),
    inheritAllow: fc.boolean(),
    deny: fc.constant([{ hosts: ["denied.example"] }]),
    defaultAction: fc.constantFrom("Allow", "Deny", "Report"),
    mode: fc.constantFrom("Enforce", "Report"),
    ports: portsArb,
    upstreamProxies: fc.array(ruleArb, { minLength: 1, maxLength: 2 }),
  },
  { requiredKeys: [] },
);
const clientsArb = fc.option(fc.array(clientArb, { minLength: 1, maxLength: 3 }), { nil: undefined });
const blockedArb = fc.uniqueArray(fc.constantFrom("8.8.8.0/25", "2606:4700:1::/48", "34.0.0.0/8", "192.0.0.9/32"));
const edges = [...CIDRS, ...SPECIAL, ...REACHABLE, ...NEVER, "8.8.8.0/25", "2606:4700:1::/48", "34.0.0.0/8"]
  .flatMap((cidr) => [range(cidr)[0] - 1n, range(cidr)[0], range(cidr)[1], range(cidr)[1] + 1n])
  .filter((n) => n >= 0n && n !== V4 - 1n && n < V4 + (1n << 32n));
const four = edges.filter((n) => n >= V4);
const addressArb = fc.oneof(
  fc.constantFrom(...four),
  fc.constantFrom(...edges.filter((n) => n < V4)),
  fc.constantFrom(...four).map((n) => ip("64:ff9b::") | (n ^ V4)),
  fc.constantFrom(...four).map((n) => ip("2002::1") | ((n ^ V4) << 80n)),
);

/** Hosts of the rules below. */
const HOSTS = [0, 1, 2, 3].flatMap((i) => ["p", "c0", "c1", "c2"].map((of) => `${of}-h${i}.example`));

/** Whether some client may dial some host or upstream proxy, or the address itself, there. */
function dialable(set: PolicySet, address: string, port: number): boolean {
  const literal = address.includes(":") ? `[${address}]` : address;
  const targets = [literal, "other.example", ...HOSTS].map((host) => parseAuthority(`${host}:${port}`)!);
  const names = set.views === null ? [null] : [...set.views.keys()];
  return names.some((name) => {
    const view = viewOf(set, { kind: "own", name })!;
    const sets = view.hops === null ? [view] : [view, view.hops];
    return sets.some((one) => targets.some((target) => decideKnown(one, target, [address]).verdict === "allow"));
  });
}

type Given = { hosts?: boolean; cidrs?: string[]; ports?: (string | number)[] };
/** Rules with hosts of their own. A rule without hosts and networks would be empty. */
const hosted = (rules: readonly Given[], of: string) =>
  rules.map(({ hosts, ...rule }, i) => ({
    ...rule,
    ...(hosts || rule.cidrs === undefined ? { hosts: [`${of}-h${i}.example`] } : {}),
  }));

/** The compiled policy; undefined if the reader rejects a field without effect. */
function compiled(policy: EgressPolicy, blocked: readonly string[]): PolicySet | undefined {
  try {
    return compile(readManifest(policy, blocked).document);
  } catch (error) {
    if (error instanceof PolicyError) return undefined;
    throw error;
  }
}

test(`allows exactly what the policy engine allows (SEED=${seed})`, () => {
  const seen = { both: 0, neither: 0, opened: 0, embedded: 0, ofClients: 0 };
  fc.assert(
    fc.property(
      specArb,
      clientsArb,
      blockedArb,
      fc.array(fc.tuple(addressArb, fc.constantFrom(...PORTS, 25)), { minLength: 30, maxLength: 30 }),
      (given, entries, blocked, asks) => {
        const clients = entries?.map(({ allow, upstreamProxies, ...entry }, i) => ({
          name: `client${i}`,
          ...entry,
          ...(allow && { allow: hosted(allow, `c${i}`) }),
          ...(upstreamProxies && { upstreamProxies: hosted(upstreamProxies, `c${i}`) }),
        }));
        const spec = {
          ...given,
          allow: hosted(given.allow ?? [], "p"),
          ...(clients && { ...withClients, clients }),
        };
        const policy = policyOf(spec);
        const set = compiled(policy, blocked);
        fc.pre(set !== undefined);
        const { proxy } = made(spec, blocked);
        const statics = (given.staticIPs ?? []).map(({ address }) => ip(address));
        for (const [address, port] of asks) {
          if (within(address, "::ffff:0:0/96") || statics.includes(address)) continue;
          const spelled = text(address);
          const dials = dialable(set, spelled, port);
          const leaves = lets(proxy, "to", address, port);
          const parsed = parseAddress(spelled)!;
          const shapes = forms(parsed);
          const plain = shapes.length === 1 && (shapes[0] === parsed || within(address, "64:ff9b::/96"));
          // An address that embeds another one in a layout that is no network may be let out, and refused by the proxy.
          const message = `${formatAddress(parsed)} ${port}: ${JSON.stringify({ spec, blocked })}`;
          if (plain) assert.equal(leaves, dials, message);
          else assert.ok(leaves || !dials, message);
          if (!plain) seen.embedded++;
          else if (dials && registrySpecial(address)) seen.opened++;
          else if (dials) seen.both++;
          else seen.neither++;
          if (plain && dials && clients !== undefined) seen.ofClients++;
        }
      },
    ),
    { seed, numRuns: 1500 },
  );
  for (const [kind, count] of Object.entries(seen)) assert.ok(count > 100, `${kind}: ${count}`);
});

const rulesOf = (cidrs: string[], ports?: (i: number) => (number | string)[]) =>
  Array.from({ length: Math.ceil(cidrs.length / 500) }, (_, i) => ({
    hosts: [`h${i}.example`],
    cidrs: cidrs.slice(i * 500, (i + 1) * 500),
    ...(ports === undefined ? {} : { ports: ports(i) }),
  }));
const bytes = (object: object) => Buffer.byteLength(JSON.stringify(object));

test("joins adjacent and nested networks", () => {
  const halves = Array.from({ length: 4096 }, (_, i) => `10.0.${i >> 4}.${(i & 15) * 16}/28`);
  const { proxy, widened } = made({ allow: rulesOf(halves) });
  assert.equal(widened, undefined);
  assert.ok(JSON.stringify(proxy).includes('{"ipBlock":{"cidr":"10.0.0.0/16"}}'));
  assert.ok(bytes(proxy) < 10_000, `${bytes(proxy)} bytes`);
});

test("widens networks that do not fit, without forbidden addresses", () => {
  // 60,000 addresses in rules of their own ports, and metadata beside some of them.
  const cidrs = [
    ...Array.from({ length: 60_000 }, (_, i) => `10.${i >> 8}.${i & 255}.77/32`),
    "100.100.100.201/32",
    "100.64.0.0/10",
  ];
  const { proxy, widened } = made({ allow: rulesOf(cidrs, (i) => [2000 + i]) }, ["34.118.0.0/16"]);
  assert.match(
    widened!,
    /^the exact rules .* would have \d+ bytes; the limit is 524288; .* widened to \/\d+ \(IPv4\) and \/\d+ \(IPv6\) or larger/,
  );
  assert.ok(bytes((proxy as { spec?: object }).spec!) < MAX_BYTES + 2000, `${bytes(proxy)} bytes`);
  for (const [i, cidr] of cidrs.entries()) {
    if (i % 97 !== 0) continue;
    assert.ok(lets(proxy, "to", range(cidr)[0], 2000 + Math.floor(i / 500)), cidr);
  }
  for (const cidr of NEVER) assert.equal(lets(proxy, "to", range(cidr)[0], 443), false, cidr);
  assert.equal(lets(proxy, "to", one("127.0.0.1"), 2000), false);
  assert.equal(lets(proxy, "to", one("192.168.0.1"), 2000), false, "a range far from all of them stays closed");
});

test("fits thousands of cluster ranges, ports and groups", () => {
  const blocked = Array.from({ length: 20_000 }, (_, i) => `34.${i >> 8}.${i & 255}.77/32`);
  const first = made({ allow: [{ hosts: ["a.example"], cidrs: ["10.0.0.0/8"] }] }, blocked);
  assert.match(first.widened!, /public ranges of the cluster are not excluded/);
  assert.ok(bytes(first.proxy) < MAX_BYTES);
  assert.equal(lets(first.proxy, "to", one("10.1.1.1"), 443), true);
  assert.equal(lets(first.proxy, "to", one("192.168.1.1"), 443), false);
  // Both lists long: what takes the product of their lengths would take minutes.
  const cidrs = Array.from({ length: 60_000 }, (_, i) => `35.${i >> 8}.${i & 255}.77/32`);
  const both = made({ allow: rulesOf(["10.0.0.0/8", ...cidrs]) }, blocked);
  assert.equal(lets(both.proxy, "to", one("10.1.1.1"), 443), true);
  assert.equal(lets(both.proxy, "to", one("192.168.1.1"), 443), false);
  const ports = (i: number) => Array.from({ length: 64 }, (_, k) => (i * 64 + k) * 3 + 1);
  const allow = Array.from({ length: 256 }, (_, i) => ({ hosts: [`h${i}.example`], ports: ports(i) }));
  const second = made({ defaultAction: "Deny", allow });
  assert.ok(bytes(second.proxy) < MAX_BYTES);
  assert.ok(second.widened !== undefined);
  assert.equal(lets(second.proxy, "to", one("8.8.8.8"), 1), true);
  assert.equal(lets(second.proxy, "to", one("10.1.1.1"), 1), false);
});

test("no rule has more ports than network plugins accept", () => {
  const ports = Array.from({ length: 60 }, (_, i) => 2000 + i * 2);
  const { proxy } = made({ ports });
  const { egress } = (proxy as unknown as { spec: { egress: { ports: object[] }[] } }).spec;
  assert.ok(egress.every((rule) => rule.ports.length <= 40));
  for (const port of ports) assert.ok(lets(proxy, "to", one("8.8.8.8"), port), `${port}`);
  assert.equal(lets(proxy, "to", one("8.8.8.8"), 2001), false);
});
