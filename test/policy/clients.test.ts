import assert from "node:assert/strict";
import { test } from "node:test";
import { encodeDocument, hashDocument, makeDocument, readDocument } from "../../proxy/policy/document.ts";
import { readManifest, readPolicy } from "../../proxy/policy/policy-file.ts";
import { problemsOf } from "./problems.ts";

/** Clients and host sets of documents and manifests: their errors, bounds and bytes. */

const manifest = (spec: object) => ({
  apiVersion: "egress.outrider.dev/v1alpha1",
  kind: "EgressPolicy",
  metadata: { name: "x" },
  spec: { authentication: { mode: "Basic", secretRef: { name: "p" } }, ...spec },
});
const inSpec = (spec: object) => problemsOf(() => readManifest(manifest(spec)));
const inDocument = (fields: object) => problemsOf(() => readDocument({ version: 2, policy: "a/b", ...fields }));
/** Problems of one entry, whose name is b. */
const inEntry = (entry: object, spec: object = { defaultAction: "Deny" }) =>
  inSpec({ ...spec, clients: [{ name: "b", ...entry }] });
const hosts = (...names: string[]) => [{ hosts: names }];
const SETS = [{ name: "x", hosts: ["x.example"] }];
const LONG = "a".repeat(64);
const PROTOTYPE = ["__proto__", "constructor", "toString", "hasOwnProperty"];

test("a field of an entry without effect is an error with the fix", () => {
  const empty = "is empty; remove the field";
  const idle = "has no effect; the policy's rules keep the policy's ports";
  const report = "has no list to report on; write defaultAction: Report";
  for (const [entry, problem, spec] of [
    [{ allow: [] }, `allow: ${empty}`],
    [{ deny: [] }, `deny: ${empty}`],
    [{ ports: [], allow: hosts("a.example") }, `ports: ${empty}`],
    [{ limits: {} }, `limits: ${empty}`],
    [{ upstreamProxies: [] }, `upstreamProxies: ${empty}`],
    [{ upstreamProxies: [{}] }, "upstreamProxies[0]: is empty; it needs hosts, cidrs or ports"],
    [
      { inheritAllow: true },
      "inheritAllow: has no effect without allow, where the policy's rules apply anyway; remove it",
    ],
    [{ mode: "Report" }, `mode: ${report}`],
    [{ mode: "Report" }, `mode: ${report}`, { mode: "Report" }],
    [{ mode: "Report", defaultAction: "Deny" }, `mode: ${report}`],
    [{ ports: [8443] }, `ports: ${idle}`],
    [{ ports: [8443], defaultAction: "Deny" }, `ports: ${idle}`, { defaultAction: "Allow" }],
    [{ ports: [8443], deny: hosts("c.example"), mode: "Report" }, `ports: ${idle}`],
    [{ limits: { burst: 2 } }, "limits.burst: has no effect without requestsPerSecond; add it, or remove burst"],
  ] as [object, string, object?][]) {
    assert.deepEqual(inEntry(entry, spec), [`spec.clients[0].${problem}`], JSON.stringify(entry));
  }
  for (const [entry, spec] of [
    [{}],
    [{ inheritAllow: false }],
    [{ mode: "Enforce" }],
    [{ deny: hosts("c.example"), mode: "Report" }],
    [{ ports: [8443], allow: hosts("a.example") }],
    [{ ports: [8443], defaultAction: "Report" }],
    [{ ports: [8443] }, { defaultAction: "Allow" }],
    [{ limits: { maxTunnels: 0 } }],
    [{ name: "spiffe://cluster.local/ns/convoy/sa/billing" }],
    [{ name: "a".repeat(128) }],
  ] as [object, object?][]) {
    assert.deepEqual(inEntry(entry, spec), [], JSON.stringify(entry));
  }
});

test("names the wrong field of an entry", () => {
  for (const [entry, problem] of [
    [{ zzz: 1 }, /^zzz: unknown key; known keys: name, allow/],
    [{ name: "" }, /^name: must be 1 to 128 letters, digits and "\._:\/-", with a letter or digit at both ends$/],
    [{ name: "/a" }, /^name: must be 1 to 128/],
    [{ name: "a:" }, /^name: must be 1 to 128/],
    [{ name: 7 }, /^name: must be 1 to 128/],
    [{ name: "a".repeat(129) }, /^name: must be 1 to 128/],
    [{ name: "a b" }, /^name: must be 1 to 128/],
    [{ name: "bücher" }, /^name: must be 1 to 128/],
    [{ name: "__proto__" }, /^name: must be 1 to 128/],
    [{ name: "outrider" }, /^name: "outrider" is reserved; use another name$/],
    [{ name: "PROXY_PASSWORD" }, /^name: "PROXY_PASSWORD" is reserved/],
    [{ name: "PROXY_PASSWORD_PREVIOUS" }, /^name: .* is reserved/],
    [{ inheritAllow: "yes" }, /^inheritAllow: must be true or false, not "yes"$/],
    [{ defaultAction: "allow" }, /^defaultAction: must be one of .*, not "allow"$/],
    [{ mode: "report" }, /^mode: must be one of Enforce, Report, not "report"$/],
    [{ allow: hosts("a b") }, /^allow\[0\]\.hosts\[0\]: /],
    [{ allow: [{ name: "one", ports: [1] }] }, /^allow\[0\]\.name: "one" is the name of spec\.allow\[0\] already$/],
    [{ limits: { maxTunnels: -1 } }, /^limits\.maxTunnels: must be a whole number from 0 to 1000000, not -1$/],
    [{ limits: { requestsPerSecond: 0 } }, /^limits\.requestsPerSecond: must be a whole number from 1/],
    [{ limits: { requestsPerSecond: 1, burst: 0 } }, /^limits\.burst: must be a whole number from 1/],
  ] as [object, RegExp][]) {
    const problems = inEntry(entry, { allow: [{ name: "one", hosts: ["a.example"] }] });
    assert.equal(problems.length, 1, problems.join());
    assert.match(problems[0]!.replace(/^spec\.clients\[0\]\./, ""), problem);
    assert.ok(!problems[0]!.includes("\n"));
  }
  assert.deepEqual(inSpec({ clients: [] }), ["spec.clients: is empty; remove the field"]);
  assert.deepEqual(inSpec({ clients: {} }), ["spec.clients: must be a list"]);
  assert.deepEqual(inSpec({ clients: [{ name: "a" }, { name: "a" }] }), ['spec.clients[1].name: "a" is given twice']);
});

test("two clients may name their rules alike", () => {
  const allow = [{ name: "own", hosts: ["a.example"] }];
  assert.deepEqual(
    inSpec({
      clients: [
        { name: "a", allow },
        { name: "b", allow },
      ],
    }),
    [],
  );
  const twice = [{ name: "b", allow, deny: [{ name: "own", ports: [25] }] }];
  assert.deepEqual(inSpec({ clients: twice }), [
    'spec.clients[0].deny[0].name: "own" is the name of spec.clients[0].allow[0] already',
  ]);
});

test("a document takes client names of an acl.yaml", () => {
  for (const name of ["a service", "bücher", ...PROTOTYPE, "x".repeat(128)]) {
    assert.deepEqual(inDocument({ clients: [{ name }] }), [], name);
  }
  for (const name of ["", "x".repeat(129), "a\nb", "a\u202eb", 1]) {
    assert.equal(inDocument({ clients: [{ name }] }).length, 1, JSON.stringify(name));
  }
});

test("clients need a way to prove who they are", () => {
  const spec = (authentication: object, clients?: object[]) =>
    inSpec({ authentication, ...(clients ? { clients } : {}) });
  const clients = [{ name: "b" }];
  const path = "spec.authentication";
  assert.deepEqual(spec({}, clients), [`${path}.mode: must be Basic, TLS or BasicOrTLS with clients`]);
  assert.deepEqual(spec({ mode: "None" }, clients), [`${path}.mode: must be Basic, TLS or BasicOrTLS with clients`]);
  assert.equal(spec({ mode: "tls" }, clients)?.length, 1);
  assert.deepEqual(spec({ mode: "Basic", allowMissing: true }), [`${path}.allowMissing: needs clients`]);
  assert.deepEqual(spec({ mode: "Basic", allowMissing: true }, clients), [
    `${path}.allowMissing: needs the client default; the policy has b`,
  ]);
  assert.deepEqual(spec({ mode: "Basic", allowMissing: "yes" }, clients), [
    `${path}.allowMissing: must be true or false, not "yes"`,
  ]);
  assert.deepEqual(spec({ mode: "None", allowMissing: true }), [
    `${path}.allowMissing: needs clients, and the mode Basic, TLS or BasicOrTLS`,
  ]);
  assert.deepEqual(spec({ mode: "Basic", allowMissing: true }, [...clients, { name: "default" }]), []);
  assert.deepEqual(inDocument({ clients, authentication: { mode: "None" } }), [
    "authentication.mode: None needs allowMissing: true; write Basic, TLS or BasicOrTLS",
  ]);
  const open = { mode: "None", allowMissing: true };
  assert.deepEqual(inDocument({ clients: [{ name: "default" }], authentication: open }), []);
});

test("rules refer to host sets of the policy only", () => {
  const allow = (...names: string[]) => inSpec({ hostSets: SETS, allow: hosts(...names) });
  assert.deepEqual(allow("set:x", "a.example"), []);
  assert.deepEqual(inSpec({ hostSets: SETS, deny: [{ hosts: ["*"], except: ["set:x"] }] }), []);
  assert.deepEqual(inSpec({ hostSets: SETS, clients: [{ name: "b", allow: hosts("set:x") }] }), []);
  const path = "spec.allow[0].hosts[0]";
  assert.deepEqual(allow("set:y"), [`${path}: "set:y" refers to no host set; the policy has x`]);
  assert.deepEqual(allow("set:"), [`${path}: "set:" refers to no host set; the policy has x`]);
  for (const name of PROTOTYPE) {
    assert.deepEqual(allow(`set:${name}`), [`${path}: "set:${name}" refers to no host set; the policy has x`]);
  }
  assert.deepEqual(inSpec({ allow: hosts("set:x") }), [`${path}: "set:x" refers to no host set; the policy has none`]);
  assert.deepEqual(allow(...Array<string>(8).fill("set:x")), []);
  assert.deepEqual(allow(...Array<string>(9).fill("set:x")), ["spec.allow[0]: refers to more than 8 host sets"]);
  const many = Array.from({ length: 22 }, (_, i) => ({ name: `s${i}`, hosts: ["a.example"] }));
  assert.match(inSpec({ hostSets: many, allow: hosts("set:y") })[0]!, /the policy has s0, s1, .*, s7 and 2 more$/);
});

test("names the wrong field of a host set", () => {
  const one = (set: object) => inSpec({ hostSets: [set] });
  const path = "spec.hostSets[0]";
  assert.deepEqual(inSpec({ hostSets: [] }), ["spec.hostSets: is empty; remove the field"]);
  assert.deepEqual(one({ name: "x", hosts: [] }), [
    `${path}.hosts: is empty; name at least one, or leave the field out`,
  ]);
  assert.deepEqual(one({ name: "x" }), [`${path}.hosts: is missing; name at least one host`]);
  assert.deepEqual(one({ name: "x", hosts: ["set:x"] }), [
    `${path}.hosts[0]: "set:x" is not a host name; write the name alone, without URL parts`,
  ]);
  for (const name of ["", LONG, "a.b", "-a", "__proto__", 1, undefined]) {
    assert.deepEqual(one({ name, hosts: ["a.example"] }), [`${path}.name: must be 1 to 63 letters, digits or '-'`]);
  }
  assert.deepEqual(one({ name: "constructor", hosts: ["a.example"] }), []);
  assert.deepEqual(inSpec({ hostSets: [...SETS, ...SETS] }), ['spec.hostSets[1].name: "x" is given twice']);
});

test("other kinds of file know no reference to a host set", () => {
  const wrong = '"set:x" is not a host name; write the name alone, without URL parts';
  const version1 = problemsOf(() => readDocument({ version: 1, policy: "a/b", allow: hosts("set:x") }));
  assert.deepEqual(version1, [`allow[0].hosts[0]: ${wrong}`]);
  const acl = problemsOf(() => readPolicy('global_deny_list: ["set:x"]', { name: "p" }));
  assert.equal(acl.length, 1);
  assert.ok(acl[0]!.includes(wrong), acl[0]);
});

test("bounds clients, host sets, and hosts in total", () => {
  const clients = (n: number) => Array.from({ length: n }, (_, i) => ({ name: `c${i}` }));
  assert.deepEqual(inDocument({ clients: clients(1024) }), []);
  assert.deepEqual(inDocument({ clients: clients(1025) }), ["clients: has 1025 entries; at most 1024 are allowed"]);
  const sets = (n: number, size: number) =>
    Array.from({ length: n }, (_, i) => ({ name: `s${i}`, hosts: Array<string>(size).fill("a.example") }));
  assert.deepEqual(inDocument({ hostSets: sets(2048, 1) }), []);
  assert.deepEqual(inDocument({ hostSets: sets(2049, 1) }), ["hostSets: has 2049 entries; at most 2048 are allowed"]);
  assert.deepEqual(inDocument({ hostSets: sets(10, 100_000) }), []);
  assert.deepEqual(inDocument({ hostSets: sets(10, 100_000), allow: hosts("b.example") }), [
    "hostSets: the policy has 1000001 hosts and CIDRs; at most 1000000 are allowed",
  ]);
});

test("version 2 is for the new fields only, and version 1 has none of them", () => {
  const { document } = readManifest(manifest({ hostSets: SETS }));
  assert.equal(document.version, 2);
  assert.deepEqual(Object.keys(document).slice(-3), ["proxy", "authentication", "hostSets"]);
  assert.deepEqual(document.authentication, { mode: "Basic", allowMissing: false, sharedClient: "default" });
  assert.equal(readManifest(manifest({})).document.version, 1);
  assert.equal(readManifest(manifest({ authentication: { mode: "TLS" } })).document.version, 2);
  assert.equal(
    readManifest(manifest({ authentication: { mode: "None" }, hostSets: SETS })).document.authentication,
    undefined,
  );
  assert.deepEqual(inDocument({ authentication: { mode: "Basic" } }), [
    "version: must be 1 without clients, hostSets, upstreamProxy, and a mode that reads certificates",
  ]);
  for (const key of ["clients", "hostSets", "authentication"]) {
    const [problem] = problemsOf(() => readDocument({ version: 1, policy: "a/b", [key]: [] }));
    assert.match(problem!, new RegExp(`^${key}: unknown key`));
  }
});

test("equal clients and host sets have equal bytes", () => {
  const other = { name: "y", hosts: ["y.example"] };
  const of = (clients: object[], hostSets: object[]) =>
    encodeDocument(makeDocument({ version: 2, clients, hostSets } as never));
  const one = of([{ name: "b" }, { name: "a", inheritAllow: false }], [other, ...SETS]);
  assert.equal(one, of([{ name: "a" }, { name: "b" }], [...SETS, other]));
  const document = readDocument(JSON.parse(one));
  assert.equal(hashDocument(document), hashDocument(JSON.parse(one)));
  assert.deepEqual(document.clients, [{ name: "a" }, { name: "b" }]);
  const limits = makeDocument({ version: 2, clients: [{ name: "a", limits: { requestsPerSecond: 3 } }] }).clients;
  assert.deepEqual(limits![0]!.limits, { requestsPerSecond: 3, burst: 6 });
});

test("says which proofs a policy needs", () => {
  const needs = (mode: string) => Object.values(readManifest(manifest({ authentication: { mode } })).needs);
  assert.deepEqual(["None", "Basic", "TLS", "BasicOrTLS"].map(needs), [
    [false, false],
    [true, false],
    [false, true],
    [true, true],
  ]);
  const authentication = { mode: "BasicOrTLS" as const };
  const text = JSON.stringify({ version: 2, policy: "a/b", authentication });
  assert.deepEqual(readPolicy(text, { name: "p" }).needs, { password: true, certificate: true });
});

test("warns about clients that a user should check", () => {
  const warnings = (spec: object) =>
    readManifest(manifest(spec)).warnings.filter((line) => /^(clients|hostSets):/.test(line));
  assert.deepEqual(warnings({ hostSets: SETS }), ["hostSets: no rule refers to the set x"]);
  assert.deepEqual(warnings({ hostSets: SETS, deny: [{ hosts: ["*"], except: ["set:x"] }] }), []);
  assert.match(
    warnings({ clients: [{ name: "a" }] })[0]!,
    /there is no client default: .*add \{name: default\} first$/,
  );
  // The most important ones come first, since messages show a few only.
  assert.match(warnings({ hostSets: SETS, clients: [{ name: "a" }, { name: "A" }] })[0]!, /there is no client default/);
  assert.match(warnings({ hostSets: SETS, clients: [{ name: "a" }, { name: "A" }] }).at(-1)!, /no rule refers to/);
  const clients = [{ name: "default" }, { name: "a", allow: hosts("a.example") }];
  assert.match(
    warnings({ clients })[0]!,
    /a can avoid the rules of their entry: a client with the shared password gets default, whose default action is Allow$/,
  );
  assert.match(warnings({ clients: [...clients, { name: "A" }] })[0]!, /: A, a can avoid|: a, A can avoid/);
  const authentication = { mode: "Basic", secretRef: { name: "s" }, allowMissing: true };
  assert.match(
    warnings({ clients, authentication })[0]!,
    /a can avoid the rules of their entry: a client with the shared password or without a proof gets default/,
  );
  assert.deepEqual(warnings({ clients, defaultAction: "Deny" }), []);
  const twins = [{ name: "default" }, { name: "a" }, { name: "A" }];
  assert.deepEqual(warnings({ clients: twins, defaultAction: "Deny" }), [
    "clients: A and a differ by case only, and are two clients",
  ]);
});

test("warns of no shared password where only certificates count", () => {
  const authentication = { mode: "TLS" };
  const clients = [{ name: "default" }, { name: "a", allow: hosts("a.example") }];
  const warnings = (spec: object) =>
    readManifest(manifest({ authentication, ...spec })).warnings.filter((line) => line.startsWith("clients:"));
  assert.deepEqual(warnings({ clients }), []);
  assert.match(
    warnings({ clients, authentication: { ...authentication, allowMissing: true } })[0]!,
    /default, whose default action is Allow/,
  );
  assert.match(warnings({ clients: [{ name: "a" }] })[0]!, /default: clients without an entry are refused/);
});
