import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { parseAddress } from "../../proxy/policy/cidr.ts";
import { makeDocument, type PolicyDocument } from "../../proxy/policy/document.ts";
import { compile, decideName, sendsName, vetAll, vetName } from "../../proxy/policy/engine.ts";
import { explain, needsAddresses } from "../../proxy/policy/explain.ts";
import { parseAuthority, type Target } from "../../proxy/policy/target.ts";
import { runs } from "../harness/runs.ts";
import { askArb, documentArb } from "./arbitraries.ts";

/** Names that the upstream proxy resolves: decided without addresses. */

const upstreamProxy = { url: "http://hop.example:3128", resolve: "Upstream" } as const;
const CIDRS = ["93.184.216.0/24"];

/** The decision for a name: `allow RULE`, with `would CODE RULE`, or the code of the refusal. */
function decide(fields: Partial<PolicyDocument>, text = "a.example:443"): string {
  const set = compile(makeDocument({ version: 2, upstreamProxy, ...fields }));
  const target = parseAuthority(text)!;
  const stage = decideName(set, target);
  if ("code" in stage) return stage.code;
  const { rule, refusal, wouldDeny } = vetName(set, target, stage);
  if (refusal !== undefined) return refusal.code;
  return wouldDeny === undefined ? `allow ${rule}` : `allow ${rule} would ${wouldDeny.code} ${wouldDeny.rule}`;
}

test("only rules without cidrs admit a name that the upstream proxy resolves", () => {
  const hosts = ["a.example"];
  for (const [fields, expected] of [
    [{}, "allow default"],
    [{ defaultAction: "Deny" }, "not-allowed"],
    [{ defaultAction: "Report" }, "allow default would not-allowed default"],
    [{ defaultAction: "Deny", allow: [{ hosts }] }, "allow allow[0]"],
    [{ defaultAction: "Deny", allow: [{ hosts, cidrs: CIDRS }] }, "not-allowed"],
    [{ defaultAction: "Deny", allow: [{ hosts, cidrs: CIDRS }, { hosts }] }, "allow allow[1]"],
    [{ defaultAction: "Deny", allow: [{ cidrs: CIDRS }] }, "not-allowed"],
    [{ allow: [{ hosts, cidrs: CIDRS }] }, "allow default"],
    [
      { defaultAction: "Deny", mode: "Report", allow: [{ hosts, cidrs: CIDRS }] },
      "allow default would not-allowed default",
    ],
    [
      { defaultAction: "Deny", mode: "Report", allow: [{ hosts: ["b.example"] }] },
      "allow default would not-allowed default",
    ],
    [{ deny: [{ hosts }] }, "denied-rule"],
    [{ deny: [{ hosts }], mode: "Report" }, "allow default would denied-rule deny[0]"],
    [
      { deny: [{ hosts }], mode: "Report", defaultAction: "Deny", allow: [{ hosts, cidrs: CIDRS }] },
      "allow default would denied-rule deny[0]",
    ],
    [{ deny: [{ hosts, cidrs: CIDRS }] }, "allow default"],
    [{ ports: [80] }, "port"],
  ] as const) {
    assert.equal(decide(fields as Partial<PolicyDocument>), expected, JSON.stringify(fields));
  }
});

test("localhost is not sent: it has the loopback addresses of this machine", () => {
  const set = compile(makeDocument({ version: 2, upstreamProxy }));
  for (const text of ["localhost:443", "LocalHost.:443", "a.localhost:443"]) {
    const target = parseAuthority(text)!;
    assert.deepEqual([sendsName(set, target), needsAddresses(set, target)], [false, true], text);
    assert.equal(explain(set, target, ["127.0.0.1", "::1"]).code, "address");
  }
  assert.equal(sendsName(set, parseAuthority("localhost.example:443")!), true);
});

test("a name that is sent is allowed only if a public address of it would be", () => {
  fc.assert(
    fc.property(documentArb, askArb, (fields, asked) => {
      const document = makeDocument({ ...fields, version: 2, upstreamProxy, staticIPs: [], blockedCIDRs: [] });
      // Deny rules with cidrs know no name.
      const set = compile({ ...document, deny: document.deny.filter(({ cidrs }) => cidrs === undefined) });
      if (typeof asked.host !== "string") return;
      const target: Target = { host: asked.host, port: asked.port, ip: false };
      const stage = decideName(set, target);
      if ("code" in stage) return;
      const sent = vetName(set, target, stage);
      const known = vetAll(set, target, stage, [parseAddress("1.2.3.4")!]);
      if (sent.refusal === undefined) assert.equal(known.refusal, undefined);
      if (sent.refusal === undefined && sent.wouldDeny === undefined) assert.equal(known.wouldDeny, undefined);
    }),
    { numRuns: runs(2000) },
  );
});

test("explains a name that is sent without resolving it", () => {
  const set = compile(
    makeDocument({ version: 2, upstreamProxy, defaultAction: "Deny", allow: [{ hosts: ["a.example"] }] }),
  );
  const asked = (text: string) => parseAuthority(text)!;
  assert.ok(sendsName(set, asked("a.example:443")) && !sendsName(set, asked("10.0.0.1:443")));
  assert.equal(needsAddresses(set, asked("a.example:443")), false);
  const allowed = explain(set, asked("a.example:443"), null);
  assert.deepEqual([allowed.verdict, allowed.rule], ["allow", "allow[0]"]);
  assert.match(allowed.reason, /the upstream proxy resolves the name, and its addresses are not checked/);
  assert.equal(explain(set, asked("b.example:443"), null).code, "not-allowed");
  assert.equal(explain(set, asked("10.0.0.1:443"), null).code, "not-allowed");
  const local = compile(makeDocument({ version: 2, upstreamProxy: { ...upstreamProxy, resolve: "Local" } }));
  assert.equal(needsAddresses(local, asked("a.example:443")), true);
});
