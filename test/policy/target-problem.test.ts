import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { parseAbsolute, parseAuthority } from "../../proxy/policy/target.ts";
import {
  absoluteTargetProblem,
  authorityTargetProblem,
  characterProblem,
  shownTarget,
} from "../../proxy/policy/target-problem.ts";
import { runs } from "../harness/runs.ts";

/** Reasons that are the same for CONNECT (with a port) and for a URI. */
const HOSTS: [string, string][] = [
  ["foo-.example", "the host foo-.example has a label that begins or ends with a hyphen"],
  ["-a.example", "the host -a.example has a label that begins or ends with a hyphen"],
  // As long as a label and a name may be.
  [`-${"a".repeat(62)}.b`, `the host -${"a".repeat(62)}.b has a label that begins or ends with a hyphen`],
  [`-aa${".b".repeat(125)}`, `the host -aa${".b".repeat(38)}.... has a label that begins or ends with a hyphen`],
  ["a..example", "the host a..example has an empty label (two dots, or a dot at the start)"],
  [".a", "the host .a has an empty label (two dots, or a dot at the start)"],
  [`${"a".repeat(64)}.b`, `the host ${"a".repeat(64)}.b has a label of more than 63 characters`],
  [`${"a.".repeat(127)}aa`, `the host ${"a.".repeat(40)}... is longer than 253 characters`],
  [`${"a.".repeat(39)}-a`, `the host ${"a.".repeat(39)}-a has a label that begins or ends with a hyphen`],
  ["ex%61mple.com", "the host ex%61mple.com has the character %, which no host name has"],
  ["*.example.com", "the host *.example.com has the character *, which no host name has"],
  ["x[::1]", "the host x[::1] has the character [, which no host name has"],
  ["user@a.example", "the target has user info (an @); send it in a header field"],
  ["u:secret@a.example", "the target has user info (an @); send it in a header field"],
  ["[example.net]", "brackets are for an IPv6 address, and the text in them is none"],
  ["[127.0.0.1]", "brackets are for an IPv6 address, and the text in them is none"],
  ["[1::2::3]", "brackets are for an IPv6 address, and the text in them is none"],
  ["[fe80::1%25eth0]", "an IPv6 zone (%...) is not supported"],
  ["[::1", "the target has [ without ]"],
  ["[::1]x", "the target has text between ] and the port"],
  ...[
    "127.1",
    "0x7f.1",
    "2130706433",
    "0177.0.0.1",
    "127.000.0.1",
    "1.2.3.4.",
    "256.1.1.1",
    "a.example.7",
    "a.0X7F",
  ].map((host): [string, string] => [
    host,
    `the host ${host} ends in a number; an IPv4 address is a.b.c.d, in decimal, without leading zeros`,
  ]),
];

const PORTS: [string, string][] = [
  ["", "the port is empty"],
  ...["080", "0443", "01", "065535"].map((port): [string, string] => [port, "the port has a leading zero"]),
  ["0", "the port is not from 1 to 65535"],
  ["65536", "the port is not from 1 to 65535"],
  ["https", "the port is not a number"],
  ["0x50", "the port is not a number"],
  ["80:80", "the port is not a number"],
];

test("each rejected target has a reason of its own", () => {
  const connect: [string, string][] = [
    ...HOSTS.map(([host, reason]): [string, string] => [`${host}:443`, reason]),
    ...PORTS.map(([port, reason]): [string, string] => [`a.example:${port}`, reason]),
    ...["::1:443", "2001:db8::1:443", "1:2:3:4:5:6:7:8:443", "::1", "fe80::1%eth0:443"].map(
      (text): [string, string] => [text, "an IPv6 address needs brackets: [ADDRESS]:PORT"],
    ),
    ["a.example", "the CONNECT target has no port; write HOST:PORT"],
    ["[::1]", "the CONNECT target has no port; write HOST:PORT"],
    ["a-b.example", "the CONNECT target has no port; write HOST:PORT"],
    ["127.0.0.1", "the CONNECT target has no port; write HOST:PORT"],
    [":443", "the target has no host"],
    ["http://a.example:80", "CONNECT takes HOST:PORT, not a URI"],
    ["a.example:80/x", "the port is not a number"],
    ["a.example:80/http://b.example", "the port is not a number"],
    ["a.example::443", "the port is not a number"],
    ["[::]:0443", "the port has a leading zero"],
    // Seven groups are no IPv6 address.
    ["1:2:3:4:5:6:443", "the host 1 ends in a number; an IPv4 address is a.b.c.d, in decimal, without leading zeros"],
  ];
  for (const [target, reason] of connect) {
    assert.equal(parseAuthority(target), null, target);
    assert.equal(authorityTargetProblem(target), reason, target);
  }
  const form = "send an absolute http URI (http://HOST/PATH), or CONNECT HOST:PORT";
  const forward = `this is a forward proxy: the target is not an absolute URI; ${form}`;
  const absolute: [string, string][] = [
    ...HOSTS.flatMap(([host, reason]): [string, string][] => [
      [`http://${host}/x`, reason],
      [`http://${host}:8080?q`, reason],
    ]),
    ...PORTS.map(([port, reason]): [string, string] => [`HTTP://a.example:${port}/`, reason]),
    ...["::1", "::1:443", "2001:db8::1"].map((host): [string, string] => [
      `http://${host}/`,
      "an IPv6 address needs brackets: [ADDRESS]",
    ]),
    ["https://a.example/", "https goes through CONNECT"],
    ["ftp://a.example/", `the scheme of the target is not http; ${form}`],
    ...["/", "/x", "*", "a.example:80", "http:a.example", "//a.example/"].map((text): [string, string] => [
      text,
      forward,
    ]),
    ["http:///x", "the target has no host"],
    ["http://a.example#f", "the target has a fragment (#...), which belongs to the client only"],
    ["http://a.example/x#f", "the target has a fragment (#...), which belongs to the client only"],
    ["http://a.example\\@b.example/", "the target has a backslash"],
  ];
  for (const [target, reason] of absolute) {
    assert.equal(parseAbsolute(target), null, target);
    assert.equal(absoluteTargetProblem(target), reason, target);
  }
});

const PART = fc.oneof(
  fc.constantFrom(
    ..."http:// https:// ftp:// a.example foo- .. . : :80 080 / ? # \\ @ [ ] [::1] :: 127.1 % *".split(" "),
  ),
  fc.string({ maxLength: 6, unit: "binary-ascii" }).map((text) => text.replace(/[^!-~]/g, "")),
);

test("every rejected target has a specific reason", () => {
  const text = fc.array(PART, { minLength: 1, maxLength: 6 }).map((parts) => parts.join(""));
  fc.assert(
    fc.property(text, (target) => {
      if (parseAuthority(target) === null)
        assert.notEqual(authorityTargetProblem(target), "the CONNECT target is not HOST:PORT");
      if (parseAbsolute(target) === null)
        assert.doesNotMatch(absoluteTargetProblem(target), /^the target is not an absolute http/);
    }),
    { numRuns: runs(20_000) },
  );
});

test("a byte that is not visible ASCII is named with its place", () => {
  const rows: [string, string | null][] = [
    ["http://a.example/~x?y=%20", null],
    [
      "http://a.example/caf\xc3\xa9",
      "the path or query has the byte 0xC3, which is not ASCII; percent-encode it (%C3)",
    ],
    ["http://a.example/\x80", "the path or query has the byte 0x80, which is not ASCII; percent-encode it (%80)"],
    ["http://a.example?\xa0", "the path or query has the byte 0xA0, which is not ASCII; percent-encode it (%A0)"],
    [
      "http://b\xc3\xbccher.example/",
      "the host has the byte 0xC3, which is not ASCII; write the name in punycode (xn--...)",
    ],
    [
      "b\xc3\xbccher.example:443",
      "the host has the byte 0xC3, which is not ASCII; write the name in punycode (xn--...)",
    ],
    ["/caf\xc3\xa9", "the path or query has the byte 0xC3, which is not ASCII; percent-encode it (%C3)"],
    ["http://a.example/\x01", "the target has the control character 0x01; percent-encode it (%01)"],
    ["http://a.example/\x7f", "the target has the control character 0x7F; percent-encode it (%7F)"],
  ];
  for (const [target, reason] of rows) assert.equal(characterProblem(target), reason, target);
});

test("a rejected target is shown without secrets, escaped and cut", () => {
  const rows: [string, string][] = [
    ["foo-.example:443", "foo-.example:443"],
    ["http://foo-.example:80/hook/token?key=1#f", "http://foo-.example:80"],
    ["/hook/token", "/"],
    ["*", "*"],
    ["", ""],
    ["::1:443", "::1:443"],
    ["[fe80::1%25eth0]:080", "[fe80::1%25eth0]:080"],
    ["http://user:secret@a.example:80/", "http://a.example:80"],
    ["user:secret@a@b.example:443", "b.example:443"],
    // An at sign behind the end of the authority: a password with a slash.
    ["http://user:12/secret@a.example/", "http://user:***"],
    ["http://user:se/cret@a.example/", "http://user:***"],
    // Cut in the middle of user info.
    ["http://user:secr", "http://user:***"],
    ["a.example:https", "a.example:***"],
    ['http://b\xc3\xbc\x00 "c', 'http://b%C3%BC%00%20"c'],
  ];
  for (const [target, shown] of rows) assert.equal(shownTarget(target), shown, target);
  assert.equal(shownTarget("x".repeat(2000)), `${"x".repeat(300)}...`);
  assert.equal(shownTarget("x".repeat(300)), "x".repeat(300));
  assert.ok(shownTarget("\x00".repeat(2000)).length < 310);
  assert.equal(shownTarget(`http://${"t".repeat(5000)}@a..example/`), "http://a..example");
});
