import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { ClientEntry } from "../../proxy/policy/clients.ts";
import { encodeDocument, makeDocument, type PolicyDocument } from "../../proxy/policy/document.ts";
import { compile, decideKnown, type PolicySet, viewOf } from "../../proxy/policy/engine.ts";
import { PolicyError, type Rule } from "../../proxy/policy/rules.ts";
import { parseAuthority, type Target } from "../../proxy/policy/target.ts";
import { runs, SHARE } from "../harness/runs.ts";
import { askArb, CLIENTS, clientsDocumentArb, optionsArb } from "./arbitraries.ts";
import {
  formsOf,
  hostFits,
  ip,
  judge,
  type Options,
  type Outcome,
  onPort,
  plain,
  type Rights,
  registrySpecial,
  rightsOf,
  text,
  withinAny,
} from "./evaluator.ts";

/** Decisions for clients, compared with the naive evaluator, and with each other. */

const POLICIES = runs(5000);
const ASKS = 6;
const seed = Number(process.env.SEED ?? Date.now() & 0x7fffffff);
const limits = { seed, interruptAfterTimeLimit: 100_000, markInterruptAsFailure: true };

type Partially = Partial<PolicyDocument> & { clients: ClientEntry[] };
interface Ask {
  host: string | bigint;
  port: number;
  found: bigint[];
}

const caseArb = fc.tuple(
  clientsDocumentArb,
  optionsArb,
  fc.array(fc.tuple(askArb, fc.constantFrom(...CLIENTS, null)), { minLength: ASKS, maxLength: ASKS }),
);

/** The document without the entries that the reader refuses; null: none is left, or the reader refuses the rest. */
function readable(partial: Partially): PolicyDocument | null {
  const read = (clients: ClientEntry[]) => {
    try {
      return makeDocument({ ...partial, clients });
    } catch (error) {
      if (error instanceof PolicyError) return null;
      throw error;
    }
  };
  const clients = partial.clients.filter((entry) => read([entry]) !== null);
  return clients.length === 0 ? null : read(clients);
}

function targetOf({ host, port }: Ask): Target {
  const name = typeof host === "string" ? host : text(host);
  return parseAuthority(`${name.includes(":") ? `[${name}]` : name}:${port}`)!;
}
const answersOf = ({ host, found }: Ask): bigint[] => (typeof host === "bigint" ? [host] : found);

function decide(policy: PolicySet, ask: Ask, who: string | null): Outcome {
  const view = viewOf(policy, who === null ? { kind: "missing" } : { kind: "own", name: who });
  if (view === null) return { verdict: "deny", code: "client", in: [] };
  const { verdict, code, rule, wouldDeny, vetted } = decideKnown(view, targetOf(ask), answersOf(ask).map(text));
  return {
    verdict,
    ...(code !== undefined && { code }),
    ...(rule !== undefined && { rule }),
    ...(wouldDeny !== undefined && { wouldDeny: { ...wouldDeny } }),
    in: vetted.filter((v) => v.in).map((v) => ip(v.address)),
  };
}

/** Nothing passes that neither the policy nor the entry allows, whatever the order of the stages. */
function assertAllowed(doc: PolicyDocument, o: Options, ask: Ask, who: string | null, got: Outcome): void {
  const rights = rightsOf(doc, who);
  assert.ok(rights !== null, "a client without a view passes");
  const target = targetOf(ask);
  const applies = (rule: Rule) =>
    hostFits(rule, target) && (rule.ports === undefined || onPort(rule.ports, target.port));
  const allows = rights.allow.filter(applies);
  const byDefault = rights.defaultAction !== "Deny" && onPort(rights.ports, target.port);
  if (got.wouldDeny !== undefined) {
    const { code, rule } = got.wouldDeny;
    const denied = rights.deny.find(({ label }) => label === rule);
    const reported = code === "denied-rule" ? denied?.soft : rights.allowSoft || rights.defaultAction === "Report";
    assert.ok(reported, `${code} ${rule} is not in Report`);
  } else assert.ok(allows.length > 0 || byDefault, "no rule allows the target");
  for (const address of got.in.map(plain)) {
    const forms = formsOf(address, o.nat64Prefixes);
    const hits = ({ cidrs }: Rule) => cidrs === undefined || [address, ...forms].some((f) => withinAny(f, cidrs));
    const denies: Rights["deny"] = rights.deny.filter((rule) => applies(rule) && hits(rule));
    const binding = got.wouldDeny === undefined ? denies : denies.filter(({ soft }) => !soft);
    assert.deepEqual(
      binding.map(({ label }) => label),
      [],
      "a deny rule matches",
    );
    for (const form of forms.filter(registrySpecial)) {
      const opened = allows.some(({ cidrs = [] }) => withinAny(form, cidrs));
      assert.ok(opened || withinAny(form, o.allowCIDRs), `no rule opens ${text(form)}`);
    }
    const admitted = byDefault || rights.allowSoft || allows.some(hits);
    assert.ok(admitted, `no rule admits ${text(address)}`);
  }
}

test(`decides for each client as the naive evaluator (SEED=${seed})`, { timeout: 180_000 }, (t) => {
  const seen = new Map<string, number>();
  let triples = 0;
  fc.assert(
    fc.property(caseArb, ([partial, options, asks]) => {
      const doc = readable(partial);
      if (doc === null) return;
      const policy = compile(doc, options);
      for (const [ask, who] of asks) {
        const got = decide(policy, ask, who);
        const want = judge(doc, options, targetOf(ask), answersOf(ask), who);
        assert.deepEqual(got, want, `${who} asks for ${JSON.stringify(targetOf(ask))}`);
        if (got.verdict === "allow") assertAllowed(doc, options, ask, who, got);
        const owner = want.wouldDeny?.rule?.startsWith("clients.") ? " of the entry" : "";
        const kind = `${want.verdict} ${want.code ?? want.wouldDeny?.code ?? "plain"}${owner}`;
        seen.set(kind, (seen.get(kind) ?? 0) + 1);
        triples++;
      }
    }),
    { numRuns: POLICIES, ...limits },
  );
  t.diagnostic(`${triples} triples: ${JSON.stringify(Object.fromEntries([...seen].sort()))}`);
  assert.ok(triples >= 20_000 * SHARE, `${triples} triples`);
  for (const kind of [
    ...["allow plain", "allow denied-rule", "allow denied-rule of the entry", "allow not-allowed", "allow port"],
    ...["deny denied-rule", "deny not-allowed", "deny port", "deny address", "deny client"],
  ]) {
    assert.ok((seen.get(kind) ?? 0) > 50 * SHARE, `${kind}: ${seen.get(kind) ?? 0} cases`);
  }
});

test(`one entry never changes what another client may do (SEED=${seed})`, { timeout: 180_000 }, () => {
  fc.assert(
    fc.property(caseArb, ([partial, options, asks]) => {
      const doc = readable(partial);
      if (doc === null) return;
      const policy = compile(doc, options);
      const alone = asks.map(([ask, who]) => decide(policy, ask, who));
      // Order and earlier decisions are irrelevant.
      assert.deepEqual(
        asks.toReversed().map(([ask, who]) => decide(policy, ask, who)),
        alone.toReversed(),
      );
      const clients = doc.clients!.toReversed();
      assert.equal(encodeDocument(makeDocument({ ...doc, clients })), encodeDocument(doc));
      const [first, ...others] = doc.clients!;
      const deny = [...(first!.deny ?? []), { ports: ["1-65535"] }];
      const locked = compile(
        makeDocument({ ...doc, clients: [{ ...first!, deny, mode: "Enforce" }, ...others] }),
        options,
      );
      const names = doc.clients!.map(({ name }) => name);
      for (const [i, [ask, who]] of asks.entries()) {
        const entry = who !== null && names.includes(who) ? who : "default";
        if (entry !== first!.name) assert.deepEqual(decide(locked, ask, who), alone[i]);
        else assert.equal(decide(locked, ask, who).verdict, "deny", "the client is locked out");
      }
    }),
    { numRuns: runs(2000), ...limits },
  );
});

test(`an entry without fields decides as the policy without clients (SEED=${seed})`, { timeout: 180_000 }, () => {
  fc.assert(
    fc.property(caseArb, ([{ clients: _clients, hostSets, ...rest }, options, asks]) => {
      const partial = hostSets === undefined ? { ...rest, version: 1 as const } : { ...rest, hostSets };
      const plainly = compile(makeDocument(partial), options);
      const viewed = compile(makeDocument({ ...partial, version: 2, clients: [{ name: "default" }] }), options);
      for (const [ask, who] of asks) assert.deepEqual(decide(viewed, ask, who), decide(plainly, ask, who));
    }),
    { numRuns: runs(2000), ...limits },
  );
});

test(`a further deny rule or a missing allow rule never admits more (SEED=${seed})`, { timeout: 180_000 }, () => {
  fc.assert(
    fc.property(caseArb, clientsDocumentArb, fc.boolean(), ([partial, options, asks], other, ofPolicy) => {
      const doc = readable(partial);
      const rule: Rule | undefined = other.deny.filter(({ hosts = [], except = [] }) =>
        [...hosts, ...except].every((item) => !item.startsWith("set:")),
      )[0];
      if (doc === null || rule === undefined) return;
      const { name: _name, ...extra } = rule;
      const [first, ...others] = doc.clients!;
      const stricter: PolicyDocument[] = [
        ofPolicy
          ? { ...doc, deny: [...doc.deny, extra] }
          : { ...doc, clients: [{ ...first!, deny: [...(first!.deny ?? []), extra] }, ...others] },
      ];
      if ((first!.allow?.length ?? 0) > 1) {
        stricter.push({ ...doc, clients: [{ ...first!, allow: first!.allow!.slice(1) }, ...others] });
      }
      const before = compile(doc, options);
      for (const one of stricter) {
        const after = compile(makeDocument(one), options);
        for (const [ask, who] of asks) {
          if (decide(before, ask, who).verdict === "deny") assert.equal(decide(after, ask, who).verdict, "deny");
        }
      }
    }),
    { numRuns: runs(2000), ...limits },
  );
});
