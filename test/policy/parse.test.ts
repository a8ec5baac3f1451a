import assert from "node:assert/strict";
import { test } from "node:test";
import { readAcl } from "../../proxy/policy/acl.ts";
import type { PolicyDocument } from "../../proxy/policy/document.ts";
import { MAX_ALIASES, MAX_VALUES, parseInSteps, parseText } from "../../proxy/policy/parse.ts";
import { readPolicy } from "../../proxy/policy/policy-file.ts";
import { MAX_PROBLEMS_SHOWN, PolicyError } from "../../proxy/policy/rules.ts";
import { SHARE } from "../harness/runs.ts";

/** Files that must not open anything by mistake: each is refused with a message that contains the fix. */

/** Number of entries in a large file. `make mutants` repeats each test many times, with smaller ones. */
const many = (full: number): number => Math.ceil(full * SHARE);

/** CPU time of this process, which other processes do not extend. */
function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

const read = (text: string) => readPolicy(text, { name: "acl.yaml" });

function errorOf(text: string): string {
  try {
    const { document } = read(text);
    return `accepted: ${JSON.stringify(document).slice(0, 200)}`;
  } catch (error) {
    if (error instanceof PolicyError) return error.message;
    throw error;
  }
}

function refuses(rows: readonly [text: string, message: RegExp][]): void {
  for (const [text, message] of rows) assert.match(errorOf(text), message, text.slice(0, 200));
}

const manifest = (spec: string) =>
  `apiVersion: egress.outrider.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {name: x}\nspec: ${spec}\n`;

test("rejects an acl.yaml without services, default and lists", () => {
  refuses([
    ["version: v1\n", /^services: is missing, and so is default; .*default: \{action: open\}/],
    ["version: v1\ndefault:\n", /^default: is empty; give it an action, or remove it/],
    ["services: [{name: a, action: }]", /^services\[0\]\.action: must be one of enforce, report, open, not null/],
    ["services: [null]", /^services\[0\]: must be a mapping/],
    ["default: []", /^default: must be a mapping/],
    ["global_deny_list: [null]", /^global_deny_list\[0\]: must be a string/],
    ["Services: []\nglobal_deny_list: [a.example]", /^Services: unknown key; did you mean services\?/],
    ["Global_Deny_List: [a.example]", /^is not a policy/],
  ]);
});

const shape = ({ defaultAction, allow, deny }: PolicyDocument) => [defaultAction, allow.length, deny.length];

test("an acl.yaml with empty services denies everything and warns", () => {
  for (const services of ["services: []", "services:"]) {
    for (const lists of ["", "global_deny_list: [x.example]\n", "global_allow_list: [y.example]\n"]) {
      const { document, warnings } = read(`${services}\n${lists}`);
      assert.deepEqual(shape(document), ["Deny", 0, lists.includes("deny") ? 1 : 0], lists);
      assert.match(
        warnings.join("\n"),
        /services is empty and there is no default: everything is denied; .*action: open/,
      );
    }
  }
  const open = read("services: []\ndefault: {action: open}\nglobal_deny_list: [x.example]\n");
  assert.deepEqual([shape(open.document), open.warnings], [["Allow", 0, 1], []]);
});

test("global lists decide by the allow list, else by the deny list", () => {
  const rows: [text: string, shape: unknown[], warning: RegExp][] = [
    ["global_deny_list: [x.example]", ["Allow", 0, 1], /everything that is not denied is allowed/],
    ["global_allow_list: [y.example]\nglobal_deny_list: [x.example]", ["Deny", 1, 1], /everything else is denied/],
    [
      "global_allow_list: []\nglobal_deny_list: [x.example]",
      ["Deny", 0, 1],
      /global_allow_list is empty: everything is denied/,
    ],
    [
      "global_allow_list:\nglobal_deny_list: [x.example]",
      ["Deny", 0, 1],
      /global_allow_list is empty: everything is denied/,
    ],
  ];
  for (const [text, expected, warning] of rows) {
    const { document, warnings } = read(text);
    assert.deepEqual(shape(document), expected, text);
    assert.match(warnings.join("\n"), warning, text);
  }
});

test("rejects a duplicate key in JSON and YAML, in any spelling", () => {
  const json = (fields: string) => `{"version": 1, "policy": "a/b", ${fields}}`;
  refuses([
    [
      json('"defaultAction": "Deny",\n"defaultAction": "Allow"'),
      /^defaultAction: the key is given twice \(again in line 2\)/,
    ],
    [
      json('"deny": [{"hosts": ["a.example"]}, {"hosts": ["b.example"], "hosts": ["c.example"]}]'),
      /^deny\[1\]\.hosts: the key/,
    ],
    [json('"deny": [], "d\\u0065ny": []'), /^deny: the key is given twice/],
    [json('"deny": [[], {"a": {"x\\"y": 1, "x\\"y": 2}}]'), /^deny\[1\]\.a\.x"y: the key/],
    ['{"services": [], "services": [{"name": "a", "action": "open"}]}', /^services: the key is given twice/],
    [
      '{"apiVersion": "egress.outrider.dev/v1alpha1", "kind": "EgressPolicy", "metadata": {"name": "a", "name": "b"}}',
      /^metadata\.name: /,
    ],
    ["default: {action: enforce}\ndefault: {action: open}", /^default: the key is given twice \(again in line 2\)/],
    ["services:\n- name: a\n  action: enforce\n  action: open", /^services\[0\]\.action: the key .*line 4/],
    ['default: {action: enforce}\n"default": {action: open}', /^default: the key/],
    ["1: a\n'1': b\nservices: []", /^1: the key is given twice/],
  ]);
  // The same key at other places, keys in strings, escapes: all valid.
  const text = json(
    '"proxy": {"timeouts": {}, "limits": {}}, "allow": [{"name": "version", "hosts": ["version.example"]}]',
  );
  assert.equal(read(text).document.allow[0]!.name, "version");
});

test("rejects expanding aliases and merge keys, tags and YAML 1.1", () => {
  // Each level merges the one before ten times: 10^9 mappings.
  const merges = [
    "x-a0: &a0 {name: a}",
    ...Array.from({ length: 9 }, (_, i) => `x-a${i + 1}: &a${i + 1} {<<: [${`*a${i}, `.repeat(10)}]}`),
  ].join("\n");
  const nested = [
    "x-a0: &a0 {name: a}",
    ...Array.from({ length: 40 }, (_, i) => `x-a${i + 1}: &a${i + 1} {p: {<<: *a${i}}, q: {<<: *a${i}}}`),
  ].join("\n");
  const bomb = ["a: &a [x]", ...Array.from({ length: 20 }, (_, i) => `b${i}: &b${i} [${"*a, ".repeat(9)}*a]`)].join(
    "\n",
  );
  refuses([
    ["base: &b {action: open}\ndefault:\n  <<: *b\n", /^base: unknown key/],
    [`${merges}\ndefault: {<<: *a9, action: open}\n`, /^x-a\d\.<<: a merge key inside of an anchor/],
    [`${nested}\ndefault: {<<: *a39, action: open}\n`, /^x-a\d+\.[pq]\.<<: a merge key inside of an anchor/],
    ["default: &d {<<: *d, action: open}\n", /^default\.<<: a merge key inside of an anchor/],
    ["x-b: &b {action: open}\ndefault: {<<: *b, <<: *b}\n", /^default\.<<: the key is given twice/],
    ["x-b: &b {action: open}\ndefault: {'<<': *b, action: open}\n", /^default\.<<: unknown key/],
    [
      "x-b: &b [a]\ndefault: {<<: *b, action: open}\n",
      /^not valid YAML: the value of a merge key \(<<\) must be a mapping/,
    ],
    ["default: {<<: *gone, action: open}\n", /^not valid YAML: the value of a merge key \(<<\) must be a mapping/],
    ["x-b: &b {__proto__: {action: open}}\ndefault: {<<: *b}\n", /^default\.__proto__: unknown key/],
    ["x-b: &b {actoin: open}\ndefault: {<<: *b}\n", /^default\.actoin: unknown key/],
    ["%YAML 1.1\n---\ndefault: {action: open}\n", /not valid YAML: write it in YAML 1\.2/],
    ["default: !open {action: open}\n", /not valid YAML: Unresolved tag: !open/],
    ["default: {action: open}\n? {a: b}\n: c\n", /not valid YAML: a key must be a word/],
    [`global_deny_list: [&h a.example${", *h".repeat(MAX_ALIASES + 1)}]`, /more than 4096 YAML aliases/],
    // Its 200 aliases stand for 200 values.
    [bomb, /^is not a policy/],
    ["global_deny_list: []\n---\ndefault: {action: open}\n", /Source contains multiple documents/],
    ['{"version": 1, "policy": "a/b"}{"version": 1, "policy": "a/b"}', /not valid JSON/],
  ]);
});

test("a document marker at the end begins no second document", () => {
  for (const end of [
    "---",
    "---\n",
    "--- \n\n# the end\n  # indented\n",
    "---\r\n\r\n",
    "---\n---\n",
    "...\n",
    "--- # end\n",
    "--- \t# end\n",
  ]) {
    const text = `---\ndefault: {action: enforce}\n${end}`;
    // Only one marker is removed.
    if (end === "---\n---\n") assert.match(errorOf(text), /Source contains multiple documents/);
    else assert.deepEqual(shape(read(text).document), ["Deny", 0, 0], JSON.stringify(end));
  }
  refuses([
    ["default: {action: open}\n---\nx\n", /Source contains multiple documents/],
    ["default: {action: open}\n--- x\n", /Source contains multiple documents/],
    ["default: {action: open}\n---\n# c\nglobal_deny_list: []\n", /Source contains multiple documents/],
    ["---\n---\ndefault: {action: open}\n", /Source contains multiple documents|is not a policy/],
    ["---\n", /is not a policy/],
  ]);
});

test("rejects prototype keys, other versions and broken bytes", () => {
  refuses([
    ['{"version": 1, "policy": "a/b", "__proto__": {"defaultAction": "Allow"}}', /^__proto__: unknown key/],
    ["__proto__: {services: []}\nservices: []", /^__proto__: unknown key/],
    ['{"version": "1", "policy": "a/b"}', /^version: must be 1 or 2, not "1"/],
    ['{"version": [1], "policy": "a/b"}', /^version: must be 1 or 2, not a list/],
    ["global_deny_list: [a.example]\n\0\0\0", /^the file has a NUL character/],
    [`${"[".repeat(50_000)}`, /nested too deeply|not valid YAML/],
    [
      `{"version": ${"[".repeat(200_000)}${"]".repeat(200_000)}, "policy": "a/b"}`,
      /version: must be 1 or 2, not a list/,
    ],
  ]);
  assert.equal(read('\uFEFF{"version": 1, "policy": "a/b"}').kind, "document");
  assert.equal(read("\uFEFFglobal_deny_list: [a.example]").kind, "acl");
});

test("rejects null and mistyped fields of a manifest", () => {
  refuses([
    [manifest("null"), /^spec: must be a mapping/],
    [manifest("{authentication: Basic}"), /^spec\.authentication: must be a mapping/],
    [manifest("{authentication: null}"), /^spec\.authentication: must be a mapping/],
    [manifest("{authentication: {Mode: Basic}}"), /^spec\.authentication\.Mode: unknown key; did you mean mode\?/],
    [manifest("{authentication: {mode: null}}"), /^spec\.authentication\.mode: must be one of/],
    [manifest("{allow: null}"), /^spec\.allow: must be a list/],
    [manifest("{deny: null}"), /^spec\.deny: must be a list/],
    [manifest("{deny: [{hosts: null}]}"), /^spec\.deny\[0\]\.hosts: must be a list/],
    [manifest("{defaultAction: null}"), /^spec\.defaultAction: must be one of/],
    [manifest("{verification: null}"), /^spec\.verification: must be a mapping/],
    [manifest("{staticIPs: [{address: [192.0.2.1]}]}"), /^spec\.staticIPs\[0\]\.address: must be an IP address/],
  ]);
});

test("thousands of wrong entries give a short message with a count", () => {
  const count = many(60_000);
  const list = Array.from({ length: count }, (_, i) => `- "bad name ${i}"`).join("\n");
  const message = errorOf(`global_deny_list:\n${list}\n`);
  assert.ok(message.length < 4000, `${message.length} characters`);
  assert.match(message, new RegExp(`global_deny_list\\[9\\].*; and ${count - 10} more$`));
  const keys = Array.from({ length: many(20_000) }, (_, i) => `"service${i}": 1`).join();
  const began = cpuMs();
  const unknown = errorOf(`{"services": [], ${keys}}`);
  assert.match(unknown, /service0: unknown key; did you mean services\?/);
  assert.ok(unknown.endsWith(`; and ${many(20_000) - 10} more`), unknown.slice(-100));
  assert.ok(cpuMs() - began < 5000);
  const long = errorOf(`{"services": [], "${"x".repeat(1_000_000)}": 1}`);
  assert.ok(long.length < 1000);
  const { problems } = assertPolicyError(() => readAcl(`global_deny_list:\n${list}`, {}));
  assert.ok(problems.length > MAX_PROBLEMS_SHOWN);
  const overlaps = `global_allow_list:\n${Array.from({ length: 5000 }, (_, i) => `- "h${i}.example"`).join("\n")}`;
  const { warnings } = read(`${overlaps}\nglobal_deny_list: ["*.example"]`);
  assert.deepEqual([warnings.length, warnings.at(-1)], [101, "and 4901 more"]);
});

function assertPolicyError(run: () => unknown): PolicyError {
  try {
    run();
  } catch (error) {
    if (error instanceof PolicyError) return error;
    throw error;
  }
  assert.fail("no error");
}

test("numbers the problems if there are several", () => {
  const one = { path: "a", message: "x; y" };
  const whole = { path: "", message: "z" };
  assert.equal(new PolicyError([one]).numbered, "a: x; y");
  assert.equal(new PolicyError([whole]).numbered, "z");
  assert.equal(new PolicyError([one, whole]).numbered, "(1) a: x; y; (2) z");
});

test("a message contains no terminal control characters", () => {
  const message = errorOf('{"services": [], "\\u001b[2Jx\\u009b31m\\u202e": 1}');
  assert.match(message, /^\\u001b\[2Jx\\u009b31m\\u202e: unknown key/);
});

test("reads many keys, aliases and levels in linear time", () => {
  const began = cpuMs();
  errorOf(Array.from({ length: many(40_000) }, (_, i) => `k${i}: &a${i} x`).join("\n"));
  errorOf(`services:\n${Array.from({ length: many(40_000) }, (_, i) => `- {name: s${i}, action: open}`).join("\n")}`);
  errorOf(`{"version": 1, "policy": "${'\\\\\\"'.repeat(many(200_000))}"}`);
  assert.ok(cpuMs() - began < 15_000, `${cpuMs() - began} ms`);
});

test("finds a duplicate key behind backslashes, and in the right line", () => {
  const json = (fields: string) => `{"version": 1,\n"policy": "a/b",\n${fields}\n}\n`;
  refuses([
    [json('"x": "\\\\", "x": 1'), /^x: the key is given twice \(again in line 3\)/],
    [json('"x\\\\": 1, "x\\\\": 2'), /^x\\: the key is given twice \(again in line 3\)/],
    [json('"x": "\\\\\\"", "x": 1'), /^x: the key is given twice/],
  ]);
  // A value may equal a key.
  const { document } = read(json('"mode": "Enforce", "allow": [{"name": "hosts", "hosts": ["a.example"]}]'));
  assert.equal(document.allow[0]!.name, "hosts");
});

test("names the limits and the fixes of YAML files", () => {
  const aliases = (count: number) => `global_deny_list: [&h a.example${", *h".repeat(count)}]`;
  assert.match(errorOf(aliases(MAX_ALIASES - 1)), /^accepted/);
  const list = `x-list: &l [${"a.example, ".repeat(many(10_000))}]\n`;
  const uses = (count: number) => `${list}services: [${"{l: *l}, ".repeat(count)}]\n`;
  const most = Math.floor(MAX_VALUES / many(10_000));
  assert.match(errorOf(uses(Math.min(most - 2, MAX_ALIASES))), /^services\[0\]\.l: unknown key/);
  const lines = Array.from({ length: 9 }, (_, i) => `b${i}: &b${i} [${`*${i === 0 ? "a" : `b${i - 1}`}, `.repeat(9)}]`);
  refuses([
    [
      ["a: &a [x]", ...lines].join("\n"),
      /^the file has more than 10000000 values, with those behind its YAML aliases$/,
    ],
    [
      "global_deny_list: [*.a.example]",
      /^not valid YAML: \*\.a\.example is an alias in YAML; put it in quotes: "\*\.a\.example"$/,
    ],
    ["a: 1\n---\nb: 1\n", /multiple documents; write one policy in a file$/],
    ["", /^the file is empty$/],
    [" \n", /^the file is empty$/],
    ['global_deny_list: ["a\uFEFF.example"]', /^global_deny_list\[0\]: /],
  ]);
});

test("reads tabs of the indentation as two spaces each", () => {
  assert.deepEqual(parseText("a:\n\t\tb: 1\n"), { value: { a: { b: 1 } }, format: "yaml", tabs: true });
  assert.deepEqual(parseText('a: "x\ty"\n'), { value: { a: "x\ty" }, format: "yaml", tabs: false });
  assert.deepEqual(parseText("a:\n"), { value: { a: null }, format: "yaml", tabs: false });
  assert.deepEqual(parseText('\n {"a": "x"}'), { value: { a: "x" }, format: "json", tabs: false });
});

test("a problem of YAML names its line", () => {
  assert.throws(() => parseText("a: 1\nb: [1\nc: 2\n"), /not valid YAML: .* at line 3, column \d+:?$/);
});

test("parses in steps, each with the share that is read", () => {
  const steps = parseInSteps(`a:\n${"- b.example\n".repeat(20_000)}`);
  const shares: number[] = [];
  let step = steps.next();
  for (; !step.done; step = steps.next()) shares.push(step.value);
  assert.equal((step.value.value as { a: string[] }).a.length, 20_000);
  assert.ok(shares.length > 5, `${shares.length} steps`);
  assert.deepEqual(
    shares,
    [...shares].sort((a, b) => a - b),
  );
  assert.ok(shares[0]! > 0);
  assert.equal(shares.at(-1), 1);
  assert.ok(shares.at(-2)! < 1);
});
