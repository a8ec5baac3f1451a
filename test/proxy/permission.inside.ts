import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, renameSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { startDns } from "../harness/dns.ts";
import { permissionOptions } from "../harness/permissions.ts";
import { Pki, tlsArgs, tlsConnect, tlsFolder } from "../harness/pki.ts";
import { manifest, OPEN_LOOPBACK, type ProxyHandle, startProxy, tempFolder } from "../harness/proxy.ts";
import { exchange, listen } from "../harness/raw.ts";

/** Run by permission.test.ts in a network namespace: one proxy with Node's permission model, and each kind of file it reads. */

const ROOT = new URL("../..", import.meta.url).pathname;
const outside = tempFolder();
const files = join(outside, "etc/");
const pki = new Pki();

/** Replaces the content of a folder as the kubelet does: the files are links through `..data`. */
function mount(name: string, version: string, write: (folder: string) => void): string {
  const folder = join(files, name);
  mkdirSync(join(folder, version), { recursive: true });
  write(join(folder, version));
  symlinkSync(version, join(folder, "..data_tmp"));
  renameSync(join(folder, "..data_tmp"), join(folder, "..data"));
  return folder;
}

const writePolicy = (version: string, spec: object): string =>
  mount("policy", version, (folder) => writeFileSync(join(folder, "policy.yaml"), manifest(spec)));

const writeCertificate = (version: string): string =>
  mount("tls", version, (folder) => {
    const issued = pki.issue(version, `/CN=${version}`, { names: ["IP:127.0.0.1"] });
    cpSync(tlsFolder(pki, issued), folder, { recursive: true });
  });

const writePasswords = (version: string, passwords: Readonly<Record<string, string>>): string =>
  mount("passwords", version, (folder) => {
    for (const [user, password] of Object.entries(passwords)) writeFileSync(join(folder, user), password);
  });

const link = (folder: string, names: readonly string[]) => {
  for (const name of names) symlinkSync(`..data/${name}`, join(folder, name));
};

/** The status of the answer to CONNECT. */
async function connect(proxy: ProxyHandle, target: string, user = "convoy", password = "one"): Promise<string> {
  const credentials = Buffer.from(`${user}:${password}`).toString("base64");
  const head = `CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\nProxy-Authorization: Basic ${credentials}\r\n\r\n`;
  return /^HTTP\/1\.1 (\d+)/.exec(await exchange(proxy.port, `${head}GET / HTTP/1.1\r\n\r\n`))?.[1] ?? "none";
}

/** Waits for a condition that no event reports. */
async function until(probe: () => Promise<boolean>, what: string): Promise<void> {
  for (const began = Date.now(); !(await probe()); ) {
    if (Date.now() - began > 20_000) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function presented(proxy: ProxyHandle): Promise<string> {
  const socket = await tlsConnect(proxy.tlsPort, pki.file);
  const { CN } = socket.getPeerCertificate().subject;
  socket.destroy();
  return String(CN);
}

test("with permissions", { timeout: 120_000 }, async (t) => {
  // An address of this machine that no interface has: only /proc/net/fib_trie shows it.
  execFileSync("ip", ["route", "add", "local", "10.9.0.0/24", "dev", "lo"]);
  const far = await listen((socket) => socket.once("data", () => socket.end("here")));
  t.after(() => far.close());
  const dns = await startDns((_, type) => ({ addresses: type === "A" ? ["127.0.0.1"] : [] }), {
    ...{ host: "127.0.0.53", port: 53 },
  });
  t.after(() => dns.close());
  const resolvConf = join(outside, "resolv.conf");
  writeFileSync(resolvConf, "nameserver 127.0.0.53\n");
  const policy = writePolicy("..1", { ports: ["1-65535"] });
  link(policy, ["policy.yaml"]);
  const tls = writeCertificate("..first");
  link(tls, ["tls.crt", "tls.key", "ca.crt"]);
  const passwords = writePasswords("..1", { convoy: "one" });
  link(passwords, ["convoy"]);
  const hosts = join(files, "hosts");
  writeFileSync(hosts, "127.0.0.1 written.example\n");
  const proxy = await startProxy({
    policyFile: join(policy, "policy.yaml"),
    args: [
      ...["--allow-cidr", "10.0.0.0/8", "--password-dir", passwords, "--hosts", hosts],
      ...[...OPEN_LOOPBACK, ...tlsArgs(tls)],
    ],
    listen: "0.0.0.0:0",
    env: { NODE_OPTIONS: permissionOptions(ROOT, files) },
    within: ["unshare", "--mount", "sh", "-c", `mount --bind ${resolvConf} /etc/resolv.conf && exec "$@"`, "sh"],
  });
  t.after(() => proxy.stop());

  await t.test("asks the server of resolv.conf", async () => {
    assert.equal(await connect(proxy, `resolved.example:${far.port}`), "200");
  });
  await t.test("denies its own port on an address that only the kernel's table has", async () => {
    assert.equal(await connect(proxy, `10.9.0.7:${far.port}`), "502");
    assert.equal(await connect(proxy, `10.9.0.7:${proxy.port}`), "403");
  });
  await t.test("reports its memory and its open files", async () => {
    const { text } = await proxy.admin("/metrics");
    for (const name of ["process_resident_memory_bytes", "process_open_fds", "process_max_fds"]) {
      assert.match(text, new RegExp(`^${name} [1-9]`, "m"));
    }
  });
  await t.test("reads the hosts file again", async () => {
    assert.equal(await connect(proxy, `written.example:${far.port}`), "200");
    writeFileSync(hosts, "127.0.0.9 written.example\n");
    await until(async () => (await connect(proxy, `written.example:${far.port}`)) === "502", "the new hosts file");
  });
  await t.test("reads the passwords again", async () => {
    assert.equal(await connect(proxy, `resolved.example:${far.port}`, "svix", "two"), "407");
    writePasswords("..2", { convoy: "one", svix: "two" });
    link(passwords, ["svix"]);
    const status = () => connect(proxy, `resolved.example:${far.port}`, "svix", "two");
    await until(async () => (await status()) === "200", "the new password");
  });
  await t.test("reads the certificate again", async () => {
    assert.equal(await presented(proxy), "..first");
    writeCertificate("..second");
    await until(async () => (await presented(proxy)) === "..second", "the new certificate");
  });
  await t.test("reads the policy again", async () => {
    writePolicy("..2", { ports: ["1-65535"], deny: [{ hosts: ["resolved.example"] }] });
    await until(async () => (await connect(proxy, `resolved.example:${far.port}`)) === "403", "the new policy");
    assert.doesNotMatch(proxy.stderr(), /"level":"(warn|error)".*restricted/);
  });
});
