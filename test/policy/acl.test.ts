import assert from "node:assert/strict";
import { test } from "node:test";
import { parseAllDocuments } from "yaml";
import { readAcl } from "../../proxy/policy/acl.ts";
import { compile, decideKnown } from "../../proxy/policy/engine.ts";
import { readPolicy } from "../../proxy/policy/policy-file.ts";
import { PolicyError } from "../../proxy/policy/rules.ts";
import { parseAuthority } from "../../proxy/policy/target.ts";
import { importAcl } from "../../proxy/tools/import.ts";

/** As published: lists indented with tabs. */
const TABBED =
  'global_allow_list:\n\t- captain-hook.example\n\t- play.example\nglobal_deny_list:\n\t- "*.internal"\n\t- cli.example\n';

const SERVICES = `
version: v1
services:
  - name: enforcing
    project: a
    action: enforce
    allowed_domains: ["ok.example", "*.sub.example", "9.9.9.9", "10.0.0.5"]
  - name: reporting
    project: b
    action: report
  - name: open
    project: c
    action: open
default:
  project: d
  action: enforce
global_allow_list: ["everyone.example"]
global_deny_list: ["bad.example", "evil.sub.example", "8.8.4.4"]
`;

const decideFor = (text: string, service: string | undefined, target: string, address: string) => {
  const set = compile(readPolicy(text, { name: "acl.yaml", service }).document);
  const { verdict, code, wouldDeny } = decideKnown(set, parseAuthority(target)!, [address]);
  return [verdict, code ?? wouldDeny?.code].join(" ").trim();
};

test("the published sample with tabs is read, with warnings", () => {
  const { warnings } = readPolicy(TABBED, { name: "acl.yaml" });
  assert.match(warnings.join("\n"), /tabs/);
  assert.match(warnings.join("\n"), /allow list without any action: everything else is denied/);
  assert.equal(decideFor(TABBED, undefined, "play.example:443", "8.8.8.8"), "allow");
  assert.equal(decideFor(TABBED, undefined, "other.example:443", "8.8.8.8"), "deny not-allowed");
  assert.equal(decideFor(TABBED, undefined, "cli.example:443", "8.8.8.8"), "deny denied-rule");
  assert.equal(decideFor(TABBED, undefined, "db.internal:443", "8.8.8.8"), "deny denied-rule");
});

test("actions decide as in Smokescreen, except that deny always wins", () => {
  const rows: [service: string, target: string, address: string, outcome: string][] = [
    ["enforcing", "ok.example:443", "8.8.8.8", "allow"],
    ["enforcing", "x.sub.example:443", "8.8.8.8", "allow"],
    ["enforcing", "evil.sub.example:443", "8.8.8.8", "deny denied-rule"],
    ["enforcing", "everyone.example:443", "8.8.8.8", "allow"],
    ["enforcing", "other.example:443", "8.8.8.8", "deny not-allowed"],
    ["enforcing", "9.9.9.9:443", "9.9.9.9", "allow"],
    ["enforcing", "10.0.0.5:443", "10.0.0.5", "deny address"],
    ["reporting", "other.example:443", "8.8.8.8", "allow not-allowed"],
    ["reporting", "other.example:443", "10.0.0.5", "deny address"],
    ["reporting", "bad.example:443", "8.8.8.8", "deny denied-rule"],
    ["open", "other.example:443", "8.8.8.8", "allow"],
    ["open", "other.example:443", "8.8.4.4", "deny denied-rule"],
    ["open", "bad.example:443", "8.8.8.8", "deny denied-rule"],
  ];
  for (const [service, target, address, outcome] of rows) {
    assert.equal(decideFor(SERVICES, service, target, address), outcome, `${service} ${target} ${address}`);
  }
});

test("warns about unexpected effects", () => {
  const { warnings } = readAcl(SERVICES, { service: "enforcing" });
  assert.match(warnings.join("\n"), /10\.0\.0\.5 \(private\) stays closed.*--allow-cidr/);
  const overlap = readAcl(
    'services: [{name: a, action: open, allowed_domains: ["x.bad.example"]}]\nglobal_deny_list: ["*.bad.example"]',
    {},
  );
  assert.match(overlap.warnings.join(), /x\.bad\.example is allowed and denied \(\*\.bad\.example\): deny wins here/);
  const inside = readAcl(SERVICES, { service: "enforcing" }).warnings.join("\n");
  assert.match(inside, /evil\.sub\.example is denied, and allowed by \*\.sub\.example: deny wins here, allow won/);
  const literal = readAcl(
    'services: [{name: a, action: open, allowed_domains: ["9.9.9.9"]}]\nglobal_deny_list: ["::ffff:9.9.9.9"]',
    {},
  );
  assert.match(literal.warnings.join(), /9\.9\.9\.9 is allowed and denied \(9\.9\.9\.9\)/);
  assert.deepEqual(literal.policy.deny, [{ name: "global_deny_list-addresses", cidrs: ["9.9.9.9/32"] }]);
  const global = readAcl("global_allow_list: [x.bad.example]\nglobal_deny_list: ['*.bad.example']", {}).warnings;
  assert.match(global.join("\n"), /x\.bad\.example is allowed and denied \(\*\.bad\.example\): deny wins$/m);
  const chained = readAcl("services: [{name: a, action: open, mitm_domains: [{domain: x}]}]", {});
  assert.match(chained.warnings.join(), /services\[0\]\.mitm_domains has no effect/);
  assert.match(
    readAcl("global_deny_list: [a.example]", {}).warnings.join(),
    /everything that is not denied is allowed/,
  );
});

test("compares lists of many thousands in linear time", () => {
  const list = (name: string, letter: string, length: number) =>
    `${name}:\n${Array.from({ length }, (_, i) => `- "*.${letter}${i}.example"`).join("\n")}\n`;
  /** CPU time of this process, in milliseconds: other processes do not change it. */
  const time = (length: number): number => {
    const text = `${list("global_allow_list", "a", length)}${list("global_deny_list", "b", length)}`;
    const before = process.cpuUsage();
    const { warnings } = readAcl(text, {});
    assert.deepEqual(warnings, ["an allow list without any action: everything else is denied"]);
    const { user, system } = process.cpuUsage(before);
    return (user + system) / 1000;
  };
  time(1000);
  const short = Math.min(...[1, 2, 3].map(() => time(500)));
  const long = Math.min(...[1, 2].map(() => time(5000)));
  // Ten times the length; comparing each entry with each other one would take 100 times as long.
  assert.ok(long < 40 * short, `${long} ms for lists of 5,000, ${short} ms for 500`);
});

test("a list with one entry and no action denies everything else", () => {
  const kinds: [entry: string, target: string, address: string][] = [
    ["one.example", "one.example:443", "8.8.8.8"],
    ["'*.one.example'", "x.one.example:443", "8.8.8.8"],
    ["9.9.9.9", "9.9.9.9:443", "9.9.9.9"],
    ["2620:fe::fe", "[2620:fe::fe]:443", "2620:fe::fe"],
  ];
  for (const [entry, target, address] of kinds) {
    const text = `global_allow_list: [${entry}]`;
    const { policy, warnings } = readAcl(text, {});
    assert.deepEqual([policy.defaultAction, policy.allow.length], ["Deny", 1], entry);
    assert.deepEqual(warnings, ["an allow list without any action: everything else is denied"], entry);
    assert.equal(decideFor(text, undefined, target, address), "allow", entry);
    assert.equal(decideFor(text, undefined, "other.example:443", "8.8.8.8"), "deny not-allowed", entry);
    assert.equal(decideFor(text, undefined, "8.8.4.4:443", "8.8.4.4"), "deny not-allowed", entry);

    const denied = `global_deny_list: [${entry}]`;
    assert.equal(decideFor(denied, undefined, target, address), "deny denied-rule", entry);
    assert.equal(decideFor(denied, undefined, "other.example:443", "8.8.8.8"), "allow", entry);

    const service = `services: [{name: a, action: enforce, allowed_domains: [${entry}]}]`;
    assert.deepEqual(readAcl(service, {}).warnings, []);
    assert.equal(decideFor(service, undefined, target, address), "allow", entry);
    assert.equal(decideFor(service, undefined, "other.example:443", "8.8.8.8"), "deny not-allowed", entry);
  }
});

test("rejects typing errors and invalid globs, naming the field", () => {
  const rows: [text: string, message: RegExp][] = [
    ["global_denylist: [a.b]\nservices: []", /global_denylist: unknown key; did you mean global_deny_list\?/],
    [
      "services: [{name: a, action: block}]",
      /services\[0\]\.action: must be one of enforce, report, open, not "block"/,
    ],
    ["services: [{name: a}]", /services\[0\]\.action: is missing/],
    ["services: [{action: open}]", /services\[0\]\.name: is missing/],
    [
      "services: [{name: a, action: open}, {name: a, action: open}]",
      /services\[1\]\.name: "a" is the name of services\[0\] already/,
    ],
    ['global_deny_list: ["*foo.com"]', /global_deny_list\[0\]: "\*foo\.com": a wildcard/],
    ['global_deny_list: ["*"]', /global_deny_list\[0\]: "\*" is no name/],
    ['global_deny_list: ["a.b:443"]', /has a port/],
    ['global_deny_list: ["10.0.0.0/8"]', /is a CIDR/],
    ["global_deny_list: a.b", /global_deny_list: must be a list/],
    [
      "global_deny_list:\n  - *.internal",
      /not valid YAML: \*\.internal is an alias in YAML; put it in quotes: "\*\.internal"/,
    ],
    ["services: [{name: a, action: open, project: [x]}]", /services\[0\]\.project: must be a string/],
    ["global_deny_list: []\n---\nx: 1", /not valid YAML: Source contains multiple documents/],
    ["version: v2\nservices: []", /version: must be v1, not "v2"/],
  ];
  for (const [text, message] of rows) {
    assert.throws(
      () => readAcl(text, {}),
      (error) => error instanceof PolicyError && message.test(error.message),
      text,
    );
  }
  assert.throws(() => readAcl(SERVICES, {}), /choose one with --service: enforcing, reporting, open/);
  assert.throws(
    () => readAcl(SERVICES, { service: "none" }),
    /no service "none"; the file has enforcing, reporting, open/,
  );
});

test("import writes one manifest per service with equal decisions", () => {
  const { yaml, warnings } = importAcl(SERVICES, {});
  const manifests = parseAllDocuments(yaml).map((document) => String(document));
  assert.equal(manifests.length, 3);
  assert.match(warnings.join("\n"), /^enforcing: .*10\.0\.0\.5\/32 \(private\) is left out/m);
  assert.match(warnings.join("\n"), /^enforcing: .*9\.9\.9\.9\/32 also admits names that resolve to it/m);
  for (const [i, service] of ["enforcing", "reporting", "open"].entries()) {
    for (const [target, address] of [
      ["ok.example:443", "8.8.8.8"],
      ["other.example:443", "8.8.4.4"],
      ["9.9.9.9:443", "9.9.9.9"],
    ] as const) {
      // Only the verdict: cidrs of a manifest pass the name stage, so the code may be that of a later stage.
      const [imported] = decideFor(manifests[i]!, undefined, target, address).split(" ");
      const [original] = decideFor(SERVICES, service, target, address).split(" ");
      assert.equal(imported, original, `${service} ${target} ${address}`);
    }
  }
});
