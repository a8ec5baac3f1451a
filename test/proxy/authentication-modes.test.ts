import assert from "node:assert/strict";
import { renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { opensslMissing } from "../harness/certificate.ts";
import { Pki, tlsArgs, tlsExchange, tlsFolder } from "../harness/pki.ts";
import { manifest, OPEN_LOOPBACK, type ProxyHandle, runOutrider, startProxy, tempFolder } from "../harness/proxy.ts";
import { exchange, listen } from "../harness/raw.ts";

/** The mode of a policy and the proofs of a process: which pairs are served, and what they ask of clients. */

const skip = opensslMissing() ?? false;
const MODES = ["None", "Basic", "TLS", "BasicOrTLS"] as const;
type Mode = (typeof MODES)[number];
/** The mode that reads exactly the proofs of a process: the index is 1 with a password, plus 2 with a client CA. */
const modeOf = (password: boolean, certificate: boolean): Mode => MODES[(password ? 1 : 0) + (certificate ? 2 : 0)]!;

const CREDENTIALS = `Proxy-Authorization: Basic ${Buffer.from("any:s3cret").toString("base64")}\r\n`;
const WRONG = CREDENTIALS.replace(/Basic .*/, `Basic ${Buffer.from("any:wrong").toString("base64")}`);
const ask = (port: number, headers = "") => `CONNECT 127.0.0.1:${port} HTTP/1.1\r\n${headers}\r\n`;
const status = (text: string): string => text.slice(9, 12);

const open = (mode: Mode | undefined, more: object = {}): string =>
  manifest({ ...(mode === undefined ? {} : { authentication: { mode } }), ...more });

function replace(file: string, text: string): void {
  writeFileSync(`${file}.new`, text);
  renameSync(`${file}.new`, file);
}

/** A receiver that is refused unless a policy lets a client pass to it. */
const receiver = () => listen((socket) => socket.end());

/** Files of a TLS port, a client certificate, and the four kinds of processes. */
function processes() {
  const pki = new Pki();
  const folder = tlsFolder(pki, pki.issue("server", "/CN=server", { names: ["IP:127.0.0.1"] }));
  const billing = pki.issue("billing", "/CN=billing");
  const all = [false, true].flatMap((certificate) =>
    [false, true].map((password) => ({
      own: modeOf(password, certificate),
      args: [...OPEN_LOOPBACK, ...tlsArgs(folder, certificate ? "cn" : undefined)],
      env: (password ? { PROXY_PASSWORD: "s3cret" } : {}) as Record<string, string>,
    })),
  );
  /** Status without a proof, with the password, with a wrong one, with a certificate. */
  const answers = async (proxy: ProxyHandle, port: number): Promise<string> => {
    const plain = (headers?: string) => exchange(proxy.port, ask(port, headers));
    const texts = [await plain(), await plain(CREDENTIALS), await plain(WRONG)];
    return [...texts, await tlsExchange(ask(port), proxy.tlsPort, pki.file, billing)].map(status).join(" ");
  };
  return { all, answers };
}

/** The answers of a process whose policy has this mode, or none. A process without a password ignores credentials. */
const EXPECTED: Record<Mode, string> = {
  None: "200 200 200 200",
  Basic: "407 200 407 407",
  TLS: "403 403 403 200",
  BasicOrTLS: "407 200 407 200",
};

/** The error of a policy whose mode does not read exactly the proofs of the process. */
function problem(mode: Mode, own: Mode): RegExp {
  const needs = (kind: RegExp) => kind.test(mode) && !kind.test(own);
  const ignores = (kind: RegExp) => !kind.test(mode) && kind.test(own);
  const parts = [
    needs(/Basic/) ? `${mode} needs a password: set PROXY_PASSWORD or --password-dir` : "",
    needs(/TLS/) ? `${mode} needs client certificates: set --tls-client-ca` : "",
    ignores(/Basic/)
      ? `${mode} ignores the passwords of this proxy: write ${own}, or remove PROXY_PASSWORD and --password-dir`
      : "",
    ignores(/TLS/)
      ? `${mode} ignores the client certificates of this proxy: write ${own}, or remove --tls-client-ca`
      : "",
  ].filter((part) => part !== "");
  return new RegExp(`spec\\.authentication\\.mode: ${parts.join("; ")}$`);
}

test("starts only with the mode that reads exactly the proofs of the process", { skip, timeout: 300_000 }, async () => {
  const { all, answers } = processes();
  const far = await receiver();
  const policyFile = join(tempFolder(), "policy.yaml");
  for (const { own, args, env } of all) {
    for (const mode of [undefined, ...MODES]) {
      const what = `${mode} with the proofs of ${own}`;
      writeFileSync(policyFile, open(mode));
      if (mode === undefined || mode === "None" || mode === own) {
        const proxy = await startProxy({ policyFile, args, env });
        assert.equal(await answers(proxy, far.port), EXPECTED[own], what);
        assert.equal(await proxy.stop(), 0);
        continue;
      }
      const started = ["proxy", "--policy", policyFile, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", ...args];
      const { status, stderr } = await runOutrider(started, env);
      assert.equal(status, 2, what);
      assert.match(stderr.trimEnd(), problem(mode, own), what);
    }
  }
  await far.close();
});

test("a reload refuses every other mode, and keeps its policy", { skip, timeout: 300_000 }, async () => {
  const { all, answers } = processes();
  const far = await receiver();
  for (const { own, args, env } of all) {
    const proxy = await startProxy({ policy: open(undefined), args, env });
    let { hash } = (await proxy.untilStatus(() => true)).policy!;
    for (const [i, mode] of [...MODES, undefined].entries()) {
      const what = `${mode} with the proofs of ${own}`;
      const before = hash;
      replace(proxy.policyFile, open(mode, { deny: [{ hosts: [`x${i}.example`] }] }));
      if (mode === undefined || mode === "None" || mode === own) {
        const now = await proxy.untilStatus(
          ({ policy, policyError }) => policyError === null && policy!.hash !== before,
        );
        hash = now.policy!.hash;
      } else {
        const now = await proxy.untilStatus(({ policyError }) => problem(mode, own).test(policyError ?? ""));
        assert.deepEqual([now.policy!.hash, now.ready], [before, true], what);
      }
      assert.equal(await answers(proxy, far.port), EXPECTED[own], what);
    }
    assert.equal(await proxy.stop(), 0);
  }
  await far.close();
});

test("a policy with clients and without a mode needs the password of the process", async () => {
  const far = await receiver();
  // Both kinds are version 2, and have no authentication: one host set must not switch off the password.
  const withSet = { hostSets: [{ name: "s", hosts: ["*"] }], deny: [{ hosts: ["set:s"], ports: [1] }] };
  const document = { version: 2, policy: "a/b", ...withSet };
  for (const policy of [manifest(withSet), JSON.stringify(document)]) {
    const proxy = await startProxy({ policy: open(undefined), args: OPEN_LOOPBACK, env: { PROXY_PASSWORD: "s3cret" } });
    const { hash } = (await proxy.untilStatus(() => true)).policy!;
    replace(proxy.policyFile, policy);
    await proxy.untilStatus((now) => now.policy!.hash !== hash);
    const texts = [await exchange(proxy.port, ask(far.port)), await exchange(proxy.port, ask(far.port, CREDENTIALS))];
    assert.deepEqual(texts.map(status), ["407", "200"]);
    assert.equal(await proxy.stop(), 0);
  }
  await far.close();
});

test("a document with the mode None is for a proxy without passwords", async () => {
  const policyFile = join(tempFolder(), "policy.json");
  const authentication = { mode: "None", allowMissing: true };
  const document = { version: 2, policy: "a/b", authentication, clients: [{ name: "default" }] };
  writeFileSync(policyFile, JSON.stringify(document));
  const args = ["proxy", "--policy", policyFile, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
  const { status, stderr } = await runOutrider(args, { PROXY_PASSWORD: "s3cret" });
  assert.equal(status, 2);
  assert.match(stderr, /: authentication\.mode: None ignores the passwords of this proxy: write Basic, or remove/);
  const proxy = await startProxy({ policyFile });
  assert.equal(await proxy.stop(), 0);
});

const ACL = "default: {action: open}\n";

test("--allow-missing-client admits requests without credentials, for an acl.yaml", async () => {
  const far = await receiver();
  const args = [...OPEN_LOOPBACK, "--allow-missing-client"];
  const proxy = await startProxy({ policy: ACL, args, env: { PROXY_PASSWORD: "s3cret" } });
  const texts = [];
  for (const headers of ["", CREDENTIALS, WRONG]) texts.push(await exchange(proxy.port, ask(far.port, headers)));
  assert.deepEqual(texts.map(status), ["200", "200", "407"]);
  assert.equal(await proxy.stop(), 0);
  assert.doesNotMatch(proxy.stderr(), /"level":"warn".*without credentials/);

  const policy = join(tempFolder(), "policy.yaml");
  for (const [text, field] of [
    [open(undefined), "spec.authentication.allowMissing"],
    [JSON.stringify({ version: 1, policy: "a/b" }), "authentication.allowMissing"],
  ] as const) {
    writeFileSync(policy, text);
    for (const command of [["check"], ["explain", "a.example:443"], ["proxy"]]) {
      const result = await runOutrider([...command, "--policy", policy, "--allow-missing-client"]);
      assert.equal(result.status, 2);
      assert.equal(
        result.stderr,
        `outrider: --allow-missing-client is for acl.yaml files; write ${field} into ${policy}\n`,
      );
    }
  }
  await far.close();
});

test("warns that --allow-missing-client has no effect without passwords and client CA", async () => {
  const policy = join(tempFolder(), "acl.yaml");
  writeFileSync(policy, ACL);
  const check = async (args: string[], env = {}) =>
    (await runOutrider(["check", "--policy", policy, "--allow-missing-client", ...args], env)).stderr;
  const warning =
    /^warning: --allow-missing-client has no effect: without passwords and --tls-client-ca every client is admitted; set one/m;
  assert.match(await check([]), warning);
  assert.doesNotMatch(await check([], { PROXY_PASSWORD: "s3cret" }), warning);
  assert.doesNotMatch(await check(["--tls-client-ca", "ca.pem"]), warning);
});

test("check with start options rejects a policy that a proxy with them rejects", async () => {
  const policy = join(tempFolder(), "policy.yaml");
  const password = { PROXY_PASSWORD: "s3cret" };
  const ca = ["--tls-client-ca", "ca.pem"];
  for (const [mode, own, env, args] of [
    // Without them it may be for the operator, which sets them by the policy.
    ["BasicOrTLS", "BasicOrTLS", {}, []],
    ["Basic", "Basic", password, []],
    ["Basic", "BasicOrTLS", password, ca],
    ["BasicOrTLS", "Basic", password, []],
    ["Basic", "TLS", {}, ca],
    [undefined, "BasicOrTLS", password, ca],
  ] as const) {
    writeFileSync(policy, open(mode));
    const { status, stderr } = await runOutrider(["check", "--policy", policy, ...args], env);
    const fits = mode === undefined || mode === own;
    assert.equal(status, fits ? 0 : 2, `${mode} with the proofs of ${own}`);
    if (!fits) assert.match(stderr.trimEnd(), problem(mode, own));
  }
});

test("warns about listeners that serve clients without a proof", { skip }, async () => {
  const pki = new Pki();
  const folder = tlsFolder(pki, pki.issue("server", "/CN=server", { names: ["IP:127.0.0.1"] }));
  const tls = tlsArgs(folder).with(1, "0.0.0.0:0");
  const password = { PROXY_PASSWORD: "s3cret" };
  const missing = ["--allow-missing-client"];
  const none = /^no password is set: every client that can reach 0\.0\.0\.0:0 is served; set PROXY_PASSWORD/;
  const admitted =
    /^every client that can reach 0\.0\.0\.0:0 is served as default, without credentials; remove --allow-missing-client, or listen on loopback \(--listen(-tls)? 127\.0\.0\.1:0\)$/;
  const rows: [listen: string, args: string[], env: Record<string, string>, warning: RegExp | null][] = [
    ["127.0.0.1:0", [], {}, null],
    ["0.0.0.0:0", [], {}, none],
    ["0.0.0.0:0", [], password, null],
    ["127.0.0.1:0", missing, password, null],
    ["0.0.0.0:0", missing, password, admitted],
    // The TLS port of a proxy without a client CA serves everyone, too.
    ["127.0.0.1:0", tls, {}, none],
    ["127.0.0.1:0", [...tls, ...missing], password, admitted],
    ["0.0.0.0:0", tlsArgs(folder, "cn"), {}, null],
  ];
  for (const [listen, args, env, warning] of rows) {
    const proxy = await startProxy({ policy: ACL, listen, args, env });
    assert.equal(await proxy.stop(), 0);
    const lines = proxy
      .stderr()
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as { level: string; msg: string });
    const found = lines.filter(({ level, msg }) => level === "warn" && msg.includes("that can reach"));
    const what = `${listen} ${args}`;
    assert.equal(found.length, warning === null ? 0 : 1, what);
    if (warning !== null) assert.match(found[0]!.msg, warning, what);
  }
});

test("warns about password files whose names look like shared passwords", async () => {
  const folder = tempFolder();
  for (const name of ["default", "authed", "billing", "PROXY_PASSWORD"]) writeFileSync(join(folder, name), name);
  const proxy = await startProxy({ policy: {}, args: ["--password-dir", folder] });
  assert.equal(await proxy.stop(), 0);
  const warnings = [...proxy.stderr().matchAll(/"msg":"(\w+): is the password of the user name/g)].map(
    ([, key]) => key,
  );
  assert.deepEqual(warnings.toSorted(), ["authed", "default"]);
});

test("the shared password of the environment stays valid beside those of the folder", async () => {
  const far = await receiver();
  const folder = tempFolder();
  const file = join(folder, "PROXY_PASSWORD");
  writeFileSync(file, "in-file");
  const args = [...OPEN_LOOPBACK, "--password-dir", folder];
  const proxy = await startProxy({ policy: {}, args, env: { PROXY_PASSWORD: "s3cret" } });
  const answer = async (password: string) => {
    const credentials = Buffer.from(`any:${password}`).toString("base64");
    return status(await exchange(proxy.port, ask(far.port, `Proxy-Authorization: Basic ${credentials}\r\n`)));
  };
  assert.deepEqual([await answer("s3cret"), await answer("in-file")], ["200", "200"]);
  rmSync(file);
  await proxy.untilStatus(() => /has no password file/.test(proxy.stderr()));
  assert.deepEqual([await answer("s3cret"), await answer("in-file")], ["200", "407"]);
  assert.equal(await proxy.stop(), 0);
  await far.close();
});
