import assert from "node:assert/strict";
import { test } from "node:test";
import { HeadParser, MAX_HEAD_BYTES, ResponseHeadParser } from "../../proxy/http/head.ts";
import { boundCounts } from "../../proxy/outcome/bounds.ts";

type Outcome = { head: object; rest: string } | { refusal: object } | null;

/** Feeds pieces until the parser answers; later bytes are part of the rest. */
function parse(pieces: readonly Buffer[]): Outcome {
  const parser = new HeadParser();
  for (const [i, piece] of pieces.entries()) {
    const result = parser.feed(piece);
    if (result === null) continue;
    if ("refusal" in result) return result;
    return { head: result.head, rest: Buffer.concat([result.rest, ...pieces.slice(i + 1)]).toString("latin1") };
  }
  return null;
}

const bytes = (text: string): Buffer => Buffer.from(text, "latin1");

const GOOD = [
  "!#$%&'*+-.^_`|~09AZaz http://a.example/ HTTP/1.1\r\nHost: a\r\n!#$%&'*+-.^_`|~09AZaz: x\r\n\r\n",
  "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n",
  "CONNECT a.example:443 HTTP/1.0\r\n\r\n\x16\x03\x01hello",
  "CONNECT a.example:443 HTTP/1.1\r\n\r\n",
  "\r\nGET http://a.example/ HTTP/1.1\r\nHost: b.example\r\nX: \t v \r\nEmpty:\r\n\r\nrest",
  "POST http://a.example/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
  "POST http://a.example/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
  "GET http://a.example/ HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic OnM=\r\nConnection: close, X-A\r\nX-A: \xe9\r\n\r\n",
];

const BAD: [string, 400 | 431][] = [
  ["POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400],
  ["POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", 400],
  ["POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", 400],
  ...["+3", "-3", "3 ", "3,3", "0x3", "", "3a", "9999999999999999"]
    .slice(0, 2)
    .map((v): [string, 400] => [`POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: ${v}\r\n\r\n`, 400]),
  ...["3,3", "0x3", "", "3a", "9999999999999999", "3 3"].map((v): [string, 400] => [
    `POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: ${v}\r\n\r\n`,
    400,
  ]),
  ...["gzip, chunked", "chunked, chunked", "identity", "xchunked", "chunked;q=1", "\x0bchunked"].map(
    (v): [string, 400] => [`POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ${v}\r\n\r\n`, 400],
  ),
  ["POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400],
  ["POST http://a/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400],
  ["POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", 400],
  ["GET http://a/ HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n", 400],
  ["GET http://a/ HTTP/1.1\r\nHost: a\r\n\tX: 1\r\n\r\n", 400],
  ["GET http://a/ HTTP/1.1\nHost: a\n\n", 400],
  ["GET http://a/ HTTP/1.1\r\nHost: a\n\r\n", 400],
  ["GET http://a/ HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400],
  ["GET http://a/ HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400],
  // The first byte of a SOCKS5 client, later in the head.
  ["GET http://a/ HTTP/1.1\r\nHost: a\r\nX: a\x05b\r\n\r\n", 400],
  ["GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400],
  ["GET http://a/ HTTP/1.1\r\n\r\n", 400],
  ["GET http://a/ HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400],
  ["GET http://\xe4/ HTTP/1.1\r\nHost: a\r\n\r\n", 400],
  ["GET  http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400],
  ["GET http://a/ HTTP/1.1 \r\nHost: a\r\n\r\n", 400],
  ["GET\thttp://a/\tHTTP/1.1\r\nHost: a\r\n\r\n", 400],
  ["GET http://a/\r\nHost: a\r\n\r\n", 400],
  ["GET  HTTP/1.1\r\nHost: a\r\n\r\n", 400],
  ["GET http://a/ HTTP/2.0\r\nHost: a\r\n\r\n", 400],
  ["GET http://a/ http/1.1\r\nHost: a\r\n\r\n", 400],
  ...["", "G(T", "G,T", 'G"T', "G:T", "G/T", "G[T", "G\x7fT", "G\x01T", "G\xc9T", "{}", "GET\v"].map(
    (method): [string, 400] => [`${method} http://a/ HTTP/1.1\r\nHost: a\r\n\r\n`, 400],
  ),
  ...["", "X(", "X,", 'X"', "X/", "X[", "X\x7f", "X\x01", "X\xc9", "X ", "X\t", "X\v"].map((field): [string, 400] => [
    `GET http://a/ HTTP/1.1\r\nHost: a\r\n${field}: x\r\n\r\n`,
    400,
  ]),
  ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400],
  ["\r\n\r\nGET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400],
  ["\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\n", 400],
  ["CONNECT a:1 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 400],
  ["CONNECT a:1 HTTP/1.1\r\nProxy-Authorization: Basic a\r\nProxy-Authorization: Basic b\r\n\r\n", 400],
  [`GET http://a/${"x".repeat(MAX_HEAD_BYTES)} HTTP/1.1\r\nHost: a\r\n\r\n`, 431],
  [`GET http://a/ HTTP/1.1\r\nHost: a\r\n${"X: y\r\n".repeat(MAX_HEAD_BYTES / 4)}`, 431],
];

test("parses valid heads and returns the bytes after them", () => {
  for (const text of GOOD) {
    const result = parse([bytes(text)]);
    assert.ok(result !== null && "head" in result, text);
    assert.equal(result.rest, text.slice(text.indexOf("\r\n\r\n", 2) + 4));
  }
});

test("refuses bad heads with 400 and endless ones with 431", () => {
  for (const [text, status] of BAD) {
    const result = parse([bytes(text)]);
    assert.ok(result !== null && "refusal" in result, JSON.stringify(text.slice(0, 200)));
    assert.equal((result.refusal as { status: number }).status, status, JSON.stringify(text.slice(0, 200)));
  }
});

/** Heads with a reason that names their cause, and the target for the record. */
const NAMED: [string, RegExp, string][] = [
  ["\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", /^the client sent a TLS handshake: .*plain HTTP/, ""],
  ["\x05\x01\0", /^the client speaks SOCKS5: /, ""],
  ["\x04\x01\0P\x7f\0\0\x01\0", /^the client speaks SOCKS4: /, ""],
  [
    "PROXY TCP4 192.0.2.1 192.0.2.2 5 80\r\nGET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    /^the client sent a PROXY protocol header/,
    "TCP4 192.0.2.1 192.0.2.2 5 80",
  ],
  ["PROXY UNKNOWN\r\n", /^the client sent a PROXY protocol header/, "UNKNOWN"],
  ["\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", /^the client sent a PROXY protocol header/, ""],
  ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", /^the client speaks HTTP\/2/, "*"],
  ["\r\n\r\nGET http://a/ HTTP/1.1\r\n", /^two empty lines/, "http://a/"],
  ["GET http://a/x y HTTP/1.1\r\n", /^the request line has more than two spaces; .*%20/, "http://a/x y"],
  ["GET http://a/caf\xc3\xa9 HTTP/1.1\r\n", /^the path or query has the byte 0xC3/, "http://a/caf\xc3\xa9"],
  ["CONNECT b\xfc.example:443 HTTP/1.1\r\n", /^the host has the byte 0xFC/, "b\xfc.example:443"],
  ["GET http://a/PROXY TCP4 x HTTP/1.1\r\n", /^the request line has more than two spaces/, "http://a/PROXY TCP4 x"],
  ["GET\r\n", /^the request line is not METHOD TARGET HTTP\/1\.1$/, ""],
  ["GET HTTP/1.1\r\n", /^the request line is not METHOD TARGET HTTP\/1\.1$/, "HTTP/1.1"],
  ["GET http://a/ x/HTTP/\r\n", /^the version is not HTTP\/1\.1$/, "http://a/ x/HTTP/"],
  ["GET http://a/ HTTP/1.1\r\nHost: a\r\n b: c\r\n", /^a field is folded over lines$/, "http://a/"],
  ["GET http://a/ HTTP/1.1\r\nHost: a\r\n\tb\r\n", /^a field is folded over lines$/, "http://a/"],
  ["GET http://a/ HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n", /^a field name is not a token/, "http://a/"],
  ["GET http://a/ HTTP/1.1\r\nHost: a\r\nno field\r\n", /^a field has no colon/, "http://a/"],
  ["GET http://a/ HTTP/1.1\r\nHost: a\r\n: x\r\n", /^a field name is not a token/, "http://a/"],
  ["GET http://a/ HTTP/1.1\nHost: a\n\n", /^a line ends in LF without CR/, "http://a/"],
  [
    `GET http://a/${"x".repeat(MAX_HEAD_BYTES)} HTTP/1.1\r\n`,
    /^the request head is longer/,
    `http://a/${"x".repeat(1011)}`,
  ],
];

test("a rejected head has a reason for its cause, and its target", () => {
  for (const [text, reason, target] of NAMED) {
    for (const step of [text.length, 997, 1]) {
      if (step === 1 && text.length > 2000) continue;
      const parser = new HeadParser();
      let result: ReturnType<HeadParser["feed"]> = null;
      for (let at = 0; at < text.length && result === null; at += step)
        result = parser.feed(bytes(text.slice(at, at + step)));
      assert.ok(result !== null && "refusal" in result, text.slice(0, 80));
      assert.match(result.refusal.reason, reason, text.slice(0, 80));
      assert.equal(parser.sent.target, target, `${text.slice(0, 80)} in steps of ${step}`);
    }
  }
});

test("an incomplete head has the target as far as it has arrived", () => {
  const parser = new HeadParser();
  parser.feed(bytes("CONN"));
  parser.feed(bytes("ECT a.exam"));
  assert.deepEqual(parser.sent, { method: "CONNECT", target: "a.exam", complete: false });
  assert.equal(parser.size, 14);
  parser.feed(bytes("ple:443 HTTP/1.1\r\nHost: "));
  assert.deepEqual(parser.sent, { method: "CONNECT", target: "a.example:443", complete: true });
});

test("empty lines alone do not begin a head, and a third one is refused", () => {
  const parser = new HeadParser();
  assert.ok(parser.blank);
  for (let i = 0; i < 2; i++) {
    assert.equal(parser.feed(bytes("\r\n")), null);
    assert.ok(parser.blank);
  }
  assert.ok("refusal" in parser.feed(bytes("\r\n"))!);
  for (const begun of ["G", "\r\nG", "GET http://a/ HTTP/1.1\r\n"]) {
    const other = new HeadParser();
    assert.equal(other.feed(bytes(begun)), null);
    assert.ok(!other.blank, begun);
  }
});

test("a head beyond the default limit has its size", () => {
  const read = (length: number) => {
    const fields = "GET http://a/ HTTP/1.1\r\nHost: a\r\nX: ".padEnd(length - 4, "y");
    const result = new HeadParser(65_536).feed(bytes(`${fields}\r\n\r\n`));
    assert.ok(result !== null && "head" in result);
    return result.head.large;
  };
  assert.deepEqual([read(16_384), read(16_385)], [undefined, 16_385]);
});

test("counts heads that are too large, and no other faults", () => {
  const counted = (bound: "request-head" | "response-head", read: () => object | null): number => {
    const before = boundCounts()[bound];
    read();
    return boundCounts()[bound] - before;
  };
  const fields = "A: b\r\n".repeat(257);
  const request = (text: string) => counted("request-head", () => new HeadParser().feed(bytes(text)));
  assert.deepEqual([request(`GET http://a/ HTTP/1.1\r\n${fields}`), request("GET\r\n")], [1, 0]);
  const response = (text: string) => counted("response-head", () => new ResponseHeadParser().feed(bytes(text)));
  assert.deepEqual([response(`HTTP/1.1 200 OK\r\n${fields}`), response("HTTP\r\n")], [1, 0]);
});

test("the limit of a head can be another one", () => {
  const head = (length: number) => bytes(`GET http://a/ HTTP/1.1\r\nHost: a\r\nX: ${"y".repeat(length)}\r\n\r\n`);
  const read = (limit: number, length: number) => new HeadParser(limit).feed(head(length));
  assert.ok("head" in read(65_536, 60_000)!);
  const over = read(65_536, 66_000)!;
  assert.ok("refusal" in over && over.refusal.status === 431, "66,000 bytes are too many");
});

test("every split of the bytes gives the same result", () => {
  for (const text of [...GOOD, ...BAD.map(([bad]) => bad), ...NAMED.map(([named]) => named)]) {
    const whole = bytes(text);
    const expected = parse([whole]);
    const step = whole.length > 2000 ? 997 : 1;
    for (let at = 1; at < whole.length; at += step) {
      assert.deepEqual(
        parse([whole.subarray(0, at), whole.subarray(at)]),
        expected,
        `${JSON.stringify(text)} at ${at}`,
      );
    }
    if (step === 1) assert.deepEqual(parse([...whole].map((byte) => Buffer.from([byte]))), expected);
  }
});

test("parses white space in a field value in linear time", () => {
  const time = (length: number): number => {
    const head = bytes(`GET http://a/ HTTP/1.1\r\nHost: a\r\nX: \t a${" ".repeat(length)}b \t\r\n\r\n`);
    const began = performance.now();
    const result = new HeadParser().feed(head);
    const spent = performance.now() - began;
    assert.ok(result !== null && "head" in result);
    assert.equal(result.head.headers[1]![1], `a${" ".repeat(length)}b`);
    return spent;
  };
  time(16_000);
  // With quadratic time it was 300 ms each.
  const best = Math.min(...Array.from({ length: 10 }, () => time(16_000)));
  assert.ok(best < 20, `${best} ms`);
});
