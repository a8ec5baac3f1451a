import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { Duplex } from "node:stream";
import { after, before, test } from "node:test";
import { opensslMissing } from "../harness/certificate.ts";
import { clientHello, type Issued, Pki, tlsArgs, tlsClient, tlsFolder } from "../harness/pki.ts";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../harness/proxy.ts";
import { listen, RawClient } from "../harness/raw.ts";
import { ipv4, v1, v2 } from "./proxy-header-encoder.ts";

/** `--proxy-protocol` on the TLS port: the header, then the handshake, then the first head. */

const skip = opensslMissing() ?? false;
const BALANCER = "127.9.0.1";
const OTHER = "127.8.0.1";
const FROM = ["--proxy-protocol", "required", "--proxy-protocol-from", "127.9.0.0/16"];

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

/** A proxy with a TLS port. `clientName`: it requests client certificates. */
function start(options: Partial<Parameters<typeof startProxy>[0]> & { clientName?: string } = {}) {
  const { clientName, ...more } = options;
  const tls = tlsArgs(tlsFolder(pki, server), clientName);
  return startProxy({ policy: {}, ...more, args: [...OPEN_LOOPBACK, ...FROM, ...tls, ...(more.args ?? [])] });
}

const request = () => `GET http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: x\r\n\r\n`;
const tcp4 = (address: string, port: number) => v1("TCP4", address, "192.0.2.200", port, 4751);
const inet = (address: string, port: number) =>
  v2({
    family: 0x11,
    block: Buffer.concat([ipv4(address), Buffer.alloc(4), Buffer.from([port >> 8, port & 255, 0, 80])]),
  });

async function open(proxy: ProxyHandle, from = BALANCER): Promise<Socket> {
  const socket = connect({ port: proxy.tlsPort, host: "127.0.0.1", localAddress: from, noDelay: true });
  await once(socket, "connect");
  return socket;
}

/** A stream for a TLS client: `first` writes its ClientHello to a socket. */
function streamOf(socket: Socket, first: (hello: Buffer) => void | Promise<void>): Duplex {
  let isFirst = true;
  const stream = new Duplex({
    read: () => void socket.resume(),
    write: (chunk: Buffer, _encoding, done) => {
      if (!isFirst) {
        socket.write(chunk, done);
        return;
      }
      isFirst = false;
      Promise.resolve(first(chunk)).then(() => done(), done);
    },
    final: (done) => void socket.end(done),
    destroy: (error, done) => {
      socket.destroy();
      done(error);
    },
  });
  socket.on("data", (chunk) => void stream.push(chunk));
  socket.on("end", () => void stream.push(null));
  socket.on("error", (error) => stream.destroy(error));
  socket.on("close", () => stream.destroy());
  return stream;
}

/** A TLS client behind a load balancer, which sends the header and the ClientHello in one packet. */
async function behind(proxy: ProxyHandle, header: Buffer, issued?: Issued): Promise<RawClient> {
  const socket = await open(proxy);
  const stream = streamOf(socket, (hello) => void socket.write(Buffer.concat([header, hello])));
  return tlsClient(proxy.tlsPort, pki.file, issued, { socket: stream });
}

test("header and ClientHello may be split at each byte, or come together", { skip, timeout: 120_000 }, async () => {
  const proxy = await start({ clientName: "cn" });
  for (const header of [tcp4("192.0.2.1", 5), inet("192.0.2.1", 5)]) {
    const earlier = proxy.records().length;
    const { promise: continued, resolve: release } = Promise.withResolvers<void>();
    // A cut at 0 sends all in one packet. The last ones are inside of the ClientHello.
    const cuts = Array.from({ length: header.length + 4 }, (_, i) => i);
    const clients = cuts.map(async (cut) => {
      const socket = await open(proxy);
      const stream = streamOf(socket, async (hello) => {
        const wire = Buffer.concat([header, hello]);
        socket.write(wire.subarray(0, cut));
        await continued;
        socket.write(wire.subarray(cut));
      });
      return tlsClient(proxy.tlsPort, pki.file, billing, { socket: stream });
    });
    const held = cuts.reduce((sum, cut) => sum + (cut < header.length ? cut : 0), 0);
    await proxy.untilStatus(({ bufferedBytes }) => bufferedBytes === held);
    release();
    for (const client of await Promise.all(clients)) {
      client.socket.write(request());
      await client.untilText("\r\n\r\nok");
      client.socket.destroy();
    }
    await proxy.waitRecord(() => proxy.records().length === earlier + cuts.length);
  }
  for (const { source, client, verdict } of proxy.records())
    assert.deepEqual([source, client, verdict], ["192.0.2.1:5", "billing", "allow"]);
  await proxy.untilStatus(({ connections, bufferedBytes }) => connections === 0 && bufferedBytes === 0);
  assert.equal(await proxy.stop(), 0);
});

test("other sources send no header, and are served with their own address", { skip }, async () => {
  const proxy = await start({ clientName: "cn" });
  const client = await tlsClient(proxy.tlsPort, pki.file, billing, { localAddress: OTHER });
  client.socket.write(request());
  await client.untilText("\r\n\r\nok");
  const { source } = await proxy.waitRecord(() => true);
  assert.equal(source, `${OTHER}:${client.socket.localPort}`);
  client.socket.destroy();
  assert.equal(await proxy.stop(), 0);
});

test("a wrong header is closed without an answer, and recorded", { skip }, async () => {
  const proxy = await start({ args: ["--head-seconds", "1"] });
  const hello = await clientHello();
  const text = (bytes: string) => Buffer.from(bytes, "latin1");
  const [missing, malformed] = [/^the connection does not begin with a PROXY /, /^the PROXY protocol header is malf/];
  const unexpected = /^the client sent a PROXY protocol header that this port does not expect from its address; /;
  const late = /^the PROXY protocol header was not complete within 1 s$/;
  const damaged = inet("192.0.2.1", 5);
  damaged[12] = 0x31;
  const rows: [what: string, from: string, bytes: Buffer, reason: RegExp, target: string, source?: string][] = [
    ["no header", BALANCER, hello, missing, ""],
    ["no header and no TLS", BALANCER, text("CONNECT a.example:443 HTTP/1.1\r\n\r\n"), missing, "a.example:443"],
    ["malformed, version 1", BALANCER, text("PROXY TCP4 192.0.2.1 192.0.2.2 5\r\n"), malformed, "TCP4"],
    ["malformed, version 2", BALANCER, Buffer.concat([damaged, hello]), malformed, ""],
    ["late", BALANCER, text("PROXY TCP4 192.0."), late, "TCP4"],
    [
      "twice",
      BALANCER,
      Buffer.concat([inet("192.0.2.1", 5), tcp4("192.0.2.2", 6), hello]),
      unexpected,
      "TCP4",
      "192.0.2.1:5",
    ],
    ["of another source, version 1", OTHER, Buffer.concat([tcp4("192.0.2.2", 6), hello]), unexpected, "TCP4"],
    ["of another source, version 2", OTHER, Buffer.concat([inet("192.0.2.2", 6), hello]), unexpected, ""],
    ["of another source, first byte", OTHER, text("\r"), unexpected, ""],
  ];
  for (const [what, from, bytes, reason, target, source] of rows) {
    const client = RawClient.over(await open(proxy, from));
    const expected = source ?? `${from}:${client.socket.localPort}`;
    client.socket.write(bytes);
    await client.until(() => client.ended || client.socket.destroyed, what);
    assert.equal(client.text, "", what);
    const record = await proxy.waitRecord((one) => one.source === expected);
    assert.deepEqual([record.verdict, record.code, record.close], ["deny", "bad-request", "refused"], what);
    assert.match(String(record.reason), reason, what);
    assert.ok(record.target.startsWith(target) && (target !== "" || record.target === ""), `${what}: ${record.target}`);
    client.socket.destroy();
  }
  await proxy.untilStatus(({ connections, bufferedBytes }) => connections === 0 && bufferedBytes === 0);
  assert.equal(proxy.records().length, rows.length);
  assert.equal(await proxy.stop(), 0);
});

test("a client without TLS behind a header gets 400, recorded with its source", { skip }, async () => {
  const proxy = await start();
  const client = RawClient.over(await open(proxy));
  client.socket.write(Buffer.concat([inet("192.0.2.1", 5), Buffer.from(request())]));
  await client.untilEnd();
  assert.match(client.text, /^HTTP\/1\.1 400 egress-bad-request: this port speaks TLS; /);
  assert.equal((await proxy.waitRecord(() => true)).source, "192.0.2.1:5");
  client.socket.destroy();
  assert.equal(await proxy.stop(), 0);
});

test("the limit of silent connections counts the sources of headers in the handshake", { skip }, async () => {
  const proxy = await start();
  const hello = await clientHello();
  const sockets = await Promise.all(Array.from({ length: 300 }, () => open(proxy)));
  await proxy.untilStatus(({ connections }) => connections === 300);
  assert.equal(await proxy.bound("connections-per-source"), 0);
  for (const [i, socket] of sockets.entries()) {
    socket.on("error", () => {});
    socket.write(Buffer.concat([inet(i < 40 ? "192.0.2.1" : "192.0.2.2", 5), hello.subarray(0, 20)]));
  }
  await proxy.untilStatus(({ connections }) => connections === 296);
  assert.equal(await proxy.bound("connections-per-source"), 4);
  for (const socket of sockets) socket.destroy();
  await proxy.untilStatus(({ connections }) => connections === 0, 20_000);
  assert.equal(await proxy.stop(), 0);
});

test("maxTunnelsPerClient counts the sources of headers on both ports", { skip }, async () => {
  const proxy = await start({ policy: { proxy: { limits: { maxTunnelsPerClient: 1 } } } });
  const head = `CONNECT 127.0.0.1:${far.port} HTTP/1.1\r\n\r\n`;
  const tls = async (address: string) => {
    const client = await behind(proxy, inet(address, 5));
    client.socket.write(head);
    await client.untilText("\r\n\r\n");
    return client;
  };
  const clients = [await tls("192.0.2.1"), await tls("192.0.2.2"), await tls("192.0.2.1")];
  const plain = await RawClient.open(proxy.port, "127.0.0.1", BALANCER);
  plain.socket.write(Buffer.concat([inet("192.0.2.2", 6), Buffer.from(head)]));
  await plain.untilText("\r\n\r\n");
  const status = [...clients, plain].map(({ text }) => text.slice(9, 12));
  assert.deepEqual(status, ["200", "200", "503", "503"]);
  for (const { socket } of [...clients, plain]) socket.destroy();
  assert.equal(await proxy.stop(), 0);
});

test("header, handshake and head have one deadline, from accept", { skip }, async () => {
  const proxy = await start({ args: ["--head-seconds", "3"] });
  const hello = await clientHello();
  const late = RawClient.over(await open(proxy));
  const slow = await open(proxy);
  const headless = streamOf(slow, async (bytes) => {
    await delay;
    slow.write(Buffer.concat([inet("192.0.2.2", 5), bytes]));
  });
  // Accepted last, so its time is over last or in the same check, of which there is one a second.
  const silent = await RawClient.open(proxy.tlsPort);
  const delay = new Promise<void>((resolve) => setTimeout(resolve, 1500));
  const [client] = await Promise.all([tlsClient(proxy.tlsPort, pki.file, undefined, { socket: headless }), delay]);
  late.socket.write(Buffer.concat([inet("192.0.2.1", 5), hello]));
  const ends = (one: RawClient, ms: number) => one.until(() => one.ended || one.socket.destroyed, "end", ms);
  await ends(silent, 5000);
  await ends(late, 700);
  await ends(client, 700);
  assert.equal(await proxy.bound("silent-connections"), 3);
  for (const { socket } of [silent, late, client]) socket.destroy();
  assert.equal(await proxy.stop(), 0);
  assert.deepEqual(proxy.records(), []);
});

test("a failed handshake is logged with the source of the header", { skip }, async () => {
  const proxy = await start({ clientName: "cn" });
  const other = new Pki();
  const client = await behind(proxy, inet("192.0.2.1", 5), other.issue("billing", "/CN=billing")).catch(() => null);
  if (client !== null) await client.until(() => client.ended || client.socket.destroyed, "end");
  await proxy.untilStatus(() => /"client":"192\.0\.2\.1:5"[^\n]*"msg":"no TLS connection"/.test(proxy.stderr()));
  client?.socket.destroy();
  assert.equal(await proxy.stop(), 0);
});

test("a revoked certificate ends its tunnel behind a load balancer", { skip }, async () => {
  const folder = tlsFolder(pki, server, true);
  const args = [...OPEN_LOOPBACK, ...FROM, ...tlsArgs(folder, "cn", true)];
  const proxy = await startProxy({ policy: {}, args });
  const [lost, shop] = [pki.issue("lost", "/CN=lost"), pki.issue("shop", "/CN=shop")];
  const tunnel = async (issued: Issued, port: number) => {
    const client = await behind(proxy, inet("192.0.2.1", port), issued);
    await client.connect(`127.0.0.1:${far.port}`, "early");
    await client.untilText("early");
    return client;
  };
  // The same load balancer and the same source address.
  const [doomed, kept] = [await tunnel(lost, 5), await tunnel(shop, 6)];
  pki.revoke(lost);
  pki.crl(join(folder, "ca.crl"), { from: 0 });
  await doomed.until(() => doomed.socket.destroyed, "end of the tunnel", 5000);
  kept.socket.write("still here");
  await kept.untilText("still here");
  const record = await proxy.waitRecord(({ close }) => close === "revoked");
  assert.deepEqual([record.client, record.source, record.code], ["lost", "192.0.2.1:5", "client"]);
  kept.socket.destroy();
  assert.equal(await proxy.stop(), 0);
});
