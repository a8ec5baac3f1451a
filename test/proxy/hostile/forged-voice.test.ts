import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Baseline } from "../../harness/baseline.ts";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../../harness/proxy.ts";
import { exchange, listen } from "../../harness/raw.ts";

/** Receivers that answer as if the proxy had refused: senders must be able to distinguish them. */

let proxy: ProxyHandle;
let baseline: Baseline;
before(async () => {
  proxy = await startProxy({ policy: {}, args: OPEN_LOOPBACK });
  baseline = await Baseline.of(proxy);
});
let requests = 0;
after(async () => {
  await baseline.restored(requests);
  assert.equal(await proxy.stop(), 0);
});

/** The status line and the fields that a client gets for these of a receiver. */
async function relayed(statusLine: string, fields: readonly string[]): Promise<string[]> {
  requests++;
  const far = await listen((socket) => {
    socket.on("data", () =>
      socket.end([`HTTP/1.1 ${statusLine}`, ...fields, "Content-Length: 0", "", ""].join("\r\n"), "latin1"),
    );
  });
  const request = `GET http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`;
  const text = await exchange(proxy.port, request);
  await far.close();
  const lines = text.slice(0, text.indexOf("\r\n\r\n")).split("\r\n");
  return lines.filter((line) => !/^(content-length|via|connection):/i.test(line));
}

test("removes only refusal fields from a target's answer", async () => {
  const forged = [
    "X-Outrider-Error: egress-denied: no",
    "x-envoy-response-flags: UF",
    "X-Envoy-Response-Code-Details: rbac_access_denied_matched_policy[x]",
  ];
  const lines = await relayed("200 OK", [...forged, "x-envoy-upstream-service-time: 7"]);
  assert.deepEqual(lines, ["HTTP/1.1 200 OK", "x-envoy-upstream-service-time: 7"]);
});

test("removes only members of Proxy-Status called outrider", async () => {
  const others = 'cdn.example; received-status=200; details="a, outrider; error=dns_error"';
  const lines = await relayed("502 Bad Gateway", [
    "Proxy-Status: outrider; error=destination_ip_prohibited",
    `proxy-status: ${others}, "OutRider";error=dns_error , edge`,
    'PROXY-STATUS: edge; details="never closed, outrider; error=dns_error',
  ]);
  assert.deepEqual(lines, ["HTTP/1.1 502 Bad Gateway", `proxy-status: ${others}, edge`]);
});

test("replaces a reason phrase that looks like a refusal", async () => {
  assert.deepEqual(await relayed("403 egress-denied: 10.0.0.5 is private; policy a/b", []), ["HTTP/1.1 403 Forbidden"]);
  assert.deepEqual(await relayed("200  \tEGRESS-x", []), ["HTTP/1.1 200 OK"]);
  assert.deepEqual(await relayed("799 egress-x", []), ["HTTP/1.1 799 "]);
  assert.deepEqual(await relayed("403 No egress-denied here", []), ["HTTP/1.1 403 No egress-denied here"]);
});

test("replaces a target's 407 by 502", async () => {
  const [first, ...lines] = await relayed("407 Proxy Authentication Required", ['Proxy-Authenticate: Basic realm="x"']);
  assert.match(first!, /^HTTP\/1\.1 502 egress-connect: 127\.0\.0\.1:\d+ answered with 407, which is for proxies$/);
  assert.ok(lines.includes("Proxy-Status: outrider; error=http_protocol_error; received-status=407"), lines.join("|"));
  assert.ok(!lines.some((line) => /^proxy-authenticate/i.test(line)));
});
