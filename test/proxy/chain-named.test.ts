import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { after, test } from "node:test";
import { basic, passwordFolder } from "../harness/clients.ts";
import { startDns } from "../harness/dns.ts";
import { type Play, relays, sends, startHop } from "../harness/hop.ts";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../harness/proxy.ts";
import { exchange, listen, RawClient } from "../harness/raw.ts";

/** Upstream proxies that requests name in X-Upstream-Https-Proxy. */

const PASSWORDS = { billing: "b-pass", shop: "s-pass" };
const HOSTS = "127.0.0.1 far.example hop.example other.example bad.example\n10.0.0.5 private.example\n";
const PAIR = "billing:b-pass";

const open: (() => unknown)[] = [];
after(async () => {
  for (const close of open.reverse()) await close();
});

async function startFar() {
  const far = await listen((socket) => {
    socket.on("data", () => socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
    socket.on("end", () => socket.end());
  });
  open.push(far.close);
  return far;
}

async function startHopped(play?: Play) {
  const hop = await startHop(play);
  open.push(hop.close);
  return hop;
}

const document = (upstreamProxies: object[] | undefined, more: object = {}): string =>
  JSON.stringify({
    version: 2,
    policy: "test/test",
    clients: [{ name: "billing", ...(upstreamProxies ? { upstreamProxies } : {}) }, { name: "shop" }],
    authentication: { mode: "Basic" },
    ...more,
  });

async function start(policy: string): Promise<ProxyHandle> {
  const args = [...OPEN_LOOPBACK, "--password-dir", passwordFolder(PASSWORDS)];
  const proxy = await startProxy({ policy, hosts: HOSTS, args });
  open.push(() => proxy.stop());
  return proxy;
}

const wires = (target: string, fields: string) => [
  `CONNECT ${target} HTTP/1.1\r\n${fields}\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n`,
  `GET http://${target}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n${fields}\r\n`,
];
const naming = (url: string, pair = PAIR) => `${basic(pair)}X-Upstream-Https-Proxy: ${url}\r\n`;

/** The status lines of a request on both data paths. */
async function ask(proxy: ProxyHandle, target: string, fields: string): Promise<string[]> {
  const lines: string[] = [];
  for (const wire of wires(target, fields)) {
    const client = await RawClient.open(proxy.port);
    client.socket.write(wire, "latin1");
    await client.untilText("\r\n\r\n");
    lines.push(client.text.split("\r\n")[0]!);
    client.socket.destroy();
  }
  return lines;
}

test("a listed upstream proxy is used, with its own credentials", async () => {
  const [far, hop] = [await startFar(), await startHopped()];
  const proxy = await start(document([{ hosts: ["hop.example"] }]));
  const target = `far.example:${far.port}`;
  const url = `http://corp:s3%3acret@hop.example:${hop.port}`;
  assert.deepEqual(await ask(proxy, target, naming(url)), ["HTTP/1.1 200 Connection established", "HTTP/1.1 200 OK"]);
  const credentials = Buffer.from("corp:s3:cret").toString("base64");
  const expected = `CONNECT 127.0.0.1:${far.port} HTTP/1.1\r\nHost: 127.0.0.1:${far.port}\r\nProxy-Authorization: Basic ${credentials}\r\n\r\n`;
  assert.deepEqual(hop.state.heads, [expected, expected]);
  assert.doesNotMatch(hop.state.wire, /X-Upstream|b-pass|Ymls/i);
  const record = await proxy.waitRecord(({ kind }) => kind === "http");
  assert.equal(record.upstreamProxy, `hop.example:${hop.port}`);
  assert.doesNotMatch(JSON.stringify(proxy.records()) + proxy.stderr(), /s3/);
  // Without the field the connection is direct.
  assert.deepEqual(await ask(proxy, target, basic(PAIR)), ["HTTP/1.1 200 Connection established", "HTTP/1.1 200 OK"]);
  assert.equal(hop.state.heads.length, 2);
});

test("an upstream proxy that is not listed for the client is refused", async () => {
  const [far, hop] = [await startFar(), await startHopped()];
  const proxy = await start(
    document([{ hosts: ["hop.example", "bad.example", "private.example"], ports: [hop.port, 3128] }], {
      deny: [{ name: "no-bad", hosts: ["bad.example"] }],
    }),
  );
  const target = `far.example:${far.port}`;
  for (const [url, pair, code] of [
    [`http://other.example:${hop.port}`, PAIR, "not-allowed"],
    [`http://hop.example:${far.port}`, PAIR, "not-allowed"],
    [`http://127.0.0.1:${hop.port}`, PAIR, "not-allowed"],
    [`http://hop.example:${hop.port}`, "shop:s-pass", "not-allowed"],
    [`http://bad.example:${hop.port}`, PAIR, "denied-rule"],
    ["http://private.example:3128", PAIR, "address"],
  ] as const) {
    const seen = proxy.records().length;
    for (const line of await ask(proxy, target, naming(url, pair)))
      assert.match(line, /^HTTP\/1\.1 403 egress-denied: /);
    await proxy.waitRecord((record) => proxy.records().indexOf(record) >= seen + 1);
    const records = proxy.records().slice(seen);
    assert.deepEqual([...new Set(records.map((record) => record.code))], [code], url);
    assert.equal(records[0]!.verdict, "deny");
  }
  for (const url of [
    "https://hop.example:1",
    "hop.example:1",
    "http://hop.example",
    "http://hop.example:1/x",
    "http://%zz@hop.example:1",
    "http://127.1:1",
    `http://hop.example:${hop.port}\r\nX-Upstream-Https-Proxy: http://hop.example:${hop.port}`,
  ]) {
    for (const line of await ask(proxy, target, naming(url)))
      assert.match(line, /^HTTP\/1\.1 400 egress-bad-request: /, url);
  }
  assert.deepEqual(hop.state.heads, []);
  // A policy without clients lists none.
  const plain = await startProxy({ hosts: HOSTS, args: OPEN_LOOPBACK });
  open.push(() => plain.stop());
  const field = `X-Upstream-Https-Proxy: http://hop.example:${hop.port}\r\n`;
  for (const line of await ask(plain, target, field)) {
    assert.match(
      line,
      /^HTTP\/1\.1 403 egress-denied: the upstream proxy hop\.example:\d+ is not allowed for this client/,
    );
  }
  assert.deepEqual(hop.state.heads, []);
});

test("targets stay subject to the client's rules, and idle connections to their upstream proxy", async () => {
  const [far, hop, other] = [await startFar(), await startHopped(), await startHopped()];
  const listed = [{ hosts: ["hop.example", "other.example"] }];
  const proxy = await start(document(listed, { deny: [{ hosts: ["bad.example"] }] }));
  const named = naming(`http://hop.example:${hop.port}`);
  for (const target of [`bad.example:${far.port}`, "169.254.169.254:80", "10.0.0.5:443"]) {
    for (const line of await ask(proxy, target, named)) assert.match(line, /^HTTP\/1\.1 403 egress-denied: /);
  }
  assert.deepEqual(hop.state.heads, []);
  const client = await RawClient.open(proxy.port);
  const known = naming(`http://corp:secret@hop.example:${hop.port}`);
  const fields = [named, named, known, naming(`http://other.example:${other.port}`), basic(PAIR)];
  for (const [i, field] of fields.entries()) {
    client.socket.write(`GET http://far.example:${far.port}/ HTTP/1.1\r\nHost: x\r\n${field}\r\n`);
    await client.until(() => client.text.split("\r\n\r\nok").length === i + 2, "answer");
  }
  client.socket.destroy();
  assert.deepEqual([hop.state.heads.length, other.state.heads.length], [2, 1]);
});

test("an upstream proxy that is no longer listed ends its tunnels only", async () => {
  const [far, hop] = [await startFar(), await startHopped()];
  const proxy = await start(document([{ hosts: ["hop.example"] }]));
  const connect = async (fields: string) => {
    const client = await RawClient.open(proxy.port);
    client.socket.write(`CONNECT far.example:${far.port} HTTP/1.1\r\n${fields}\r\n`);
    await client.untilText("HTTP/1.1 200 Connection established\r\n\r\n");
    return client;
  };
  const [named, direct] = [await connect(naming(`http://hop.example:${hop.port}`)), await connect(basic(PAIR))];
  writeFileSync(proxy.policyFile, document(undefined));
  proxy.signal("SIGHUP");
  await named.untilEnd();
  assert.equal((await proxy.waitRecord(({ close }) => close === "revoked")).code, "not-allowed");
  direct.socket.write("GET");
  await direct.untilText("ok");
  direct.socket.destroy();
});

test("a denied address of a named upstream proxy ends its tunnels and idle connections", async () => {
  const [far, hop] = [await startFar(), await startHopped()];
  const proxy = await start(document([{ hosts: ["hop.example"] }]));
  const target = `far.example:${far.port}`;
  const [tunnel, plain] = await Promise.all([RawClient.open(proxy.port), RawClient.open(proxy.port)]);
  const named = naming(`http://hop.example:${hop.port}`);
  tunnel.socket.write(`CONNECT ${target} HTTP/1.1\r\n${named}\r\n`);
  await tunnel.untilText("HTTP/1.1 200 Connection established\r\n\r\n");
  const get = `GET http://${target}/ HTTP/1.1\r\nHost: x\r\n${named}\r\n`;
  plain.socket.write(get);
  await plain.untilText("\r\n\r\nok");
  const deny = [{ name: "no-hop", cidrs: ["127.0.0.1/32"], ports: [hop.port] }];
  writeFileSync(proxy.policyFile, document([{ hosts: ["hop.example"] }], { deny }));
  proxy.signal("SIGHUP");
  await tunnel.untilEnd();
  const record = await proxy.waitRecord(({ close }) => close === "revoked");
  assert.deepEqual([record.code, record.rule], ["denied-rule", "no-hop"]);
  plain.socket.write(get);
  await plain.untilText("HTTP/1.1 403 egress-denied: hop.example resolves to an address that rule no-hop denies");
  plain.socket.destroy();
});

test("a change to Local ends tunnels of named upstream proxies that got names", async () => {
  const hop = await startHopped(sends("HTTP/1.1 200 OK\r\n\r\n"));
  const listed = [{ hosts: ["hop.example"] }];
  const resolving = (resolve: string) =>
    document(listed, { upstreamProxy: { url: `http://other.example:${hop.port}`, resolve } });
  const proxy = await start(resolving("Upstream"));
  const client = await RawClient.open(proxy.port);
  const named = naming(`http://hop.example:${hop.port}`);
  client.socket.write(`CONNECT far.example:443 HTTP/1.1\r\n${named}\r\n`);
  await client.untilText("HTTP/1.1 200 Connection established\r\n\r\n");
  assert.match(hop.state.wire, /^CONNECT far\.example:/);
  writeFileSync(proxy.policyFile, resolving("Local"));
  proxy.signal("SIGHUP");
  await client.untilEnd();
  assert.equal((await proxy.waitRecord(({ close }) => close === "revoked")).code, "unverified");
});

test("with verification Block, a request cannot leave through an upstream proxy of its own", async () => {
  const [far, hop] = [await startFar(), await startHopped(relays())];
  const echo = await listen((socket) => {
    socket.once("data", () => socket.end("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n203.0.113.10"));
  });
  open.push(echo.close);
  const verified = {
    staticIPs: [{ address: "203.0.113.10" }],
    verification: { echoURLs: [`http://127.0.0.1:${echo.port}/`], intervalSeconds: 1, timeoutSeconds: 1 },
  };
  const proxy = await start(document([{ hosts: ["hop.example"] }], verified));
  await proxy.untilStatus((status) => status.ready);
  const target = `far.example:${far.port}`;
  for (const line of await ask(proxy, target, naming(`http://hop.example:${hop.port}`))) {
    assert.match(line, /^HTTP\/1\.1 503 egress-unavailable: source addresses through hop\.example:\d+ are not proven/);
  }
  assert.deepEqual(hop.state.heads, []);
  const wire = wires(target, basic(PAIR))[1]!;
  assert.match(await exchange(proxy.port, wire), /^HTTP\/1\.1 200 /);
});

test("names of upstream proxies take the slots of their client", async () => {
  const [far, hop] = [await startFar(), await startHopped(relays())];
  const dns = await startDns((name) => (name.startsWith("good.") ? { addresses: ["127.0.0.1"] } : "silent"));
  open.push(dns.close);
  const upstreamProxies = [{ hosts: ["*.hops.test"] }];
  const clients = ["billing", "shop"].map((name) => ({ name, upstreamProxies }));
  const proxy = await startProxy({
    policy: document(undefined, { clients }),
    hosts: HOSTS,
    args: [...OPEN_LOOPBACK, "--resolver", dns.address, "--password-dir", passwordFolder(PASSWORDS)],
  });
  open.push(() => proxy.stop());
  const target = `far.example:${far.port}`;
  const many = await Promise.all(Array.from({ length: 100 }, () => RawClient.open(proxy.port)));
  for (const [i, client] of many.entries()) {
    client.socket.write(wires(target, naming(`http://x${i}.hops.test:${hop.port}`))[0]!);
  }
  await proxy.untilStatus(({ active }) => active > 2);
  const good = naming(`http://good.hops.test:${hop.port}`, "shop:s-pass");
  assert.deepEqual(await ask(proxy, target, good), ["HTTP/1.1 200 Connection established", "HTTP/1.1 200 OK"]);
  for (const client of many) client.socket.destroy();
});
