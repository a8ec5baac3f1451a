import assert from "node:assert/strict";
import { test } from "node:test";
import { type Head, HeadParser, MAX_HEAD_BYTES, type ResponseHead, ResponseHeadParser } from "../../proxy/http/head.ts";

/** Values that the head parsers read, besides whether a head is valid. */

function request(...fields: string[]): Head | { refusal: { status: number; reason: string } } {
  const start = fields[0]!.includes(" HTTP/") ? fields : ["GET http://a/ HTTP/1.1", "Host: a", ...fields];
  const result = new HeadParser().feed(Buffer.from(`${start.join("\r\n")}\r\n\r\n`, "latin1"));
  return "head" in result! ? result.head : result!;
}
const good = (...fields: string[]) => request(...fields) as Head;
const status = (...fields: string[]) =>
  (request(...fields) as { refusal: { status: number; reason: string } }).refusal?.status;

function response(text: string): { head: ResponseHead; rest: string } | string {
  const result = new ResponseHeadParser().feed(Buffer.from(text, "latin1"))!;
  return "error" in result ? result.error : { head: result.head, rest: result.rest.toString() };
}
const answer = (...lines: string[]) => (response(`${lines.join("\r\n")}\r\n\r\n`) as { head: ResponseHead }).head;

test("Connection and Proxy-Connection nominate fields in lower case", () => {
  const of = (...fields: string[]) => [...good(...fields).connection];
  assert.deepEqual(of("CONNECTION: Close,\tX-A", "proxy-connection: b , X-A"), ["close", "x-a", "b"]);
  assert.deepEqual(of("Connectio: a", "Connection-: b", "Connectiox: c", "Xroxy-Connection: d"), []);
  const names = Array.from({ length: 64 }, (_, i) => `n${i}`);
  assert.equal(of(`Connection: ${names.join()}`).length, 64);
  assert.equal(of(`Connection: ${names.slice(32).join()}`, `Connection: ${names.slice(0, 32).join()}`).length, 64);
  assert.equal(status(`Connection: ${names.join()}, x`), 431);
  assert.equal(status(`Connection: ${names.join()}`, "Connection: x"), 431);
});

test("a request keeps its connection by version and Connection", () => {
  const old = (field: string) => good("GET http://a/ HTTP/1.0", field).keepAlive;
  assert.deepEqual([good("A: b").keepAlive, good("Connection: close").keepAlive], [true, false]);
  assert.deepEqual([old("A: b"), old("Connection: keep-alive")], [false, true]);
});

test("a request head has version, credentials and framing", () => {
  const { authorization } = good("Proxy-Authorization: Basic x");
  assert.equal(authorization, "Basic x");
  const other = good("A: b");
  assert.deepEqual([other.authorization, other.contentLength], [undefined, undefined]);
  assert.equal(good("Content-Length: 123456789012345").contentLength, 123_456_789_012_345);
  assert.deepEqual([good("GET http://a/ HTTP/1.0", "A: b").minor, good("A: b").minor], [0, 1]);
  assert.deepEqual(good("A: \t b c\t ", "E: ").headers.slice(1), [
    ["A", "b c"],
    ["E", ""],
  ]);
  for (const field of [": a", "nocolon"]) assert.equal(status(field), 400, field);
});

test("a head has at most 256 fields and 16,384 bytes", () => {
  const fields = Array.from({ length: 256 }, () => "A:b");
  assert.equal(good(...fields.slice(1)).headers.length, 256);
  assert.equal(status(...fields), 431);
  const text = "GET http://a/ HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";
  const room = MAX_HEAD_BYTES - text.length;
  assert.equal(good(`X: ${"x".repeat(room)}`).headers.length, 2);
  assert.equal(status(`X: ${"x".repeat(room + 1)}`), 431);
});

test("a response head has status, reason, version and framing", () => {
  const { head, rest } = response("HTTP/1.1 299 So \xe4\r\nA: b\r\nContent-Length: 3\r\n\r\nabc") as {
    head: ResponseHead;
    rest: string;
  };
  assert.equal(rest, "abc");
  assert.deepEqual([head.status, head.reason, head.minor, head.contentLength], [299, "So \xe4", 1, 3]);
  assert.deepEqual([head.chunked, head.keepAlive, [...head.connection]], [false, true, []]);
  assert.deepEqual(head.headers, [
    ["A", "b"],
    ["Content-Length", "3"],
  ]);
  assert.deepEqual([answer("HTTP/1.1 200 ").reason, answer("HTTP/1.1 200").reason], ["", ""]);
  const old = answer("HTTP/1.0 404 No");
  assert.deepEqual([old.minor, old.status, old.keepAlive], [0, 404, false]);
  assert.equal(answer("HTTP/1.0 200 OK", "Connection: keep-alive").keepAlive, true);
  assert.equal(answer("HTTP/1.1 200 OK", "Connection: close").keepAlive, false);
  assert.equal(answer("HTTP/1.1 200 OK", "Transfer-Encoding: chunked").chunked, true);
});

test("a response head with another form is an error", () => {
  const starts = [
    "HTTP/2 200",
    "HTTP/1.10 200 OK",
    "xHTTP/1.1 200 OK",
    "HTTP/1.1 099 x",
    "HTTP/1.1 20 x",
    "HTTP/1.1 2x0",
  ];
  for (const line of [...starts, "HTTP/1.1 20x", "HTTP/1.1 200x", "HTTP/1.1 200 a\x01", "HTTP/1.1  200", ""]) {
    assert.equal(response(`${line}\r\n\r\n`), "the status line is not HTTP/1.1", line);
  }
  const chunked = "Transfer-Encoding: chunked\r\n";
  assert.match(String(response(`HTTP/1.0 200 OK\r\n${chunked}\r\n`)), /Transfer-Encoding/);
  assert.equal(new ResponseHeadParser().feed(Buffer.from("HTTP/1.1 200 OK\r\nA: b\r\n")), null);
});

/** Status, fields and framing of an answer, the same for every split of its bytes; or the error. */
function repaired(text: string): unknown {
  const bytes = Buffer.from(text, "latin1");
  const read = (at: number): unknown => {
    const parser = new ResponseHeadParser();
    const result = parser.feed(bytes.subarray(0, at)) ?? parser.feed(bytes.subarray(at));
    if (result === null) return null;
    if ("error" in result) return result.error;
    const { minor, headers, contentLength, chunked, repaired } = result.head;
    const fields = headers.map((field) => field.join("="));
    return [minor, ...fields, contentLength ?? (chunked ? "chunked" : "close"), repaired, parser.lines];
  };
  const whole = read(bytes.length);
  const end = bytes.length - (/[^\r\n]*$/.exec(text)?.[0].length ?? 0);
  for (let at = 1; at < end; at++) assert.deepEqual(read(at), whole, `${JSON.stringify(text)} at ${at}`);
  return whole;
}

test("a response head is repaired where RFC 9112 allows it", () => {
  const ok = "HTTP/1.1 200 OK\r\n";
  const coded = "Transfer-Encoding: chunked\r\n";
  const rows: [string, unknown[]][] = [
    [`${ok}A: b\r\n\r\n`, [1, "A=b", "close", false, 1]],
    [`${ok}A :b\r\n\r\n`, [1, "A=b", "close", true, 1]],
    [`${ok}A : b \r\nC \t:\t:\r\n\r\n`, [1, "A=b", "C=:", "close", true, 2]],
    ["HTTP/1.1 200 OK\n\n", [1, "close", true, 0]],
    [`${ok}A: b\n\r\n`, [1, "A=b", "close", true, 1]],
    [`${ok}A: b\r\n\n`, [1, "A=b", "close", true, 1]],
    [`${ok}A: b \r\n\t c\r\n d\t\r\nE: f\r\n\r\n`, [1, "A=b c d", "E=f", "close", true, 4]],
    [`${ok}A:\r\n b\r\n \r\n\r\n`, [1, "A=b", "close", true, 3]],
    [`${ok}Content-Length:\n 12\r\n\r\n`, [1, "Content-Length=12", 12, true, 2]],
    [`${ok}Content-Length: 3\r\nA: b\r\n\r\n`, [1, "Content-Length=3", "A=b", 3, false, 2]],
    [`${ok}content-length: 3\r\nContent-Length : 3\r\nA: b\r\n\r\n`, [1, "A=b", "Content-Length=3", 3, true, 3]],
    [`${ok}Content-Length: 3 ,3\r\n\r\n`, [1, "Content-Length=3", 3, true, 1]],
    [`${ok}${coded}\r\n`, [1, "Transfer-Encoding=chunked", "chunked", false, 1]],
    [`${ok}${coded}Content-Length: 3\r\n\r\n`, [1, "Transfer-Encoding=chunked", "chunked", true, 2]],
    [
      `${ok}Content-Length: 3\r\nContent-Length: 3\r\n${coded}\r\n`,
      [1, "Transfer-Encoding=chunked", "chunked", true, 3],
    ],
    ["HTTP/1.2 200 OK\r\n\r\n", [1, "close", true, 0]],
    ["HTTP/1.9 200 OK\r\n\r\n", [1, "close", true, 0]],
    ["HTTP/1.0 200 OK\r\n\r\n", [0, "close", false, 0]],
    [
      `${ok}Transfer-Encodin_: gzip\r\nContent-Lengt_: x\r\n\r\n`,
      [1, "Transfer-Encodin_=gzip", "Content-Lengt_=x", "close", false, 2],
    ],
    // Names as long as those of the framing fields do not change the framing.
    [
      `${ok}Transfer-Encodin_: gzip\r\nContent-Lengt_: x\r\nContent-Length: 3\r\n\r\n`,
      [1, "Transfer-Encodin_=gzip", "Content-Lengt_=x", "Content-Length=3", 3, false, 3],
    ],
  ];
  for (const [text, expected] of rows) assert.deepEqual(repaired(text), expected, JSON.stringify(text));
});

test("a response head that can be read in two ways is an error", () => {
  const rows: [string, string][] = [
    [" A: b", "white space before the first field"],
    ["\tA : b", "white space before the first field"],
    ["A: b\r\r", "a field value has a control character"],
    ["A: b\rc", "a field value has a control character"],
    ["A: b\r\n c\0", "a field value has a control character"],
    ["A B: c", "a field name is not a token"],
    ["A: b\r\n: c", "a field name is not a token"],
    ["A b", "a field has no colon"],
    ["Content-Length: 3\r\nContent-Length: 4", "two Content-Length values that differ"],
    ["Content-Length: 3\r\nContent-Length: 03", "two Content-Length values that differ"],
    ["Content-Length: 3,", "two Content-Length values that differ"],
    ["Transfer-Encoding: chunked\r\nContent-Length: 3, 4", "two Content-Length values that differ"],
    ["Content-Length: x, x", "Content-Length is not a number"],
    ["Content-Length:", "Content-Length is not a number"],
    ["Transfer-Encoding: chunked\r\nContent-Length: -1", "Content-Length is not a number"],
    ["Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "two Transfer-Encoding fields"],
    ["Transfer-Encoding: chunked\r\n chunked", "Transfer-Encoding other than chunked"],
    ["Content-Length: 3\r\nTransfer-Encoding: identity", "Transfer-Encoding other than chunked"],
  ];
  for (const [fields, error] of rows) assert.equal(repaired(`HTTP/1.1 200 OK\r\n${fields}\r\n\r\n`), error, fields);
});

test("folded lines of a response head count as fields", () => {
  const folded = (lines: number) => response(`HTTP/1.1 200 OK\r\nA: b\r\n${" c\r\n".repeat(lines)}\r\n`);
  assert.equal((folded(255) as { head: ResponseHead }).head.headers[0]![1], `b${" c".repeat(255)}`);
  assert.equal(folded(256), "the head has more than 256 fields");
});
