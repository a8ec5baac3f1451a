import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { basic, connectAs, passwordFolder } from "../harness/clients.ts";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy, tempFolder } from "../harness/proxy.ts";
import { exchange, listen, RawClient } from "../harness/raw.ts";
import { v1 } from "./proxy-header-encoder.ts";

/** Limits of each client, and metrics by client, on real sockets. */

const PASSWORDS = { PROXY_PASSWORD: "together", billing: "b-pass", shop: "s-pass", unlisted: "u-pass" };
const BILLING = basic("billing:b-pass");
const SHOP = basic("shop:s-pass");
const OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const REFUSED =
  /^HTTP\/1\.1 503 egress-unavailable: this client sends too many requests; its limit per second is \d+\r\n/;

const policy = (clients: object[], more: object = {}): string =>
  JSON.stringify({ version: 2, policy: "test/test", clients, ...more });

const started = (clients: object[], more: object = {}, args: string[] = []): Promise<ProxyHandle> =>
  startProxy({
    policy: policy(clients, more),
    args: [...OPEN_LOOPBACK, "--password-dir", passwordFolder(PASSWORDS), ...args],
    hosts: "127.0.0.1 a.example\n",
  });

/** Answers the first bytes of each connection. */
const receiver = () => listen((socket) => socket.on("data", () => socket.end(OK)).on("end", () => socket.end()));

/** The same request on both data paths. */
const plain = (port: number, fields: string): string =>
  `GET http://a.example:${port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n${fields}\r\n`;
const tunnel = (port: number, fields: string): string => `CONNECT a.example:${port} HTTP/1.1\r\n${fields}\r\nhello`;

/** Sends requests, ten at a time. Returns their answers. */
async function sendAll(proxy: ProxyHandle, wires: readonly string[]): Promise<string[]> {
  const answers: string[] = [];
  for (let i = 0; i < wires.length; i += 10) {
    answers.push(...(await Promise.all(wires.slice(i, i + 10).map((wire) => exchange(proxy.port, wire)))));
  }
  return answers;
}

const isServed = (answer: string): boolean => answer.startsWith("HTTP/1.1 200 ");
const served = (answers: readonly string[]): number => answers.filter(isServed).length;

test("a client that floods is refused, another one never", async () => {
  const limits = { requestsPerSecond: 5, burst: 20 };
  const proxy = await started([
    { name: "billing", limits },
    { name: "shop", limits: { ...limits, burst: 40 } },
  ]);
  const far = await receiver();
  const both = (count: number, fields: string) =>
    Array.from({ length: count }, (_, i) => (i % 2 === 0 ? plain : tunnel)(far.port, fields));
  const since = performance.now();
  const [flood, other] = await Promise.all([sendAll(proxy, both(200, BILLING)), sendAll(proxy, both(40, SHOP))]);
  const seconds = (performance.now() - since) / 1000;
  assert.equal(served(other), 40);
  const accepted = served(flood);
  assert.ok(accepted >= 20 && accepted <= 20 + 5 * seconds, `${accepted} requests in ${seconds} s`);
  const refused = flood.filter((answer) => !isServed(answer));
  assert.ok(refused.length > 0);
  for (const answer of refused) {
    assert.match(answer, REFUSED);
    assert.match(answer, /\r\nRetry-After: 1\r\n/);
  }
  assert.equal(await proxy.bound("client-requests"), refused.length);
  await proxy.waitRecord(() => proxy.records().length === 240);
  const records = proxy.records().filter(({ code }) => code === "overloaded");
  assert.equal(records.length, refused.length);
  for (const { client, entry } of records) assert.deepEqual([client, entry], ["billing", "billing"]);
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("a client with all its tunnels is refused, another one never", async () => {
  const proxy = await started([{ name: "billing", limits: { maxTunnels: 2 } }, { name: "shop" }]);
  const far = await receiver();
  const target = `a.example:${far.port}`;
  const open = await Promise.all([1, 2].map(() => connectAs(proxy, "billing:b-pass", target)));
  assert.equal(served(open.map(({ text }) => text)), 2);
  const wires = Array.from({ length: 20 }, (_, i) => (i % 2 === 0 ? plain : tunnel)(far.port, SHOP));
  const refused = [plain, tunnel].map((wire) => wire(far.port, BILLING));
  const [others, mine] = await Promise.all([sendAll(proxy, wires), sendAll(proxy, refused)]);
  assert.equal(served(others), 20);
  for (const answer of mine) {
    assert.match(answer, /^HTTP\/1\.1 503 egress-unavailable: this client has 2 tunnels, its limit\r\n/);
  }
  open[0]!.socket.destroy();
  await proxy.waitRecord(({ entry, code }) => entry === "billing" && code === undefined);
  assert.equal(served(await sendAll(proxy, [tunnel(far.port, BILLING)])), 1);
  open[1]!.socket.destroy();
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("clients of the entry default are counted one by one", async () => {
  const proxy = await started([{ name: "default", limits: { requestsPerSecond: 1, burst: 10 } }]);
  const far = await receiver();
  const sendFrom = async (address: string, pair: string) => {
    const client = await RawClient.open(proxy.port, "127.0.0.1", address);
    client.socket.write(plain(far.port, basic(pair)));
    await client.untilEnd();
    client.socket.destroy();
    return client.text;
  };
  const flood = await Promise.all(Array.from({ length: 60 }, () => sendFrom("127.0.0.2", "x:together")));
  assert.ok(served(flood) < 60);
  // Another name with the shared password is the same client.
  const claimed = await Promise.all(Array.from({ length: 60 }, (_, i) => sendFrom("127.0.0.2", `n${i}:together`)));
  assert.ok(served(claimed) < 60);
  const others = ["127.0.0.3", "127.0.0.2"].flatMap((address, i) =>
    Array.from({ length: 10 }, () => sendFrom(address, i === 0 ? "x:together" : "unlisted:u-pass")),
  );
  assert.equal(served(await Promise.all(others)), 20);
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("all IPv6 addresses of a /64 are one client without a name", async () => {
  const limits = { requestsPerSecond: 1, burst: 10 };
  const balancer = ["--proxy-protocol", "required", "--proxy-protocol-from", "127.0.0.1/32"];
  const proxy = await started([{ name: "default", limits }], {}, balancer);
  const far = await receiver();
  const from = (network: string) =>
    Array.from({ length: 10 }, (_, i) => {
      const header = v1("TCP6", `2001:db8:1:${network}::${i}`, "::1", 1000 + i, 4750).toString("latin1");
      return header + plain(far.port, basic("x:together"));
    });
  assert.equal(served(await sendAll(proxy, from("2"))), 10);
  const flood = ["2:a", "2:b", "2:c"].flatMap(from);
  assert.ok(served(await sendAll(proxy, flood)) < 30);
  assert.equal(served(await sendAll(proxy, from("3"))), 10);
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("one address has a bucket in each of its entries", async () => {
  const limits = (burst: number) => ({ limits: { requestsPerSecond: 1, burst } });
  const clients = [
    { name: "authed", ...limits(50) },
    { name: "default", ...limits(1) },
  ];
  const authentication = { mode: "Basic", allowMissing: true, sharedClient: "authed" };
  const proxy = await started(clients, { authentication });
  const far = await receiver();
  assert.equal(served(await sendAll(proxy, [plain(far.port, basic("x:together"))])), 1);
  assert.ok(served(await sendAll(proxy, Array<string>(30).fill(plain(far.port, "")))) < 30);
  const rest = Array<string>(49).fill(plain(far.port, basic("x:together")));
  assert.equal(served(await sendAll(proxy, rest)), 49);
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("a request that is sent again takes one token", async () => {
  const proxy = await started([{ name: "billing", limits: { requestsPerSecond: 1, burst: 2 } }]);
  // It closes a connection when a second request arrives on it.
  const far = await listen((socket) => {
    let requests = 0;
    socket.on("data", () => (++requests === 1 ? void socket.write(OK) : socket.destroy()));
  });
  const client = await RawClient.open(proxy.port);
  const request = `GET http://a.example:${far.port}/ HTTP/1.1\r\nHost: x\r\n${BILLING}\r\n`;
  client.socket.write(request);
  await client.untilText("\r\n\r\nok");
  const from = client.text.length;
  client.socket.write(request);
  await client.until(() => client.text.slice(from).includes("\r\n\r\n"), "answer");
  assert.match(client.text.slice(from), /^HTTP\/1\.1 200 /);
  client.socket.destroy();
  await proxy.waitRecord(({ retried, code }) => retried === true && code === undefined);
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("a denied request takes a token, an unauthenticated one none", async () => {
  const limits = { requestsPerSecond: 1, burst: 10 };
  const proxy = await started([{ name: "billing", deny: [{ hosts: ["bad.example"] }], limits }]);
  const far = await receiver();
  const wrong = Array<string>(30).fill(plain(far.port, basic("billing:wrong")));
  for (const answer of await sendAll(proxy, wrong.slice(0, 15))) assert.match(answer, /^HTTP\/1\.1 407 /);
  assert.equal(served(await sendAll(proxy, [plain(far.port, BILLING)])), 1);
  const denied = Array<string>(40).fill(`CONNECT bad.example:443 HTTP/1.1\r\n${BILLING}\r\n`);
  const answers = await sendAll(proxy, denied);
  const count = (pattern: RegExp) => answers.filter((answer) => pattern.test(answer)).length;
  assert.ok(count(/^HTTP\/1\.1 403 egress-denied: /) >= 9);
  assert.ok(count(REFUSED) > 0);
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("a reload gives no tokens", async () => {
  const limits = { requestsPerSecond: 1, burst: 60 };
  const proxy = await started([{ name: "billing", limits }]);
  const far = await receiver();
  const since = performance.now();
  const wires = Array<string>(70).fill(plain(far.port, BILLING));
  const before = served(await sendAll(proxy, wires));
  assert.ok(before >= 60);
  const { hash } = (await proxy.untilStatus(() => true)).policy!;
  const changed = policy([{ name: "billing", limits, deny: [{ hosts: ["bad.example"] }] }, { name: "shop" }]);
  writeFileSync(proxy.policyFile, changed);
  proxy.signal("SIGHUP");
  await proxy.untilStatus(({ policy }) => policy!.hash !== hash);
  const more = served(await sendAll(proxy, wires));
  const seconds = (performance.now() - since) / 1000;
  assert.ok(before + more <= 60 + seconds, `${before + more} requests in ${seconds} s`);
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("curl sends a refused request again after Retry-After", { timeout: 60_000 }, async () => {
  const proxy = await started([{ name: "billing", limits: { requestsPerSecond: 1, burst: 1 } }]);
  const far = await receiver();
  const output = ["--silent", "--show-error", "--output", join(tempFolder(), "answer"), "--write-out", "%{http_code}"];
  const through = ["--retry", "5", "--proxy", proxy.url("billing", "b-pass"), `http://a.example:${far.port}/`];
  // A refused CONNECT is an error of its own for curl.
  for (const more of [[], ["--proxytunnel", "--retry-all-errors"]]) {
    const before = await proxy.bound("client-requests");
    // One of two requests within a second is refused at first, unless the machine is slow.
    for (let i = 0; i < 10 && (await proxy.bound("client-requests")) === before; i++) {
      const { stdout } = await promisify(execFile)("curl", [...output, ...more, ...through]);
      assert.equal(stdout, "200");
    }
    assert.ok((await proxy.bound("client-requests")) > before, more.join(" "));
  }
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

/** Values of the metrics by client, as `name{labels}`. */
async function clientSeries(proxy: ProxyHandle): Promise<Record<string, number>> {
  const { text } = await proxy.admin("/metrics");
  const lines = text.matchAll(/^outrider_proxy_client_(\S+) (\S+)$/gm);
  return Object.fromEntries([...lines].map(([, series, value]) => [series, Number(value)]));
}

const seriesOf = (name: string, [allow, deny, up, down, tunnels]: readonly number[]): Record<string, unknown> => ({
  [`requests_total{client="${name}",verdict="allow"}`]: allow,
  [`requests_total{client="${name}",verdict="deny"}`]: deny,
  [`bytes_total{client="${name}",direction="up"}`]: up,
  [`bytes_total{client="${name}",direction="down"}`]: down,
  [`tunnels{client="${name}"}`]: tunnels,
});

test("metrics by client have the entries of the policy, and no other name", async () => {
  const deny = [{ hosts: ["bad.example"] }];
  const clients = ["billing", "shop", "default", "__proto__"].map((name) => ({ name, deny }));
  const proxy = await started(clients);
  const far = await receiver();
  const held = await connectAs(proxy, "shop:s-pass", `a.example:${far.port}`);
  await sendAll(proxy, [
    tunnel(far.port, BILLING),
    tunnel(far.port, BILLING),
    `CONNECT bad.example:443 HTTP/1.1\r\n${BILLING}\r\n`,
    tunnel(far.port, basic("unlisted:u-pass")),
    tunnel(far.port, basic("invented:together")),
    tunnel(far.port, basic("constructor:together")),
    tunnel(far.port, basic("invented:wrong")),
    tunnel(far.port, ""),
    "nonsense\r\n\r\n",
  ]);
  await proxy.waitRecord(() => proxy.records().length === 9);
  const down = OK.length;
  assert.deepEqual(await clientSeries(proxy), {
    ...seriesOf("__proto__", [0, 0, 0, 0, 0]),
    ...seriesOf("billing", [2, 1, 10, 2 * down, 0]),
    ...seriesOf("default", [3, 0, 15, 3 * down, 0]),
    ...seriesOf("shop", [0, 0, 0, 0, 1]),
  });
  assert.doesNotMatch((await proxy.admin("/metrics")).text, /invented|unlisted|constructor/);

  writeFileSync(proxy.policyFile, policy(clients.filter(({ name }) => name === "billing" || name === "default")));
  proxy.signal("SIGHUP");
  await held.untilEnd();
  await proxy.waitRecord(({ entry, close }) => entry === "shop" && close === "revoked");
  await sendAll(proxy, [tunnel(far.port, SHOP)]);
  await proxy.waitRecord(() => proxy.records().length === 11);
  assert.deepEqual(await clientSeries(proxy), {
    ...seriesOf("billing", [2, 1, 10, 2 * down, 0]),
    ...seriesOf("default", [4, 0, 20, 4 * down, 0]),
  });
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("a policy without clients has no metrics by client", async () => {
  const proxy = await startProxy({ policy: {}, args: OPEN_LOOPBACK, hosts: "127.0.0.1 a.example\n" });
  const far = await receiver();
  assert.equal(served(await sendAll(proxy, Array<string>(60).fill(plain(far.port, "")))), 60);
  assert.deepEqual(await clientSeries(proxy), {});
  assert.equal(await proxy.stop(), 0);
  await far.close();
});
