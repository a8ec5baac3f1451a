import assert from "node:assert/strict";
import { renameSync, writeFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { manifest, OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../harness/proxy.ts";
import { exchange, listen, RawClient } from "../harness/raw.ts";

/** `mode: Report` and `defaultAction: Report` in a running proxy: requests pass, and records have `wouldDeny`. */

const HOSTS = "127.0.0.1 good.example bad.example other.example\n10.0.0.5 private.example\n";
const ARGS = [...OPEN_LOOPBACK, "--access-log", "denied"];

let far: Awaited<ReturnType<typeof listen>>;
before(async () => {
  far = await listen((socket) => {
    socket.on("data", (chunk) => {
      if (String(chunk) === "ping") socket.write("pong");
      else socket.end("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
  });
});
after(() => far.close());

const wires = (host: string) => ({
  connect: `CONNECT ${host}:${far.port} HTTP/1.1\r\n\r\nhello`,
  http: `GET http://${host}:${far.port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`,
});

/** Sends a tunnel and a plain request for each host; each gets its answer. Then returns all `wouldDeny` by target. */
async function reported(proxy: ProxyHandle, rows: Record<string, { code: string; rule: string } | null>) {
  for (const host of Object.keys(rows)) {
    for (const wire of Object.values(wires(host))) {
      const answer = await exchange(proxy.port, wire);
      assert.match(answer, /^HTTP\/1\.1 200 /, host);
      assert.ok(answer.endsWith("ok"), "the answer of the target");
      // The order of records is that of the ends.
      await proxy.untilStatus(({ active }) => active === 0);
    }
  }
  // Denied in every mode: its record is the last one.
  const denied = await exchange(proxy.port, wires("private.example").http);
  assert.match(denied, /^HTTP\/1\.1 403 egress-denied: private\.example resolves to a private address/);
  const last = await proxy.waitRecord(({ verdict }) => verdict === "deny");
  assert.equal(last.wouldDeny, undefined);
  const expected = Object.entries(rows).flatMap(([host, wouldDeny]) => {
    const one = { target: `${host}:${far.port}`, verdict: "allow", code: undefined, wouldDeny };
    return wouldDeny === null ? [] : ["connect", "http"].map((kind) => ({ kind, ...one }));
  });
  const found = proxy
    .records()
    .slice(0, -1)
    .map(({ kind, target, verdict, code, wouldDeny }) => ({ kind, target, verdict, code, wouldDeny }));
  assert.deepEqual(found, expected, "requests that are allowed anyway have no record with --access-log denied");
  const count = (labels: string) => `outrider_proxy_requests_total{${labels}} ${Object.keys(rows).length}\n`;
  const { text } = await proxy.admin("/metrics");
  for (const kind of ["connect", "http"]) {
    assert.ok(text.includes(count(`kind="${kind}",verdict="allow",code="ok"`)), text);
  }
  assert.equal(text.match(/verdict="deny"/g)?.length, 1);
  assert.match(text, /outrider_proxy_requests_total\{kind="http",verdict="deny",code="address"\} 1\n/);
}

test("mode Report allows requests and records what it would deny", async () => {
  const policy = {
    mode: "Report",
    defaultAction: "Deny",
    allow: [{ name: "good", hosts: ["good.example", "bad.example"] }],
    deny: [{ name: "no-bad", hosts: ["bad.example"] }],
  };
  const proxy = await startProxy({ policy, args: ARGS, hosts: HOSTS });
  await reported(proxy, {
    "good.example": null,
    "bad.example": { code: "denied-rule", rule: "no-bad" },
    "other.example": { code: "not-allowed", rule: "default" },
  });
  assert.equal(await proxy.stop(), 0);
});

test("mode Report allows and records a port that is not allowed", async () => {
  const policy = { mode: "Report", ports: [443], deny: [{ name: "range", cidrs: ["127.0.0.0/8"], ports: [443] }] };
  const proxy = await startProxy({ policy, args: ARGS, hosts: HOSTS });
  await reported(proxy, { "good.example": { code: "port", rule: "default" } });
  assert.equal(await proxy.stop(), 0);
});

test("mode Report allows and records an address that a rule denies", async () => {
  const policy = { mode: "Report", deny: [{ name: "range", cidrs: ["127.0.0.0/8"] }] };
  const proxy = await startProxy({ policy, args: ARGS, hosts: HOSTS });
  await reported(proxy, { "good.example": { code: "denied-rule", rule: "range" } });
  assert.equal(await proxy.stop(), 0);
});

test("defaultAction Report allows and records hosts on no list", async () => {
  const policy = { defaultAction: "Report", allow: [{ name: "good", hosts: ["good.example"] }] };
  const proxy = await startProxy({ policy, args: ARGS, hosts: HOSTS });
  await reported(proxy, { "good.example": null, "other.example": { code: "not-allowed", rule: "default" } });
  assert.equal(await proxy.stop(), 0);
});

test("a reload in mode Report keeps a tunnel and records it", async () => {
  const proxy = await startProxy({ policy: {}, args: ARGS, hosts: HOSTS });
  const before = (await proxy.untilStatus(() => true)).policy!.hash;
  const client = await RawClient.open(proxy.port);
  await client.connect(`bad.example:${far.port}`);
  const policy = manifest({ mode: "Report", deny: [{ name: "no-bad", hosts: ["bad.example"] }] });
  writeFileSync(`${proxy.policyFile}.new`, policy);
  renameSync(`${proxy.policyFile}.new`, proxy.policyFile);
  proxy.signal("SIGHUP");
  const { hash } = (await proxy.untilStatus((status) => status.policy!.hash !== before)).policy!;
  client.socket.write("ping");
  await client.untilText("pong");
  client.socket.resetAndDestroy();
  const record = await proxy.waitRecord(() => true);
  assert.deepEqual(
    [record.verdict, record.code, record.hash, record.wouldDeny],
    ["allow", undefined, hash, { code: "denied-rule", rule: "no-bad" }],
  );
  assert.equal(await proxy.stop(), 0);
});
