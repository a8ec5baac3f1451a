import assert from "node:assert/strict";
import { test } from "node:test";
import {
  encodeDocument,
  hashDocument,
  makeDocument,
  type PolicyDocument,
  readDocument,
} from "../../proxy/policy/document.ts";
import { readManifest, readPolicy } from "../../proxy/policy/policy-file.ts";
import {
  boundedTexts,
  nearest,
  PolicyError,
  parseCidrs,
  parsePorts,
  plainLine,
  Reader,
  readCidrs,
  shown,
} from "../../proxy/policy/rules.ts";
import { problemsOf } from "./problems.ts";

/** Fields of policy documents and manifests: their bounds, and the messages about wrong ones. */

const DOCUMENT = { version: 1, policy: "a/b" };
const MANIFEST = {
  apiVersion: "egress.outrider.dev/v1alpha1",
  kind: "EgressPolicy",
  metadata: { name: "x" },
  spec: {},
};

const inDocument = (fields: object) => problemsOf(() => readDocument({ ...DOCUMENT, ...fields }));
const inManifest = (fields: object) => problemsOf(() => readManifest({ ...MANIFEST, ...fields }));
const inSpec = (spec: object) => inManifest({ spec });

test("names every wrong field with its path", () => {
  for (const [fields, problem] of [
    [{ version: 2 }, "version: must be 1 without clients, hostSets, upstreamProxy, and a mode that reads certificates"],
    [{ version: 3 }, "version: must be 1 or 2, not 3"],
    [{ policy: "" }, "policy: must be namespace/name, in printable ASCII"],
    [{ policy: "a b" }, "policy: must be namespace/name, in printable ASCII"],
    [{ policy: "x".repeat(321) }, "policy: must be namespace/name, in printable ASCII"],
    [{ mode: "enforce" }, 'mode: must be one of Enforce, Report, not "enforce"'],
    [{ defaultAction: 1 }, "defaultAction: must be one of Allow, Report, Deny, not 1"],
    [{ ports: [] }, "ports: is empty; name at least one, or leave the field out"],
    [{ ports: [0] }, 'ports[0]: 0 is not a port (1 to 65535) or a range such as "8000-8999"'],
    [{ ports: 80 }, "ports: must be a list"],
    [
      { zzz: 1 },
      "zzz: unknown key; known keys: version, policy, mode, defaultAction, ports, allow, deny, blockedCIDRs, staticIPs, verification, proxy",
    ],
    [{ blockedCIDRs: [1] }, "blockedCIDRs[0]: must be a string"],
    [{ blockedCIDRs: ["10.0.0.1/8"] }, 'blockedCIDRs[0]: "10.0.0.1/8" has host bits set; the network is 10.0.0.0/8'],
    [{ staticIPs: [{ address: "x" }] }, "staticIPs[0].address: must be an IP address"],
    [{ staticIPs: [1] }, "staticIPs[0]: must be a mapping"],
    [{ staticIPs: [{ address: "192.0.2.1", sourceAddress: 1 }] }, "staticIPs[0].sourceAddress: must be an IP address"],
    [
      { staticIPs: [{ address: "192.0.2.1", phase: "x" }] },
      'staticIPs[0].phase: must be one of Active, Pending, Retiring, not "x"',
    ],
    [
      { staticIPs: [{ address: "192.0.2.1" }, { address: "192.0.2.1" }] },
      "staticIPs[1].address: 192.0.2.1 is given twice",
    ],
    [{ verification: {} }, "verification.echoURLs: is empty; name at least one echo URL"],
    [{ verification: { echoURLs: ["ftp://a"] } }, "verification.echoURLs[0]: must be an http or https URL"],
    [{ verification: { echoURLs: ["xhttp://a"] } }, "verification.echoURLs[0]: must be an http or https URL"],
    [{ verification: { echoURLs: ["a"] } }, "verification.echoURLs[0]: must be an http or https URL"],
    [{ verification: { echoURLs: [["https://a"]] } }, "verification.echoURLs[0]: must be an http or https URL"],
    [{ proxy: { denyStatus: 404 } }, "proxy.denyStatus: must be 403 or 502, not 404"],
    [{ proxy: { timeouts: 1 } }, "proxy.timeouts: must be a mapping"],
    [{ proxy: { limits: 1 } }, "proxy.limits: must be a mapping"],
    [
      { proxy: { limits: { maxTunnels: "1" } } },
      'proxy.limits.maxTunnels: must be a whole number from 1 to 1000000, not "1"',
    ],
    [
      { proxy: { timeouts: { dnsSeconds: 0 } } },
      "proxy.timeouts.dnsSeconds: must be a whole number from 1 to 60, not 0",
    ],
  ] as const) {
    assert.ok(inDocument(fields).includes(problem), `${problem}: ${inDocument(fields)}`);
  }
  assert.deepEqual(inDocument({ policy: "x".repeat(320) }), []);
  assert.deepEqual(problemsOf(() => readDocument(null)).slice(0, 1), [": must be a mapping"]);
  assert.equal(inDocument({ mode: 1, ports: [0], deny: 1 }).length, 3);
});

test("names every wrong field of a rule", () => {
  const wrong = (rule: unknown) => inDocument({ deny: [rule] }).join("; ");
  const hosts = ["a.example"];
  for (const [rule, problem] of [
    [{}, "deny[0]: is empty; it needs hosts, cidrs or ports"],
    [{ name: "x" }, "deny[0]: is empty; it needs hosts, cidrs or ports"],
    [1, "deny[0]: must be a mapping"],
    [{ hosts: [] }, "deny[0].hosts: is empty; name at least one, or leave the field out"],
    [{ cidrs: [] }, "deny[0].cidrs: is empty; name at least one, or leave the field out"],
    [{ ports: [] }, "deny[0].ports: is empty; name at least one, or leave the field out"],
    [{ hosts: [1] }, "deny[0].hosts[0]: must be a string"],
    [{ cidrs: ["10.0.0.0/8", "x"] }, "deny[0].cidrs[1]: "],
    [{ hosts, except: ["a b"] }, "deny[0].except[0]: "],
    [{ cidrs: ["10.0.0.0/8"], except: hosts }, "deny[0].except: needs hosts: it takes names out of them"],
    [{ hosts, opens: true }, "deny[0].opens: must be false, or left out"],
    [{ hosts, name: 1 }, "deny[0].name: must be 1 to 63 letters, digits, '.', '_' or '-'"],
    [{ hosts, name: "default" }, 'deny[0].name: "default" is the name of the default action'],
  ] as const) {
    assert.ok(wrong(rule).startsWith(problem), `${problem}: ${wrong(rule)}`);
  }
  for (const good of [{ hosts }, { cidrs: ["10.0.0.0/8"] }, { ports: [25] }, { hosts, opens: false }]) {
    assert.equal(wrong(good), "");
  }
  const named = (name: string) => wrong({ hosts, name });
  for (const good of ["a", "A1", "a.b_c-d", "x".repeat(63)]) assert.equal(named(good), "", good);
  for (const bad of ["", "-a", "a-", "a b", "x".repeat(64), "ä"]) assert.match(named(bad), /^deny\[0\]\.name: /, bad);
});

test("rule names are unique in both lists", () => {
  const [a, b] = [
    { name: "a", hosts: ["a.example"] },
    { name: "b", hosts: ["b.example"] },
  ];
  assert.deepEqual(inDocument({ allow: [a, b], deny: [a] }), ['deny[0].name: "a" is the name of allow[0] already']);
  assert.deepEqual(inDocument({ allow: [a], deny: [b] }), []);
});

test("only documents may have rules that open no range", () => {
  const rule = { hosts: ["a.example"], opens: false };
  assert.deepEqual(inDocument({ allow: [rule] }), []);
  assert.match(inSpec({ allow: [rule] }).join(), /^spec\.allow\[0\]\.opens: unknown key/);
});

test("every number has its bounds", () => {
  const put = (path: string, value: number): object => {
    const [first, ...rest] = path.split(".") as [string, ...string[]];
    return { [first]: rest.length === 0 ? value : put(rest.join("."), value) };
  };
  for (const [path, min, max] of [
    ["verification.intervalSeconds", 1, 3600],
    ["verification.timeoutSeconds", 1, 60],
    ["verification.staleAfterSeconds", 1, 86_400],
    ["proxy.timeouts.dnsSeconds", 1, 60],
    ["proxy.timeouts.connectSeconds", 1, 120],
    ["proxy.timeouts.idleSeconds", 1, 86_400],
    ["proxy.timeouts.drainSeconds", 1, 86_400],
    ["proxy.limits.maxTunnels", 1, 1_000_000],
    ["proxy.limits.maxTunnelsPerClient", 0, 1_000_000],
  ] as const) {
    const fieldsWith = (value: number) => {
      const fields = put(path, value) as { verification?: object };
      if (fields.verification !== undefined) Object.assign(fields.verification, { echoURLs: ["https://a.example"] });
      return fields;
    };
    for (const good of [min, max]) assert.deepEqual(inDocument(fieldsWith(good)), [], `${path}: ${good}`);
    for (const bad of [min - 1, max + 1, min + 0.5]) {
      assert.deepEqual(inDocument(fieldsWith(bad)), [
        `${path}: must be a whole number from ${min} to ${max}, not ${bad}`,
      ]);
    }
  }
});

test("every list has its limit", () => {
  const many = <T>(count: number, item: (i: number) => T) => Array.from({ length: count }, (_, i) => item(i));
  const rule = { hosts: ["a.example"] };
  const url = "https://a.example";
  for (const [path, max, fieldsWith] of [
    ["allow", 1024, (n: number) => ({ allow: many(n, () => rule) })],
    ["deny", 1024, (n: number) => ({ deny: many(n, () => rule) })],
    ["ports", 64, (n: number) => ({ ports: many(n, () => 80) })],
    ["deny[0].ports", 64, (n: number) => ({ deny: [{ ports: many(n, () => 80) }] })],
    ["staticIPs", 64, (n: number) => ({ staticIPs: many(n, (i) => ({ address: `192.0.2.${i}` })) })],
    ["verification.echoURLs", 8, (n: number) => ({ verification: { echoURLs: many(n, () => url) } })],
  ] as const) {
    assert.deepEqual(inDocument(fieldsWith(max)), [], path);
    const expected = `${path}: has ${max + 1} entries; at most ${max} are allowed`;
    assert.deepEqual(inDocument(fieldsWith(max + 1)), [expected]);
  }
});

test("a document has the given values, and defaults for the others", () => {
  const full: PolicyDocument = {
    version: 1,
    policy: "a/b",
    mode: "Report",
    defaultAction: "Deny",
    ports: [443],
    allow: [{ name: "one", hosts: ["a.example"], except: ["b.example"], cidrs: ["10.0.0.0/8"], ports: ["1-2"] }],
    deny: [{ ports: [25] }],
    blockedCIDRs: ["10.0.0.0/8"],
    staticIPs: [
      { address: "192.0.2.1", sourceAddress: "10.0.0.1", phase: "Pending" },
      { address: "192.0.2.2", phase: "Retiring" },
    ],
    verification: {
      echoURLs: ["https://a.example", "http://b.example"],
      ...{ intervalSeconds: 2, timeoutSeconds: 3, staleAfterSeconds: 4 },
      onUnverified: "Allow",
    },
    proxy: {
      timeouts: { dnsSeconds: 5, connectSeconds: 6, idleSeconds: 7, drainSeconds: 8 },
      limits: { maxTunnels: 9, maxTunnelsPerClient: 10 },
      denyStatus: 502,
      reasonDetail: "Full",
      accessLog: "Denied",
    },
  };
  assert.deepEqual(readDocument(full), full);
  const smallest = makeDocument({ staticIPs: [{ address: "192.0.2.1" }] });
  assert.deepEqual(smallest.staticIPs, [{ address: "192.0.2.1", phase: "Active" }]);
  assert.deepEqual(smallest.ports, [80, 443, "1024-65535"]);
  assert.ok(!("verification" in smallest));
  assert.equal(smallest.proxy.denyStatus, 403);
});

test("equal documents have one text and one hash, whatever the order of keys", () => {
  const [a, b] = [makeDocument({ mode: "Report", ports: [80] }), makeDocument({ ports: [80], mode: "Report" })];
  assert.equal(encodeDocument(a), encodeDocument(b));
  assert.match(encodeDocument(a), /^\{"version":1,"policy":"test\/test",.*\}\n$/);
  assert.match(hashDocument(a), /^sha256:[0-9a-f]{64}$/);
  assert.equal(hashDocument(a), hashDocument(b));
  assert.notEqual(hashDocument(a), hashDocument(makeDocument({})));
});

test("names every wrong field of a manifest", () => {
  assert.match(
    inManifest({ apiVersion: "v1" }).join(),
    /^apiVersion: must be egress\.outrider\.dev\/v1alpha1, not "v1"/,
  );
  assert.match(inManifest({ kind: "Policy" }).join(), /^kind: must be EgressPolicy, not "Policy"/);
  assert.match(
    inManifest({ other: 1 }).join(),
    /^other: unknown key; known keys: apiVersion, kind, metadata, spec, status$/,
  );
  assert.match(inSpec({ alow: [] }).join(), /^spec\.alow: unknown key; did you mean allow\?/);
  assert.match(inSpec({ mode: "x" }).join(), /^spec\.mode: must be one of Enforce, Report/);
  assert.match(inSpec({ proxy: { zzz: 1 } }).join(), /^spec\.proxy\.zzz: unknown key/);
  const name = (metadata: unknown) => inManifest({ metadata }).join();
  for (const good of ["a", "a-b", "a1", `a${"x".repeat(39)}`]) assert.equal(name({ name: good }), "", good);
  for (const bad of ["", "1a", "-a", "a-", "A", "a.b", "x".repeat(41), 1, undefined]) {
    assert.match(name({ name: bad }), /^metadata\.name: must be 1 to 40 lower-case letters/, String(bad));
  }
  for (const bad of [null, [], "x"]) assert.match(name(bad), /^metadata\.name: /);
  for (const good of ["a", "1a", "x".repeat(63)]) assert.equal(name({ name: "a", namespace: good }), "", good);
  for (const bad of ["", "-a", "a-", "A", "a.b", "x".repeat(64), 1]) {
    assert.equal(name({ name: "a", namespace: bad }), "metadata.namespace: must be a namespace name", String(bad));
  }
});

test("a manifest gives a document, warnings and the need for passwords", () => {
  const of = (spec: object, metadata: object = { name: "x" }) => readManifest({ ...MANIFEST, metadata, spec });
  assert.deepEqual([of({}).kind, of({}).document.policy, of({}).warnings], ["manifest", "default/x", []]);
  assert.equal(of({}, { name: "x", namespace: "convoy" }).document.policy, "convoy/x");
  assert.equal(of({}).needs.password, false);
  assert.equal(of({ authentication: { mode: "None" } }).needs.password, false);
  const basic = of({ authentication: { mode: "Basic", secretRef: { name: "p" } } });
  assert.deepEqual([basic.needs.password, basic.warnings], [true, []]);
  const ignored = of({ preset: "Convoy", nat: {}, injection: {}, networkPolicy: {}, proxy: { replicas: 2, port: 1 } });
  assert.deepEqual(
    ignored.warnings,
    ["preset", "injection", "nat", "networkPolicy", "proxy.replicas", "proxy.port"].map(
      (key) => `spec.${key} is for the operator only: the proxy ignores it`,
    ),
  );
  assert.deepEqual(of({ mode: "Report", proxy: { denyStatus: 502 } }).warnings, []);
  assert.deepEqual(readManifest(MANIFEST, ["10.0.0.0/8"]).document.blockedCIDRs, ["10.0.0.0/8"]);
});

test("verification runs more often if the address moves with its proxy", () => {
  const interval = (nat: unknown, verification: object = {}) => {
    const echoURLs = ["https://a.example"];
    const { document } = readManifest({ ...MANIFEST, spec: { nat, verification: { echoURLs, ...verification } } });
    return document.verification!.intervalSeconds;
  };
  assert.equal(interval({ provider: "KubeVIP" }), 5);
  assert.equal(interval({ provider: "KubeVIP" }, { intervalSeconds: 60 }), 60);
  assert.equal(interval({ provider: "NodeAddress" }), 30);
  assert.equal(interval(undefined), 30);
  assert.equal(interval(null), 30);
  assert.match(
    inSpec({ nat: { provider: "KubeVIP" }, verification: 1 }).join(),
    /^spec\.verification: must be a mapping/,
  );
});

test("detects the kind of a file by its content", () => {
  const kind = (text: string) => readPolicy(text, { name: "p" }).kind;
  assert.equal(kind('{"version": 1, "policy": "a/b"}'), "document");
  assert.equal(kind("version: 1\npolicy: a/b\n"), "document");
  assert.equal(kind(JSON.stringify(MANIFEST)), "manifest");
  assert.equal(kind("global_deny_list: [a.example]"), "acl");
  const error = (text: string) => problemsOf(() => readPolicy(text, { name: "p" })).join();
  assert.match(error("kind: EgressPolicy"), /apiVersion: must be/);
  assert.match(error("apiVersion: egress.outrider.dev/v1alpha1"), /kind: must be EgressPolicy, not undefined/);
  for (const other of ["{}", "[]", "a: 1", "text", "1"]) {
    assert.match(
      error(other),
      /^: is not a policy: expected a policy document \(version: 1\), an EgressPolicy manifest, or an acl\.yaml$/,
    );
  }
  const tabbed = "apiVersion: egress.outrider.dev/v1alpha1\nkind: EgressPolicy\nmetadata:\n\tname: x\nspec: {}\n";
  assert.match(error(tabbed), /^: not valid YAML: tabs as indentation; use spaces$/);
  assert.equal(kind(tabbed.replace("\t", "  ")), "manifest");
  assert.equal(readPolicy("global_deny_list: [a.example]", { name: "p" }).document.policy, "p");
  // Only a manifest can require passwords.
  const document = readPolicy('{"version": 1, "policy": "a/b"}', { name: "p" });
  assert.deepEqual([document.needs.password, document.warnings], [false, []]);
  assert.equal(readPolicy("global_deny_list: [a.example]", { name: "p" }).needs.password, false);
});

test("suggests the word that was probably meant", () => {
  const words = ["hosts", "defaultAction", "mode"];
  for (const [word, meant] of [
    ["host", "hosts"],
    ["Hosts", "hosts"],
    ["default_action", "defaultAction"],
    ["default-acton", "defaultAction"],
    ["defaltActon", "defaultAction"],
    ["mod", "mode"],
    ["modes", "mode"],
    ["mdoes", undefined],
    ["ports", undefined],
    ["", undefined],
    ["x".repeat(65), undefined],
  ] as const) {
    assert.equal(nearest(word, words), meant, word);
  }
  assert.equal(nearest("x".repeat(64), ["x".repeat(64)]), "x".repeat(64));
  assert.equal(nearest("x".repeat(65), ["x".repeat(64)]), undefined);
  // The nearest one, the first of several.
  assert.equal(nearest("abcd", ["abce", "abcd"]), "abcd");
  assert.equal(nearest("abcx", ["abcd", "abce"]), "abcd");
});

test("quotes values of a file on one line, with a length limit", () => {
  assert.equal(shown([1]), "a list");
  assert.equal(shown({}), "a mapping");
  assert.equal(shown(null), "null");
  assert.equal(shown(1), "1");
  assert.equal(shown("a"), '"a"');
  assert.equal(shown("x".repeat(100)), `"${"x".repeat(100)}"`);
  assert.equal(shown("x".repeat(101)), `"${"x".repeat(100)}..."`);
  assert.equal(plainLine("a\nb\u202e", 10), "a\\u000ab\\u202e");
  assert.equal(plainLine("abc", 3), "abc");
  assert.equal(plainLine("abcd", 3), "abc...");
  assert.deepEqual(boundedTexts(["a", "b"], 2), ["a", "b"]);
  assert.deepEqual(boundedTexts(["a", "b", "c", "d"], 2), ["a", "b", "and 2 more"]);
  assert.equal(boundedTexts(["x".repeat(301)], 1)[0]!.length, 303);
  const error = new PolicyError([
    { path: "", message: "one" },
    { path: "a", message: "two" },
  ]);
  assert.deepEqual([error.message, error.code], ["one; a: two", "INVALID_POLICY"]);
});

test("reads ports and ranges of ports", () => {
  for (const [value, expected] of [
    [443, [443, 443]],
    ["443", [443, 443]],
    ["1-65535", [1, 65_535]],
    ["80-80", [80, 80]],
    [65_535, [65_535, 65_535]],
    [65_536, null],
    ["1-65536", null],
    ["81-80", null],
    [0, null],
    ["080", null],
    ["1-0", null],
    ["1-080", null],
    ["a443", null],
    ["443a", null],
    ["1-2-3", null],
    [" 443", null],
    ["123456", null],
    [1.5, null],
    [-1, null],
    [[443], null],
    [null, null],
  ] as const) {
    assert.deepEqual(parsePorts(value), expected, JSON.stringify(value));
  }
});

test("a list that is too long is read up to its limit", () => {
  const reader = new Reader();
  assert.deepEqual(reader.list([1, 2, 3], "a", 2), [1, 2]);
  assert.deepEqual(reader.list([1, 2], "b", 2), [1, 2]);
  assert.deepEqual(reader.list(undefined, "c", 2), []);
  assert.deepEqual(reader.list("x", "d", 2), []);
  assert.deepEqual(
    reader.problems.map(({ path }) => path),
    ["a", "d"],
  );
  assert.throws(() => reader.done(), PolicyError);
  assert.deepEqual(readCidrs(new Reader(), ["10.0.0.0/8"], "e"), ["10.0.0.0/8"]);
  new Reader().done();
});

test("a wrong network that was not checked is an error", () => {
  assert.throws(() => parseCidrs(["10.0.0.0/8", "x"], "allow-cidr"), /^Error: allow-cidr\[1\]: /);
  assert.deepEqual(
    parseCidrs(["10.0.0.0/8"], "p").map(({ text }) => text),
    ["10.0.0.0/8"],
  );
});

test("a document without clients keeps its bytes", () => {
  for (const [text, hash] of [
    [`{"version":1,"policy":"a/b"}`, "sha256:27c2feb3449fdea35ea60c2d258d97d54c2bd7a951c073513b17180ab7fca73a"],
    [
      `{"version":1,"policy":"a/b","mode":"Report","defaultAction":"Deny","ports":[443,"1-2"]}`,
      "sha256:ee2d46b8bfdc937b35f134913877f5785ca2454e9e9ade98b897e467ce9834de",
    ],
    [
      `{"version":1,"policy":"a/b","allow":[{"name":"one","hosts":["a.example","*.B.example"],"except":["x.b.example"],"ports":[80]}]}`,
      "sha256:234c58d2ede5cce6969e9157bce04ea87c45ec4e6a2ddd0a60f7189f3ed4aec5",
    ],
    [
      `{"version":1,"policy":"a/b","deny":[{"ports":[25]},{"cidrs":["8.8.8.0/24"],"opens":false}],"blockedCIDRs":["10.0.0.0/8"]}`,
      "sha256:11875fc972570cce73e01667446567b725701b89f1376ff8502a90db0ab70bed",
    ],
    [
      `{"version":1,"policy":"a/b","staticIPs":[{"address":"203.0.113.10","sourceAddress":"10.0.0.4","phase":"Retiring"}],"verification":{"echoURLs":["https://echo.example/"]}}`,
      "sha256:86d51755267ec6790d11fc10319916eeeb306c06bfeac31d17128a5ac1b8a268",
    ],
    [
      `{"version":1,"policy":"a/b","proxy":{"timeouts":{"dnsSeconds":3},"limits":{"maxTunnelsPerClient":9},"denyStatus":502,"reasonDetail":"Full","accessLog":"None"}}`,
      "sha256:7720099baebfa787addf80f104a0887988df4d733f5d18d47b9765df349a39f3",
    ],
    [
      `{"apiVersion":"egress.outrider.dev/v1alpha1","kind":"EgressPolicy","metadata":{"name":"x"},"spec":{}}`,
      "sha256:2cb06c4da5f73ed2b896e7a8d64b81398a575f645b450d085345144c3f01ecd1",
    ],
    [
      `{"apiVersion":"egress.outrider.dev/v1alpha1","kind":"EgressPolicy","metadata":{"name":"x"},"spec":{"authentication":{"mode":"None"}}}`,
      "sha256:2cb06c4da5f73ed2b896e7a8d64b81398a575f645b450d085345144c3f01ecd1",
    ],
    [
      `{"apiVersion":"egress.outrider.dev/v1alpha1","kind":"EgressPolicy","metadata":{"name":"x"},"spec":{"authentication":{"mode":"Basic","secretRef":{"name":"p"}}}}`,
      "sha256:2cb06c4da5f73ed2b896e7a8d64b81398a575f645b450d085345144c3f01ecd1",
    ],
    [
      `{"apiVersion":"egress.outrider.dev/v1alpha1","kind":"EgressPolicy","metadata":{"name":"x"},"spec":{"defaultAction":"Deny","allow":[{"hosts":["a.example"],"cidrs":["10.0.0.0/8"]}],"deny":[{"hosts":["bad.example"]}]}}`,
      "sha256:46c1d73025676e7e20fa2da41e814d101a866f1a2fa33e978d83488d9968deff",
    ],
    [`global_deny_list: [bad.example]`, "sha256:6620353980ebefb7e26612a1c1d3b9142214208f16dccdd0a777fb0d1b1a4a58"],
    [
      "services: []\ndefault: {name: d, action: enforce, allowed_domains: [a.example, 8.8.8.8]}",
      "sha256:fcfa3d9012b3a2bf3dee4db81eab71f2ac3422bd7e65d196789ef0574f2b4b42",
    ],
  ] as const) {
    assert.equal(hashDocument(readPolicy(text, { name: "p" }).document), hash, text);
  }
});

test("upstreamProxy needs version 2, and has one canonical form", () => {
  const upstreamProxy = { url: "http://Proxy.Corp.Example.:3128/" };
  const document = readDocument({ ...DOCUMENT, version: 2, upstreamProxy });
  const expected = { url: "http://proxy.corp.example:3128", resolve: "Local" };
  assert.deepEqual(document.upstreamProxy, expected);
  assert.match(encodeDocument(document), /^\{"version":2,.*,"upstreamProxy":\{"url":.*,"resolve":"Local"\}\}\n$/);
  const source = readManifest({ ...MANIFEST, spec: { upstreamProxy: { ...upstreamProxy, secretRef: { name: "x" } } } });
  assert.deepEqual([source.document.version, source.document.upstreamProxy], [2, expected]);
  assert.deepEqual(source.warnings, ["spec.upstreamProxy.secretRef is for the operator only: the proxy ignores it"]);
  assert.deepEqual(inDocument({ upstreamProxy })[0]?.startsWith("upstreamProxy: unknown key"), true);
  assert.deepEqual(readDocument({ ...DOCUMENT, version: 2, upstreamProxy: { url: "http://[::1]:80" } }).upstreamProxy, {
    url: "http://[::1]:80",
    resolve: "Local",
  });
});

test("names every wrong field of upstreamProxy, without credentials", () => {
  for (const [upstreamProxy, problem] of [
    [{}, "spec.upstreamProxy.url: must be http://HOST:PORT, not undefined"],
    ["http://a:1", "spec.upstreamProxy: must be a mapping"],
    [{ url: "a:3128" }, 'spec.upstreamProxy.url: must be http://HOST:PORT, not "a:3128"'],
    [{ url: "http://a" }, 'spec.upstreamProxy.url: must be http://HOST:PORT, not "http://a"'],
    [{ url: "http://a:0" }, 'spec.upstreamProxy.url: must be http://HOST:PORT, not "http://a:0"'],
    [{ url: "http://127.1:80" }, 'spec.upstreamProxy.url: must be http://HOST:PORT, not "http://127.1:80"'],
    [{ url: "http://a:80/x" }, 'spec.upstreamProxy.url: must be http://HOST:PORT, not "http://a:80/x"'],
    [{ url: "socks5://a:80" }, 'spec.upstreamProxy.url: must be http://HOST:PORT, not "socks5://a:80"'],
    [
      { url: "https://a:80" },
      'spec.upstreamProxy.url: must be http://HOST:PORT, not "https://a:80": TLS to it is not supported',
    ],
    [
      { url: "http://u:s3cret@a:80" },
      "spec.upstreamProxy.url: must not have credentials; put USER:PASSWORD into the file of --upstream-password-file",
    ],
    [
      { url: "http://a:80", resolve: "local" },
      'spec.upstreamProxy.resolve: must be one of Local, Upstream, not "local"',
    ],
  ] as const) {
    assert.deepEqual(inSpec({ upstreamProxy }), [problem]);
  }
  for (const [host, what] of [
    ["169.254.169.254", "cloud metadata address (169.254.169.254/32)"],
    ["168.63.129.16", "cloud metadata address (168.63.129.16/32)"],
    ["[fd00:ec2::254]", "cloud metadata address (fd00:ec2::/32)"],
    ["169.254.1.1", "link-local address (169.254.0.0/16)"],
    ["[fe80::1]", "link-local address (fe80::/10)"],
    ["[::ffff:169.254.169.254]", "cloud metadata address (169.254.169.254/32)"],
    ["[64:ff9b::a9fe:a9fe]", "cloud metadata address (169.254.169.254/32)"],
    ["0.0.0.0", "unspecified address (0.0.0.0/32)"],
    ["239.1.1.1", "multicast address (224.0.0.0/4)"],
  ] as const) {
    const [problem, ...more] = inSpec({ upstreamProxy: { url: `http://${host}:3128` } });
    assert.match(problem!, /^spec\.upstreamProxy\.url: must not have an? .*; write the address of your proxy$/, host);
    assert.ok(problem!.includes(what), problem);
    assert.deepEqual(more, []);
  }
  // Proxies of companies have private addresses, and --allow-cidr can open loopback.
  for (const host of ["10.0.0.5", "192.168.1.1", "100.64.0.1", "[fd00::5]", "127.0.0.1", "[::1]", "240.0.0.1"]) {
    assert.deepEqual(inSpec({ upstreamProxy: { url: `http://${host}:3128` } }), [], host);
  }
  assert.deepEqual(inSpec({ upstreamProxy: { url: "http://a:80" }, nat: { provider: "KubeVIP" } }), [
    'spec.upstreamProxy: needs nat.provider External, not "KubeVIP"',
  ]);
});

test("warns that an upstream proxy with resolve Upstream checks no addresses", () => {
  const upstreamProxy = { url: "http://a:80", resolve: "Upstream" };
  const warningsOf = (spec: object) => readManifest({ ...MANIFEST, spec }).warnings;
  assert.equal(warningsOf({ upstreamProxy }).length, 1);
  assert.match(warningsOf({ upstreamProxy })[0]!, /the address of a name is not checked/);
  const deny = [{ cidrs: ["8.8.8.0/24"] }];
  assert.match(warningsOf({ upstreamProxy, deny })[1]!, /deny rules with cidrs apply to targets that are IP addresses/);
});
