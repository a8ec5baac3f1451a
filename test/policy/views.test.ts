import assert from "node:assert/strict";
import { test } from "node:test";
import type { ClientEntry } from "../../proxy/policy/clients.ts";
import { encodeDocument, makeDocument, type PolicyDocument } from "../../proxy/policy/document.ts";
import {
  type CompileOptions,
  compile,
  decideKnown,
  type PolicySet,
  viewOf,
  withOwn,
} from "../../proxy/policy/engine.ts";
import { readManifest } from "../../proxy/policy/policy-file.ts";
import { PolicyError, type Rule } from "../../proxy/policy/rules.ts";
import { parseAuthority } from "../../proxy/policy/target.ts";

/** The view of a client: the cases of docs/adr/0019-clients-with-rules-of-their-own.md, and what all views share. */

type Policy = Partial<PolicyDocument>;
type Entry = Partial<Omit<ClientEntry, "inheritAllow">> & { inheritAllow?: boolean };
const hosts = (...names: string[]): Rule[] => names.map((name) => ({ hosts: [`${name}.example`] }));
const P: Policy = { deny: hosts("bad"), allow: hosts("a"), defaultAction: "Deny", ports: [443], mode: "Enforce" };
const R: Policy = { ...P, mode: "Report" };
const A: Policy = { ...P, defaultAction: "Allow" };
const CIDR = { cidrs: ["93.184.216.0/24"] };
const TEN = "10.0.0.5";
const withDb: Policy = { ...P, allow: [...P.allow!, { hosts: ["db.example"], cidrs: ["10.0.0.0/8"] }] };
const b = hosts("b");
const everything: Rule[] = [{ ports: ["1-65535"] }];

const targetOf = (text: string) => {
  const [host, port = "443"] = text.split(":") as [string, string?];
  return parseAuthority(`${host.includes(".") ? host : `${host}.example`}:${port}`)!;
};
/** `allow RULE`, `CODE RULE`, or `would CODE RULE`; without the rule where it is of no interest. */
function result(view: PolicySet, asked: string): string {
  const [name, at = "93.184.216.34"] = asked.split("@") as [string, string?];
  const { verdict, code, rule, wouldDeny } = decideKnown(view, targetOf(name), [at]);
  if (wouldDeny !== undefined) return `would ${wouldDeny.code} ${wouldDeny.rule}`;
  return verdict === "allow" ? `allow ${rule}` : `${code} ${rule ?? ""}`;
}
function viewFor(policy: Policy, entry: Entry, options: CompileOptions = {}): PolicySet {
  const document = makeDocument({ ...policy, version: 2, clients: [{ name: "c", ...entry } as ClientEntry] });
  return viewOf(compile(document, options), { kind: "own", name: "c" })!;
}

/** Each case: policy, entry, and targets (`HOST:PORT@ADDRESS`) with the begin of their result; or the begin of the error. */
const CASES: [Policy, Entry, Record<string, string> | RegExp, CompileOptions?][] = [
  [P, {}, { a: "allow allow[0]", b: "not-allowed" }],
  [P, { allow: b }, { b: "allow clients.c.allow[0]", a: "not-allowed", bad: "denied-rule deny[0]" }],
  [P, { allow: b, inheritAllow: true }, { a: "allow allow[0]", x: "not-allowed" }],
  [P, { allow: hosts("bad") }, { bad: "denied-rule" }],
  [P, { defaultAction: "Allow" }, { x: "allow default", "x:8443": "port", bad: "denied-rule" }],
  [
    P,
    { defaultAction: "Allow", ports: [8443] },
    { "x:8443": "allow default", x: "port", a: "allow allow[0]", "a:8443": "allow default" },
  ],
  [P, { ports: [8443] }, /^clients\[0\]\.ports: has no effect/],
  [A, { ports: [8443] }, { x: "port", "x:8443": "allow default", a: "allow allow[0]" }],
  [P, { allow: b, ports: [8443] }, { b: "port", "b:8443": "allow" }],
  [P, { allow: [{ hosts: ["b.example"], ports: [22] }], ports: [8443] }, { "b:22": "allow", "b:8443": "port" }],
  [P, { allow: b, inheritAllow: true, ports: [8443] }, { "b:8443": "allow", "a:8443": "port", a: "allow" }],
  [A, { allow: b }, { x: "not-allowed" }],
  [{ ...P, defaultAction: "Report" }, { allow: b }, { x: "not-allowed" }],
  [P, { defaultAction: "Report" }, { x: "would not-allowed default", "x:80": "port" }],
  [P, { allow: b, defaultAction: "Allow" }, { a: "allow default" }],
  [
    P,
    { allow: b, mode: "Report" },
    { x: "would not-allowed", "x:22": "would not-allowed", "b:22": "would port", bad: "denied-rule deny[0]" },
  ],
  [P, { defaultAction: "Deny", mode: "Report" }, /^clients\[0\]\.mode: has no list to report on/],
  [P, { deny: hosts("c"), ports: [8443], mode: "Report" }, /^clients\[0\]\.ports: has no effect/],
  [P, { deny: hosts("c"), mode: "Report" }, { "x:22": "not-allowed", x: "not-allowed", c: "not-allowed" }],
  [P, { deny: b, mode: "Report" }, { a: "allow", b: "not-allowed" }],
  [P, { deny: hosts("a"), mode: "Report" }, { a: "would denied-rule clients.c.deny[0]" }],
  [P, { deny: hosts("a") }, { a: "denied-rule clients.c.deny[0]" }],
  [R, {}, { x: "would not-allowed", bad: "would denied-rule deny[0]" }],
  [R, { mode: "Enforce" }, { a: "allow", b: "not-allowed", bad: "not-allowed" }],
  [R, { mode: "Enforce", ports: [443] }, /^clients\[0\]\.ports: has no effect/],
  [
    { ...A, mode: "Report" },
    { mode: "Enforce", ports: [443] },
    { x: "allow", "x:8443": "port" },
  ],
  [R, { allow: b, mode: "Enforce" }, { x: "not-allowed", bad: "not-allowed", b: "allow" }],
  [R, { allow: hosts("bad"), mode: "Enforce" }, { bad: "would denied-rule deny[0]" }],
  [
    R,
    { deny: hosts("c"), mode: "Enforce" },
    { c: "denied-rule clients.c.deny[0]", bad: "not-allowed", x: "not-allowed", a: "allow" },
  ],
  [R, { allow: b }, { x: "would not-allowed" }],
  [{ ...P, deny: [CIDR] }, { allow: b, mode: "Report" }, { b: "denied-rule deny[0]" }],
  [{ ...R, deny: [CIDR] }, { deny: b }, { b: "would denied-rule clients.c.deny[0]" }],
  [{ ...R, deny: [CIDR] }, { allow: b, deny: [CIDR], mode: "Enforce" }, { b: "denied-rule clients.c.deny[0]" }],
  [
    P,
    { allow: [{ hosts: ["db.example"], cidrs: ["10.0.0.0/8"] }] },
    { [`db@${TEN}`]: "allow", db: "not-allowed default" },
  ],
  [withDb, { allow: b, defaultAction: "Allow" }, { [`db@${TEN}`]: "address" }],
  [
    withDb,
    { allow: b, defaultAction: "Allow", inheritAllow: true, ports: [8443] },
    { [`db:8443@${TEN}`]: "address", [`db@${TEN}`]: "allow allow[1]" },
  ],
  [
    P,
    { allow: [{ hosts: ["m.example"], cidrs: ["169.254.0.0/16"] }], mode: "Report" },
    { "m@169.254.169.254": "address" },
  ],
  [P, { allow: b }, { [`b@${TEN}`]: "allow" }, { allowCIDRs: ["10.0.0.0/8"] }],
  [
    P,
    { allow: [{ hosts: ["db.example"], cidrs: ["10.0.0.0/8"], ports: [443] }], mode: "Report" },
    { [`db:22@${TEN}`]: "address" },
  ],
  [P, { inheritAllow: false }, { a: "allow" }],
  [
    R,
    { mode: "Enforce", deny: everything },
    {
      a: "denied-rule clients.c",
      x: "denied-rule clients.c",
      "bad:22": "denied-rule clients.c",
      "8.8.8.8:1": "denied-rule",
    },
  ],
  [P, { allow: b, mode: "Report", deny: everything }, { b: "would denied-rule clients.c.deny[0]" }],
];

for (const [i, [policy, entry, expected, options]] of CASES.entries()) {
  test(`case ${i + 1}: ${JSON.stringify(entry)} in a policy with ${policy.mode}`, () => {
    if (expected instanceof RegExp) {
      assert.throws(
        () => viewFor(policy, entry),
        (error) => error instanceof PolicyError && expected.test(error.message),
      );
      return;
    }
    const view = viewFor(policy, entry, options);
    for (const [asked, want] of Object.entries(expected)) {
      const got = result(view, asked);
      assert.ok(got.startsWith(want), `${asked}: ${got}, not ${want}`);
    }
  });
}

test("a policy in Report names the stage of the name first", () => {
  const view = compile(makeDocument({ ...R, deny: [CIDR] }));
  assert.equal(result(view, "x"), "would not-allowed default");
});

test("inheritAllow: false is no field", () => {
  const of = (entry: object) => encodeDocument(makeDocument({ ...P, version: 2, clients: [{ name: "c", ...entry }] }));
  assert.equal(of({ inheritAllow: false }), of({}));
});

test("a policy with clients decides nothing without a view", () => {
  for (const [policy, entry, expected, options] of CASES) {
    if (expected instanceof RegExp) continue;
    const root = compile(
      makeDocument({ ...policy, version: 2, clients: [{ name: "c", ...entry } as ClientEntry] }),
      options,
    );
    for (const asked of Object.keys(expected)) assert.equal(result(root, asked), "not-allowed default", asked);
  }
});

test("gives each client the view of its entry, otherwise default, otherwise none", () => {
  const entries = (...names: string[]) => names.map((name) => ({ name }));
  const at = (clients: ClientEntry[] | null, who: Parameters<typeof viewOf>[1], sharedClient?: string) => {
    const authentication = { mode: "Basic" as const, allowMissing: false, sharedClient: sharedClient ?? "default" };
    const fields = clients === null ? {} : { version: 2 as const, clients, authentication };
    const view = viewOf(compile(makeDocument(fields)), who);
    return view === null ? "refused" : view.entry;
  };
  const own = (name: string | null) => ({ kind: "own" as const, name });
  const known = entries("billing", "default", "toString", "__proto__");
  assert.equal(at(null, own("billing")), null);
  assert.equal(at(known, own("billing")), "billing");
  assert.equal(at(known, own("toString")), "toString");
  assert.equal(at(known, own("__proto__")), "__proto__");
  for (const name of ["Billing", "billing ", " billing", "ｂilling", "constructor", "", null]) {
    assert.equal(at(known, own(name)), "default", String(name));
    assert.equal(at(entries("billing"), own(name)), "refused", String(name));
  }
  assert.equal(at(known, { kind: "shared" }), "default");
  assert.equal(at(known, { kind: "missing" }), "default");
  assert.equal(at(entries("billing"), { kind: "shared" }), "refused");
  assert.equal(at(entries("billing"), { kind: "missing" }), "refused");
  assert.equal(at(entries("authed", "default"), { kind: "shared" }, "authed"), "authed");
  assert.equal(at(entries("authed", "default"), { kind: "missing" }, "authed"), "default");
});

test("views share rules and host sets, and a new own address reaches each of them", () => {
  const hostSets = [{ name: "x", hosts: ["x.example"] }];
  const rule = { hosts: ["set:x"] };
  const clients: ClientEntry[] = [
    { name: "one", allow: [rule], inheritAllow: true },
    { name: "two", allow: [rule, { hosts: ["set:x"] }] },
  ];
  const policy = compile(makeDocument({ version: 2, ports: [443], allow: [rule], hostSets, clients }));
  const one = viewOf(policy, { kind: "own", name: "one" })!;
  const two = viewOf(policy, { kind: "own", name: "two" })!;
  assert.equal(one.deny, two.deny);
  assert.equal(one.allow[1]!.hosts, two.allow[0]!.hosts);
  assert.equal(two.allow[0]!.hosts, two.allow[1]!.hosts);
  const moved = withOwn(policy, ["93.184.216.34"]);
  const again = viewOf(moved, { kind: "own", name: "one" })!;
  assert.equal(result(one, "x"), "allow clients.one.allow[0]");
  assert.match(result(again, "x"), /^address/);
  assert.equal(again.entry, "one");
  assert.equal(again.allow, one.allow);
});

test("a reference to a host set matches its names only", () => {
  const hostSets = [{ name: "x", hosts: ["x.example", "*.wild.example"] }];
  const of = (partial: Policy) => compile(makeDocument({ ...P, allow: [], version: 2, hostSets, ...partial }));
  const ported = of({ allow: [{ hosts: ["set:x"], ports: [443] }] });
  assert.deepEqual(
    ["x", "y", "www.wild.example", "wild.example", "8.8.8.8"].map((name) => result(ported, name).split(" ")[0]),
    ["allow", "not-allowed", "allow", "not-allowed", "not-allowed"],
  );
  const ranged = of({ allow: [{ hosts: ["set:x"], cidrs: ["10.0.0.0/8"] }] });
  assert.equal(result(ranged, `x@${TEN}`), "allow allow[0]");
  assert.match(result(ranged, `y@${TEN}`), /^not-allowed/);
  const beside = of({ allow: [{ hosts: ["y.example", "set:x"] }] });
  assert.deepEqual([result(beside, "x"), result(beside, "y")], ["allow allow[0]", "allow allow[0]"]);
  const except = of({ defaultAction: "Allow", deny: [{ hosts: ["*"], except: ["set:x", "y.example"] }] });
  assert.deepEqual(
    ["x", "y", "z"].map((name) => result(except, name).split(" ")[0]),
    ["allow", "allow", "denied-rule"],
  );
});

test("a view has the limits of its entry, otherwise those of the policy", () => {
  const proxy = { limits: { maxTunnelsPerClient: 7 } } as never;
  const of = (limits?: ClientEntry["limits"]) => viewFor({ ...P, proxy }, limits ? { limits } : {}).limits;
  assert.deepEqual(of(), { maxTunnels: 7 });
  assert.deepEqual(of({ maxTunnels: 3 }), { maxTunnels: 3 });
  assert.deepEqual(of({ requestsPerSecond: 2 }), { maxTunnels: 7, requestsPerSecond: 2, burst: 4 });
  assert.deepEqual(of({ maxTunnels: 0 }), { maxTunnels: 0 });
});

test("a manifest and its document give equal views", () => {
  const spec = { ...P, authentication: { mode: "Basic" }, clients: [{ name: "c", allow: b }] };
  const manifest = { apiVersion: "egress.outrider.dev/v1alpha1", kind: "EgressPolicy", metadata: { name: "x" }, spec };
  const view = viewOf(compile(readManifest(manifest).document), { kind: "own", name: "c" })!;
  assert.deepEqual([result(view, "b"), result(view, "a")], ["allow clients.c.allow[0]", "not-allowed default"]);
});
