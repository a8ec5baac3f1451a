import assert from "node:assert/strict";
import { test } from "node:test";
import { parse } from "yaml";
import { readAcl } from "../../proxy/policy/acl.ts";
import { compile, decideKnown, viewOf } from "../../proxy/policy/engine.ts";
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
  const set = viewOf(compile(readPolicy(text, { name: "acl.yaml", service }).document), { kind: "missing" })!;
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
    'default: {action: open, allowed_domains: ["x.bad.example"]}\nglobal_deny_list: ["*.bad.example"]',
    {},
  );
  assert.match(overlap.warnings.join(), /x\.bad\.example is allowed and denied \(\*\.bad\.example\): deny wins here/);
  const deep = "default: {action: open, allowed_domains: [a.b.bad.example]}\nglobal_deny_list: ['*.bad.example']";
  assert.match(readAcl(deep, {}).warnings.join(), /a\.b\.bad\.example is allowed and denied \(\*\.bad\.example\)/);
  const inside = readAcl(SERVICES, { service: "enforcing" }).warnings.join("\n");
  assert.match(inside, /evil\.sub\.example is denied, and allowed by \*\.sub\.example: deny wins here, allow won/);
  const literal = readAcl(
    'default: {action: open, allowed_domains: ["9.9.9.9"]}\nglobal_deny_list: ["::ffff:9.9.9.9"]',
    {},
  );
  assert.match(literal.warnings.join(), /9\.9\.9\.9 is allowed and denied \(9\.9\.9\.9\)/);
  assert.deepEqual(literal.policy.deny, [{ name: "global_deny_list-addresses", cidrs: ["9.9.9.9/32"] }]);
  const global = readAcl("global_allow_list: [x.bad.example]\nglobal_deny_list: ['*.bad.example']", {}).warnings;
  assert.match(global.join("\n"), /x\.bad\.example is allowed and denied \(\*\.bad\.example\): deny wins$/m);
  const chained = readAcl("services: [{name: a, action: open, mitm_domains: [{domain: x}]}]", { service: "a" });
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

test("an allow list of names and addresses is not empty", () => {
  assert.deepEqual(readAcl("global_allow_list: [one.example, 9.9.9.9]", {}).warnings, [
    "an allow list without any action: everything else is denied",
  ]);
  assert.match(
    readAcl("global_allow_list: []", {}).warnings.join(),
    /^global_allow_list is empty: everything is denied/,
  );
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

    const service = `default: {action: enforce, allowed_domains: [${entry}]}`;
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
    ["services: [{name: '', action: open}]", /services\[0\]\.name: is missing/],
    ["[global_deny_list]", /^must be a mapping;/],
    ["global_deny_list", /^must be a mapping;/],
    [
      "services: [{name: a, action: open}, {name: a, action: open}]",
      /services\[1\]\.name: "a" is the name of services\[0\] already/,
    ],
    ['global_deny_list: ["*"]', /global_deny_list\[0\]: "\*" is no name/],
    ["global_deny_list: a.b", /global_deny_list: must be a list/],
    [
      "global_deny_list:\n  - *.internal",
      /not valid YAML: \*\.internal is an alias in YAML; put it in quotes: "\*\.internal"/,
    ],
    ["services: [{name: a, action: open, project: [x]}]", /services\[0\]\.project: must be a string/],
    ["global_deny_list: []\n---\nx: 1", /not valid YAML: Source contains multiple documents/],
    [
      "default: {action: open}\nservices: [{name: default, action: open}]",
      /services\[0\]\.name: "default" is the name of the section default already/,
    ],
    ["version: v2\nservices: []", /version: must be v1, not "v2"/],
  ];
  for (const [text, message] of rows) {
    assert.throws(
      () => readAcl(text, {}),
      (error) => error instanceof PolicyError && message.test(error.message),
      text,
    );
  }
  assert.throws(
    () => readAcl(SERVICES, { service: "none" }),
    /no service "none"; the file has enforcing, reporting, open, default$/,
  );
  assert.throws(() => readAcl("global_deny_list: []", { service: "a" }), /no service "a"; the file has none$/);
  assert.equal(readAcl("services: [{name: a, project: , action: open}]", { service: "a" }).service, "a");
});

test("an entry that no list accepts is refused with the forms that it accepts", () => {
  const rows: [entry: string, message: string][] = [
    ["*bob.example", '"*bob.example": a wildcard is only "*." in front of a name'],
    ["api.*.example", '"api.*.example": a wildcard is only "*." in front of a name'],
    ["example.*", '"example.*": a wildcard is only "*." in front of a name'],
    ["", "is empty; write a name, *.name or an IP address"],
    ["*.", "is empty; write a name, *.name or an IP address"],
    ["a.b:443", '"a.b:443" has a port; write the name alone, and ports with --ports'],
    ["10.0.0.0/8", '"10.0.0.0/8" is a CIDR; write single addresses here, and ranges with --allow-cidr or --deny-cidr'],
    ["[::1]", '"[::1]" is an IP address; write it without brackets and zone'],
  ];
  for (const list of ["global_allow_list", "global_deny_list"]) {
    for (const [entry, message] of rows) {
      assert.throws(() => readAcl(`${list}: ["${entry}"]`, {}), { message: `${list}[0]: ${message}` });
    }
  }
  assert.throws(() => readAcl("global_deny_list: [*bob.example]", {}), {
    message:
      'not valid YAML: *bob.example is an alias in YAML without an anchor &bob.example; a wildcard is "*." in front of a name, in quotes',
  });
});

test("--service, or a file without services, is one set of rules for all clients", () => {
  const one = "services: [{name: ci-runner, action: open}]\n";
  const rows: [text: string, service: string | undefined, applies: string | undefined, action: string][] = [
    [`${one}default: {action: enforce}`, "ci-runner", "ci-runner", "Allow"],
    [`${one}default: {action: enforce}`, "default", "default", "Deny"],
    [one, "ci-runner", "ci-runner", "Allow"],
    ["services: [{name: authed, action: open}]", "authed", "authed", "Allow"],
    // The name of a service is an identity, also this one.
    ["services: [{name: default, action: open}]", "default", "default", "Allow"],
    ["default: {action: report}", undefined, "default", "Report"],
    ["services: []\ndefault: {action: report}", undefined, "default", "Report"],
    ["services: []\ndefault: {action: report}", "default", "default", "Report"],
    ["global_allow_list: [a.example]", undefined, undefined, "Deny"],
  ];
  for (const [text, service, applies, action] of rows) {
    for (const shared of [false, true]) {
      const identities = { shared, own: false, missing: !shared };
      const source = readPolicy(text, { name: "acl.yaml", service, identities });
      const { document, sharedClient } = source;
      assert.deepEqual([source.service, document.defaultAction, sharedClient], [applies, action, "default"], text);
      assert.deepEqual([document.version, document.clients, document.hostSets], [1, undefined, undefined], text);
    }
  }
});

test("keys of other tools at the top of a file have no effect", () => {
  const text = `
x-names: &names [ok.example]
x-base: &base {project: p, action: enforce, allowed_domains: *names}
x-limits: 7
allow_missing_role: true
version: v1
services:
  - {<<: *base, name: a}
  - {name: b, <<: [*base, {action: open}], action: report}
default: {<<: *base, action: enforce}
---
# The end.
`;
  assert.equal(decideFor(text, undefined, "ok.example:443", "8.8.8.8"), "allow");
  assert.equal(decideFor(text, undefined, "other.example:443", "8.8.8.8"), "deny not-allowed");
  assert.equal(decideFor(text, "b", "other.example:443", "8.8.8.8"), "allow not-allowed");
  assert.match(
    readAcl(text, {}).warnings.join("\n"),
    /allow_missing_role has no effect: without passwords and client certificates, default applies to every client/,
  );
  // They alone are no file.
  assert.throws(() => readPolicy("x-base: {services: []}", { name: "acl.yaml" }), /^Error: is not a policy/);
  assert.throws(() => readAcl("version: v1\nx-services: []", {}), /services: is missing, and so is default/);
  assert.throws(() => readAcl("base: 1\nservices: []", {}), /base: unknown key; known keys: .*, x-…/);
});

test("Smokescreen's config.yaml is refused with the options to use instead", () => {
  const text = "acl_file: acl.yaml\nport: 4750\ndeny_ranges: [203.0.113.0/24]\nmax_request_rate: 5\nunheard: 1\n";
  assert.throws(() => readPolicy(text, { name: "config.yaml" }), {
    message:
      "is not a policy, but Smokescreen's config.yaml: use these options instead (docs/migrate.md); acl_file: --policy FILE; " +
      "port: --listen IP:PORT; deny_ranges: --deny-cidr CIDR; max_request_rate: requestsPerSecond of each client in an EgressPolicy; no counterpart for the whole proxy",
  });
  assert.throws(() => readPolicy("unheard: 1", { name: "x" }), /^Error: is not a policy: expected a policy document/);
  assert.throws(() => readPolicy("7", { name: "x" }), /^Error: is not a policy: expected a policy document/);
});

test("import takes --service default and ports for the manifests", () => {
  const { yaml, warnings } = importAcl(SERVICES, { service: "default", ports: ["1-65535"] });
  const { metadata, spec } = parse(yaml) as { metadata: object; spec: { defaultAction: string; ports: unknown } };
  assert.deepEqual([metadata, spec.defaultAction, spec.ports], [{ name: "default" }, "Deny", ["1-65535"]]);
  assert.equal(decideFor(yaml, undefined, "everyone.example:22", "8.8.8.8"), "allow");
  assert.doesNotMatch(warnings.join("\n"), /only the ports/);
  assert.match(
    importAcl(SERVICES, { service: "default" }).warnings.join("\n"),
    /^only the ports 80, 443, 1024-65535 are allowed, and Smokescreen allows every port; set spec\.ports/m,
  );
  const alone = importAcl("services: []\ndefault: {action: open}", {}).yaml;
  assert.deepEqual((parse(alone) as { metadata: object }).metadata, { name: "webhooks" });
});
