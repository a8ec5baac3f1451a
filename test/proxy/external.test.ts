import assert from "node:assert/strict";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { TLSSocket } from "node:tls";
import { opensslMissing } from "../harness/certificate.ts";
import { basic, passwordFolder } from "../harness/clients.ts";
import { type Issued, Pki, tlsArgs, tlsConnect, tlsExchange, tlsFolder } from "../harness/pki.ts";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../harness/proxy.ts";
import { exchange, listen, RawClient } from "../harness/raw.ts";
import { ipv4, v1, v2 } from "./proxy-header-encoder.ts";

/**
 * `--listen-external` on real sockets. Its clients are at 127.7.0.0/16, the load balancers at 127.9.0.0/16, all others at
 * other loopback addresses.
 */

const skip = opensslMissing() ?? false;
const CLIENT = "127.7.0.1";
const BALANCER = "127.9.0.1";
const STRANGER = "127.8.0.1";
const EXTERNAL = ["--external-from", "127.7.0.0/16", "--external-from", "192.0.2.0/24"];
const BALANCED = ["--proxy-protocol", "required", "--proxy-protocol-from", "127.9.0.0/16"];
const REFUSED = "the address of the client is not in --external-from";

let pki: Pki;
let server: Issued;
let billing: Issued;
let far: Awaited<ReturnType<typeof listen>>;
before(async () => {
  if (skip) return;
  pki = new Pki();
  server = pki.issue("server", "/CN=proxy", { names: ["IP:127.0.0.1"] });
  billing = pki.issue("billing", "/CN=billing");
  far = await listen((socket) => {
    socket.on("data", (chunk) => {
      if (String(chunk).includes("\r\n\r\n")) socket.end("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
      else socket.write(chunk);
    });
    socket.on("end", () => socket.end());
  });
});
after(() => far?.close());

/** `clientName` null: it requests no client certificates. */
function start(
  options: Partial<Parameters<typeof startProxy>[0]> & { folder?: string; at?: string; clientName?: null } = {},
) {
  const { folder = tlsFolder(pki, server), at = "127.0.0.1:0", clientName, args = [], ...more } = options;
  const ports = [...tlsArgs(folder, clientName === null ? undefined : "cn"), "--listen-external", at, ...EXTERNAL];
  return startProxy({ policy: {}, ...more, args: [...OPEN_LOOPBACK, ...ports, ...args] });
}

const request = (fields = "") =>
  `GET http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n${fields}\r\n`;
const tcp4 = (address: string) => v1("TCP4", address, "192.0.2.200", 1001, 4752);
const inet = (address: string) =>
  v2({ family: 0x11, block: Buffer.concat([ipv4(address), Buffer.alloc(4), Buffer.from([3, 233, 0, 80])]) });
const LOCAL = v2({ command: 0, family: 0, block: Buffer.alloc(0) });

/** The handshake of a client at `from`, behind a header if there is one. */
async function handshake(port: number, from: string, header?: Buffer, issued?: Issued): Promise<TLSSocket> {
  const socket = connect({ port, host: "127.0.0.1", localAddress: from });
  await once(socket, "connect");
  if (header !== undefined) socket.write(header);
  return tlsConnect(port, pki.file, issued, { socket });
}

/** Sends a request to a port, and returns the first line of the answer. */
async function ask(port: number, from: string, header?: Buffer, issued: Issued | undefined = billing): Promise<string> {
  const client = RawClient.over(await handshake(port, from, header, issued));
  client.socket.write(request());
  await client.untilEnd();
  client.socket.destroy();
  return client.text.split("\r\n")[0]!;
}

/** Waits until this many handshakes were refused. */
async function untilRefused(proxy: ProxyHandle, count: number): Promise<void> {
  for (const began = Date.now(); ; ) {
    const { text } = await proxy.admin("/metrics");
    const now = Number(/tls_handshakes_total\{result="refused"\} (\d+)/.exec(text)![1]);
    if (now === count) return;
    assert.ok(now < count && Date.now() - began < 10_000, `${now} refused`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

test("the external port serves only --external-from, and only with TLS", { skip }, async () => {
  const proxy = await start();
  const port = proxy.externalPort;
  assert.equal(await ask(port, CLIENT), "HTTP/1.1 200 OK");
  const { tls } = await proxy.untilStatus(() => true);
  assert.deepEqual([tls!.listen, tls!.external], [`127.0.0.1:${proxy.tlsPort}`, `127.0.0.1:${port}`]);
  assert.match(String((await proxy.waitRecord(() => true)).source), /^127\.7\.0\.1:\d+$/);
  await assert.rejects(ask(port, STRANGER));
  await untilRefused(proxy, 1);
  assert.match(proxy.stderr(), new RegExp(`"client":"127\\.8\\.0\\.1:\\d+","reason":"${REFUSED}"`));
  // The other ports serve every address.
  assert.equal(await ask(proxy.tlsPort, STRANGER), "HTTP/1.1 200 OK");
  const plain = await RawClient.open(port, "127.0.0.1", CLIENT);
  plain.socket.write(request());
  await plain.untilEnd();
  assert.match(plain.text, /^HTTP\/1\.1 400 egress-bad-request: this port speaks TLS; /);
  plain.socket.destroy();
  // It is no target, as no port of the proxy is.
  const own = await RawClient.over(await handshake(port, CLIENT, undefined, billing));
  own.socket.write(`CONNECT 127.0.0.1:${port} HTTP/1.1\r\n\r\n`);
  await own.untilEnd();
  assert.match(own.text, /^HTTP\/1\.1 403 .*this proxy itself/);
  own.socket.destroy();
  await proxy.waitRecord(() => proxy.records().length === 4);
  assert.equal(proxy.records().filter(({ source }) => String(source).startsWith("127.8.")).length, 1);
  assert.equal(await proxy.stop(), 0);
});

test("strangers take no place of clients without a head", { skip }, async () => {
  const proxy = await start();
  const silent = await RawClient.open(proxy.externalPort, "127.0.0.1", CLIENT);
  await proxy.untilStatus(({ connections }) => connections === 1);
  const strangers = Array.from({ length: 300 }, () => RawClient.open(proxy.externalPort, "127.0.0.1", STRANGER));
  for (const one of await Promise.all(strangers)) await one.untilEnd();
  await untilRefused(proxy, 300);
  assert.equal((await proxy.untilStatus(() => true)).connections, 1);
  assert.equal(await proxy.bound("connections-per-source"), 0);
  silent.socket.destroy();
  assert.equal(await proxy.stop(), 0);
});

test("behind a load balancer the address of the header is checked", { skip }, async () => {
  const proxy = await start({ args: BALANCED });
  const port = proxy.externalPort;
  for (const header of [tcp4("192.0.2.1"), inet("192.0.2.1")]) {
    assert.equal(await ask(port, BALANCER, header), "HTTP/1.1 200 OK");
  }
  await proxy.waitRecord(() => proxy.records().length === 2);
  for (const { source, client } of proxy.records()) assert.deepEqual([source, client], ["192.0.2.1:1001", "billing"]);
  // Its health checks, which only open a connection, leave no trace.
  for (const header of [LOCAL, Buffer.alloc(0)]) {
    const check = await RawClient.open(port, "127.0.0.1", BALANCER);
    check.socket.end(header);
    await check.untilEnd();
    check.socket.destroy();
  }
  // The balancer itself is no client, whatever it says.
  const rows = [tcp4("198.51.100.1"), inet("198.51.100.1"), LOCAL, Buffer.from("PROXY UNKNOWN\r\n")];
  for (const header of rows) await assert.rejects(ask(port, BALANCER, header));
  await untilRefused(proxy, rows.length);
  assert.match(proxy.stderr(), new RegExp(`"client":"198\\.51\\.100\\.1:1001","reason":"${REFUSED}"`));
  await proxy.untilStatus(({ connections }) => connections === 0);
  // A client that reaches the port directly needs no header, and may not send one.
  assert.equal(await ask(port, CLIENT), "HTTP/1.1 200 OK");
  await assert.rejects(ask(port, CLIENT, tcp4("192.0.2.1")));
  await assert.rejects(ask(port, BALANCER));
  await proxy.waitRecord(() => proxy.records().filter(({ code }) => code === "bad-request").length === 2);
  assert.equal(await proxy.stop(), 0);
});

test("the other ports expect no header, not even from a load balancer", { skip }, async () => {
  const proxy = await start({ args: BALANCED });
  assert.equal(await ask(proxy.tlsPort, BALANCER), "HTTP/1.1 200 OK");
  await assert.rejects(ask(proxy.tlsPort, BALANCER, tcp4("192.0.2.1")));
  const plain = await RawClient.open(proxy.port, "127.0.0.1", BALANCER);
  plain.socket.write(Buffer.concat([tcp4("192.0.2.1"), Buffer.from(request())]));
  await plain.untilEnd();
  assert.match(plain.text, /^HTTP\/1\.1 400 egress-bad-request: the client sent a PROXY protocol header that /);
  plain.socket.destroy();
  for (const { source } of proxy.records()) assert.match(String(source), /^127\.9\.0\.1:/);
  assert.equal(await proxy.stop(), 0);
});

test("a client of the external port needs a proof, whatever the policy admits", { skip }, async () => {
  const clients = [{ name: "default", allow: [{ cidrs: ["127.0.0.0/8"], ports: ["1-65535"] }] }, { name: "billing" }];
  const policy = { authentication: { mode: "Basic", allowMissing: true, secretRef: { name: "x" } }, clients };
  const passwords = passwordFolder({ shop: "s-pass" });
  const proxy = await start({ policy, clientName: null, args: ["--password-dir", passwords] });
  const [status] = (await exchange(proxy.port, request())).split("\r\n");
  assert.equal(status, "HTTP/1.1 200 OK", "the plain port admits it");
  const at = { localAddress: CLIENT };
  const outside = (fields = "") => tlsExchange(request(fields), proxy.externalPort, pki.file, undefined, at);
  assert.match(await outside(), /^HTTP\/1\.1 407 /);
  assert.match(await outside(basic("shop:s-pass")), /^HTTP\/1\.1 200 OK/);
  assert.equal(await proxy.stop(), 0);
});

test("a revoked certificate ends its tunnel of the external port within 5 s", { skip }, async () => {
  const folder = tlsFolder(pki, server, true);
  const shop = pki.issue("shop", "/CN=shop");
  const proxy = await start({ folder, args: [...BALANCED, "--tls-crl", join(folder, "ca.crl")] });
  const open = async (issued: Issued) => {
    const client = RawClient.over(await handshake(proxy.externalPort, BALANCER, tcp4("192.0.2.1"), issued));
    await client.connect(`127.0.0.1:${far.port}`);
    return client;
  };
  const [revoked, other] = [await open(shop), await open(billing)];
  pki.revoke(shop);
  rmSync(join(folder, "ca.crl"));
  pki.crl(join(folder, "ca.crl"));
  await revoked.until(() => revoked.socket.destroyed, "end of the tunnel", 5000);
  assert.equal((await proxy.waitRecord(({ client }) => client === "shop")).close, "revoked");
  other.socket.write("still here");
  await other.untilText("still here");
  await assert.rejects(open(shop));
  other.socket.destroy();
  assert.equal(await proxy.stop(), 0);
});

test("the external port is closed at the end, and in use until then", { skip }, async () => {
  const folder = tlsFolder(pki, server);
  const first = await start({ folder });
  const at = `127.0.0.1:${first.externalPort}`;
  await assert.rejects(start({ folder, at }), new RegExp(`outrider: --listen-external ${at}: the address is in use`));
  assert.equal(await first.stop(), 0);
  await assert.rejects(ask(first.externalPort, CLIENT), /ECONNREFUSED/);
});
