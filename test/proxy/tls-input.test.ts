import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { opensslMissing } from "../harness/certificate.ts";
import { Pki, tlsArgs, tlsFolder } from "../harness/pki.ts";
import { manifest, runOutrider, startProxy } from "../harness/proxy.ts";

const skip = opensslMissing() ?? false;

test("bad TLS input is one line with option and fix", { skip, timeout: 180_000 }, async () => {
  const pki = new Pki();
  const server = pki.issue("server", "/CN=proxy", { names: ["IP:127.0.0.1"] });
  const folder = tlsFolder(pki, server, true);
  const file = (name: string) => join(pki.folder, name);
  const write = (name: string, bytes: string | Buffer) => {
    writeFileSync(file(name), bytes);
    return file(name);
  };
  const policy = write("policy.json", manifest({}));
  const other = pki.issue("other", "/CN=other");
  const openssl = (...args: string[]) => execFileSync("openssl", args, { stdio: "pipe" });
  openssl("pkey", "-in", server.key, "-aes256", "-passout", "pass:x", "-out", file("encrypted.key"));
  openssl("ec", "-in", server.key, "-aes256", "-passout", "pass:x", "-out", file("old-encrypted.key"));
  openssl(
    "req",
    "-x509",
    "-newkey",
    "rsa:1024",
    "-nodes",
    "-subj",
    "/CN=x",
    "-keyout",
    file("weak.key"),
    "-out",
    file("weak.crt"),
  );
  const expired = pki.issue("expired", "/CN=expired", { to: -1 });
  const early = pki.issue("early", "/CN=early", { from: 3600, to: 7200 });
  const sub = new Pki("/CN=sub CA", pki);
  const oldCa = new Pki("/CN=old CA", pki, { to: -1 });
  const key = readFileSync(server.key, "utf8");
  const base = tlsArgs(folder, "cn", true);
  /** The options with another value of one of them; null: without it. */
  const but = (name: string, value: string | null) => {
    const at = base.indexOf(`--${name}`);
    return value === null ? base.toSpliced(at, 2) : base.with(at + 1, value);
  };
  const rows: [args: string[], expected: RegExp][] = [
    [but("tls-cert", null), /^--listen-tls needs --tls-cert$/],
    [but("tls-key", null), /^--listen-tls needs --tls-key$/],
    [but("listen-tls", null), /^--tls-cert needs --listen-tls$/],
    [but("tls-client-ca", null), /^--tls-crl needs --tls-client-ca$/],
    [but("tls-client-name", null), /^--tls-client-ca needs --tls-client-name$/],
    [but("tls-client-name", "subject"), /^--tls-client-name must be one of san-uri, san-dns, cn, ou, not "subject"$/],
    [but("listen-tls", "4751"), /^--listen-tls must be IP:PORT, \[IP\]:PORT or :PORT, not "4751"$/],
    [["--external-from", "10.0.0.0/8"], /^--external-from needs --listen-external$/],
    [["--listen-external", ":0", "--external-from", "10.0.0.0/8"], /^--listen-external needs --listen-tls$/],
    [
      [...base, "--listen-external", ":0"],
      /^--listen-external needs --external-from CIDR, the addresses of its clients$/,
    ],
    [
      [...base, "--listen-external", ":0", "--external-from", "10.0.0.1/8"],
      /^--external-from: "10\.0\.0\.1\/8" has host bits set; the network is 10\.0\.0\.0\/8$/,
    ],
    [
      [...tlsArgs(folder), "--listen-external", ":0", "--external-from", "10.0.0.0/8"],
      /^--listen-external needs --tls-client-ca, --password-dir or PROXY_PASSWORD; without a proof everyone could use /,
    ],
    [but("tls-cert", file("none")), /^--tls-cert \S+: no such file$/],
    [but("tls-cert", pki.folder), /^--tls-cert \S+: EISDIR: a directory, not a regular file$/],
    [but("tls-cert", write("empty", "")), /^--tls-cert \S+: has no certificate: no "-----BEGIN CERTIFICATE-----"$/],
    [but("tls-cert", server.key), /^--tls-cert \S+: has no certificate/],
    [
      but("tls-cert", write("cut", readFileSync(server.cert).subarray(0, 300))),
      /^--tls-cert \S+: a malformed or incomplete "-----BEGIN CERTIFICATE-----" block$/,
    ],
    [
      but("tls-cert", write("junk", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")),
      /^--tls-cert \S+: has a malformed certificate$/,
    ],
    [but("tls-cert", expired.cert), /^--tls-cert \S+: the certificate expired on \S+Z; renew it$/],
    [but("tls-cert", early.cert), /^--tls-cert \S+: the certificate is not valid before \S+Z; check the clock$/],
    [
      but("tls-key", other.key),
      /^--tls-key \S+: the key does not belong to the first certificate of --tls-cert; give a matching pair$/,
    ],
    [but("tls-key", server.cert), /^--tls-key \S+: has no private key: no "-----BEGIN PRIVATE KEY-----"$/],
    [
      but("tls-key", file("encrypted.key")),
      /^--tls-key \S+: the key is encrypted; write one without a passphrase: openssl pkey -in FILE -out NEW$/,
    ],
    [but("tls-key", file("old-encrypted.key")), /^--tls-key \S+: the key is encrypted; /],
    [
      but("tls-key", write("bad.key", key.replace(/(?<=KEY-----\n).{8}/, "AAAAAAAA"))),
      /^--tls-key \S+: has a malformed private key$/,
    ],
    [[...but("tls-cert", file("weak.crt")).with(5, file("weak.key"))], /^--tls-cert \S+: .*key too small$/],
    [but("tls-client-ca", file("none")), /^--tls-client-ca \S+: no such file$/],
    [
      but("tls-client-ca", server.cert),
      /^--tls-client-ca \S+: CN=proxy is not a CA certificate \(basicConstraints\); remove it$/,
    ],
    [
      but("tls-client-ca", sub.file),
      /^--tls-client-ca \S+: CN=sub CA is an intermediate CA; add the certificate of its issuer, CN=test CA$/,
    ],
    [but("tls-client-ca", write("text", "no PEM")), /^--tls-client-ca \S+: has no certificate/],
    [but("tls-crl", file("none")), /^--tls-crl \S+: no such file$/],
    [but("tls-crl", pki.file), /^--tls-crl \S+: has no CRL: no "-----BEGIN X509 CRL-----"$/],
    [
      but("tls-crl", pki.crl(file("old.crl"), { to: -1 })),
      /^--tls-crl \S+: the CRL of CN=test CA expired on \S+Z; replace it$/,
    ],
    [
      but("tls-crl", oldCa.crl(file("sub.crl"))),
      /^--tls-crl \S+: no CA in --tls-client-ca has issued the CRL; add the certificate of its CA$/,
    ],
  ];
  for (const [args, expected] of rows) {
    const { status, stdout, stderr } = await runOutrider([
      "proxy",
      "--policy",
      policy,
      "--listen",
      "127.0.0.1:0",
      "--admin",
      "127.0.0.1:0",
      ...args,
    ]);
    assert.equal(status, 2, `${expected} ${stderr}`);
    const line = /^outrider: (.*)\n$/.exec(stderr)?.[1] ?? stderr;
    assert.match(line, expected);
    assert.equal(stdout, "");
    assert.doesNotMatch(stderr, new RegExp(key.split("\n")[1]!.slice(0, 20).replace(/[+/]/g, "\\$&")));
  }
});

test("a file without permission is one line", {
  skip: skip || (process.getuid?.() === 0 && "runs as root"),
}, async () => {
  const pki = new Pki();
  const folder = tlsFolder(pki, pki.issue("server", "/CN=proxy"));
  chmodSync(join(folder, "tls.key"), 0);
  const { status, stderr } = await runOutrider(["proxy", "--policy", pki.file, ...tlsArgs(folder)]);
  assert.equal(status, 2);
  assert.match(stderr, /^outrider: --tls-key \S+: no permission to read it\n$/);
});

test("processes share the TLS port with --reuse-port only", { skip }, async () => {
  const pki = new Pki();
  const folder = tlsFolder(pki, pki.issue("server", "/CN=proxy", { names: ["IP:127.0.0.1"] }));
  const first = await startProxy({ args: [...tlsArgs(folder), "--reuse-port"] });
  const at = `127.0.0.1:${first.tlsPort}`;
  await assert.rejects(
    startProxy({ args: tlsArgs(folder).with(1, at) }),
    new RegExp(`outrider: --listen-tls ${at}: the address is in use`),
  );
  const second = await startProxy({ args: [...tlsArgs(folder).with(1, at), "--reuse-port"] });
  assert.equal(second.tlsPort, first.tlsPort);
  for (const proxy of [first, second]) assert.equal(await proxy.stop(), 0);
});
