import assert from "node:assert/strict";
import { test } from "node:test";
import { makeDocument, type PolicyDocument } from "../../proxy/policy/document.ts";
import { type CompileOptions, compile } from "../../proxy/policy/engine.ts";
import { describeView, explain, needsAddresses, parseAsked, viewNamed } from "../../proxy/policy/explain.ts";
import { formatTarget, parseAuthority } from "../../proxy/policy/target.ts";

/** Explanations of decisions, as `outrider explain` prints them. */

const setOf = (partial: Partial<PolicyDocument>, options: CompileOptions = {}) =>
  compile(makeDocument(partial), options);
const target = (text: string) => parseAuthority(text)!;
const LISTS = {
  defaultAction: "Deny" as const,
  allow: [{ name: "hooks", hosts: ["a.example"] }],
  deny: [{ name: "bad", hosts: ["bad.example"] }],
};

test("reads a URL, a host with a port, or an address with a port", () => {
  const asked = (text: string) => {
    const found = parseAsked(text);
    return found === null ? null : formatTarget(found);
  };
  for (const [text, expected] of [
    ["a.example:8443", "a.example:8443"],
    ["[2001:db8::1]:443", "[2001:db8::1]:443"],
    ["http://a.example/hook", "a.example:80"],
    ["HTTP://a.example:8080/hook", "a.example:8080"],
    ["https://a.example", "a.example:443"],
    ["https://a.example/hook?to=b:80", "a.example:443"],
    ["https://a.example?to=b:80", "a.example:443"],
    ["HTTPS://a.example:8443/hook", "a.example:8443"],
    ["https://a.example:80/", "a.example:80"],
    ["https://[2001:db8::1]/", "[2001:db8::1]:443"],
    ["https://[2001:db8::1]:80/", "[2001:db8::1]:80"],
    ["a.example", null],
    ["https://", null],
    ["https://a b/", null],
    ["http://", null],
    ["ftp://a.example", null],
    ["x.https://a.example", null],
    ["x.http://a.example", null],
  ] as const) {
    assert.equal(asked(text), expected, text);
  }
});

test("needs addresses only for names that the lists do not decide", () => {
  const set = setOf(LISTS);
  const needs = (text: string) => needsAddresses(set, target(text));
  assert.deepEqual(
    [needs("a.example:443"), needs("bad.example:443"), needs("other.example:443")],
    [true, false, false],
  );
  assert.equal(needs("8.8.8.8:443"), false);
});

test("explains a name without its addresses", () => {
  const of = (partial: Partial<PolicyDocument>, text: string) => explain(setOf(partial), target(text), null);
  assert.deepEqual(of(LISTS, "a.example:443"), {
    target: "a.example:443",
    verdict: "allow",
    rule: "hooks",
    reason: "the name passes by rule hooks; its addresses are not resolved here",
    addresses: [],
  });
  assert.deepEqual(of(LISTS, "bad.example:443"), {
    target: "bad.example:443",
    verdict: "deny",
    code: "denied-rule",
    rule: "bad",
    reason: "bad.example is denied by rule bad",
    addresses: [],
  });
  assert.match(of({}, "a.example:443").reason, /^the name passes by the default action; /);
  const reported = of({ ...LISTS, mode: "Report" }, "bad.example:443");
  assert.deepEqual([reported.verdict, reported.wouldDeny], ["allow", { code: "denied-rule", rule: "bad" }]);
});

test("explains each address of a name", () => {
  assert.deepEqual(explain(setOf(LISTS), target("a.example:443"), ["8.8.8.8", "10.0.0.1"]), {
    target: "a.example:443",
    verdict: "allow",
    rule: "hooks",
    reason: "allowed by rule hooks",
    addresses: [
      { address: "8.8.8.8", class: "global", verdict: "in", rule: "hooks" },
      {
        address: "10.0.0.1",
        class: "private",
        verdict: "out",
        reason: "a.example resolves to a private address (10.0.0.0/8)",
      },
    ],
  });
  const denied = explain(setOf(LISTS), target("a.example:443"), ["10.0.0.1"]);
  assert.deepEqual([denied.verdict, denied.code], ["deny", "address"]);
});

test("explains an address of a request without a lookup", () => {
  const { verdict, reason, addresses } = explain(setOf({}), target("8.8.8.8:443"), null);
  assert.deepEqual([verdict, reason], ["allow", "allowed by the default action"]);
  assert.deepEqual(addresses, [{ address: "8.8.8.8", class: "global", verdict: "in", rule: "default" }]);
});

test("names the class of the IPv4 address behind a NAT64 prefix", () => {
  const set = setOf({}, { nat64Prefixes: ["2001:db8:64::/96"] });
  const classOf = (address: string) => explain(set, target("a.example:443"), [address]).addresses[0]!.class;
  assert.equal(classOf("2001:db8:64::a00:1"), "private");
  assert.equal(classOf("2001:db8:64::808:808"), "global");
});

const CLIENTS: Partial<PolicyDocument> = {
  ...LISTS,
  version: 2,
  ports: [443],
  proxy: { limits: { maxTunnelsPerClient: 7 } } as never,
  clients: [
    {
      name: "billing",
      allow: [{ hosts: ["b.example"] }],
      inheritAllow: true,
      ports: [8443],
      limits: { maxTunnels: 3 },
      upstreamProxies: [{ hosts: ["p.example"] }],
    },
    { name: "default" },
    { name: "loose", deny: [{ hosts: ["c.example"] }], mode: "Report", defaultAction: "Report" },
  ],
};

test("explains for a client that exists, otherwise for default", () => {
  const name = (partial: Partial<PolicyDocument>, client?: string) => {
    const found = viewNamed(setOf(partial), client);
    return "error" in found ? found.error : found.entry;
  };
  assert.equal(name(LISTS), null);
  assert.equal(name(LISTS, "billing"), "the policy has no clients");
  assert.equal(name(CLIENTS), "default");
  assert.equal(name(CLIENTS, "billing"), "billing");
  const known = "the policy has billing, default, loose";
  assert.equal(name(CLIENTS, "Billing"), `"Billing" is not a client; ${known}`);
  assert.equal(name(CLIENTS, "__proto__"), `"__proto__" is not a client; ${known}`);
  assert.equal(name(CLIENTS, "a\n\u202eb"), `"a\\n\\u202eb" is not a client; ${known}`);
  const clients = Array.from({ length: 22 }, (_, i) => ({ name: `c${10 + i}` }));
  assert.match(
    String(name({ version: 2, clients })),
    /^name a client, since there is no client default; .*c29 and 2 more$/,
  );
});

test("shows the parts of a view and where they are from", () => {
  const parts = (client: string) => {
    const view = viewNamed(setOf(CLIENTS), client);
    return "error" in view ? [] : describeView(view);
  };
  assert.deepEqual(parts("billing"), [
    ["client", "billing"],
    ["deny", "1 rule of the policy"],
    ["allow", "1 rule of the client, 1 rule of the policy"],
    ["default action", "Deny, since the client has allow"],
    ["ports", "8443 (client) for allow rules of the client and the default action, 443 (policy) for other allow rules"],
    ["mode", "Enforce (policy)"],
    ["limits", "maxTunnels 3 (client)"],
    ["upstreamProxies", "1 rule of the client"],
  ]);
  assert.deepEqual(parts("default"), [
    ["client", "default"],
    ["deny", "1 rule of the policy"],
    ["allow", "1 rule of the policy"],
    ["default action", "Deny (policy)"],
    ["ports", "443 (policy)"],
    ["mode", "Enforce (policy)"],
    ["limits", "maxTunnels 7 (policy)"],
  ]);
  assert.deepEqual(parts("loose").slice(1, 6), [
    ["deny", "1 rule of the policy, 1 rule of the client"],
    ["allow", "1 rule of the policy"],
    ["default action", "Report (client)"],
    ["ports", "443 (policy)"],
    ["mode", "Report (client); these refuse nevertheless: deny rules of the policy, the allow side"],
  ]);
  assert.deepEqual(describeView(setOf(LISTS)), []);
});
