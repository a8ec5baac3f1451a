import assert from "node:assert/strict";
import { sign } from "node:crypto";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { element, elements, TAG } from "../../proxy/tls/der.ts";
import { opensslMissing } from "../harness/certificate.ts";
import { deafListener, untilDialling } from "../harness/deaf.ts";
import { type Issued, Pki, tlsArgs, tlsClient, tlsExchange, tlsFolder } from "../harness/pki.ts";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../harness/proxy.ts";
import { listen } from "../harness/raw.ts";

const skip = opensslMissing() ?? false;
const server = (pki: Pki) => pki.issue("server", "/CN=proxy", { names: ["IP:127.0.0.1"] });
const REQUEST = "CONNECT 10.0.0.1:443 HTTP/1.1\r\n\r\n";

/** The status line of a request that the policy refuses; empty: the handshake was refused. */
async function ask(proxy: ProxyHandle, pki: Pki, issued: Issued): Promise<string> {
  const text = await tlsExchange(REQUEST, proxy.tlsPort, pki.file, issued).catch(() => "");
  return text.slice(0, 12);
}

/** A CRL with a revoked certificate whose date is no time, signed by its CA. OpenSSL cannot read it. */
function withoutDate(pki: Pki, file: string): Buffer {
  const pem = readFileSync(pki.crl(file), "latin1");
  const der = Buffer.from(pem.replace(/-----[^-]+-----|\s/g, ""), "base64");
  const [list, , bits] = elements(element(der, TAG.sequence).content);
  const body = list!.whole;
  body[body.lastIndexOf(Buffer.of(TAG.utcTime, 13))] = TAG.octetString;
  const key = readFileSync(join(pki.folder, "ca.key"));
  let signature: Buffer;
  do signature = sign("sha256", body, key);
  while (
    // Those of ECDSA differ in length.
    signature.length !==
    bits!.content.length - 1
  );
  signature.copy(bits!.content, 1);
  return der;
}

test("an expired CRL closes: open tunnels end, and handshakes fail", { skip }, async () => {
  const pki = new Pki();
  const folder = tlsFolder(pki, server(pki));
  const far = await listen((socket) => socket.on("data", (chunk) => socket.write(chunk)));
  const billing = pki.issue("billing", "/CN=billing");
  const crl = join(folder, "ca.crl");
  pki.crl(crl, { to: 12 });
  const proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, ...tlsArgs(folder, "cn", true)] });
  const client = await tlsClient(proxy.tlsPort, pki.file, billing);
  await client.connect(`127.0.0.1:${far.port}`);
  // It is missing, so the last valid one holds.
  rmSync(crl);
  await proxy.untilStatus((now) => /^--tls-crl \S+: no such file/.test(now.tls!.error ?? ""));
  assert.equal(await ask(proxy, pki, billing), "HTTP/1.1 403");
  assert.equal(client.socket.destroyed, false);
  assert.match(
    proxy.stderr(),
    /"level":"warn".*--tls-crl \S+: a CRL expires on \S+; then certificates of its CA are refused/,
  );
  await client.until(() => client.socket.destroyed, "end of the tunnel", 20_000);
  const record = await proxy.waitRecord((r) => r.close === "revoked");
  assert.deepEqual([record.client, record.code], ["billing", "client"]);
  assert.match(String(record.reason), /^the CRL of the CA expired on /);
  assert.equal(await ask(proxy, pki, billing), "");
  assert.match(proxy.stderr(), /a CRL expired on \S+; certificates of its CA are refused; publish a new one/);
  pki.crl(crl, { from: 0 });
  await proxy.untilStatus((now) => now.tls!.error === null);
  assert.equal(await ask(proxy, pki, billing), "HTTP/1.1 403");
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("a client certificate that expires ends its tunnel", { skip }, async () => {
  const pki = new Pki();
  const far = await listen((socket) => socket.on("data", (chunk) => socket.write(chunk)));
  const proxy = await startProxy({
    policy: {},
    args: [...OPEN_LOOPBACK, ...tlsArgs(tlsFolder(pki, server(pki)), "cn")],
  });
  const client = await tlsClient(proxy.tlsPort, pki.file, pki.issue("short", "/CN=short", { to: 4 }));
  await client.connect(`127.0.0.1:${far.port}`);
  await client.until(() => client.socket.destroyed, "end of the tunnel", 20_000);
  const record = await proxy.waitRecord((r) => r.close === "revoked");
  assert.match(String(record.reason), /^the client certificate expired on /);
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("a client certificate that expires during a dial sends no request", { skip }, async (t) => {
  const pki = new Pki();
  const far = await listen((socket) => socket.on("data", (chunk) => socket.write(chunk)));
  const deaf = await deafListener();
  t.after(deaf.close);
  const proxy = await startProxy({
    policy: { proxy: { timeouts: { connectSeconds: 30 } } },
    args: [...OPEN_LOOPBACK, ...tlsArgs(tlsFolder(pki, server(pki)), "cn")],
  });
  const long = pki.issue("long", "/CN=long", { to: 20 });
  const short = pki.issue("short", "/CN=short", { to: 5 });
  const [tunnel, late, later] = await Promise.all(
    [short, short, long].map((issued) => tlsClient(proxy.tlsPort, pki.file, issued)),
  );
  await tunnel!.connect(`127.0.0.1:${far.port}`);
  for (const client of [late!, later!]) client.socket.write(`CONNECT 127.0.0.1:${deaf.port} HTTP/1.1\r\n\r\n`);
  await untilDialling(deaf.port, 2);
  await tunnel!.until(() => tunnel!.socket.destroyed, "end of the tunnel", 20_000);
  deaf.hear();
  await late!.untilEnd(20_000);
  assert.match(late!.text, /^HTTP\/1\.1 403 egress-denied: the client certificate expired on /);
  // The check for the shorter certificate must not forget the longer one.
  await later!.until(() => later!.text.startsWith("HTTP/1.1 200 "), "tunnel", 20_000);
  await later!.until(() => later!.socket.destroyed, "end of the later tunnel", 30_000);
  const record = await proxy.waitRecord((r) => r.client === "long");
  assert.deepEqual([record.code, record.close], ["client", "revoked"]);
  late!.socket.destroy();
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("rejects a bad CRL at a reload, and the last one stays", { skip }, async () => {
  const pki = new Pki();
  const twin = new Pki();
  const folder = tlsFolder(pki, server(pki));
  const billing = pki.issue("billing", "/CN=billing");
  const revoked = pki.issue("revoked", "/CN=revoked");
  pki.revoke(revoked);
  const crl = join(folder, "ca.crl");
  pki.crl(crl, { from: -60 });
  const proxy = await startProxy({ policy: {}, args: tlsArgs(folder, "cn", true) });
  const good = readFileSync(crl);
  const other = new Pki("/CN=other CA");
  const file = (name: string) => join(pki.folder, name);
  const rows: [bytes: Buffer | string, expected: RegExp][] = [
    [
      readFileSync(pki.crl(file("old"), { from: -3600 })),
      /was issued on \S+, before the one in force \(\S+\); replace it/,
    ],
    [readFileSync(pki.crl(file("expired"), { from: -50, to: -1 })), /the CRL of CN=test CA expired on \S+; replace it/],
    [readFileSync(pki.crl(file("future"), { from: 3600 })), /is not valid before/],
    [readFileSync(twin.crl(file("twin"))), /names CN=test CA, but the key of this CA did not sign it/],
    [readFileSync(other.crl(file("other"))), /no CA in --tls-client-ca has issued the CRL/],
    [withoutDate(pki, file("dateless")), /has no valid CRL: Failed to parse CRL/],
    [good.subarray(0, 100), /a malformed or incomplete|has no CRL/],
    ["", /has no CRL/],
    [pki.file, /has no CRL/],
  ];
  for (const [bytes, expected] of rows) {
    writeFileSync(crl, bytes);
    const { tls } = await proxy.untilStatus((now) => expected.test(now.tls!.error ?? ""));
    assert.match(tls!.error!, /^--tls-crl \S+ca\.crl: /);
    assert.equal(await ask(proxy, pki, billing), "HTTP/1.1 403", String(expected));
    assert.equal(await ask(proxy, pki, revoked), "", String(expected));
  }
  writeFileSync(crl, good);
  await proxy.untilStatus((now) => now.tls!.error === null);
  assert.equal(await proxy.stop(), 0);
});

test("every CA of a client certificate needs a CRL", { skip }, async () => {
  const pki = new Pki();
  const sub = new Pki("/CN=sub CA", pki);
  const folder = tlsFolder(pki, server(pki), true);
  writeFileSync(join(folder, "ca.crt"), [pki, sub].map((ca) => readFileSync(ca.file, "utf8")).join(""));
  const [direct, below] = [pki.issue("direct", "/CN=direct"), sub.issue("below", "/CN=below")];
  const without = await startProxy({ policy: {}, args: tlsArgs(folder, "cn", true) });
  assert.equal(await ask(without, pki, direct), "HTTP/1.1 403");
  assert.equal(await ask(without, pki, below), "");
  assert.match(without.stderr(), /CN=sub CA has no CRL, so its certificates are refused; add its CRL with --tls-crl/);
  assert.equal(await without.stop(), 0);
  const der = join(folder, "sub.crl");
  // In DER, as many CAs publish it.
  const pem = readFileSync(sub.crl(join(folder, "sub.pem")), "latin1");
  writeFileSync(der, Buffer.from(pem.replace(/-----[^-]+-----|\s/g, ""), "base64"));
  const proxy = await startProxy({ policy: {}, args: [...tlsArgs(folder, "cn", true), "--tls-crl", der] });
  assert.equal(await ask(proxy, pki, direct), "HTTP/1.1 403");
  assert.equal(await ask(proxy, pki, below), "HTTP/1.1 403");
  // The CA above revokes the one below.
  pki.revoke({ key: "", cert: sub.file });
  pki.crl(join(folder, "ca.crl"), { from: 0 });
  const loads = () => proxy.stderr().match(/TLS certificates loaded/g)!.length;
  await proxy.untilStatus(() => loads() === 2);
  assert.equal(await ask(proxy, pki, below), "");
  assert.equal(await ask(proxy, pki, direct), "HTTP/1.1 403");
  assert.equal(await proxy.stop(), 0);
});

test("CAs with one name keep a CRL each", { skip }, async () => {
  const [pki, twin] = [new Pki(), new Pki()];
  const folder = tlsFolder(pki, server(pki), true);
  const [crl, ca] = [join(folder, "ca.crl"), join(folder, "ca.crt")];
  const far = await listen((socket) => socket.on("data", (chunk) => socket.write(chunk)));
  const billing = pki.issue("billing", "/CN=billing");
  const proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, ...tlsArgs(folder, "cn", true)] });
  const client = await tlsClient(proxy.tlsPort, pki.file, billing);
  await client.connect(`127.0.0.1:${far.port}`);
  // A new key of the CA, whose list is newer than the one that revokes.
  pki.revoke(billing);
  const lists = [pki.crl(join(folder, "one.crl"), { from: -30 }), twin.crl(join(folder, "two.crl"), { from: 0 })];
  const joined = (files: readonly string[]) => files.map((file) => readFileSync(file, "utf8")).join("");
  writeFileSync(ca, joined([pki.file, twin.file]));
  writeFileSync(crl, joined(lists));
  await client.until(() => client.socket.destroyed, "end of the tunnel");
  const record = await proxy.waitRecord((r) => r.close === "revoked");
  assert.equal(record.reason, "the client certificate is revoked");
  assert.equal(await ask(proxy, pki, billing), "");
  assert.equal(await ask(proxy, pki, pki.issue("shop", "/CN=shop")), "HTTP/1.1 403");
  assert.equal(await ask(proxy, pki, twin.issue("twin", "/CN=twin")), "HTTP/1.1 403");
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("a CRL of the future is in force when its time comes", { skip }, async () => {
  const pki = new Pki();
  const folder = tlsFolder(pki, server(pki), true);
  const billing = pki.issue("billing", "/CN=billing");
  const proxy = await startProxy({ policy: {}, args: tlsArgs(folder, "cn", true) });
  pki.revoke(billing);
  pki.crl(join(folder, "ca.crl"), { from: 6 });
  await proxy.untilStatus((now) => /is not valid before/.test(now.tls!.error ?? ""));
  assert.equal(await ask(proxy, pki, billing), "HTTP/1.1 403");
  await proxy.untilStatus((now) => now.tls!.error === null, 20_000);
  assert.equal(await ask(proxy, pki, billing), "");
  assert.match((await proxy.admin("/metrics")).text, /tls_reload_total\{result="failure"\} 1\n/);
  assert.equal(await proxy.stop(), 0);
});
