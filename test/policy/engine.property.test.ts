import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { makeDocument, type PolicyDocument } from "../../proxy/policy/document.ts";
import { compile, decideKnown } from "../../proxy/policy/engine.ts";
import { parseAuthority } from "../../proxy/policy/target.ts";
import { runs, SHARE } from "../harness/runs.ts";
import { askArb, documentArb, optionsArb } from "./arbitraries.ts";
import { ip, judge, type Options, type Outcome, text } from "./evaluator.ts";

const POLICIES = runs(15_000);
const ASKS = 6;
const seed = Number(process.env.SEED ?? Date.now() & 0x7fffffff);

test(`decides as the naive evaluator (SEED=${seed})`, { timeout: 180_000 }, (t) => {
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
    const decision = decideKnown(set, target, answers.map(text));
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
  // Rare outcomes would not be tested enough.
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
    assert.ok((seen.get(kind) ?? 0) > 100 * SHARE, `${kind}: ${seen.get(kind) ?? 0} cases`);
  }
});

test("vets an address with two IPv4 layouts as all of them", () => {
  const set = compile(makeDocument({ allow: [{ hosts: ["a.example"], cidrs: ["2002::/16", "2001::/32"] }] }));
  const target = parseAuthority("a.example:443")!;
  for (const inner of ["169.254.169.254", "10.0.0.5", "127.0.0.1"]) {
    for (const outer of ["2002:808:808::5efe:", "2002:808:808::200:5efe:", "2001:0:808:808:0:5efe:"]) {
      const { verdict, code } = decideKnown(set, target, [text(ip(`${outer}${inner}`))]);
      assert.deepEqual({ verdict, code }, { verdict: "deny", code: "address" }, `${outer}${inner}`);
    }
  }
  assert.equal(decideKnown(set, target, ["2002:808:808::5efe:8.8.8.8"]).verdict, "allow");
});
