import assert from "node:assert/strict";
import { test } from "node:test";
import { canonicalHost, HostName, HostSet, parseHostPattern } from "../../proxy/policy/host.ts";
import { parseAbsolute, parseAuthority } from "../../proxy/policy/target.ts";

test("CONNECT targets have one canonical form", () => {
  const rows: [string, string, number, boolean][] = [
    ["Example.COM:443", "example.com", 443, false],
    ["example.com.:443", "example.com", 443, false],
    ["a_b.example:1", "a_b.example", 1, false],
    ["10.0.0.5:65535", "10.0.0.5", 65535, true],
    ["[2001:DB8:0::1]:443", "2001:db8::1", 443, true],
    ["[::ffff:7f00:1]:80", "127.0.0.1", 80, true],
    ["[::ffff:127.0.0.1]:80", "127.0.0.1", 80, true],
    ["[::127.0.0.1]:80", "::7f00:1", 80, true],
    ["[::ffff:0:127.0.0.1]:80", "::ffff:0:7f00:1", 80, true],
    ["xn--bcher-kva.example:443", "xn--bcher-kva.example", 443, false],
  ];
  for (const [text, host, port, ip] of rows) assert.deepEqual(parseAuthority(text), { host, port, ip }, text);
});

test("rejects ambiguous targets", () => {
  const bad = [
    ...["", ":", ":443", "example.com", "example.com:", "example.com:0", "example.com:08080", "example.com:65536"],
    ...[
      "example.com:+80",
      "example.com:80 ",
      " example.com:80",
      "example.com:0x50",
      "example.com:https",
      "example.com:-1",
    ],
    ...[
      "127.1:80",
      "0x7f.1:80",
      "0x7f000001:80",
      "2130706433:80",
      "0177.0.0.1:80",
      "127.000.000.001:80",
      "1.2.3.4.:80",
    ],
    ...[
      "1.2.3:80",
      "256.1.1.1:80",
      "user@example.com:80",
      "u:p@example.com:80",
      "example.com:80/x",
      "example.com/x:80",
    ],
    ...[
      "ex%61mple.com:80",
      "exämple.com:80",
      "①②⑦.0.0.1:80",
      "example。com:80",
      "exam\u00adple.com:80",
      "a..b:80",
      ".a:80",
    ],
    ...[
      "a.:.80",
      "example.com..:80",
      "-a.example:80",
      "a-.example:80",
      "[::1:80",
      "::1:80",
      "[::1]",
      "[::1]:",
      "[fe80::1%eth0]:80",
    ],
    ...[
      "[fe80::1%25eth0]:80",
      "[example.net]:443",
      "[1.2.3.4]:80",
      "[]:80",
      "*.example.com:80",
      "a b:80",
      "a\tb:80",
      "a\0b:80",
    ],
    ...[
      `${"a".repeat(64)}.example:80`,
      `${"a.".repeat(127)}aa:80`,
      "http://example.com:80",
      "foo.0x1:80",
      "1:80",
      "0:80",
    ],
  ];
  for (const text of bad) assert.equal(parseAuthority(text), null, JSON.stringify(text));
});

test("accepts absolute http URIs and keeps their path", () => {
  const rows: [string, string, number, string, string][] = [
    ["http://a.example", "a.example", 80, "/", "a.example"],
    ["HTTP://A.example/x?y=1", "a.example", 80, "/x?y=1", "a.example"],
    ["http://a.example?q", "a.example", 80, "/?q", "a.example"],
    ["http://a.example:8080/%2e%2e/", "a.example", 8080, "/%2e%2e/", "a.example:8080"],
    ["http://a.example:80/", "a.example", 80, "/", "a.example"],
    ["http://[2001:db8::1]/", "2001:db8::1", 80, "/", "[2001:db8::1]"],
    ["http://[::ffff:192.0.2.1]:81/a", "192.0.2.1", 81, "/a", "192.0.2.1:81"],
    ["http://[2001:db8::1]:81/a", "2001:db8::1", 81, "/a", "[2001:db8::1]:81"],
    ["http://a.example/http://b.example/", "a.example", 80, "/http://b.example/", "a.example"],
    ["http://a.example/@b.example", "a.example", 80, "/@b.example", "a.example"],
  ];
  for (const [uri, host, port, path, authority] of rows) {
    const parsed = parseAbsolute(uri);
    assert.deepEqual(
      [parsed?.target.host, parsed?.target.port, parsed?.path, parsed?.authority],
      [host, port, path, authority],
      uri,
    );
  }
  const bad = [
    ...[
      "https://a.example/",
      "ftp://a.example/",
      "//a.example/",
      "/",
      "*",
      "a.example:80",
      "http:a.example",
      "http:///x",
    ],
    ...[
      "http://u@a.example/",
      "http://u:p@a.example/",
      "http://a.example:/",
      "http://a.example:0/",
      "http://a.example#f",
    ],
    ...[
      "http://a.example\\@b.example/",
      "http://127.1/",
      "http://0x7f000001/",
      "http://[::1/",
      "http://::1/",
      "http://a.example:80:80/",
    ],
  ];
  for (const uri of bad) assert.equal(parseAbsolute(uri), null, uri);
});

test("host patterns are names, *.name or *", () => {
  const good: [string, string, string][] = [
    ["Example.com.", "exact", "example.com"],
    ["*.Example.com", "suffix", "example.com"],
    ["*", "any", "*"],
    ["bücher.example", "exact", "xn--bcher-kva.example"],
    ["a_b.example", "exact", "a_b.example"],
  ];
  for (const [text, kind, name] of good) assert.deepEqual(parseHostPattern(text), { kind, name }, text);
  const bad: [string, RegExp][] = [
    ["*foo.com", /wildcard/],
    ["a.*.com", /wildcard/],
    ["*.", /empty/],
    ["", /empty/],
    ["example.com:443", /has a port/],
    ["10.0.0.5", /cidrs/],
    ["10.0.0.0/8", /cidrs/],
    ["2001:db8::1", /cidrs/],
    ["http://example.com", /not a host name/],
    ["127.1", /not a valid host name/],
  ];
  for (const [text, message] of bad) {
    const parsed = parseHostPattern(text);
    assert.ok("error" in parsed, text);
    assert.match(parsed.error, message);
  }
});

test("a suffix matches any depth and not the apex", () => {
  const set = new HostSet();
  for (const text of ["*.a.example", "b.example"]) set.add(parseHostPattern(text) as never);
  assert.deepEqual(
    ["x.a.example", "y.x.a.example", "a.example", "xa.example", "b.example", "x.b.example"].map((host) =>
      set.has(new HostName(host)),
    ),
    [true, true, false, false, true, false],
  );
  assert.equal(canonicalHost("A.Example."), "a.example");
});
