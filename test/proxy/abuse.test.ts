import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../harness/proxy.ts";
import { exchange, listen, RawClient } from "../harness/raw.ts";

let proxy: ProxyHandle;
before(async () => {
  proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, "--access-log", "none", "--idle-seconds", "2"] });
});
after(async () => {
  assert.equal(await proxy.stop(), 0);
  assert.doesNotMatch(proxy.stderr(), /"level":"(error|fatal)"|Error:/);
});

const settled = () => proxy.untilStatus((status) => status.connections === 0);

test("20,000 successive connections leak neither handles nor memory", {
  timeout: 240_000,
}, async () => {
  const far = await listen((socket) => socket.on("data", () => socket.end("bye")));
  const one = async (i: number): Promise<void> => {
    const client = await RawClient.open(proxy.port);
    if (i % 4 === 1) client.socket.write("CONNECT 10.0.0.5:443 HTTP/1.1\r\n\r\n");
    if (i % 4 === 2) client.socket.write(`CONNECT 127.0.0.1:${far.port} HTTP/1.1\r\n\r\nhello`);
    if (i % 4 === 3) client.socket.write("CONN");
    if (i % 4 === 1 || i % 4 === 2) await client.untilEnd();
    if (i % 8 < 4) client.socket.resetAndDestroy();
    else client.socket.destroy();
  };
  const round = async (count: number): Promise<void> => {
    for (let i = 0; i < count; i += 20) await Promise.all(Array.from({ length: 20 }, (_, k) => one(i + k)));
    await settled();
  };
  await round(4000);
  const before = { handles: proxy.handles(), rss: proxy.rss() };
  await round(16_000);
  assert.ok(proxy.handles() <= before.handles + 5, `handles grew from ${before.handles} to ${proxy.handles()}`);
  assert.ok(proxy.rss() < before.rss + 64, `memory grew from ${before.rss} to ${proxy.rss()} MiB`);
  await far.close();
});

test("a reset in any state ends only that connection", async () => {
  const far = await listen((socket) => socket.resume());
  const states = [
    "",
    "CONNECT a",
    `CONNECT 127.0.0.1:${far.port} HTTP/1.1\r\n\r\n`,
    `POST http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n123`,
    `POST http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n12`,
    "CONNECT 10.0.0.5:443 HTTP/1.1\r\n\r\n",
  ];
  for (const wire of states) {
    for (const wait of [0, 20]) {
      const client = await RawClient.open(proxy.port);
      client.socket.write(wire);
      if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
      client.socket.resetAndDestroy();
    }
  }
  await settled();
  await far.close();
});

test("disconnects silent and slow clients after ten seconds", async () => {
  const silent = await RawClient.open(proxy.port);
  const slow = await RawClient.open(proxy.port);
  const drip = setInterval(() => slow.socket.write("C"), 1000);
  await Promise.all([silent.untilEnd(14_000), slow.untilEnd(14_000)]);
  clearInterval(drip);
  assert.equal(silent.text, "");
  assert.match(slow.text, /^HTTP\/1\.1 408 egress-bad-request: the request head was not complete within 10 s/);
  for (const client of [silent, slow]) client.socket.destroy();
});

test("resets only tunnels without traffic", async () => {
  const far = await listen((socket) => socket.pipe(socket));
  const idle = await RawClient.open(proxy.port);
  const busy = await RawClient.open(proxy.port);
  await Promise.all([idle, busy].map((client) => client.connect(`127.0.0.1:${far.port}`)));
  const ping = setInterval(() => busy.socket.write("x"), 500);
  await idle.until(() => idle.socket.destroyed, "end of the idle tunnel");
  await new Promise((resolve) => setTimeout(resolve, 1500));
  clearInterval(ping);
  assert.equal(busy.socket.destroyed, false);
  busy.socket.destroy();
  await far.close();
});

test("--max-tunnels: further tunnels get 503", async () => {
  const far = await listen((socket) => socket.resume());
  const small = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, "--max-tunnels", "2"] });
  const open = await Promise.all([1, 2].map(() => RawClient.open(small.port)));
  for (const client of open) await client.connect(`127.0.0.1:${far.port}`);
  const refused = await exchange(small.port, `CONNECT 127.0.0.1:${far.port} HTTP/1.1\r\n\r\n`);
  assert.match(refused, /^HTTP\/1\.1 503 egress-unavailable: this proxy has 2 tunnels, its limit\r\n/);
  assert.match(refused, /\r\nRetry-After: 1\r\n/);
  // RST: after a FIN alone the other direction would stay open.
  open[0]!.socket.resetAndDestroy();
  await small.waitRecord((record) => record.verdict === "allow" && record.code === undefined);
  const next = await RawClient.open(small.port);
  await next.connect(`127.0.0.1:${far.port}`);
  for (const client of [...open, next]) client.socket.destroy();
  await small.stop();
  await far.close();
});

test("maxTunnelsPerClient limits each client address on its own", async () => {
  const far = await listen((socket) => {
    socket.on("data", (chunk) => {
      if (String(chunk).startsWith("GET")) socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
  });
  const policy = { proxy: { limits: { maxTunnelsPerClient: 2 } } };
  const small = await startProxy({ policy, args: OPEN_LOOPBACK });
  const connectWire = `CONNECT 127.0.0.1:${far.port} HTTP/1.1\r\n\r\n`;
  const plainWire = `GET http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`;
  /** The answer to a request from this address; the connection stays open. */
  const ask = async (from: string, wire: string) => {
    const client = await RawClient.open(small.port, "127.0.0.1", from);
    client.socket.write(wire);
    await client.untilText("\r\n\r\n");
    return client;
  };
  const open: RawClient[] = [];
  const tunnel = async (from: string) => {
    open.push(await ask(from, connectWire));
    assert.match(open.at(-1)!.text, /^HTTP\/1\.1 200 Connection established/, from);
  };
  const limit = /^HTTP\/1\.1 503 egress-unavailable: this client has 2 tunnels, its limit\r\n/;
  const refuses = async (from: string) => {
    for (const wire of [connectWire, plainWire]) {
      const client = await ask(from, wire);
      assert.match(client.text, limit, from);
      client.socket.destroy();
    }
  };
  for (const from of ["127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.2"]) await tunnel(from);
  await refuses("127.0.0.1");
  await refuses("127.0.0.2");
  await tunnel("127.0.0.3");
  // Refused requests count for none, and the end of a tunnel makes room for one.
  open[0]!.socket.resetAndDestroy();
  await small.untilStatus(({ active }) => active === 4);
  const plain = await ask("127.0.0.1", plainWire);
  assert.match(plain.text, /^HTTP\/1\.1 200 OK/);
  await small.untilStatus(({ active }) => active === 4);
  await tunnel("127.0.0.1");
  await refuses("127.0.0.1");
  await refuses("127.0.0.2");
  for (const client of [...open, plain]) client.socket.destroy();
  await small.stop();
  assert.equal(small.records().filter(({ code }) => code === "overloaded").length, 8);
  await far.close();
});
