import assert from "node:assert/strict";
import { test } from "node:test";
import { Baseline } from "../../harness/baseline.ts";
import { startDns } from "../../harness/dns.ts";
import { type ProxyHandle, startProxy } from "../../harness/proxy.ts";
import { exchange, RawClient } from "../../harness/raw.ts";

/** Callers of the admin port that hold connections, send strange requests, or are pages in a browser. */

const statusOf = (answer: string) => answer.slice(9, 12);
const refusedConnections = async (proxy: ProxyHandle) => {
  const { text } = await proxy.admin("/metrics");
  return Number(/outrider_proxy_bound_total\{bound="admin-connections"\} (\d+)/.exec(text)![1]);
};

const request = (line: string, fields: readonly string[]) =>
  `${line} HTTP/1.1\r\n${[...fields, "Connection: close"].join("\r\n")}\r\n\r\n`;

test("/explain and /verify accept local and same-origin callers only", async () => {
  const proxy = await startProxy({ policy: {}, hosts: "10.9.8.7 a.example\n" });
  const base = await Baseline.of(proxy);
  const at = `127.0.0.1:${proxy.adminPort}`;
  const rows: [fields: string[], allowed: boolean][] = [
    [[`Host: ${at}`], true],
    [["Host: localhost"], true],
    [["Host: LOCALHOST:9750"], true],
    [["Host: [::1]:9750"], true],
    [["Host: [::ffff:127.0.0.1]"], true],
    [["Host: 127.8.9.10:1"], true],
    [[`Host: ${at}`, `Origin: http://${at}`, "Sec-Fetch-Site: same-origin"], true],
    [[`Host: ${at}`, "Sec-Fetch-Site: none"], true],
    [["Host: rebound.example:9750"], false],
    [["Host: localhost.rebound.example"], false],
    [["Host: 127.0.0.1.rebound.example"], false],
    [["Host: 10.0.0.5:9750"], false],
    [["Host: localhost:9750@rebound.example"], false],
    [["Host:"], false],
    [[`Host: ${at}`, "Origin: https://rebound.example"], false],
    [[`Host: ${at}`, "Origin: null"], false],
    [[`Host: ${at}`, "Origin: http://127.0.0.1:1"], false],
    [[`Host: ${at}`, "Sec-Fetch-Site: cross-site"], false],
    [[`Host: ${at}`, "Sec-Fetch-Site: same-site"], false],
  ];
  for (const [fields, allowed] of rows) {
    const explained = await exchange(proxy.adminPort, request("GET /explain?target=a.example:443", fields));
    assert.equal(statusOf(explained), allowed ? "200" : "403", fields.join());
    const verified = await exchange(proxy.adminPort, request("POST /verify", fields));
    assert.equal(statusOf(verified), allowed ? "202" : "403", fields.join());
  }
  const absolute = (host: string) => request(`GET http://${host}/explain?target=a.example:443`, [`Host: ${at}`]);
  assert.equal(statusOf(await exchange(proxy.adminPort, absolute("rebound.example"))), "403");
  assert.equal(statusOf(await exchange(proxy.adminPort, absolute("localhost"))), "200");
  // Kubelet, Prometheus and the API server's pod proxy use other names.
  for (const path of ["/livez", "/readyz", "/metrics", "/status"]) {
    const answer = await exchange(proxy.adminPort, request(`GET ${path}`, ["Host: pod.example", "Origin: https://x"]));
    assert.equal(statusOf(answer), "200", path);
  }
  await base.restored(0);
  assert.equal(await proxy.stop(), 0);
});

test("invalid request targets get 400 without a log line", async () => {
  const proxy = await startProxy({ policy: {} });
  const base = await Baseline.of(proxy);
  for (const target of ["//[", "//", "///", "*", "x", "http://[", "//localhost/explain?target=a.example:1"]) {
    assert.equal(statusOf(await exchange(proxy.adminPort, request(`GET ${target}`, ["Host: x"]))), "400", target);
  }
  for (const target of ["/\\[", "/%", "/?%", "/explain/../livez?"]) {
    assert.match(statusOf(await exchange(proxy.adminPort, request(`GET ${target}`, ["Host: x"]))), /^[24]0/, target);
  }
  await base.restored(0);
  assert.equal(await proxy.stop(), 0);
  // At the end of the process all lines are read.
  assert.doesNotMatch(proxy.stderr(), /admin request failed|"level":"(error|fatal)"/);
});

const HELD = 300;

test("answers probes while a client holds connections open", async () => {
  const proxy = await startProxy({ policy: {} });
  const base = await Baseline.of(proxy);
  const descriptors = proxy.handles();
  const held: RawClient[] = [];
  for (let i = 0; i < HELD; i++) {
    const client = await RawClient.open(proxy.adminPort);
    if (i % 3 === 1) client.socket.write("GET /livez HTTP/1.1\r\nHost: x\r\nX: ");
    if (i % 3 === 2) client.socket.write("POST /verify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n1");
    held.push(client);
    if (i % 50 === 0) assert.equal((await proxy.admin("/livez")).status, 200);
  }
  assert.ok(proxy.handles() - descriptors <= 70, `${proxy.handles() - descriptors} descriptors`);
  assert.equal((await proxy.admin("/readyz")).status, 200);
  for (const client of held) await client.until(() => client.socket.destroyed || client.ended, "end", 15_000);
  assert.ok((await refusedConnections(proxy)) >= HELD - 70);
  for (const client of held) client.socket.destroy();
  await base.restored(0);
  assert.equal(await proxy.stop(), 0);
});

test("disconnects callers that do not read their answers", async () => {
  const proxy = await startProxy({ policy: {} });
  const base = await Baseline.of(proxy);
  const before = proxy.rss();
  const clients = await Promise.all(Array.from({ length: 20 }, () => RawClient.open(proxy.adminPort)));
  for (const client of clients) {
    client.socket.pause();
    client.socket.write("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2000));
  }
  await Promise.all(
    clients.map(async (client) => {
      await new Promise((resolve) => setTimeout(resolve, 500));
      client.socket.resume();
      await client.until(() => client.socket.destroyed, "end", 60_000);
    }),
  );
  assert.ok(proxy.rss() - before < 100, `${proxy.rss() - before} MiB more`);
  assert.ok((await refusedConnections(proxy)) >= clients.length);
  await base.restored(0);
  assert.equal(await proxy.stop(), 0);
});

test("limits concurrent explanations", async (t) => {
  const dns = await startDns(() => "silent");
  t.after(() => dns.close());
  const proxy = await startProxy({ policy: {}, args: ["--resolver", dns.address, "--dns-seconds", "2"] });
  const base = await Baseline.of(proxy);
  const answers = await Promise.all(
    Array.from({ length: 30 }, (_, i) => proxy.admin(`/explain?target=h${i}.example:443`)),
  );
  const busy = answers.filter(({ status }) => status === 503);
  assert.ok(busy.length >= 20, `${busy.length} of 30 were refused`);
  assert.ok(busy.every(({ text }) => text === "too many explanations at once\n"));
  await base.restored(0);
  assert.equal(await proxy.stop(), 0);
});
