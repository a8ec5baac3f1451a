import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { opensslMissing } from "../harness/certificate.ts";
import { basic, passwordFolder } from "../harness/clients.ts";
import { Pki, tlsArgs, tlsExchange, tlsFolder } from "../harness/pki.ts";
import { manifest, type ProxyHandle, runOutrider, startProxy, tempFolder } from "../harness/proxy.ts";
import { exchange } from "../harness/raw.ts";

/** An acl.yaml with several services in every command, and on real sockets; its ports; clients without a password. */

/** Each service allows one name. */
const service = (name: string) => `  - {name: ${name}, action: enforce, allowed_domains: [${name}.example]}\n`;
const DEFAULT = "default: {action: enforce, allowed_domains: [default.example]}\n";
const MOLE = `services:\n${service("authed")}${service("one")}${DEFAULT}`;
const LONE = `services:\n${service("one")}`;
const NAMES = ["authed.example", "one.example", "default.example"];
/** A name that is vetted has passed the name stage. */
const HOSTS = `10.0.0.5 ${NAMES.join(" ")}\n`;
const SHARED = { PROXY_PASSWORD: "s3cret" };

/** A folder with passwords: `pw-NAME` for each name, and the shared one under PROXY_PASSWORD. */
const passwords = (...names: string[]): string =>
  passwordFolder(Object.fromEntries(names.map((name) => [name, name === "PROXY_PASSWORD" ? "s3cret" : `pw-${name}`])));

/** The services whose names a client is allowed, or the answer that it gets for each of them. */
async function servicesOf(proxy: ProxyHandle, pair: string | null, port = 443): Promise<string> {
  const passed: string[] = [];
  const refused = new Set<string>();
  for (const name of NAMES) {
    const credentials = pair === null ? "" : basic(pair);
    const answer = await exchange(proxy.port, `CONNECT ${name}:${port} HTTP/1.1\r\n${credentials}\r\n`);
    if (/resolves to a private address/.test(answer)) passed.push(name.split(".")[0]!);
    else if (!/is not on the allow list|port \d+ of/.test(answer))
      refused.add(/^HTTP\/1\.1 (\d+ \S+)/.exec(answer)![1]!);
  }
  return [...passed, ...refused].join();
}

const PAIRS = ["any:s3cret", "one:s3cret", "one:pw-one", "ada:pw-ada", "authed:pw-authed", "one:wrong", null] as const;

test("check, explain and proxy give each client the same service", { timeout: 300_000 }, async () => {
  const folder = passwords("PROXY_PASSWORD", "one", "ada", "authed");
  const own = ["--password-dir", folder];
  const no = "407 egress-auth:";
  const rows: [policy: string, env: Record<string, string>, args: string[], services: string[], check: string[]][] = [
    // Without passwords the credentials of a request have no meaning.
    [
      MOLE,
      {},
      [],
      ["default", "default", "default", "default", "default", "default", "default"],
      ["authed none", "default requests without a proof", "one none"],
    ],
    [
      MOLE,
      SHARED,
      [],
      ["authed", "authed", no, no, no, no, no],
      ["authed the shared password", "default none", "one none"],
    ],
    [
      MOLE,
      {},
      own,
      ["authed", no, "one", "default", "authed", no, no],
      ["authed the password of authed, the shared password", "default the password of ada", "one the password of one"],
    ],
    [
      LONE,
      {},
      own,
      ["403 egress-denied:", no, "one", "403 egress-denied:", "403 egress-denied:", no, no],
      ["one the password of one", "refused the password of ada, authed, the shared password"],
    ],
    [
      MOLE,
      SHARED,
      ["--allow-missing-client"],
      ["authed", "authed", no, no, no, no, "default"],
      ["authed the shared password", "default requests without a proof", "one none"],
    ],
    [MOLE, SHARED, ["--service", "default"], ["default", "default", no, no, no, no, no], []],
    [LONE, {}, ["--service", "one"], ["one", "one", "one", "one", "one", "one", "one"], []],
  ];
  const policy = join(tempFolder(), "acl.yaml");
  for (const [text, env, args, services, identities] of rows) {
    writeFileSync(policy, text);
    const what = `${JSON.stringify(env)} ${args} ${text}`;
    const options = ["--policy", policy, ...args];
    const check = await runOutrider(["check", ...options], env);
    assert.equal(check.status, 0, check.stderr);
    const lines = check.stdout.split("\n").flatMap((line) => {
      const [, name, who] = /^ {2}(?:client )?(\w+): (?:.*; identities: )?(.*)$/.exec(line) ?? [];
      return name === undefined ? [] : [`${name} ${who}`];
    });
    assert.deepEqual(lines, identities, what);
    assert.match(check.stdout, args[0] === "--service" ? /valid acl, service \w+, / : /valid acl, \d clients?, /);
    for (const line of identities) {
      const name = line.split(" ")[0]!;
      if (name === "refused") continue;
      const targets = NAMES.map((host) => `${host}:443`);
      const explain = await runOutrider(["explain", ...options, "--client", name, "--json", ...targets], env);
      const explained = explain.stdout.trim().split("\n");
      const allowed = explained.map((json) => JSON.parse(json) as { verdict: string; target: string });
      const names = allowed.filter(({ verdict }) => verdict === "allow").map(({ target }) => target.split(":")[0]);
      assert.deepEqual(names, [`${name}.example`], what);
    }
    const proxy = await startProxy({ policyFile: policy, env, args, hosts: HOSTS });
    const found: string[] = [];
    for (const pair of PAIRS) found.push(await servicesOf(proxy, pair));
    assert.deepEqual(found, services, what);
    assert.equal(await proxy.stop(), 0);
    // Both have the same warnings about the file and the passwords.
    const warnings = [...check.stderr.matchAll(/^warning: (.*)$/gm)].map(([, warning]) => warning);
    const logged = [...proxy.stderr().matchAll(/"level":"warn".*?"msg":"(?!the limit of open files)(.*?)"/g)].map(
      ([, message]) => message,
    );
    assert.deepEqual(warnings, logged, what);
  }
});

test("a file that serves no client is refused by every command", async () => {
  const policy = join(tempFolder(), "acl.yaml");
  writeFileSync(policy, LONE);
  for (const [env, message] of [
    [{}, /services: none applies: there is no default for clients without a password; choose one/],
    [SHARED, /services: none applies: there is neither authed nor default for clients with the password; choose one/],
  ] as const) {
    const started = ["proxy", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    for (const args of [["check"], ["explain", "a.example:443"], started]) {
      const result = await runOutrider([...args, "--policy", policy], env);
      assert.equal(result.status, 2, result.stderr);
      assert.match(result.stderr, message);
    }
  }
  // Clients with certificates could be served.
  const check = await runOutrider(["check", "--policy", policy, "--tls-client-ca", "ca.pem"]);
  assert.match(check.stdout, /\n {2}client one: .*; identities: a certificate of this name\n/);
});

test("explain decides for the client of the shared password, if one is set", async () => {
  const policy = join(tempFolder(), "acl.yaml");
  writeFileSync(policy, MOLE);
  for (const [env, args, client] of [
    [SHARED, [], "authed"],
    [{}, ["--password-dir", passwords("PROXY_PASSWORD", "one")], "authed"],
    [{}, ["--password-dir", passwords("one")], "default"],
    [{}, [], "default"],
  ] as const) {
    const explain = await runOutrider(["explain", "--policy", policy, ...args, "one.example:443"], env);
    assert.match(explain.stdout, new RegExp(`^client +${client}\n`), `${args}`);
  }
});

test("a certificate selects the service of its name", { skip: opensslMissing() ?? false }, async () => {
  const pki = new Pki();
  const tls = tlsFolder(pki, pki.issue("server", "/CN=proxy", { names: ["IP:127.0.0.1"] }));
  const [one, other] = [pki.issue("one", "/CN=one"), pki.issue("other", "/CN=other")];
  const proxy = await startProxy({ policy: MOLE, env: SHARED, args: tlsArgs(tls, "cn"), hosts: HOSTS });
  for (const [certificate, allowed] of [
    [one, "one.example"],
    [other, "default.example"],
  ] as const) {
    for (const name of NAMES) {
      const head = `CONNECT ${name}:443 HTTP/1.1\r\nX-Smokescreen-Role: authed\r\n\r\n`;
      const answer = await tlsExchange(head, proxy.tlsPort, pki.file, certificate);
      assert.match(answer, name === allowed ? /resolves to a private address/ : /is not on the allow list/, name);
    }
  }
  assert.equal(await servicesOf(proxy, "one:s3cret"), "authed");
  assert.equal(await proxy.stop(), 0);
});

test("a reload keeps the last valid policy when no client could be served", async () => {
  const proxy = await startProxy({ policy: MOLE, env: SHARED, hosts: HOSTS });
  assert.equal(await servicesOf(proxy, "any:s3cret"), "authed");
  const replace = (text: string) => {
    writeFileSync(`${proxy.policyFile}.new`, text);
    renameSync(`${proxy.policyFile}.new`, proxy.policyFile);
  };
  replace(LONE);
  const kept = await proxy.untilStatus((status) => status.policyError !== null);
  assert.match(kept.policyError!, /services: none applies: there is neither authed nor default/);
  assert.equal(await servicesOf(proxy, "any:s3cret"), "authed");
  assert.match(proxy.stderr(), /none applies.*; the last valid policy stays in force/);
  replace(`services:\n${service("one")}${DEFAULT}`);
  await proxy.untilStatus((status) => status.policyError === null);
  assert.equal(await servicesOf(proxy, "any:s3cret"), "default");
  assert.equal(await proxy.stop(), 0);
});

test("a new password selects its service, under a policy from a file or a pipe", async () => {
  for (const pipe of [false, true]) {
    const folder = passwords("PROXY_PASSWORD", "ada");
    const policyFile = join(tempFolder(), "acl.yaml");
    if (pipe) {
      execFileSync("mkfifo", [policyFile]);
      spawn("sh", ["-c", 'printf %s "$1" > "$0"', policyFile, MOLE], { stdio: "ignore" });
    } else writeFileSync(policyFile, MOLE);
    const proxy = await startProxy({ policyFile, args: ["--password-dir", folder], hosts: HOSTS });
    await proxy.untilStatus((status) => status.policy !== null);
    assert.equal(await servicesOf(proxy, "one:s3cret"), "authed");
    writeFileSync(join(folder, "one"), "pw-one");
    const until = async (pair: string, services: string) => {
      for (let i = 0; (await servicesOf(proxy, pair)) !== services; i++) {
        assert.ok(i < 100, `${pair} has not become ${services}`);
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    };
    await until("one:pw-one", "one");
    // The shared password is no longer valid for this user name.
    assert.equal(await servicesOf(proxy, "one:s3cret"), "407 egress-auth:");
    rmSync(join(folder, "PROXY_PASSWORD"));
    await until("any:s3cret", "407 egress-auth:");
    assert.equal(await servicesOf(proxy, "one:pw-one"), "one");
    assert.equal(await proxy.stop(), 0);
  }
});

test("--ports sets the ports of an acl.yaml, and without it a warning names them", async () => {
  const warning =
    /only the ports 80, 443, 1024-65535 are allowed, and Smokescreen allows every port; allow others with/;
  const rows: [args: string[], env: Record<string, string>, open: number[], closed: number[]][] = [
    [[], {}, [80, 443, 1024], [22, 25, 1023]],
    [["--ports", "1-65535"], {}, [22, 443], []],
    [["--ports", "22, 8000-8999", "--ports", "443"], { OUTRIDER_PORTS: "80" }, [22, 443, 8443], [80, 9000]],
    [[], { OUTRIDER_PORTS: "25,443" }, [25, 443], [80]],
  ];
  for (const [args, env, open, closed] of rows) {
    const proxy = await startProxy({ policy: DEFAULT, args, env, hosts: HOSTS });
    for (const port of open) assert.equal(await servicesOf(proxy, null, port), "default", `${args} ${port}`);
    for (const port of closed) assert.equal(await servicesOf(proxy, null, port), "", `${args} ${port}`);
    assert.equal(await proxy.stop(), 0);
    assert.equal(warning.test(proxy.stderr()), args.length === 0 && env.OUTRIDER_PORTS === undefined);
  }
});

test("--ports replaces the ports of a policy, and not those of its rules", async () => {
  const allow = [{ hosts: ["authed.example"] }, { hosts: ["default.example"], ports: [22] }];
  const spec = { defaultAction: "Deny", ports: [443], allow };
  const proxy = await startProxy({ policy: spec, args: ["--ports", "25"], hosts: HOSTS });
  assert.equal(await servicesOf(proxy, null, 25), "authed");
  assert.equal(await servicesOf(proxy, null, 22), "default");
  assert.equal(await servicesOf(proxy, null, 443), "");
  assert.doesNotMatch(proxy.stderr(), /only the ports/);
  const { policy } = await proxy.untilStatus((status) => status.policy !== null);
  assert.equal(await proxy.stop(), 0);
  const file = join(tempFolder(), "policy.yaml");
  writeFileSync(file, manifest(spec));
  const check = await runOutrider(["check", "--policy", file, "--ports", "25"]);
  assert.ok(check.stdout.endsWith(`, default action Deny, ports 25, ${policy!.hash}\n`), check.stdout);
  const many = Array.from({ length: 65 }, (_, i) => i + 1).join();
  for (const [ports, message] of [
    ["0", /^outrider: --ports must be ports or ranges, such as 80,443,8000-8999, not "0"\n$/],
    ["443,", /not ""\n$/],
    ["9000-8000", /not "9000-8000"\n$/],
    [many, /^outrider: --ports has more than 64 ports and ranges\n$/],
  ] as const) {
    const wrong = await runOutrider(["check", "--policy", file, "--ports", ports]);
    assert.equal(wrong.status, 2);
    assert.match(wrong.stderr, message);
  }
});

test("warns that no password is set, unless only this machine can connect", async () => {
  const folder = passwords("ada");
  const rows: [listen: string, args: string[], level: string | undefined, shown: string][] = [
    ["0.0.0.0:0", [], "warn", "0.0.0.0:0"],
    ["[::]:0", [], "warn", "[::]:0"],
    [":0", [], "warn", ":0"],
    ["127.0.0.9:0", [], "info", ""],
    ["[::1]:0", [], "info", ""],
    ["0.0.0.0:0", ["--password-dir", folder], undefined, ""],
  ];
  for (const [listen, args, level, shown] of rows) {
    const proxy = await startProxy({ policy: { defaultAction: "Deny" }, listen, args });
    assert.equal(await proxy.stop(), 0);
    const line = proxy
      .stderr()
      .split("\n")
      .find((text) => text.includes("no password is set"));
    if (level === undefined) assert.equal(line, undefined);
    else {
      const { level: logged, msg } = JSON.parse(line!) as { level: string; msg: string };
      assert.equal(logged, level, listen);
      const fix = `that can reach ${shown} is served; set PROXY_PASSWORD or --password-dir (EgressPolicy: authentication.mode: Basic), or listen on loopback (--listen 127.0.0.1:0)`;
      assert.equal(msg.includes(fix), level === "warn", msg);
    }
  }
});
