import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { opensslMissing } from "../harness/certificate.ts";
import { clientHello, Pki, tlsArgs, tlsClient, tlsExchange, tlsFolder } from "../harness/pki.ts";
import { OPEN_LOOPBACK, startProxy } from "../harness/proxy.ts";
import { exchange, listen, RawClient } from "../harness/raw.ts";

const skip = opensslMissing() ?? false;
const server = (pki: Pki) => pki.issue("server", "/CN=proxy", { names: ["IP:127.0.0.1"] });
const REQUEST = "CONNECT 10.0.0.1:443 HTTP/1.1\r\n\r\n";

/** Waits for a condition that no event reports. */
async function until(probe: () => Promise<boolean>): Promise<void> {
  for (const began = Date.now(); !(await probe()); ) {
    if (Date.now() - began > 10_000) throw new Error("never as wanted");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

test("one deadline covers handshake and head", { skip }, async () => {
  const pki = new Pki();
  const args = [...tlsArgs(tlsFolder(pki, server(pki))), "--head-seconds", "2"];
  const proxy = await startProxy({ policy: {}, args });
  const hello = await clientHello();
  const began = Date.now();
  const silent = await RawClient.open(proxy.tlsPort);
  const halfway = await RawClient.open(proxy.tlsPort);
  halfway.socket.write(hello);
  const slow = await RawClient.open(proxy.tlsPort);
  let sent = 0;
  const drip = setInterval(() => {
    if (sent < 100) slow.socket.write(hello.subarray(sent, ++sent));
  }, 50);
  const headless = await tlsClient(proxy.tlsPort, pki.file);
  const late = await tlsClient(proxy.tlsPort, pki.file);
  late.socket.write("CONNECT a.example:443 HT");
  for (const client of [silent, halfway, slow, headless, late])
    await client.until(() => client.ended || client.socket.destroyed, "end", 8000);
  clearInterval(drip);
  assert.ok(Date.now() - began < 8000);
  assert.match(late.text, /^HTTP\/1\.1 408 /);
  assert.equal(await proxy.bound("silent-connections"), 5);
  for (const client of [silent, halfway, slow, headless, late]) client.socket.destroy();
  await proxy.untilStatus((status) => status.connections === 0);
  await proxy.waitRecord((record) => record.code === "bad-request");
  assert.equal(await proxy.stop(), 0);
  assert.equal(proxy.records().length, 1);
});

test("one source address has a limit of incomplete handshakes", { skip }, async () => {
  const pki = new Pki();
  const proxy = await startProxy({ policy: {}, args: tlsArgs(tlsFolder(pki, server(pki))) });
  const hello = await clientHello();
  const before = proxy.handles();
  const clients: RawClient[] = [];
  for (let i = 0; i < 300; i++) {
    const client = await RawClient.open(proxy.tlsPort);
    if (i % 2 === 0) client.socket.write(hello);
    clients.push(client);
  }
  await until(async () => (await proxy.bound("connections-per-source")) >= 44);
  assert.match(await tlsExchange(REQUEST, proxy.tlsPort, pki.file), /^HTTP\/1\.1 403 /);
  assert.match(await exchange(proxy.port, REQUEST), /^HTTP\/1\.1 403 /);
  for (const client of clients) client.socket.destroy();
  // A half-closed handshake ends at its deadline.
  await proxy.untilStatus((status) => status.connections === 0, 20_000);
  assert.ok(proxy.handles() <= before + 2, `${proxy.handles()} descriptors, ${before} before`);
  assert.equal(await proxy.stop(), 0);
});

test("incomplete handshakes make room when no descriptor is left", { skip }, async () => {
  const pki = new Pki();
  const proxy = await startProxy({ policy: {}, args: tlsArgs(tlsFolder(pki, server(pki))), openFiles: 128 });
  const hello = await clientHello();
  const clients: RawClient[] = [];
  for (let i = 0; i < 120; i++) {
    const client = await RawClient.open(proxy.tlsPort);
    client.socket.write(hello);
    clients.push(client);
  }
  // A connection that is silent for less than 100 ms keeps its place.
  await until(async () => (await tlsExchange(REQUEST, proxy.tlsPort, pki.file).catch(() => "")) !== "");
  assert.ok((await proxy.bound("silent-connections")) > 0);
  for (const client of clients) client.socket.destroy();
  assert.equal(await proxy.stop(), 0);
});

test("a handshake of many bytes fails", { skip }, async () => {
  const pki = new Pki();
  const proxy = await startProxy({ policy: {}, args: tlsArgs(tlsFolder(pki, server(pki)), "cn") });
  // A ClientHello of 16 MiB in records of 16 KiB.
  const client = await RawClient.open(proxy.tlsPort);
  const record = Buffer.concat([Buffer.from([22, 3, 1, 0x40, 0]), Buffer.alloc(16_384)]);
  Buffer.from([1, 0xff, 0xff, 0xff]).copy(record, 5);
  let sent = 0;
  while (!client.socket.destroyed && !client.ended && sent < 1024) {
    sent++;
    if (!client.socket.write(record))
      await Promise.race([once(client.socket, "drain"), once(client.socket, "close")]).catch(() => {});
  }
  await client.untilEnd();
  assert.ok(sent < 1024, "all of it was read");
  client.socket.destroy();
  await proxy.untilStatus((status) => status.connections === 0);
  assert.match(proxy.stderr(), /"reason":"the handshake failed: /);
  assert.equal(await proxy.stop(), 0);
});

test("a TLS 1.2 client cannot renegotiate", { skip }, async () => {
  const pki = new Pki();
  const proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, ...tlsArgs(tlsFolder(pki, server(pki)))] });
  const far = await listen((socket) => socket.on("data", (chunk) => socket.write(chunk)));
  const client = await tlsClient(proxy.tlsPort, pki.file, undefined, { maxVersion: "TLSv1.2" });
  await client.connect(`127.0.0.1:${far.port}`);
  const socket = client.socket as import("node:tls").TLSSocket;
  const error = await new Promise<Error | null>((resolve) => {
    socket.once("error", resolve);
    socket.renegotiate({}, resolve);
  });
  assert.match(String(error), /no renegotiation|ECONNRESET|disallowed/i);
  client.socket.destroy();
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("a burst of handshakes is served, and the plain port meanwhile", { skip }, async () => {
  const pki = new Pki();
  const proxy = await startProxy({ policy: {}, args: tlsArgs(tlsFolder(pki, server(pki)), "cn") });
  const billing = pki.issue("billing", "/CN=billing");
  const burst = Array.from({ length: 100 }, () => tlsExchange(REQUEST, proxy.tlsPort, pki.file, billing));
  const plain = Array.from({ length: 20 }, () => exchange(proxy.port, REQUEST));
  for (const answer of await Promise.all(burst)) assert.match(answer, /^HTTP\/1\.1 403 egress-denied: 10\.0\.0\.1/);
  for (const answer of await Promise.all(plain))
    assert.match(answer, /^HTTP\/1\.1 403 egress-denied: no client certificate/);
  await proxy.untilStatus((status) => status.connections === 0);
  await proxy.waitRecord(() => proxy.records().length === 120);
  assert.equal(await proxy.stop(), 0);
});

test("a drain ends idle TLS connections and lets tunnels end", { skip }, async () => {
  const pki = new Pki();
  const args = [...OPEN_LOOPBACK, ...tlsArgs(tlsFolder(pki, server(pki)))];
  const proxy = await startProxy({ policy: {}, args, env: { OUTRIDER_DRAIN_SECONDS: "20" } });
  const far = await listen((socket) => {
    socket.on("data", (chunk) => socket.write(chunk));
    socket.on("end", () => socket.end());
  });
  const tunnel = await tlsClient(proxy.tlsPort, pki.file);
  await tunnel.connect(`127.0.0.1:${far.port}`);
  const stopped = proxy.stop();
  await proxy.untilStatus((status) => status.phase === "draining").catch(() => {});
  await assert.rejects(tlsClient(proxy.tlsPort, pki.file));
  tunnel.socket.write("last words");
  await tunnel.untilText("last words");
  tunnel.socket.end();
  assert.equal(await stopped, 0);
  assert.equal(proxy.records()[0]?.close, "client-end");
  await far.close();
});
