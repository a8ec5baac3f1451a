import assert from "node:assert/strict";
import { copyFileSync, cpSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { opensslMissing } from "../harness/certificate.ts";
import { type Issued, Pki, tlsArgs, tlsClient, tlsConnect, tlsExchange, tlsFolder } from "../harness/pki.ts";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../harness/proxy.ts";
import { listen, type RawClient } from "../harness/raw.ts";

const skip = opensslMissing() ?? false;
/** From the change of a file to the end of a tunnel. */
const REVOKED_MS = 5000;
const server = (pki: Pki, name = "server") => pki.issue(name, `/CN=${name}`, { names: ["IP:127.0.0.1"] });
const echo = () =>
  listen((socket) => {
    socket.on("data", (chunk) => socket.write(chunk));
    socket.on("end", () => socket.end());
  });

/** Replaces a file as a whole. */
function replace(file: string, from: string): void {
  copyFileSync(from, `${file}.new`);
  renameSync(`${file}.new`, file);
}

async function tunnel(proxy: ProxyHandle, pki: Pki, port: number, issued?: Issued): Promise<RawClient> {
  const client = await tlsClient(proxy.tlsPort, pki.file, issued);
  await client.connect(`127.0.0.1:${port}`);
  return client;
}

/** Sends a text through a tunnel, and waits until it comes back. */
async function alive(client: RawClient, text: string): Promise<void> {
  client.socket.write(text);
  await client.untilText(text);
}

/** The CN of the certificate that the proxy presents. */
async function presented(proxy: ProxyHandle, pki: Pki): Promise<string> {
  const socket = await tlsConnect(proxy.tlsPort, pki.file);
  const { CN } = socket.getPeerCertificate().subject;
  socket.destroy();
  return String(CN);
}

/** Waits for a condition that no event reports. */
async function until(probe: () => Promise<boolean>, what: string): Promise<void> {
  for (const began = Date.now(); !(await probe()); ) {
    if (Date.now() - began > 10_000) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

test("a new certificate is for new handshakes, and no tunnel ends", { skip }, async () => {
  const pki = new Pki();
  // The layout of a mounted Secret: links through `..data`, which is swapped as a whole.
  const mounted = join(pki.folder, "mounted");
  mkdirSync(mounted);
  const swap = (version: string, issued: Issued) => {
    cpSync(tlsFolder(pki, issued), join(mounted, version), { recursive: true });
    symlinkSync(version, join(mounted, "..data_tmp"));
    renameSync(join(mounted, "..data_tmp"), join(mounted, "..data"));
  };
  swap("..1", server(pki, "first"));
  for (const file of ["tls.crt", "tls.key", "ca.crt"]) symlinkSync(`..data/${file}`, join(mounted, file));
  const proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, ...tlsArgs(mounted)] });
  const far = await echo();
  const kept = await tunnel(proxy, pki, far.port);
  const idle = await tlsClient(proxy.tlsPort, pki.file);
  assert.equal(await presented(proxy, pki), "first");
  swap("..2", server(pki, "second"));
  await until(async () => (await presented(proxy, pki)) === "second", "the new certificate");
  await alive(kept, "still here");
  await idle.connect(`127.0.0.1:${far.port}`);
  await alive(idle, "here as well");
  assert.match((await proxy.admin("/metrics")).text, /outrider_proxy_tls_reload_total\{result="success"\} 1\n/);
  for (const client of [kept, idle]) client.socket.destroy();
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("a session from before a reload is not resumed", { skip }, async () => {
  const pki = new Pki();
  const issued = server(pki, "first");
  const folder = tlsFolder(pki, issued);
  const proxy = await startProxy({ policy: {}, args: tlsArgs(folder) });
  const first = await tlsConnect(proxy.tlsPort, pki.file, undefined, { maxVersion: "TLSv1.2" });
  const session = first.getSession();
  first.destroy();
  // The key stays, so that only the context is new.
  replace(join(folder, "tls.crt"), issued.cert);
  await proxy.untilStatus(() => /TLS certificates loaded[\s\S]*TLS certificates loaded/.test(proxy.stderr()));
  const again = await tlsConnect(proxy.tlsPort, pki.file, undefined, {
    maxVersion: "TLSv1.2",
    ...(session && { session }),
  });
  assert.equal(again.isSessionReused(), false);
  again.destroy();
  assert.equal(await proxy.stop(), 0);
});

test("keeps the last valid files and reports the reason", { skip }, async () => {
  const pki = new Pki();
  const other = new Pki();
  const folder = tlsFolder(pki, server(pki, "good"));
  const file = (name: string) => join(folder, name);
  const proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, ...tlsArgs(folder, "cn")] });
  const far = await echo();
  const billing = pki.issue("billing", "/CN=billing");
  const kept = await tunnel(proxy, pki, far.port, billing);
  const expired = pki.issue("expired", "/CN=expired", { to: -1 });
  const next = server(pki, "next");
  const good = {
    "tls.crt": readFileSync(file("tls.crt")),
    "tls.key": readFileSync(file("tls.key")),
    "ca.crt": readFileSync(file("ca.crt")),
  };
  const rows: [name: keyof typeof good, bytes: Buffer | string | null, expected: RegExp][] = [
    [
      "tls.key",
      readFileSync(next.key),
      /^--tls-key \S+: the key does not belong to the first certificate of --tls-cert/,
    ],
    ["tls.crt", readFileSync(expired.cert), /^--tls-cert \S+: the certificate expired on /],
    ["tls.crt", null, /^--tls-cert \S+: no such file/],
    ["tls.crt", readFileSync(file("tls.crt")).subarray(0, 200), /^--tls-cert \S+: has (no|a malformed)|incomplete/],
    ["ca.crt", "nonsense", /^--tls-client-ca \S+: has no certificate/],
  ];
  for (const [name, bytes, expected] of rows) {
    if (bytes === null) rmSync(file(name));
    else writeFileSync(file(name), bytes);
    const status = await proxy.untilStatus((now) => expected.test(now.tls!.error ?? ""));
    assert.equal(status.ready, true);
    assert.equal((await tlsExchange("x\r\n\r\n", proxy.tlsPort, pki.file, billing)).slice(0, 12), "HTTP/1.1 400");
    await alive(kept, `still here: ${name}`);
    writeFileSync(file(name), good[name]);
    await proxy.untilStatus((now) => now.tls!.error === null);
  }
  const { text } = await proxy.admin("/metrics");
  assert.match(text, new RegExp(`outrider_proxy_tls_reload_total\\{result="failure"\\} ${rows.length}\n`));
  assert.equal(proxy.stderr().match(/the last valid files stay in force/g)?.length, rows.length);
  assert.doesNotMatch(proxy.stderr() + (await proxy.admin("/status")).text, /PRIVATE KEY|BEGIN CERT.*MII/);
  replace(file("ca.crt"), other.file);
  await kept.until(() => kept.socket.destroyed, "end of the tunnel", REVOKED_MS);
  const record = await proxy.waitRecord((r) => r.close === "revoked");
  assert.deepEqual([record.client, record.code], ["billing", "client"]);
  assert.match(String(record.reason), /^the CA of the client certificate is not in --tls-client-ca/);
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("removing a CA ends its tunnels, also with its CRL in place, and the last CA", { skip }, async () => {
  const pki = new Pki();
  const other = new Pki("/CN=other CA");
  const folder = tlsFolder(pki, server(pki), true);
  const file = (name: string) => join(folder, name);
  const both = (...files: string[]) => files.map((one) => readFileSync(one, "utf8")).join("");
  const write = (name: string, text: string) => {
    writeFileSync(file(`${name}.new`), text);
    renameSync(file(`${name}.new`), file(name));
  };
  write("ca.crt", both(pki.file, other.file));
  write("ca.crl", both(pki.crl(file("one")), other.crl(file("two"))));
  const proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, ...tlsArgs(folder, "cn", true)] });
  const far = await echo();
  const doomed = await tunnel(proxy, pki, far.port, other.issue("doomed", "/CN=doomed"));
  const kept = await tunnel(proxy, pki, far.port, pki.issue("billing", "/CN=billing"));
  write("ca.crt", readFileSync(pki.file, "utf8"));
  await doomed.until(() => doomed.socket.destroyed, "end of the tunnel", REVOKED_MS);
  await alive(kept, "still here");
  assert.match(
    proxy.stderr(),
    /no CA in --tls-client-ca has issued a CRL of this file, so it has no effect; remove it/,
  );
  write("ca.crt", "\n");
  await kept.until(() => kept.socket.destroyed, "end of the last tunnel", REVOKED_MS);
  const { tls } = await proxy.untilStatus((now) => now.tls!.crlNextUpdate === null);
  assert.equal(tls!.error, null);
  assert.match(proxy.stderr(), /--tls-client-ca \S+: the file is empty, so all client certificates are refused/);
  const refused = await tlsExchange("x\r\n\r\n", proxy.tlsPort, pki.file, pki.issue("b2", "/CN=billing")).catch(
    () => "",
  );
  assert.doesNotMatch(refused, /^HTTP\/1\.1 (200|400)/);
  write("ca.crt", readFileSync(pki.file, "utf8"));
  await until(async () => {
    const answer = await tlsExchange("x\r\n\r\n", proxy.tlsPort, pki.file, pki.issue("b3", "/CN=billing")).catch(
      () => "",
    );
    return answer.startsWith("HTTP/1.1 400");
  }, "the CA is back");
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("an error in the certificate does not delay a revocation", { skip }, async () => {
  const pki = new Pki();
  const folder = tlsFolder(pki, server(pki), true);
  const proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, ...tlsArgs(folder, "cn", true)] });
  const far = await echo();
  const [billing, shop] = [pki.issue("billing", "/CN=billing"), pki.issue("shop", "/CN=shop")];
  const doomed = await tunnel(proxy, pki, far.port, billing);
  const idle = await tlsClient(proxy.tlsPort, pki.file, billing);
  const kept = await tunnel(proxy, pki, far.port, shop);
  writeFileSync(join(folder, "tls.crt"), "nonsense");
  pki.revoke(billing);
  const began = Date.now();
  pki.crl(join(folder, "ca.crl"), { from: 0 });
  await doomed.until(() => doomed.socket.destroyed, "end of the tunnel", REVOKED_MS);
  await idle.until(() => idle.socket.destroyed, "end of the idle connection", REVOKED_MS);
  assert.ok(Date.now() - began < REVOKED_MS);
  await alive(kept, "still here");
  const record = await proxy.waitRecord((r) => r.close === "revoked");
  assert.deepEqual(
    [record.client, record.code, record.reason],
    ["billing", "client", "the client certificate is revoked"],
  );
  const refused = await tlsExchange("x\r\n\r\n", proxy.tlsPort, pki.file, billing).catch(() => "");
  assert.equal(refused, "");
  assert.match((await proxy.untilStatus((now) => now.tls!.error !== null)).tls!.error!, /^--tls-cert /);
  kept.socket.destroy();
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("a revoked certificate ends a plain request in its body", { skip }, async () => {
  const pki = new Pki();
  const folder = tlsFolder(pki, server(pki), true);
  const proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, ...tlsArgs(folder, "cn", true)] });
  const far = await listen((socket) =>
    socket.on("data", () => socket.write("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npart")),
  );
  const billing = pki.issue("billing", "/CN=billing");
  const client = await tlsClient(proxy.tlsPort, pki.file, billing);
  client.socket.write(`GET http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: x\r\n\r\n`);
  await client.untilText("part");
  pki.revoke(billing);
  pki.crl(join(folder, "ca.crl"), { from: 0 });
  await client.until(() => client.socket.destroyed, "end of the connection", REVOKED_MS);
  assert.equal((await proxy.waitRecord((r) => r.close === "revoked")).kind, "http");
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("SIGHUP reads the TLS files, and no tunnel ends", { skip }, async () => {
  const pki = new Pki();
  const folder = tlsFolder(pki, server(pki, "first"));
  const proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, ...tlsArgs(folder, "cn")] });
  const far = await echo();
  const kept = await tunnel(proxy, pki, far.port, pki.issue("billing", "/CN=billing"));
  proxy.signal("SIGHUP");
  await proxy.untilStatus(() => /TLS certificates loaded[\s\S]*TLS certificates loaded/.test(proxy.stderr()));
  await alive(kept, "still here");
  kept.socket.destroy();
  assert.equal(await proxy.stop(), 0);
  await far.close();
});
