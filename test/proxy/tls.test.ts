import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { opensslMissing } from "../harness/certificate.ts";
import { Pki, tlsArgs, tlsClient, tlsConnect, tlsExchange, tlsFolder } from "../harness/pki.ts";
import { OPEN_LOOPBACK, startProxy, tempFolder } from "../harness/proxy.ts";
import { exchange, listen, RawClient } from "../harness/raw.ts";

const skip = opensslMissing() ?? false;
const run = promisify(execFile);
const OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const receiver = () =>
  listen((socket) => {
    socket.on("data", () => socket.write(OK));
    socket.on("end", () => socket.end());
  });
const get = (port: number, fields = "") =>
  `GET http://127.0.0.1:${port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n${fields}\r\n`;
const basic = (pair: string) => `Proxy-Authorization: Basic ${Buffer.from(pair).toString("base64")}\r\n`;
const statusOf = (text: string) => text.split("\r\n")[0]!;

test("serves TLS and plain clients on ports of their own", { skip }, async () => {
  const pki = new Pki();
  const server = pki.issue("server", "/CN=proxy", { names: ["IP:127.0.0.1"] });
  const proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, ...tlsArgs(tlsFolder(pki, server))] });
  const far = await receiver();
  assert.equal(statusOf(await exchange(proxy.port, get(far.port))), "HTTP/1.1 200 OK");
  assert.equal(statusOf(await tlsExchange(get(far.port), proxy.tlsPort, pki.file)), "HTTP/1.1 200 OK");
  for (const version of ["TLSv1.2", "TLSv1.3"] as const) {
    const socket = await tlsConnect(proxy.tlsPort, pki.file, undefined, { minVersion: version, maxVersion: version });
    assert.deepEqual([socket.getProtocol(), socket.alpnProtocol], [version, "http/1.1"]);
    const client = RawClient.over(socket);
    await client.connect(`127.0.0.1:${far.port}`);
    client.socket.write("hello");
    await client.untilText("200 OK");
    client.socket.destroy();
  }
  await assert.rejects(
    tlsConnect(proxy.tlsPort, pki.file, undefined, {
      minVersion: "TLSv1.1",
      maxVersion: "TLSv1.1",
      ciphers: "ALL:@SECLEVEL=0",
    }),
  );
  await assert.rejects(
    tlsConnect(proxy.tlsPort, pki.file, undefined, { ALPNProtocols: ["h2"] }),
    /no application protocol|ECONNRESET/,
  );
  assert.equal((await proxy.untilStatus((status) => status.tls !== null)).tls!.error, null);
  const own = await exchange(proxy.port, `CONNECT 127.0.0.1:${proxy.tlsPort} HTTP/1.1\r\n\r\n`);
  assert.match(own, /^HTTP\/1\.1 403 /, "the TLS port is no target");
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("the name of a client certificate goes into record and limits", { skip }, async () => {
  const pki = new Pki();
  const server = pki.issue("server", "/CN=proxy", { names: ["IP:127.0.0.1"] });
  const billing = pki.issue("billing", "/CN=x/OU=y", { names: ["URI:spiffe://a/billing", "DNS:billing.example"] });
  const shop = pki.issue("shop", "/CN=x/OU=y", { names: ["URI:spiffe://a/sh%20op"] });
  const policy = { proxy: { limits: { maxTunnelsPerClient: 1 } } };
  const args = [...OPEN_LOOPBACK, ...tlsArgs(tlsFolder(pki, server), "san-uri")];
  const proxy = await startProxy({ policy, args });
  const far = await receiver();
  const held = await tlsClient(proxy.tlsPort, pki.file, billing);
  await held.connect(`127.0.0.1:${far.port}`);
  const full = await tlsExchange(get(far.port), proxy.tlsPort, pki.file, billing);
  assert.match(full, /^HTTP\/1\.1 503 egress-unavailable: this client has 1 tunnels, its limit/);
  assert.equal(statusOf(await tlsExchange(get(far.port), proxy.tlsPort, pki.file, shop)), "HTTP/1.1 200 OK");
  await proxy.waitRecord((r) => r.client === "spiffe://a/sh%2520op" && r.verdict === "allow");
  held.socket.destroy();
  const record = await proxy.waitRecord((r) => r.client === "spiffe://a/billing" && r.kind === "connect");
  assert.match(String(record.source), /^127\.0\.0\.1:\d+$/);
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("a client without certificate gets 403 on both ports", { skip }, async () => {
  const pki = new Pki();
  const server = pki.issue("server", "/CN=proxy", { names: ["IP:127.0.0.1"] });
  const args = [...OPEN_LOOPBACK, ...tlsArgs(tlsFolder(pki, server), "cn"), "--deny-status", "502"];
  const proxy = await startProxy({ policy: {}, args });
  const far = await receiver();
  const expected = /^HTTP\/1\.1 403 egress-denied: no client certificate; use an https:\/\/ proxy URL/;
  for (const bytes of [get(far.port), `CONNECT 127.0.0.1:${far.port} HTTP/1.1\r\n\r\n`, get(far.port, basic("a:b"))]) {
    assert.match(await exchange(proxy.port, bytes), expected);
    for (const version of ["TLSv1.2", "TLSv1.3"] as const) {
      const versions = { minVersion: version, maxVersion: version };
      assert.match(await tlsExchange(bytes, proxy.tlsPort, pki.file, undefined, versions), expected);
    }
  }
  assert.equal((await proxy.waitRecord((r) => r.code === "client")).verdict, "deny");
  assert.doesNotMatch(proxy.stderr(), /no password is set/);
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("passwords and client certificates prove a name side by side", { skip }, async () => {
  const pki = new Pki();
  const server = pki.issue("server", "/CN=proxy", { names: ["IP:127.0.0.1"] });
  const billing = pki.issue("billing", "/CN=billing");
  const nameless = pki.issue("nameless", "/O=none");
  const passwords = tempFolder();
  const files = { PROXY_PASSWORD: "shared", billing: "b-pass", shop: "s-pass" };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(passwords, name), text);
  const args = [...OPEN_LOOPBACK, ...tlsArgs(tlsFolder(pki, server), "cn"), "--password-dir", passwords];
  const proxy = await startProxy({ policy: {}, args });
  const far = await receiver();
  const ask = async (fields: string, certificate?: Parameters<typeof tlsExchange>[3]) =>
    (await tlsExchange(get(far.port, fields), proxy.tlsPort, pki.file, certificate)).split("\r\n")[0]!;
  const rows: [what: string, answer: string, expected: RegExp][] = [
    ["certificate alone", await ask("", billing), /^HTTP\/1\.1 200 /],
    ["certificate and its password", await ask(basic("billing:b-pass"), billing), /^HTTP\/1\.1 200 /],
    ["certificate and shared password", await ask(basic("other:shared"), billing), /^HTTP\/1\.1 200 /],
    ["certificate and another password", await ask(basic("shop:s-pass"), billing), /^HTTP\/1\.1 403 .*different names/],
    ["certificate and wrong password", await ask(basic("billing:wrong"), billing), /^HTTP\/1\.1 407 .*wrong/],
    [
      "certificate and another scheme",
      await ask("Proxy-Authorization: Bearer x\r\n", billing),
      /^HTTP\/1\.1 407 .*wrong/,
    ],
    ["certificate without the name", await ask("", nameless), /^HTTP\/1\.1 403 .*has no CN in its subject/],
    ["password on TLS", await ask(basic("shop:s-pass")), /^HTTP\/1\.1 200 /],
    ["shared password on TLS", await ask(basic("x:shared")), /^HTTP\/1\.1 200 /],
    ["nothing on TLS", await ask(""), /^HTTP\/1\.1 407 .*no proxy credentials/],
    ["nothing on the plain port", statusOf(await exchange(proxy.port, get(far.port))), /^HTTP\/1\.1 407 /],
    [
      "password on the plain port",
      statusOf(await exchange(proxy.port, get(far.port, basic("shop:s-pass")))),
      /^HTTP\/1\.1 200 /,
    ],
  ];
  for (const [what, answer, expected] of rows) assert.match(answer, expected, what);
  await proxy.waitRecord(() => proxy.records().length === rows.length);
  const names = proxy.records().map((record) => record.client);
  const refused = undefined;
  assert.deepEqual(
    names.sort(),
    ["billing", "billing", "billing", "shop", "shop", "x", ...Array(6).fill(refused)].sort(),
  );
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("reads exactly one name, of the kind that the option selects", { skip }, async () => {
  const pki = new Pki();
  const server = pki.issue("server", "/CN=proxy", { names: ["IP:127.0.0.1"] });
  const far = await receiver();
  const certificates = {
    all: pki.issue("all", "/OU=my-ou/CN=my-cn", { names: ["URI:urn:my-uri", "DNS:my.example"] }),
    twice: pki.issue("twice", "/OU=a/OU=b/CN=a/CN=b", {
      names: ["URI:urn:a", "URI:urn:b", "DNS:a.example", "DNS:b.example"],
    }),
    comma: pki.issue("comma", "/OU=a, OU=b/CN=Zoë", {
      extensions: ["subjectAltName=@names", "[names]", "URI.1=urn:a, URI:urn:b", "DNS.1=a.example, DNS:b.example"],
    }),
    odd: pki.issue("odd", "/OU=a\u0001\tb/CN=ｂilling", { names: ["URI:urn:a%00", "DNS:A.example"] }),
    proto: pki.issue("proto", "/OU=__proto__/CN=__proto__", { names: ["URI:__proto__", "DNS:constructor"] }),
  };
  const expected: Record<string, Record<keyof typeof certificates, string>> = {
    "san-uri": {
      all: "urn:my-uri",
      twice: "more than one URI",
      comma: "urn:a,%20URI:urn:b",
      odd: "urn:a%2500",
      proto: "__proto__",
    },
    "san-dns": {
      all: "my.example",
      twice: "more than one DNS name",
      comma: "a.example,%20DNS:b.example",
      odd: "A.example",
      proto: "constructor",
    },
    cn: { all: "my-cn", twice: "more than one CN", comma: "Zo%C3%AB", odd: "%EF%BD%82illing", proto: "__proto__" },
    ou: { all: "my-ou", twice: "more than one OU", comma: "a,%20OU=b", odd: "a%01%09b", proto: "__proto__" },
  };
  for (const [kind, names] of Object.entries(expected)) {
    const args = [...OPEN_LOOPBACK, ...tlsArgs(tlsFolder(pki, server), kind)];
    const proxy = await startProxy({ policy: {}, args });
    for (const [which, name] of Object.entries(names)) {
      const issued = certificates[which as keyof typeof certificates];
      const answer = await tlsExchange(get(far.port), proxy.tlsPort, pki.file, issued);
      const refusal = name.startsWith("more than one ") ? name : null;
      assert.match(
        answer,
        refusal === null ? /^HTTP\/1\.1 200 / : new RegExp(`^HTTP/1\\.1 403 .*${refusal}`),
        `${kind} ${which}`,
      );
      await proxy.waitRecord((r) => (refusal === null ? r.client === name : r.code === "client"));
    }
    assert.equal(await proxy.stop(), 0);
  }
  await far.close();
});

test("refuses certificates that are expired, of another CA, or for servers only", { skip }, async () => {
  const pki = new Pki();
  const twin = new Pki();
  const server = pki.issue("server", "/CN=proxy", { names: ["IP:127.0.0.1"] });
  const sub = new Pki("/CN=sub CA", pki);
  const expiredSub = new Pki("/CN=old sub CA", pki, { to: -1 });
  const rows = {
    "of another CA with the same name": twin.issue("twin", "/CN=billing"),
    expired: pki.issue("old", "/CN=billing", { to: -1 }),
    "not valid yet": pki.issue("early", "/CN=billing", { from: 3600, to: 7200 }),
    "for servers only": pki.issue("server-only", "/CN=billing", { usage: "serverAuth" }),
    "of an expired CA below": chained(expiredSub, "expired-sub"),
    "issued by a client": chained(notCa(pki), "by-client"),
  };
  const proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, ...tlsArgs(tlsFolder(pki, server), "cn")] });
  const far = await receiver();
  for (const [what, issued] of Object.entries(rows)) {
    for (const version of ["TLSv1.2", "TLSv1.3"] as const) {
      const versions = { minVersion: version, maxVersion: version };
      const answer = await tlsExchange(get(far.port), proxy.tlsPort, pki.file, issued, versions).catch((error) => {
        assert.match(String(error.code), /^ECONNRESET$|^ERR_SSL/, what);
        return "";
      });
      assert.equal(answer, "", what);
    }
  }
  const below = await tlsExchange(get(far.port), proxy.tlsPort, pki.file, chained(sub, "below"));
  assert.equal(below, "", "of an intermediate CA that is not in the file");
  const good = await tlsExchange(get(far.port), proxy.tlsPort, pki.file, pki.issue("good", "/CN=billing"));
  assert.equal(statusOf(good), "HTTP/1.1 200 OK");
  assert.equal(proxy.records().filter((record) => record.verdict === "deny").length, 0, "no request was read");
  const { text } = await proxy.admin("/metrics");
  assert.match(text, /outrider_proxy_tls_handshakes_total\{result="refused"\} 13\n/);
  assert.match(text, /outrider_proxy_tls_handshakes_total\{result="ok"\} 1\n/);
  assert.match(proxy.stderr(), /"client":"127\.0\.0\.1:\d+","reason":"the client certificate is not valid: /);
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("trusts an intermediate CA in the file, whether clients send it or not", { skip }, async () => {
  const pki = new Pki();
  const server = pki.issue("server", "/CN=proxy", { names: ["IP:127.0.0.1"] });
  const sub = new Pki("/CN=sub CA", pki);
  const folder = tlsFolder(pki, server);
  writeFileSync(join(folder, "ca.crt"), [sub, pki].map((ca) => readFileSync(ca.file, "utf8")).join(""));
  const proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, ...tlsArgs(folder, "cn")] });
  const far = await receiver();
  for (const issued of [sub.issue("alone", "/CN=below"), chained(sub, "with"), pki.issue("direct", "/CN=direct")]) {
    assert.equal(statusOf(await tlsExchange(get(far.port), proxy.tlsPort, pki.file, issued)), "HTTP/1.1 200 OK");
  }
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

/** A certificate with the certificate of its CA behind it, as a client sends it. */
function chained(ca: Pki, name: string) {
  const issued = ca.issue(name, "/CN=billing");
  writeFileSync(issued.cert, readFileSync(issued.cert, "utf8") + readFileSync(ca.file, "utf8"));
  return issued;
}

/** An authority whose certificate is that of a client. */
function notCa(pki: Pki): Pki {
  const sub = new Pki("/CN=client", pki);
  const { key, cert } = pki.issue("client", "/CN=client");
  copyFileSync(cert, sub.file);
  copyFileSync(key, join(sub.folder, "ca.key"));
  return sub;
}

test("curl and openssl send through the TLS port", { skip }, async () => {
  const pki = new Pki();
  const server = pki.issue("server", "/CN=proxy", { names: ["IP:127.0.0.1"] });
  const billing = pki.issue("billing", "/CN=billing");
  const proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, ...tlsArgs(tlsFolder(pki, server), "cn")] });
  const far = await receiver();
  const url = `http://127.0.0.1:${far.port}/`;
  const base = [
    "-sS",
    "-m",
    "20",
    "--noproxy",
    "",
    "-x",
    `https://127.0.0.1:${proxy.tlsPort}`,
    "--proxy-cacert",
    pki.file,
  ];
  const mine = ["--proxy-cert", billing.cert, "--proxy-key", billing.key];
  assert.equal((await run("curl", [...base, ...mine, url])).stdout, "ok");
  assert.equal((await run("curl", [...base, ...mine, "-p", url])).stdout, "ok");
  await assert.rejects(run("curl", [...base, "-p", url]), /response 403/);
  const connect = ["s_client", "-connect", `127.0.0.1:${proxy.tlsPort}`, "-CAfile", pki.file, "-verify_return_error"];
  const child = execFile("openssl", [...connect, "-cert", billing.cert, "-key", billing.key, "-quiet", "-no_ign_eof"]);
  let output = "";
  child.stdout!.on("data", (chunk) => {
    output += chunk;
  });
  child.stdin!.write(get(far.port).replace("Connection: close", "Connection: keep-alive"));
  await proxy.waitRecord((r) => r.kind === "http" && r.client === "billing" && proxy.records().length >= 4);
  child.stdin!.end();
  await once(child, "close");
  assert.match(output, /^HTTP\/1\.1 200 OK\r\n/m);
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("no session is resumed", { skip }, async () => {
  const pki = new Pki();
  const server = pki.issue("server", "/CN=proxy", { names: ["IP:127.0.0.1"] });
  const billing = pki.issue("billing", "/CN=billing");
  const proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, ...tlsArgs(tlsFolder(pki, server), "cn")] });
  for (const version of ["TLSv1.2", "TLSv1.3"] as const) {
    const versions = { minVersion: version, maxVersion: version };
    let session: Buffer | undefined;
    const first = await tlsConnect(proxy.tlsPort, pki.file, billing, versions);
    first.on("session", (data) => {
      session = data;
    });
    const client = RawClient.over(first);
    client.socket.write("CONNECT 10.0.0.1:443 HTTP/1.1\r\n\r\n");
    await client.untilEnd();
    session ??= first.getSession();
    const again = await tlsConnect(proxy.tlsPort, pki.file, billing, { ...versions, ...(session && { session }) });
    assert.equal(again.isSessionReused(), false, version);
    again.destroy();
  }
  assert.equal(await proxy.stop(), 0);
});

test("a client without TLS gets 400 on the TLS port", { skip }, async () => {
  const pki = new Pki();
  const server = pki.issue("server", "/CN=proxy", { names: ["IP:127.0.0.1"] });
  const proxy = await startProxy({ policy: {}, args: tlsArgs(tlsFolder(pki, server)) });
  const answer = await exchange(proxy.tlsPort, "CONNECT a.example:443 HTTP/1.1\r\n\r\n");
  assert.match(
    answer,
    /^HTTP\/1\.1 400 egress-bad-request: this port speaks TLS; write https:\/\/ in the proxy URL\r\n/,
  );
  const record = await proxy.waitRecord((r) => r.code === "bad-request");
  assert.deepEqual([record.verdict, record.target], ["deny", "a.example:443"]);
  const broken = await exchange(proxy.tlsPort, Buffer.from("160301000401000000", "hex"));
  assert.doesNotMatch(broken, /HTTP/);
  assert.match(proxy.stderr(), /"reason":"the handshake failed: .*"msg":"no TLS connection"/);
  assert.equal(await proxy.stop(), 0);
  assert.equal(proxy.records().length, 1);
});

test("relays early bytes, half-closes and resets through TLS", { skip }, async () => {
  const pki = new Pki();
  const server = pki.issue("server", "/CN=proxy", { names: ["IP:127.0.0.1"] });
  const proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, ...tlsArgs(tlsFolder(pki, server))] });
  let received = "";
  const far = await listen((socket) => {
    socket.on("data", (chunk) => {
      received += chunk;
      if (received.includes("reset me")) socket.resetAndDestroy();
    });
    socket.on("end", () => socket.end("the answer after the half-close"));
  });
  for (const version of ["TLSv1.2", "TLSv1.3"] as const) {
    received = "";
    const more = { minVersion: version, maxVersion: version, allowHalfOpen: true };
    const client = await tlsClient(proxy.tlsPort, pki.file, undefined, more);
    await client.connect(`127.0.0.1:${far.port}`, "early");
    client.socket.end(" late");
    await client.untilText("the answer after the half-close");
    assert.equal(received, "early late");
    client.socket.destroy();
    const doomed = await tlsClient(proxy.tlsPort, pki.file, undefined, more);
    await doomed.connect(`127.0.0.1:${far.port}`);
    doomed.socket.write("reset me");
    await doomed.until(() => doomed.socket.destroyed, "reset");
    assert.equal(doomed.error?.code, "ECONNRESET");
  }
  await proxy.waitRecord(() => proxy.records().length === 4);
  const closes = proxy.records().map((record) => record.close);
  assert.deepEqual(closes.sort(), ["client-end", "client-end", "upstream-reset", "upstream-reset"]);
  assert.equal((await proxy.untilStatus((status) => status.connections === 0)).active, 0);
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("relays 64 MiB both ways through TLS, unchanged", { skip }, async () => {
  const pki = new Pki();
  const server = pki.issue("server", "/CN=proxy", { names: ["IP:127.0.0.1"] });
  const proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, ...tlsArgs(tlsFolder(pki, server))] });
  const far = await listen((socket) => socket.pipe(socket));
  const socket = await tlsConnect(proxy.tlsPort, pki.file, undefined, { allowHalfOpen: true });
  socket.write(`CONNECT 127.0.0.1:${far.port} HTTP/1.1\r\n\r\n`);
  await once(socket, "data");
  const [sent, back] = [createHash("sha256"), createHash("sha256")];
  let length = 0;
  socket.on("data", (chunk: Buffer) => {
    length += chunk.length;
    back.update(chunk);
  });
  for (let i = 0; i < 64; i++) {
    const chunk = randomBytes(1024 * 1024);
    sent.update(chunk);
    if (!socket.write(chunk)) await once(socket, "drain");
  }
  socket.end();
  await once(socket, "end");
  assert.equal(length, 64 * 1024 * 1024);
  assert.equal(back.digest("hex"), sent.digest("hex"));
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("counts the bytes that a TLS client does not read", { skip }, async () => {
  const pki = new Pki();
  const server = pki.issue("server", "/CN=proxy", { names: ["IP:127.0.0.1"] });
  const args = [...OPEN_LOOPBACK, ...tlsArgs(tlsFolder(pki, server)), "--buffer-mib", "1"];
  const proxy = await startProxy({ policy: {}, args });
  const far = await listen((socket) => socket.on("data", () => socket.write(Buffer.alloc(64 * 1024 * 1024))));
  const clients = await Promise.all(
    Array.from({ length: 24 }, async () => {
      const client = await tlsClient(proxy.tlsPort, pki.file);
      await client.connect(`127.0.0.1:${far.port}`);
      client.socket.pause();
      client.socket.write("go");
      return client;
    }),
  );
  await proxy.waitRecord((record) => record.close === "buffer-limit", 30_000);
  for (const client of clients) client.socket.destroy();
  await proxy.untilStatus((status) => status.connections === 0 && status.bufferedBytes === 0);
  assert.equal(await proxy.stop(), 0);
  await far.close();
});
