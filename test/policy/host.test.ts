import assert from "node:assert/strict";
import { isIPv6 } from "node:net";
import { test } from "node:test";
import fc from "fast-check";
import { makeDocument } from "../../proxy/policy/document.ts";
import { compile, decideKnown } from "../../proxy/policy/engine.ts";
import { canonicalHost, HostName, HostSet, parseHostPattern } from "../../proxy/policy/host.ts";
import { formatTarget, parseAbsolute, parseAuthority } from "../../proxy/policy/target.ts";
import { runs, SHARE } from "../harness/runs.ts";

const label63 = "a".repeat(63);
const name253 = `${label63}.${label63}.${label63}.${"b".repeat(61)}`;

test("lower-cases a name and removes one trailing dot", () => {
  const rows: [string, string][] = [
    ["Example.COM", "example.com"],
    ["example.com.", "example.com"],
    ["_dmarc.a_b.example", "_dmarc.a_b.example"],
    ["XN--BCHER-KVA.example", "xn--bcher-kva.example"],
    ["localhost", "localhost"],
    ["1e100.net", "1e100.net"],
    ["1.2.3.4.example", "1.2.3.4.example"],
    ["0x7f.example", "0x7f.example"],
    ["dead.beef", "dead.beef"],
    ["a.0xyz", "a.0xyz"],
    [`${label63}.example`, `${label63}.example`],
    [name253, name253],
    [`${name253}.`, name253],
  ];
  for (const [text, want] of rows) assert.equal(canonicalHost(text), want, text);
});

test("rejects names with other characters or invalid labels", () => {
  const bad = [
    ...["", ".", "..", ".a", "a..b", "a..", " a", "a ", "a\tb", "a\nb", "a\rb", "a\0b", "a,b", "a;b", "a\\b", "a/b"],
    ...["a%61.test", "%61", "user@a.test", "a.test:80", "[a.test]", "*", "*.a.test", "a?b", "a#b", "a'b", 'a"b', "a|b"],
    ...[`${"a".repeat(64)}.test`, `${name253}c`, `${name253}..`],
  ];
  for (const text of bad) assert.equal(canonicalHost(text), null, JSON.stringify(text));
});

test("rejects odd spellings of IPv4 addresses", () => {
  const bad = [
    ...["127.1", "127.0.1", "0x7f.1", "0x7f.0x0.0x0.0x1", "2130706433", "0x7f000001", "0X7F000001", "0177.0.0.1"],
    ...["017700000001", "127.0.0.1.", "127.1.", "1", "0", "0x", "0x.", "a.0x", "a.1", "a.example.0xff", "a.example.7"],
    ...["999.999.999.999", "1.2.3.4.5", "00000000000000000000177.1"],
  ];
  for (const text of bad) assert.equal(canonicalHost(text), null, text);
});

test("lower-casing maps no non-ASCII character to ASCII", () => {
  // U+212A lower-cases to k, U+017F upper-cases to S; the full-width forms are equal under NFKC.
  const bad = [
    "\u212Aelvin.test",
    "a.wor\u212A",
    "\u017Fite.test",
    "\u0130.test",
    "\uFF41.test",
    "a\u3002test",
    "a\uFF0Etest",
  ];
  for (const text of [...bad, "a\u00ADb.test", "a\u200Db.test", "\u2460.test", "b\u00FCcher.example", "\uFEFFa.test"]) {
    assert.equal(canonicalHost(text), null, JSON.stringify(text));
    assert.equal(parseAuthority(`${text}:443`), null, JSON.stringify(text));
    assert.equal(parseAbsolute(`http://${text}/`), null, JSON.stringify(text));
  }
});

test("patterns are converted to the form on the wire", () => {
  const rows: [string, "exact" | "suffix" | "any", string][] = [
    ["*", "any", "*"],
    ["Example.COM", "exact", "example.com"],
    ["example.com.", "exact", "example.com"],
    ["*.Example.COM.", "suffix", "example.com"],
    ["*.test", "suffix", "test"],
    ["*.bücher.example", "suffix", "xn--bcher-kva.example"],
    ["BÜCHER.example", "exact", "xn--bcher-kva.example"],
    ["bu\u0308cher.example", "exact", "xn--bcher-kva.example"],
    ["XN--BCHER-KVA.example", "exact", "xn--bcher-kva.example"],
    ["例え.テスト", "exact", "xn--r8jz45g.xn--zckzah"],
    ["*.a_b.example", "suffix", "a_b.example"],
  ];
  for (const [text, kind, name] of rows) assert.deepEqual(parseHostPattern(text), { kind, name }, text);
});

test("an ambiguous pattern is an error that quotes it", () => {
  const bad = [
    ...[
      "",
      ".",
      "*.",
      "**",
      "*.*",
      "*foo.com",
      "*.*.com",
      "a.*.com",
      "foo.*",
      "a*.com",
      "*..com",
      "..",
      "a..b",
      ".com",
    ],
    ...["example.com:443", "*.example.com:443", "example.com:", "example.com/x", "http://example.com", "u@example.com"],
    ...[
      "10.0.0.5",
      "*.10.0.0.5",
      "10.0.0.0/8",
      "::1",
      "[::1]",
      "fe80::1%eth0",
      "127.1",
      "0x7f.1",
      "2130706433",
      "0177.0.0.1",
    ],
    ...[
      "ex%61mple.com",
      "a b.com",
      " a.com",
      "a.com ",
      "a\0.com",
      "１２７.1",
      "①.example.1",
      "a℀b.example",
      "bücher..example",
    ],
    ...[`${"a".repeat(64)}.test`, `*.${name253}c`, "[example.net]"],
  ];
  for (const text of bad) {
    const parsed = parseHostPattern(text);
    assert.ok("error" in parsed, `${JSON.stringify(text)}: ${JSON.stringify(parsed)}`);
    assert.notEqual(parsed.error, "");
  }
});

test("the error of a pattern names the field or the form to use", () => {
  const rows: [text: string, error: RegExp][] = [
    ["", /^is empty; write a name/],
    ["*.", /^is empty; write a name/],
    ["a*.com", /^"a\*\.com": a wildcard is only/],
    ["10.0.0.5", / is an IP address; use cidrs$/],
    ["[::1]", / is an IP address; use cidrs$/],
    ["x[::1]", /"x\[::1\]" is not a host name; write the name alone/],
    ["[::1]x", /"\[::1\]x" is not a host name; write the name alone/],
    ["10.0.0.0/24", / is a CIDR; use cidrs$/],
    ["2001:DB8::/32", / is a CIDR; use cidrs$/],
    ["x10.0.0.0/8", /"x10\.0\.0\.0\/8" is not a host name/],
    ["10.0.0.0/8x", /"10\.0\.0\.0\/8x" is not a host name/],
    ["a.example:443", / has a port; use ports$/],
    ["a.example:", / has a port; use ports$/],
    ["http://a:80", / is not a host name; write the name alone/],
    ["-a.example", / is not a valid host name$/],
  ];
  for (const [text, error] of rows) assert.match((parseHostPattern(text) as { error: string }).error, error, text);
  // The lists of an acl.yaml have other fields.
  const acl = parseHostPattern("10.0.0.0/24", "acl") as { error: string };
  assert.match(acl.error, / is a CIDR; write single addresses here, and ranges with --allow-cidr or --deny-cidr$/);
});

test("a pattern matches whole labels and never an address", () => {
  const fits = (pattern: string, host: string, except?: string) => {
    const rule = { hosts: [pattern], ...(except === undefined ? {} : { except: [except] }) };
    const set = compile(makeDocument({ defaultAction: "Deny", allow: [rule] }));
    return decideKnown(set, parseAuthority(`${host}:443`)!, ["8.8.8.8"]).verdict === "allow";
  };
  const rows: [pattern: string, host: string, want: boolean, except?: string][] = [
    ["example.com", "EXAMPLE.com.", true],
    ["example.com", "a.example.com", false],
    ["*.example.com", "a.example.com", true],
    ["*.example.com", "c.b.a.example.com", true],
    ["*.example.com", "example.com", false],
    ["*.example.com", "aexample.com", false],
    ["*.example.com", "example.com.evil.test", false],
    ["*.bücher.example", "www.xn--bcher-kva.example", true],
    ["*", "localhost", true],
    ["*", "8.8.8.8", false],
    ["*", "[2606:4700::1111]", false],
    ["*.example.com", "a.example.com", false, "a.example.com"],
    ["*.example.com", "x.a.example.com", true, "a.example.com"],
    ["*.example.com", "x.a.example.com", false, "*.a.example.com"],
    ["*.example.com", "a.example.com", false, "*"],
  ];
  for (const [pattern, host, want, except] of rows) {
    assert.equal(fits(pattern, host, except), want, `${pattern} except ${except}: ${host}`);
  }
});

test("targets have one spelling of host and port", () => {
  const hosts: [string, string, boolean][] = [
    ["[::FFFF:7F00:1]", "127.0.0.1", true],
    ["[0:0:0:0:0:0:0:1]", "::1", true],
    ["[::ffff:127.0.0.1]", "127.0.0.1", true],
    ["127.0.0.1", "127.0.0.1", true],
    ["A_b.Example.", "a_b.example", false],
  ];
  for (const [text, host, ip] of hosts) {
    for (const port of [1, 80, 65535]) {
      assert.deepEqual(parseAuthority(`${text}:${port}`), { host, port, ip }, text);
      assert.deepEqual(parseAbsolute(`http://${text}:${port}/x`)?.target, { host, port, ip }, text);
    }
  }
  const bad = [
    ...[
      "a.test",
      "a.test:",
      "a.test:0",
      "a.test:00",
      "a.test:080",
      "a.test:08080",
      "a.test:65536",
      "a.test:99999999999",
    ],
    ...[
      "a.test:-1",
      "a.test:+1",
      "a.test:1e3",
      "a.test:0x50",
      "a.test: 80",
      "a.test:80 ",
      "a.test:8０",
      "a.test:80:80",
    ],
    ...[
      "[example.net]:443",
      "[127.0.0.1]:443",
      "[::1]x:443",
      "x[::1]:443",
      "[[::1]]:443",
      "[::1]:443]",
      "::1:443",
      "[::]",
    ],
    ...[
      "[fe80::1%eth0]:80",
      "[fe80::1%25eth0]:80",
      "[v1.a]:80",
      "[::1:80",
      "[1::2::3]:80",
      "[:::1]:80",
      "[::127.1]:80",
    ],
    ...[
      "[::ffff:0177.0.0.1]:80",
      "[00001::]:80",
      "127.0.0.1.:80",
      "0127.0.0.1:80",
      "u:p@a.test:80",
      "u@127.0.0.1:80",
      "@a.test:80",
    ],
  ];
  for (const text of bad) assert.equal(parseAuthority(text), null, JSON.stringify(text));
  // An absolute URI may omit the port; everything else is as strict.
  for (const text of bad.filter((entry) => entry !== "a.test" && entry !== "[::]")) {
    assert.equal(parseAbsolute(`http://${text}/`), null, JSON.stringify(text));
  }
});

test("reads addresses in brackets as Node's strict parser does", () => {
  const part = fc.constantFrom(
    ..."0 1 ffff 00001 12345 g :: : ::ffff: 127.0.0.1 0177.0.0.1 010.0.0.1 1.2.3 1.2.3.4.5 256.1.1.1 . %1".split(" "),
  );
  const text = fc
    .array(part, { minLength: 1, maxLength: 9 })
    .chain((parts) => fc.constantFrom(parts.join(":"), parts.join("")));
  const odd: string[] = [];
  let good = 0;
  fc.assert(
    fc.property(fc.oneof(text, fc.ipV6()), (inner) => {
      const want = isIPv6(inner) && !inner.includes("%");
      if (want) good++;
      if ((parseAuthority(`[${inner}]:443`) !== null) !== want) odd.push(inner);
    }),
    { numRuns: runs(20_000) },
  );
  assert.ok(good > 1000 * SHARE, `only ${good} addresses`);
  assert.deepEqual([...new Set(odd)].sort((a, b) => a.length - b.length).slice(0, 10), []);
});

test("a scheme counts at the start of a URI only", () => {
  for (const text of ["1234567a.example/?http://b.example/", "xhttp://a.example/", "/http://a.example/"]) {
    assert.equal(parseAbsolute(text), null, text);
  }
});

test("a target is shown as host and port, an IPv6 address in brackets", () => {
  for (const text of ["a.example:443", "1.2.3.4:80", "[2600::1]:8080"]) {
    assert.equal(formatTarget(parseAuthority(text)!), text);
  }
});

test("a set of many wildcards matches as each of them alone", () => {
  const suffixes = ["a.test", "b.a.test", "c.test", "d.test", "e.test", "f.e.test", "a.test.test"];
  const names = [...suffixes, ...suffixes.map((name) => `x.${name}`), "xa.test", "y.x.c.test", "test", "a.test.c"];
  // Each name is one object for all sets and rounds, as in a decision.
  const asked = names.map((name) => new HostName(name));
  for (let size = 1; size <= suffixes.length; size++) {
    const some = suffixes.slice(0, size);
    const set = new HostSet();
    for (const name of some) set.add({ kind: "suffix", name });
    const outer = new HostSet();
    outer.addSet(set);
    for (const name of [...asked, ...asked.toReversed()]) {
      const expected = some.some((suffix) => name.text !== suffix && name.text.endsWith(`.${suffix}`));
      assert.equal(set.has(name), expected, `${size}: ${name.text}`);
      assert.equal(outer.has(name), expected, `${size}: ${name.text}, shared`);
    }
    set.add({ kind: "suffix", name: "late.test" });
    assert.ok(!outer.has(new HostName("a.late.test.x")));
    assert.ok(outer.has(new HostName("x.late.test")));
  }
});

test("a set with a short and a long wildcard matches both at any depth", () => {
  const long = `${"a.".repeat(100)}test`;
  for (const suffixes of [["test", long], [long, "test"], [long], ["test"]]) {
    const set = new HostSet();
    for (const name of suffixes) set.add({ kind: "suffix", name });
    for (const text of ["test", "x.test", "y.x.test", long, `x.${long}`, `y.x.${long}`, `x${long}`, "a.a"]) {
      const expected = suffixes.some((suffix) => text.endsWith(`.${suffix}`));
      assert.equal(set.has(new HostName(text)), expected, `${suffixes[0]!.length}: ${text}`);
    }
  }
});
