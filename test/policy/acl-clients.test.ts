import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { parse, parseDocument } from "yaml";
import { readAcl } from "../../proxy/policy/acl.ts";
import { hashDocument } from "../../proxy/policy/document.ts";
import { compile, type Decision, decideKnown, type PolicySet, viewOf, type Who } from "../../proxy/policy/engine.ts";
import { readManifest, readPolicy } from "../../proxy/policy/policy-file.ts";
import { PolicyError } from "../../proxy/policy/rules.ts";
import { parseAuthority } from "../../proxy/policy/target.ts";
import { importAcl } from "../../proxy/tools/import.ts";
import { runs } from "../harness/runs.ts";

/** An acl.yaml with several services: each one is a client. */

const seed = Number(process.env.SEED ?? Date.now() & 0x7fffffff);
const OWN = { shared: true, own: true, missing: false };
const read = (text: string, identities = OWN) => readPolicy(text, { name: "acl.yaml", identities });

/** The shape of mole's own file: one service for clients with the password, `default` for the others. */
const MOLE = `---
version: v1
services:
  - {name: authed, project: users, action: report}
default: {project: other, action: enforce}
global_allow_list: [hook.example]
global_deny_list: ["*.internal"]
`;
const SEVERAL = "services: [{name: a, action: open}, {name: b, action: open}]\n";

/** The policy of a file, with the client of its shared password as the proxy applies it. */
function policyOf(text: string): PolicySet {
  const { document, sharedClient } = read(text);
  return compile({ ...document, authentication: { mode: "BasicOrTLS", allowMissing: false, sharedClient } });
}

function decide(view: PolicySet | null, target: string, address = "8.8.8.8"): Decision | "refused" {
  return view === null ? "refused" : decideKnown(view, parseAuthority(target)!, [address]);
}

const ACTIONS = ["enforce", "report", "open"];
const HOSTS = [
  "a.example",
  "*.a.example",
  "x.a.example",
  "*.example",
  "b.example",
  "9.9.9.9",
  "10.0.0.5",
  "2620:fe::fe",
];
const listArb = fc.uniqueArray(fc.constantFrom(...HOSTS), { maxLength: 3 });
const sectionArb = fc.record({ action: fc.constantFrom(...ACTIONS), allowed_domains: listArb });
const NAMES = ["authed", "billing", "Billing", "__proto__", "constructor", "café", "a b"];
const fileArb = fc.record(
  {
    services: fc
      .uniqueArray(fc.constantFrom(...NAMES), { minLength: 1, maxLength: 4 })
      .chain((names) => fc.tuple(...names.map((name) => sectionArb.map((section) => ({ name, ...section }))))),
    default: sectionArb,
    global_allow_list: listArb,
    global_deny_list: listArb,
  },
  { requiredKeys: ["services"] },
);
const targetArb = fc.tuple(
  fc.constantFrom("a.example", "x.a.example", "y.x.a.example", "b.example", "other.test", "9.9.9.9", "10.0.0.5"),
  fc.constantFrom(443, 22, 8080),
  fc.constantFrom("8.8.8.8", "9.9.9.9", "10.0.0.5", "169.254.169.254"),
);

test("each client gets the decisions of --service with its name", () => {
  fc.assert(
    fc.property(fileArb, fc.array(targetArb, { minLength: 4, maxLength: 4 }), (file, targets) => {
      const text = JSON.stringify(file);
      const policy = policyOf(text);
      const names = [...file.services.map(({ name }) => name), ...(file.default === undefined ? [] : ["default"])];
      assert.deepEqual([...policy.views!.keys()].sort(), [...names].sort());
      for (const name of names) {
        const alone = compile(readPolicy(text, { name: "acl.yaml", service: name }).document);
        const view = viewOf(policy, { kind: "own", name });
        for (const [host, port, found] of targets) {
          const address = /^\d/.test(host) ? host : found;
          assert.deepEqual(decide(view, `${host}:${port}`, address), decide(alone, `${host}:${port}`, address), name);
        }
      }
    }),
    { numRuns: runs(1500), seed },
  );
});

test("a name without a service is default, and refused without one", () => {
  const who: [Who, withDefault: string | undefined, without: string | undefined][] = [
    [{ kind: "own", name: "a" }, "a", "a"],
    [{ kind: "own", name: "A" }, "default", undefined],
    [{ kind: "own", name: "c" }, "default", undefined],
    [{ kind: "own", name: "__proto__" }, "default", undefined],
    [{ kind: "own", name: null }, "default", undefined],
    [{ kind: "missing" }, "default", undefined],
    [{ kind: "shared" }, "default", undefined],
  ];
  for (const [identity, withDefault, without] of who) {
    assert.equal(viewOf(policyOf(`${SEVERAL}default: {action: enforce}`), identity)?.entry, withDefault);
    assert.equal(viewOf(policyOf(SEVERAL), identity)?.entry, without);
  }
});

test("the shared password gives authed, or default without such a service", () => {
  const rows: [text: string, sharedClient: string, entry: string | undefined][] = [
    [MOLE, "authed", "authed"],
    ["services: [{name: authed, action: open}]", "authed", "authed"],
    [`${SEVERAL}default: {action: enforce}`, "default", "default"],
    [SEVERAL, "default", undefined],
  ];
  for (const [text, sharedClient, entry] of rows) {
    assert.equal(read(text).sharedClient, sharedClient);
    assert.equal(viewOf(policyOf(text), { kind: "shared" })?.entry, entry, text);
  }
  const policy = policyOf(MOLE);
  const verdicts = (who: Who) =>
    ["hook.example:443", "x.example:443", "db.internal:443"].map((target) => {
      const decision = decide(viewOf(policy, who), target);
      return decision === "refused"
        ? decision
        : [decision.verdict, decision.code ?? decision.wouldDeny?.code].join(" ");
    });
  assert.deepEqual(verdicts({ kind: "shared" }), ["allow ", "allow not-allowed", "deny denied-rule"]);
  assert.deepEqual(verdicts({ kind: "own", name: "authed" }), ["allow ", "allow not-allowed", "deny denied-rule"]);
  assert.deepEqual(verdicts({ kind: "own", name: "ada" }), ["allow ", "deny not-allowed", "deny denied-rule"]);
  assert.deepEqual(verdicts({ kind: "missing" }), ["allow ", "deny not-allowed", "deny denied-rule"]);
});

test("the document does not depend on the passwords, since these can change", () => {
  const documents = [
    OWN,
    { shared: true, own: false, missing: false },
    { shared: false, own: false, missing: true },
  ].map((identities) => hashDocument(read(MOLE, identities).document));
  assert.equal(new Set(documents).size, 1);
});

test("a service without domains has no list, and no rule of its own", () => {
  const { policy } = readAcl(
    `services: [{name: a, action: open}, {name: b, action: report, allowed_domains: [b.example, 9.9.9.9]}]
default: {action: enforce, allowed_domains: []}
global_allow_list: [g.example]`,
    { identities: OWN },
  );
  assert.deepEqual(policy, {
    mode: "Enforce",
    defaultAction: "Deny",
    allow: [{ name: "global_allow_list", hosts: ["g.example"] }],
    deny: [],
    clients: [
      { name: "a", defaultAction: "Allow" },
      {
        name: "b",
        allow: [
          { name: "allowed_domains", hosts: ["b.example"] },
          { name: "allowed_domains-addresses", cidrs: ["9.9.9.9/32"], opens: false },
        ],
        inheritAllow: true,
        defaultAction: "Report",
      },
      { name: "default", defaultAction: "Deny" },
    ],
  });
});

test("equal lists are one host set, whether by an alias or by content", () => {
  const file = (third: string) => `x-names: &names [one.example, "*.two.example", 9.9.9.9]
services:
  - {name: a, action: enforce, allowed_domains: *names}
  - {name: b, action: open, allowed_domains: *names}
  - {name: c, action: enforce, allowed_domains: ${third}}
default: {action: enforce, allowed_domains: [one.example]}`;
  for (const [third, users] of [
    ['[one.example, "*.two.example", 9.9.9.9]', ["a", "b", "c"]],
    ["[one.example, 9.9.9.9]", ["a", "b"]],
  ] as const) {
    const { document } = read(file(third));
    assert.deepEqual(document.hostSets, [{ name: "domains-1", hosts: ["one.example", "*.two.example"] }]);
    const refer = document.clients!.filter(({ allow }) => allow?.some(({ hosts }) => hosts?.[0] === "set:domains-1"));
    assert.deepEqual(
      refer.map(({ name }) => name),
      users,
    );
  }
});

test("200 services share one list by YAML aliases", () => {
  const names = Array.from({ length: 10_000 }, (_, i) => `h${i}.example`);
  const services = Array.from({ length: 200 }, (_, i) => `- {name: s${i}, action: enforce, allowed_domains: *names}`);
  const text = `x-names: &names\n- ${names.join("\n- ")}\nservices:\n${services.join("\n")}\n`;
  const { document, warnings } = read(text);
  assert.deepEqual(
    [document.clients!.length, document.hostSets!.length, document.hostSets![0]!.hosts.length],
    [200, 1, 10_000],
  );
  assert.ok(JSON.stringify(document).length < 2 ** 20);
  const policy = compile(document);
  const sets = new Set([...policy.views!.values()].map(({ allow }) => allow[0]!.hosts));
  assert.equal(sets.size, 1);
  assert.equal(warnings.length, 1, warnings.join("\n"));
});

test("refuses a file only if no client could ever be served", () => {
  const none = { shared: false, own: false, missing: true };
  const shared = { shared: true, own: false, missing: false };
  const ways = "choose one with --service NAME, give clients passwords of their own (--password-dir) or certificates";
  const rows: [text: string, identities: typeof OWN, message: string][] = [
    [
      SEVERAL,
      none,
      `services: none applies: there is no default for clients without a password; ${ways}, or add default; the file has a, b`,
    ],
    [
      SEVERAL,
      shared,
      `services: none applies: there is neither authed nor default for clients with the password; ${ways}, or add default; the file has a, b`,
    ],
    [
      "services: [{name: authed, action: open}]",
      none,
      `services: none applies: there is no default for clients without a password; ${ways}, set PROXY_PASSWORD to apply authed, or add default; the file has authed`,
    ],
  ];
  for (const [text, identities, message] of rows) {
    assert.throws(() => read(text, identities), { name: "Error", message }, text);
    assert.ok(read(text, OWN).document.clients);
  }
  assert.ok(read("services: [{name: authed, action: open}]", shared).document.clients);
  assert.ok(read(MOLE, none).document.clients);
});

test("a service named default is no substitute for the section", () => {
  // As an entry it would apply to every other client.
  assert.throws(() => read("services: [{name: default, action: open}, {name: a, action: open}]"), {
    message: 'services[0].name: "default" is the section for all other clients; write it as one, or rename the service',
  });
});

test("names of services are names of clients", () => {
  const file = (name: string) => JSON.stringify({ services: [{ name, action: "open" }], default: { action: "open" } });
  for (const name of ["a b", "café", "spiffe://x/ns/a", "x".repeat(128)]) {
    assert.ok(read(file(name)).document.clients!.some((client) => client.name === name));
  }
  for (const name of ["x".repeat(129), "a\u0000b", "a\u202eb"]) {
    assert.throws(
      () => read(file(name)),
      /services\[0\]\.name: must be 1 to 128 characters without control characters; rename the service/,
    );
    assert.ok(readPolicy(file(name), { name: "acl.yaml", service: name }).document);
  }
});

test("warns about services that no client gets, and about clients that get none", () => {
  const about = (text: string, identities: typeof OWN) =>
    read(text, identities).warnings.filter((warning) => /^(services|clients): /.test(warning));
  const none = { shared: false, own: false, missing: true };
  const shared = { shared: true, own: false, missing: false };
  const ways = "choose one with --service NAME, give clients passwords of their own (--password-dir) or certificates";
  const withDefault = `${SEVERAL}default: {action: enforce}`;
  const more = MOLE.replace("default:", "  - {name: b, action: open}\ndefault:");
  const rows: [text: string, identities: typeof OWN, warnings: string[]][] = [
    [withDefault, none, [`services: default applies to every client; ${ways}; not used: a, b`]],
    [
      MOLE,
      none,
      [`services: default applies to every client; ${ways}, set PROXY_PASSWORD to apply authed; not used: authed`],
    ],
    [more, shared, [`services: authed applies to every client; ${ways}; not used: b`]],
    [more, { ...shared, missing: true }, [`services: authed or default applies to every client; ${ways}; not used: b`]],
    [MOLE, shared, []],
    [MOLE, OWN, []],
    [withDefault, OWN, []],
    [
      SEVERAL,
      OWN,
      [
        "services: there is no default: clients of no service, and those with the shared password, are refused; add default to serve them",
      ],
    ],
    [
      "services: [{name: authed, action: enforce}]",
      OWN,
      ["services: there is no default: clients of no service are refused; add default to serve them"],
    ],
    [
      more,
      OWN,
      [
        "clients: b can avoid the rules of their entry: a client with the shared password gets authed, whose default action is Report",
      ],
    ],
    [
      "services: [{name: a, action: open}, {name: A, action: open}]\ndefault: {action: enforce}",
      OWN,
      ["clients: A and a differ by case only, and are two clients"],
    ],
  ];
  for (const [text, identities, warnings] of rows) {
    assert.deepEqual(about(text, identities), warnings, `${text} ${JSON.stringify(identities)}`);
  }
});

test("a warning names its services, unless it is about all of them", () => {
  const one = "{action: enforce, allowed_domains: [x.bad.example, 10.0.0.5]}";
  const file = (others: number, section: string) =>
    `x-one: &one ${one}
services:
${Array.from({ length: others }, (_, i) => `- {<<: *one, name: s${i}}`).join("\n")}
${section}
global_deny_list: ["*.bad.example"]`;
  const overlap = "x.bad.example is allowed and denied (*.bad.example): deny wins here, allow won in Smokescreen";
  const closed =
    "allowed_domains: 10.0.0.5 (private) stays closed: an allow list opens no such range; see --allow-cidr";
  assert.deepEqual(read(file(2, "default: *one")).warnings, [overlap, closed]);
  assert.deepEqual(read(file(2, "default: {action: enforce}")).warnings, [`s0, s1: ${overlap}`, `s0, s1: ${closed}`]);
  assert.deepEqual(read(file(9, "default: {action: enforce}")).warnings, [
    `s0, s1, s2 and 6 more: ${overlap}`,
    `s0, s1, s2 and 6 more: ${closed}`,
  ]);
});

test("lists overlaps in the order of the deny list, each with its closest entry", () => {
  const { warnings } = readAcl(
    `services:
  - {name: a, action: open, allowed_domains: ["*.example", "*.b.example", x.b.example, "*.c.example"]}
default: {action: enforce}
global_deny_list: [z.example, x.b.example, y.b.example, "*.c.example", b.test, example]`,
    { identities: OWN },
  );
  const ours = ": deny wins here, allow won in Smokescreen";
  assert.deepEqual(warnings, [
    `a: x.b.example is allowed and denied (x.b.example)${ours}`,
    `a: *.c.example is allowed and denied (*.c.example)${ours}`,
    `a: z.example is denied, and allowed by *.example${ours}`,
    `a: y.b.example is denied, and allowed by *.b.example${ours}`,
  ]);
});

test("compares the lists of many services with a long deny list in linear time", () => {
  /** CPU time of this process, in milliseconds: other processes do not change it. */
  const time = (services: number, denied: number): number => {
    const text = JSON.stringify({
      services: Array.from({ length: services }, (_, i) => ({
        name: `s${i}`,
        action: "open",
        allowed_domains: [`a${i}.example`, `*.b${i}.example`],
      })),
      default: { action: "enforce" },
      global_deny_list: Array.from({ length: denied }, (_, i) => `x.d${i}.example`),
    });
    const before = process.cpuUsage();
    assert.deepEqual(readAcl(text, { identities: OWN }).warnings, []);
    const { user, system } = process.cpuUsage(before);
    return (user + system) / 1000;
  };
  time(100, 1000);
  const short = Math.min(...[1, 2, 3].map(() => time(100, 2000)));
  const long = Math.min(...[1, 2].map(() => time(1000, 20_000)));
  // Ten times the length; comparing each list with each denied name would take 100 times as long.
  assert.ok(long < 40 * short, `${long} ms, and ${short} ms for a tenth`);
});

test("lists a bounded number of overlaps", () => {
  const names = Array.from({ length: 2000 }, (_, i) => `x${i}.example`);
  const services = Array.from({ length: 20 }, (_, i) => ({
    name: `s${i}`,
    action: "open",
    allowed_domains: ["*.example", `s${i}.test`],
  }));
  const { warnings } = readAcl(JSON.stringify({ services, global_deny_list: names }), { identities: OWN });
  assert.ok(warnings.includes("further overlaps of allowed and denied entries are not listed"));
  assert.ok(warnings.length < 10_010, `${warnings.length}`);
});

/** The policy of an imported manifest, with a mode that the user adds. */
function imported(yaml: string, shared = "default"): PolicySet {
  const value = parse(yaml) as { spec: Record<string, unknown> };
  value.spec.authentication = { mode: "Basic", secretRef: { name: "clients" } };
  const { document, sharedClient } = readManifest(value);
  assert.equal(sharedClient, shared);
  return compile(document);
}

const IMPORTED = `
x-names: &names [ok.example, "*.sub.example"]
services:
  - {name: enforcing, action: enforce, allowed_domains: [ok.example, 9.9.9.9, 10.0.0.5]}
  - {name: reporting, action: report, allowed_domains: *names}
  - {name: open, action: open, allowed_domains: *names}
  - {name: bare, action: enforce, allowed_domains: [10.0.0.5]}
default: {action: enforce}
global_allow_list: [everyone.example]
global_deny_list: [bad.example, evil.sub.example, 8.8.4.4]
`;

test("import writes one manifest with a client for each service", () => {
  const { yaml, warnings } = importAcl(IMPORTED, {});
  assert.equal(parseDocument(yaml).errors.length, 0);
  const { metadata, spec } = parse(yaml) as { metadata: object; spec: Record<string, unknown> };
  assert.deepEqual(metadata, { name: "webhooks" });
  assert.deepEqual(spec.hostSets, [{ name: "domains-1", hosts: ["ok.example", "*.sub.example"] }]);
  assert.match(warnings.join("\n"), /^enforcing: .*9\.9\.9\.9\/32 also admits names that resolve to it/m);
  assert.match(warnings.join("\n"), /^enforcing, bare: .*10\.0\.0\.5\/32 \(private\) is left out/m);
  assert.match(warnings.join("\n"), /^spec\.authentication is not in the manifest: add the mode Basic, TLS or Basic/m);
  assert.match(yaml, /^# Add authentication: /m);
  const policy = imported(yaml);
  for (const name of ["enforcing", "reporting", "open", "bare", "default"]) {
    const alone = compile(readPolicy(IMPORTED, { name: "acl.yaml", service: name }).document);
    for (const [target, address] of [
      ["ok.example:443", "8.8.8.8"],
      ["x.sub.example:443", "8.8.8.8"],
      ["evil.sub.example:443", "8.8.8.8"],
      ["everyone.example:443", "8.8.8.8"],
      ["other.example:443", "8.8.4.4"],
      ["other.example:443", "8.8.8.8"],
      ["10.0.0.5:443", "10.0.0.5"],
      ["9.9.9.9:443", "9.9.9.9"],
    ] as const) {
      const [ours, theirs] = [viewOf(policy, { kind: "own", name }), alone].map((view) =>
        decide(view, target, address),
      );
      // Only the verdict: cidrs of a manifest pass the name stage, so the code may be that of a later stage.
      const verdict = (decision: Decision | "refused") => (decision === "refused" ? decision : decision.verdict);
      assert.equal(verdict(ours!), verdict(theirs!), `${name} ${target} ${address}`);
    }
  }
});

test("import keeps authed apart from default, and says what changes", () => {
  const { yaml, warnings } = importAcl(MOLE, {});
  const { spec } = parse(yaml) as { spec: { clients: unknown } };
  assert.deepEqual(spec.clients, [
    { name: "authed", defaultAction: "Report" },
    { name: "default", defaultAction: "Deny" },
  ]);
  const change =
    "the shared password (PROXY_PASSWORD) selects default in an EgressPolicy, and authed in the acl.yaml; give these clients a password of their own with the user name authed";
  assert.ok(warnings.includes(change));
  assert.ok(yaml.includes(`# ${change}\n`));
  const policy = imported(yaml);
  assert.equal(viewOf(policy, { kind: "shared" })?.entry, "default");
  assert.equal(viewOf(policy, { kind: "own", name: "authed" })?.entry, "authed");
  assert.doesNotMatch(importAcl(SEVERAL, {}).warnings.join("\n"), /authed/);
  const leave = (text: string) => importAcl(text, {}).warnings.filter((warning) => /can avoid/.test(warning));
  assert.deepEqual(leave(MOLE.replace("default:", "  - {name: b, action: open}\ndefault:")), []);
  assert.deepEqual(leave(`${SEVERAL}default: {action: open}`), [
    "clients: a, b can avoid the rules of their entry: a client with the shared password gets default, whose default action is Allow",
  ]);
});

test("import stays within the limits of an EgressPolicy", () => {
  const hosts = (count: number, letter: string) => Array.from({ length: count }, (_, i) => `${letter}${i}.example`);
  const services = (count: number, domains: (i: number) => string[]) =>
    JSON.stringify({
      services: Array.from({ length: count }, (_, i) => ({
        name: `s${i}`,
        action: "open",
        allowed_domains: domains(i),
      })),
    });
  const specOf = (text: string) =>
    (
      parse(importAcl(text, {}).yaml) as {
        spec: { hostSets?: { name: string; hosts: string[] }[]; clients: unknown[] };
      }
    ).spec;
  const long = specOf(services(2, (i) => hosts(i === 0 ? 256 : 20_001, `h${i}x`)));
  assert.deepEqual(
    long.hostSets!.map(({ name, hosts: { length } }) => [name, length]),
    [
      ["domains-1", 20_000],
      ["domains-1-2", 1],
    ],
  );
  assert.deepEqual(
    (long.clients as { allow: { hosts: string[] }[] }[]).map(({ allow }) => allow[0]!.hosts.length),
    [256, 2],
  );
  // 65 pairs of services with short lists: without room for a set each, all of them are written out.
  assert.equal(specOf(services(128, (i) => [`h${i >> 1}.example`])).hostSets!.length, 64);
  assert.equal(specOf(services(130, (i) => [`h${i >> 1}.example`])).hostSets, undefined);
  const addresses = (count: number) => Array.from({ length: count }, (_, i) => `9.9.${i >> 8}.${i & 255}`);
  const { allow } = specOf(services(1, () => addresses(1024))).clients[0] as { allow: { cidrs: string[] }[] };
  assert.deepEqual([allow.length, allow[15]!.cidrs.length], [16, 64]);
  const rows: [text: string, message: RegExp][] = [
    [services(65, (i) => hosts(257, `h${i}x`)), /^services: an EgressPolicy has at most 64 host sets, and .* need 65;/],
    [services(257, () => []), /^services: an EgressPolicy has at most 256 clients, not 257; import single services/],
    [services(1, () => addresses(1025)), /^services: "s0": has more addresses than the 16 rules of a client hold/],
    [
      'services: [{name: "a b", action: open}]',
      /^services: "a b": must be 1 to 128 letters, .*; rename the service and its certificate$/,
    ],
    [
      "services: [{name: outrider, action: open}]",
      /^services: "outrider": "outrider" is reserved; use another name; re/,
    ],
  ];
  for (const [text, message] of rows) {
    assert.throws(
      () => importAcl(text, {}),
      (error) => error instanceof PolicyError && message.test(error.message),
      text.slice(0, 80),
    );
  }
  const { spec } = parse(
    importAcl(JSON.stringify({ global_deny_list: hosts(20_001, "d"), global_allow_list: addresses(501) }), {}).yaml,
  ) as { spec: { deny: { name: string }[]; allow: { name: string }[] } };
  assert.deepEqual(
    [...spec.deny, ...spec.allow].map(({ name }) => name),
    ["global_deny_list", "global_deny_list-2", "global_allow_list-addresses", "global_allow_list-addresses-2"],
  );
});

test("allowed_external_proxies are the upstream proxies of that client", () => {
  const text = `services:
  - {name: a, action: open, allowed_external_proxies: ["*.hop.example", 8.8.8.7, 10.0.0.5]}
  - {name: b, action: open}
`;
  const policy = policyOf(text);
  const hops = (name: string) => viewOf(policy, { kind: "own", name })!.hops;
  assert.equal(hops("b"), null);
  const verdict = (target: string, address: string) =>
    decideKnown(hops("a")!, parseAuthority(target)!, [address]).verdict;
  assert.equal(verdict("x.hop.example:3128", "8.8.8.8"), "allow");
  assert.equal(verdict("x.hop.example:3128", "10.0.0.5"), "deny");
  assert.equal(verdict("other.example:3128", "8.8.8.8"), "deny");
  // As in allowed_domains, an address opens no special-purpose range.
  assert.equal(verdict("10.0.0.5:3128", "10.0.0.5"), "deny");
  const long = Array.from({ length: 257 }, (_, i) => `h${i}.example`).join(", ");
  const { yaml, warnings } = importAcl(`${text}  - {name: c, action: open, allowed_external_proxies: [${long}]}`, {});
  const { hostSets, clients } = parse(yaml).spec;
  assert.deepEqual(clients, [
    {
      name: "a",
      defaultAction: "Allow",
      upstreamProxies: [
        { name: "allowed_external_proxies", hosts: ["*.hop.example"] },
        { name: "allowed_external_proxies-addresses", cidrs: ["8.8.8.7/32"] },
      ],
    },
    { name: "b", defaultAction: "Allow" },
    {
      name: "c",
      defaultAction: "Allow",
      upstreamProxies: [{ name: "allowed_external_proxies", hosts: ["set:domains-1"] }],
    },
  ]);
  assert.equal(hostSets[0].hosts.length, 257);
  const many = Array.from({ length: 65 }, (_, i) => {
    const list = Array.from({ length: 257 }, (_, k) => `h${k}.s${i}.example`).join(", ");
    return `  - {name: s${i}, action: open, allowed_external_proxies: [${list}]}`;
  });
  assert.throws(() => importAcl(`services:\n${many.join("\n")}`, {}), /at most 64 host sets, and the lists .* need 65/);
  assert.match(warnings.join("\n"), /a: allowed_external_proxies-addresses: 10\.0\.0\.5\/32 .* is left out/);
});
