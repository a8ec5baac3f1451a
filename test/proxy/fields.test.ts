import assert from "node:assert/strict";
import { test } from "node:test";
import {
  bindsConnection,
  continueHead,
  expectsContinue,
  isRepeatable,
  maxForwards,
  requestHead,
  responseHead,
} from "../../proxy/http/fields.ts";
import type { Head, ResponseHead } from "../../proxy/http/head.ts";

/** Heads that the proxy writes, without a connection. */

type Fields = [name: string, value: string][];

const request = (headers: Fields, more: Partial<Head> = {}): Head => ({
  ...{ method: "GET", target: "http://a.example/", minor: 1, chunked: false, keepAlive: true, connection: new Set() },
  ...{ headers, ...more },
});
const response = (headers: Fields, more: Partial<ResponseHead> = {}): ResponseHead => ({
  ...{ status: 200, reason: "OK", minor: 1, chunked: false, keepAlive: true, connection: new Set(), headers },
  repaired: false,
  ...more,
});
const ROUTE = { path: "/x", authority: "a.example:81", via: false, forwards: null };
const PLAIN = { chunked: false, close: false, via: false };

const HOP_BY_HOP = [
  ...["Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authorization", "Proxy-Authenticate"],
  ...["Proxy-Authentication-Info", "TE", "Trailer", "Transfer-Encoding", "Upgrade"],
];

test("a request head has the Host of the URI in its old place", () => {
  const head = requestHead(
    request([
      ["A", "1"],
      ["hOST", "x"],
      ["B", ""],
    ]),
    ROUTE,
  );
  assert.equal(head, "GET /x HTTP/1.1\r\nA: 1\r\nhOST: a.example:81\r\nB: \r\n\r\n");
  const without = requestHead(request([["A", "1"]], { minor: 0 }), ROUTE);
  assert.equal(without, "GET /x HTTP/1.1\r\nHost: a.example:81\r\nA: 1\r\n\r\n");
});

test("hop-by-hop fields of both heads are removed in any case", () => {
  for (const name of HOP_BY_HOP) {
    for (const written of [name, name.toLowerCase(), name.toUpperCase()]) {
      const fields: Fields = [
        ["Host", "x"],
        [written, "v"],
        ["Z", "1"],
      ];
      assert.equal(requestHead(request(fields), ROUTE), "GET /x HTTP/1.1\r\nHost: a.example:81\r\nZ: 1\r\n\r\n");
      assert.equal(responseHead(response(fields.slice(1)), PLAIN), "HTTP/1.1 200 OK\r\nZ: 1\r\n\r\n");
    }
  }
});

test("Connection nominates fields, but not Host, Content-Length and Via", () => {
  const connection = new Set(["host", "content-length", "via", "x-hop"]);
  const fields: Fields = [
    ["Host", "x"],
    ["Content-Length", "3"],
    ["Via", "1.1 b"],
    ["X-Hop", "1"],
  ];
  const head = requestHead(request(fields, { connection }), ROUTE);
  assert.equal(head, "GET /x HTTP/1.1\r\nHost: a.example:81\r\nContent-Length: 3\r\nVia: 1.1 b\r\n\r\n");
  const answer = responseHead(response(fields.slice(1), { connection }), PLAIN);
  assert.equal(answer, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nVia: 1.1 b\r\n\r\n");
});

test("fields for Smokescreen do not reach the target", () => {
  const fields: Fields = [
    ["X-SmokeScreen-Role", "a"],
    ["x-smokescreen-trace-id", "b"],
    ["X-Upstream-HTTPS-Proxy", "http://user:secret@hop.example:3128"],
    ["X-Smokescreen", "1"],
    ["Not-X-Smokescreen-", "2"],
    ["X-Upstream-Https-Proxy-2", "3"],
  ];
  const kept = "X-Smokescreen: 1\r\nNot-X-Smokescreen-: 2\r\nX-Upstream-Https-Proxy-2: 3\r\n";
  assert.equal(requestHead(request(fields), ROUTE), `GET /x HTTP/1.1\r\nHost: a.example:81\r\n${kept}\r\n`);
});

test("the proxy adds framing, Via and Connection at the end", () => {
  const head = requestHead(request([["Host", "x"]], { chunked: true, minor: 0 }), { ...ROUTE, via: true });
  assert.equal(
    head,
    "GET /x HTTP/1.1\r\nHost: a.example:81\r\nTransfer-Encoding: chunked\r\nVia: 1.0 outrider\r\n\r\n",
  );
  const answer = responseHead(response([], { minor: 0 }), { chunked: true, close: true, via: true });
  assert.equal(
    answer,
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nVia: 1.0 outrider\r\nConnection: close\r\n\r\n",
  );
});

test("Max-Forwards counts for OPTIONS and TRACE only", () => {
  const of = (method: string, ...values: string[]) =>
    maxForwards(
      request(
        values.map((value): [string, string] => ["max-Forwards", value]),
        { method },
      ),
    );
  assert.equal(of("GET", "1"), null);
  assert.equal(of("OPTIONS"), null);
  assert.equal(maxForwards(request([["X", "1"]], { method: "TRACE" })), null);
  for (const method of ["OPTIONS", "TRACE"]) {
    assert.deepEqual([of(method, "0"), of(method, "10")], [0, 10]);
    assert.equal(of(method, "2147483648"), 0x7fff_ffff);
    assert.deepEqual(of(method, "1", "1"), { error: "two Max-Forwards fields" });
    for (const bad of ["", "-1", "1.5", "x", "1x", "x1"]) {
      assert.deepEqual(of(method, bad), { error: "Max-Forwards is not a number" }, bad);
    }
  }
});

test("a lower Max-Forwards replaces the value of the client", () => {
  const fields: Fields = [
    ["Host", "x"],
    ["MAX-forwards", "7"],
    ["Z", "1"],
  ];
  const lines = (forwards: number | null) =>
    requestHead(request(fields), { ...ROUTE, forwards })
      .split("\r\n")
      .slice(2, 4);
  assert.deepEqual(lines(6), ["MAX-forwards: 6", "Z: 1"]);
  assert.deepEqual(lines(0), ["MAX-forwards: 0", "Z: 1"]);
  assert.deepEqual(lines(null), ["MAX-forwards: 7", "Z: 1"]);
});

test("only a reason phrase that begins like a refusal is replaced", () => {
  const rows: [status: number, reason: string, want: string][] = [
    [403, "egress-denied: no", "Forbidden"],
    [403, " \tEGRESS-denied", "Forbidden"],
    [299, "egress-x", ""],
    [403, "no egress-denied", "no egress-denied"],
    [403, "", ""],
  ];
  for (const [status, reason, want] of rows) {
    assert.equal(responseHead(response([], { status, reason }), PLAIN), `HTTP/1.1 ${status} ${want}\r\n\r\n`, reason);
  }
});

test("a 204 has no Content-Length, other answers keep it", () => {
  const of = (status: number) =>
    responseHead(
      response(
        [
          ["Content-Length", "0"],
          ["Z", "1"],
        ],
        { status },
      ),
      PLAIN,
    );
  assert.equal(of(204), "HTTP/1.1 204 OK\r\nZ: 1\r\n\r\n");
  for (const status of [200, 304]) assert.match(of(status), /\r\nContent-Length: 0\r\n/);
});

test("a head keeps eight Proxy-Status fields and no member of this proxy", () => {
  const fields = Array.from({ length: 10 }, (_, i): [string, string] => ["Proxy-STATUS", `p${i}`]);
  fields[2] = ["proxy-status", "outrider;error=x, other"];
  fields[3] = ["proxy-status", "outrider"];
  const lines = responseHead(response([...fields, ["X-Outrider-Error", "x"], ["Z", "1"]]), PLAIN).split("\r\n");
  const names = [0, 1, 4, 5, 6, 7].map((i) => `Proxy-STATUS: p${i}`);
  names.splice(2, 0, "proxy-status: other");
  assert.deepEqual(lines, ["HTTP/1.1 200 OK", ...names, "Z: 1", "", ""]);
});

test("a client of HTTP/1.1 waits for a 100 if it says so", () => {
  const of = (name: string, value: string, minor: 0 | 1 = 1) =>
    expectsContinue(
      request(
        [
          ["A", "b"],
          [name, value],
        ],
        { minor },
      ),
    );
  assert.ok(of("Expect", "100-continue") && of("EXPECT", "100-Continue"));
  assert.ok(!of("Expect", "100-continue", 0));
  for (const value of ["", "100-continue x", "x 100-continue"]) assert.ok(!of("Expect", value), value);
  assert.ok(!of("Except", "100-continue") && !of("Expect-CT", "100-continue"));
});

test("the 100 for the client has no field of the target", () => {
  assert.equal(continueHead(1, false), "HTTP/1.1 100 Continue\r\n\r\n");
  assert.equal(continueHead(0, true), "HTTP/1.1 100 Continue\r\nVia: 1.0 outrider\r\n\r\n");
});

test("recognizes fields that authenticate a connection", () => {
  const yes: Fields = [
    ["Authorization", "NTLM TlRM"],
    ["AUTHORIZATION", "negotiate"],
    ["WWW-Authenticate", "Basic realm=x, NTLM"],
    ["WWW-Authenticate", "Kerberos"],
    ["WWW-Authenticate", "Basic,nego2,Digest"],
    ["Persistent-Auth", "true"],
  ];
  const no: Fields = [
    ["Authorization", "Bearer NTLMx"],
    ["Authorization", "Bearer xNTLM"],
    ["X-Authorizatio", "NTLM"],
    ["Authorizations", "NTLM"],
    ["If-None-Match", "NTLM"],
    ["A", "NTLM"],
  ];
  for (const field of yes) assert.ok(bindsConnection([["A", "b"], field]), field.join(": "));
  for (const field of no) assert.ok(!bindsConnection([field]), field.join(": "));
  assert.ok(!bindsConnection([]));
});

test("a request may be repeated if it is idempotent and has no body", () => {
  const may = (method: string, more: Partial<Head> = {}) => isRepeatable(request([], { method, ...more }));
  for (const method of ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"]) {
    assert.ok(may(method) && may(method, { contentLength: 0 }), method);
    assert.ok(!may(method, { contentLength: 1 }) && !may(method, { chunked: true }), method);
  }
  for (const method of ["POST", "PATCH", "CONNECT", "get", "LOCK"]) assert.ok(!may(method), method);
});
