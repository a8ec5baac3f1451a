import assert from "node:assert/strict";
import { test } from "node:test";
import { OPEN_LOOPBACK, startProxy } from "../harness/proxy.ts";
import { exchange, listen, RawClient } from "../harness/raw.ts";

test("--head-seconds: a slow head is a 408, a silent client is closed", async () => {
  const proxy = await startProxy({ policy: {}, args: ["--head-seconds", "1"] });
  const slow = await RawClient.open(proxy.port);
  const silent = await RawClient.open(proxy.port);
  const began = performance.now();
  slow.socket.write("CONNECT a.example:443 HTTP/1.1\r\nHost: ");
  await Promise.all([slow.untilEnd(9000), silent.untilEnd(9000)]);
  assert.ok(performance.now() - began >= 1000, "not before the time is over");
  assert.match(slow.text, /^HTTP\/1\.1 408 egress-bad-request: the request head was not complete within 1 s\r\n/);
  assert.equal(silent.text, "");
  const { verdict, code, target, kind } = await proxy.waitRecord(() => true);
  assert.deepEqual([verdict, code, target, kind], ["deny", "bad-request", "a.example:443", "connect"]);
  for (const { socket } of [slow, silent]) socket.destroy();
  await proxy.stop();
});

test("--head-seconds applies to each head of a kept-alive connection", async () => {
  const far = await listen((socket) => {
    socket.once("data", () => socket.end("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
  });
  const proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, "--head-seconds", "1"] });
  const client = await RawClient.open(proxy.port);
  client.socket.write(`GET http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: x\r\n\r\n`);
  await client.untilText("ok");
  client.socket.write("GET http://user:secr");
  await client.untilText("HTTP/1.1 408 egress-bad-request: ");
  const record = await proxy.waitRecord(({ code }) => code === "bad-request");
  assert.equal(record.target, "http://user:***");
  client.socket.destroy();
  await proxy.stop();
  await far.close();
});

test("an empty line behind a body does not begin a head", async () => {
  const far = await listen((socket) => {
    socket.on("data", () => socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
  });
  const proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, "--head-seconds", "1"] });
  const client = await RawClient.open(proxy.port);
  client.socket.write(`POST http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi\r\n`);
  await client.untilText("ok");
  // The sweep that closes this client comes after the time of a head.
  const silent = await RawClient.open(proxy.port);
  await silent.untilEnd();
  client.socket.write(`GET http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: x\r\n\r\n`);
  await client.until(() => client.text.split("\r\n\r\nok").length === 3 || client.ended, "answer");
  assert.doesNotMatch(client.text, / 408 /);
  assert.equal(client.text.split("HTTP/1.1 200 OK\r\n").length, 3);
  for (const { socket } of [client, silent]) socket.destroy();
  await proxy.stop();
  await far.close();
});

test("--head-kib allows longer heads", async () => {
  const far = await listen((socket) => {
    socket.once("data", () => socket.end("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
  });
  const proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, "--head-kib", "64"] });
  const send = (length: number) =>
    exchange(
      proxy.port,
      `GET http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: ${"y".repeat(length)}\r\n\r\n`,
    );
  assert.match(await send(60_000), /^HTTP\/1\.1 200 OK\r\n/);
  assert.match(
    await send(66_000),
    /^HTTP\/1\.1 431 egress-bad-request: the request head is longer than 65536 bytes\r\n/,
  );
  await proxy.stop();
  await far.close();
});

test("--buffer-mib limits incomplete heads", async () => {
  const proxy = await startProxy({ policy: {}, args: ["--head-kib", "256", "--buffer-mib", "1"] });
  const clients = await Promise.all(Array.from({ length: 10 }, () => RawClient.open(proxy.port)));
  for (const client of clients) client.socket.write(`GET http://a.example/ HTTP/1.1\r\nX: ${"y".repeat(200_000)}`);
  await clients[0]!.until(() => clients.some(({ socket }) => socket.destroyed), "end of a connection");
  await proxy.untilStatus(({ bufferedBytes }) => Number(bufferedBytes) <= 1024 * 1024);
  assert.match((await proxy.admin("/metrics")).text, /outrider_proxy_bound_total\{bound="buffered-bytes"\} [1-9]/);
  for (const { socket } of clients) socket.destroy();
  await proxy.stop();
});

test("--buffer-mib limits the large heads of requests under way", async () => {
  let arrived = 0;
  const far = await listen((socket) => {
    socket.on("data", (chunk) => {
      arrived += chunk.length;
    });
  });
  const limits = ["--head-kib", "256", "--buffer-mib", "1", "--head-seconds", "1"];
  const proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, ...limits] });
  const clients: RawClient[] = [];
  const send = async () => {
    const client = await RawClient.open(proxy.port);
    clients.push(client);
    client.socket.write(`GET http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: x\r\nX: ${"y".repeat(200_000)}\r\n\r\n`);
  };
  for (let i = 0; i < 4; i++) await send();
  await proxy.untilStatus(() => arrived > 800_000);
  // The sweep that closes this client has updated the numbers before.
  const silent = await RawClient.open(proxy.port);
  await silent.untilEnd();
  await proxy.untilStatus(({ bufferedBytes }) => Number(bufferedBytes) > 800_000, 1000);
  for (let i = 0; i < 4; i++) await send();
  await proxy.waitRecord(({ close }) => close === "buffer-limit");
  await proxy.untilStatus(({ bufferedBytes }) => Number(bufferedBytes) <= 1024 * 1024);
  for (const { socket } of [silent, ...clients]) socket.resetAndDestroy();
  await proxy.untilStatus(({ bufferedBytes }) => bufferedBytes === 0);
  await proxy.stop();
  await far.close();
});

test("a complete head of usual size no longer counts as buffered", async () => {
  let arrived = "";
  const far = await listen((socket) => {
    socket.on("data", (chunk) => {
      arrived += chunk;
    });
  });
  const proxy = await startProxy({ policy: {}, args: OPEN_LOOPBACK });
  const client = await RawClient.open(proxy.port);
  client.socket.write(`GET http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: x\r\nX: ${"y".repeat(10_000)}\r\n`);
  await proxy.untilStatus(({ bufferedBytes }) => Number(bufferedBytes) > 10_000);
  client.socket.write("\r\n");
  const { bufferedBytes } = await proxy.untilStatus(() => arrived.endsWith("\r\n\r\n"));
  assert.equal(bufferedBytes, 0);
  client.socket.destroy();
  await proxy.stop();
  await far.close();
});

test("a client that got a 408 no longer counts as silent", async () => {
  const proxy = await startProxy({ policy: {}, args: ["--head-seconds", "1"] });
  const late = await RawClient.open(proxy.port);
  late.socket.write("GET http://a.example/ HTTP/1.1\r\n");
  await late.untilText("HTTP/1.1 408 ");
  // The limit of silent connections of one source address.
  const silent = await Promise.all(Array.from({ length: 256 }, () => RawClient.open(proxy.port)));
  await proxy.untilStatus(({ connections }) => connections >= 256);
  assert.match((await proxy.admin("/metrics")).text, /outrider_proxy_bound_total\{bound="connections-per-source"\} 0/);
  for (const { socket } of [late, ...silent]) socket.destroy();
  await proxy.stop();
});

const check = (target: string, method = "GET") => `${method} ${target} HTTP/1.0\r\n\r\n`;

test("--healthcheck-path answers health checks on the port for clients", async () => {
  const args = ["--healthcheck-path", "/healthcheck", "--drain-delay-seconds", "30"];
  const proxy = await startProxy({ policy: {}, args, env: { PROXY_PASSWORD: "secret" } });
  const ready = await exchange(proxy.port, check("/healthcheck"));
  assert.match(ready, /^HTTP\/1\.1 200 OK\r\n[\s\S]*\r\nConnection: close\r\n\r\nok\n$/);
  assert.match(await exchange(proxy.port, check("/healthcheck", "HEAD")), /^HTTP\/1\.1 200 OK\r\n[\s\S]*\r\n\r\n$/);
  for (const target of ["/healthcheck?x", "/healthcheck/", "/", "http://a.example/healthcheck"]) {
    assert.match(await exchange(proxy.port, check(target)), /^HTTP\/1\.1 40[07] /, target);
  }
  assert.match(await exchange(proxy.port, check("/healthcheck", "POST")), /^HTTP\/1\.1 400 /);
  const { port } = proxy;
  proxy.signal("SIGTERM");
  await proxy.untilStatus(({ ready }) => !ready);
  const leaving = await exchange(port, check("/healthcheck"));
  assert.match(leaving, /^HTTP\/1\.1 503 Service Unavailable\r\n[\s\S]*\r\n\r\ndraining\n$/);
  await proxy.waitRecord(() => proxy.records().length >= 5);
  assert.deepEqual(
    proxy.records().map(({ code }) => code),
    ["bad-request", "bad-request", "bad-request", "auth", "bad-request"],
  );
  await proxy.stop();
});

test("without --healthcheck-path no path is special", async () => {
  const proxy = await startProxy({ policy: {} });
  assert.match(await exchange(proxy.port, check("/healthcheck")), /^HTTP\/1\.1 400 /);
  await proxy.stop();
});
