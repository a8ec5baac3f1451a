import assert from "node:assert/strict";
import { once } from "node:events";
import { after, before, test } from "node:test";
import { connect as connectTls } from "node:tls";
import { OPEN_LOOPBACK, type ProxyHandle, type ProxyRecord, startProxy } from "../harness/proxy.ts";
import { exchange, listen } from "../harness/raw.ts";

/** Requests that are refused for their head: the answer, the record and the metric name the cause. */

let proxy: ProxyHandle;
before(async () => {
  proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, "--access-log", "denied"] });
});
after(async () => {
  assert.equal(await proxy.stop(), 0);
});

/** Sends bytes on a new connection; returns the reason of the answer, and the record. */
async function refused(wire: string): Promise<{ status: number; reason: string; record: ProxyRecord }> {
  const before = proxy.records().length;
  const answer = await exchange(proxy.port, wire);
  const match = /^HTTP\/1\.1 (\d+) egress-bad-request: ([^\r]*)\r\n/.exec(answer);
  assert.ok(match !== null, answer);
  const record = await proxy.waitRecord(() => proxy.records().length > before).then(() => proxy.records().at(-1)!);
  assert.match(answer, /\r\nProxy-Status: outrider; error=http_request_error\r\n/);
  return { status: Number(match[1]), reason: match[2]!, record };
}

const get = (target: string) => `GET ${target} HTTP/1.1\r\nHost: a\r\n\r\n`;
const connect = (target: string) => `CONNECT ${target} HTTP/1.1\r\nHost: a\r\n\r\n`;

/** Bytes of a client, a part of the reason, and kind and target of the record. */
const ROWS: [wire: string, reason: RegExp, kind: string, target: string][] = [
  [get("http://foo-.example/x"), /^the host foo-\.example has a label that .* hyphen$/, "http", "http://foo-.example"],
  [get("http://a..example/"), /^the host a\.\.example has an empty label/, "http", "http://a..example"],
  [get("http://2130706433/"), /^the host 2130706433 ends in a number/, "http", "http://2130706433"],
  [get("http://u:secret@a.example/"), /^the target has user info/, "http", "http://a.example"],
  [get("http://a.example:080/"), /^the port has a leading zero$/, "http", "http://a.example:080"],
  [get("http://a.example/#f"), /^the target has a fragment/, "http", "http://a.example"],
  [get("http://::1/"), /^an IPv6 address needs brackets: \[ADDRESS\]$/, "http", "http://::1"],
  [get("/hook?secret"), /^this is a forward proxy: /, "http", "/"],
  [get("http://a.example/caf\xc3\xa9"), /^the path or query has the byte 0xC3/, "http", "a.example:80"],
  [get("http://b\xc3\xbccher.example/"), /^the host has the byte 0xC3/, "http", "http://b%C3%BCcher.example"],
  [get("http://a.example/a b"), /^the request line has more than two spaces/, "http", "a.example:80"],
  [`GET http://a.example:81/ HTTP/1.1\r\n\r\n`, /^no Host field$/, "http", "a.example:81"],
  [connect("foo-.example:443"), /^the host foo-\.example has a label/, "connect", "foo-.example:443"],
  [connect("127.1:443"), /^the host 127\.1 ends in a number/, "connect", "127.1:443"],
  [connect("2001:db8::1:443"), /^an IPv6 address needs brackets: \[ADDRESS\]:PORT$/, "connect", "2001:db8::1:443"],
  [connect("u:secret@a.example:443"), /^the target has user info/, "connect", "a.example:443"],
  [connect("a.example"), /^the CONNECT target has no port/, "connect", "a.example"],
  [
    `CONNECT a.example:443 HTTP/1.1\r\nX\xff: secret\r\n\r\n`,
    /^a field name is not a token$/,
    "connect",
    "a.example:443",
  ],
  ["\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", /^the client sent a TLS handshake/, "http", ""],
  ["\x05\x01\0", /^the client speaks SOCKS5/, "http", ""],
  ["\x04\x01\x01\xbb\x7f\0\0\x01\0", /^the client speaks SOCKS4/, "http", ""],
  [
    `PROXY TCP4 192.0.2.1 192.0.2.2 5 80\r\n${get("http://a.example/")}`,
    /^the client sent a PROXY protocol header/,
    "http",
    "TCP4%20192.0.2.1%20192.0.2.2%205%2080",
  ],
  ["\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", /^the client sent a PROXY protocol header/, "http", ""],
];

for (const [wire, reason, kind, target] of ROWS) {
  test(`${kind} ${target || "without a target"}: ${reason.source.slice(1, 40)}`, async () => {
    const { status, reason: shown, record } = await refused(wire);
    assert.equal(status, 400);
    assert.match(shown, reason);
    const { verdict, code, close } = record;
    assert.deepEqual(
      { verdict, code, close, kind: record.kind, target: record.target, reason: record.reason },
      { verdict: "deny", code: "bad-request", close: "refused", kind, target, reason: shown },
    );
    assert.doesNotMatch(JSON.stringify(record), /secret/);
  });
}

test("a TLS client gets its answer at once", async () => {
  const client = connectTls({ host: "127.0.0.1", port: proxy.port });
  const [error] = (await once(client, "error")) as [NodeJS.ErrnoException];
  assert.match(error.code ?? "", /^ERR_SSL_/);
  await proxy.waitRecord(({ reason }) => /TLS handshake/.test(String(reason)));
});

test("a long target is cut in the record", async () => {
  const { status, record } = await refused(get(`http://${"x".repeat(20_000)}.example/`));
  assert.equal(status, 431);
  assert.equal(record.target, `http://${"x".repeat(293)}...`);
});

test("the metric counts rejected heads as denied", async () => {
  const count = async (verdict: string) => {
    const { text } = await proxy.admin("/metrics");
    const line = `outrider_proxy_requests_total{kind="http",verdict="${verdict}",code="bad-request"} `;
    return Number(
      text
        .split("\n")
        .find((one) => one.startsWith(line))
        ?.slice(line.length) ?? 0,
    );
  };
  const denied = await count("deny");
  await refused(get("http://a..example/"));
  assert.equal(await count("deny"), denied + 1);
  assert.equal(await count("allow"), 0);
});

test("a malformed body of an allowed request keeps its verdict", async () => {
  const far = await listen((socket) => socket.resume());
  const all = await startProxy({ policy: {}, args: OPEN_LOOPBACK });
  const wire = `POST http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n`;
  assert.match(await exchange(all.port, wire), /^HTTP\/1\.1 400 egress-bad-request: a chunk size/);
  const record = await all.waitRecord(() => true);
  assert.deepEqual([record.verdict, record.code], ["allow", "bad-request"]);
  await all.stop();
  await far.close();
});
