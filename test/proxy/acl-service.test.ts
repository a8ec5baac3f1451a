import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { manifest, type ProxyHandle, runOutrider, startProxy, tempFolder } from "../harness/proxy.ts";
import { exchange } from "../harness/raw.ts";

/** The service of an acl.yaml that applies to the clients, in every command; its ports; clients without a password. */

/** Each service allows one name. */
const service = (name: string) => `  - {name: ${name}, action: enforce, allowed_domains: [${name}.example]}\n`;
const DEFAULT = "default: {action: enforce, allowed_domains: [default.example]}\n";
const MOLE = `services:\n${service("authed")}${service("one")}${DEFAULT}`;
const LONE = `services:\n${service("one")}`;
const NAMES = ["authed.example", "one.example", "default.example"];
/** A name that is vetted has passed the name stage. */
const HOSTS = `10.0.0.5 ${NAMES.join(" ")}\n`;
const BASIC = `Proxy-Authorization: Basic ${Buffer.from("any:s3cret").toString("base64")}\r\n`;

const passwords = (...keys: string[]): string => {
  const folder = tempFolder();
  for (const key of keys) writeFileSync(join(folder, key), "s3cret\n");
  return folder;
};

/** The names that the proxy does not refuse by name. */
async function passing(proxy: ProxyHandle, credentials = BASIC, port = 443): Promise<string[]> {
  const passed: string[] = [];
  for (const name of NAMES) {
    const answer = await exchange(proxy.port, `CONNECT ${name}:${port} HTTP/1.1\r\n${credentials}\r\n`);
    if (/resolves to a private address/.test(answer)) passed.push(name);
    else assert.match(answer, /is not on the allow list|port \d+ of/);
  }
  return passed;
}

const user = () => `Proxy-Authorization: Basic ${Buffer.from("ada:s3cret").toString("base64")}\r\n`;

test("check, explain and proxy apply the same service", { timeout: 300_000 }, async () => {
  const shared = { PROXY_PASSWORD: "s3cret" };
  const rows: [policy: string, env: Record<string, string>, args: string[], applies: string | RegExp][] = [
    [MOLE, {}, [], "default"],
    [MOLE, shared, [], "authed"],
    [MOLE, {}, ["--password-dir", passwords("PROXY_PASSWORD")], "authed"],
    // Clients with passwords of their own present no shared one.
    [MOLE, {}, ["--password-dir", passwords("ada")], "default"],
    [MOLE, shared, ["--service", "default"], "default"],
    [LONE, {}, ["--service", "one"], "one"],
    [LONE, {}, [], /services: none applies: there is no default for clients without a password; choose one/],
    [LONE, shared, [], /services: none applies: there is neither authed nor default for clients with the password/],
  ];
  const policy = join(tempFolder(), "acl.yaml");
  for (const [text, env, args, applies] of rows) {
    writeFileSync(policy, text);
    const what = `${JSON.stringify(env)} ${args}`;
    const options = ["--policy", policy, ...args];
    const check = await runOutrider(["check", ...options], env);
    const targets = NAMES.map((name) => `${name}:443`);
    const explain = await runOutrider(["explain", ...options, "--json", ...targets], env);
    if (typeof applies !== "string") {
      const started = ["proxy", ...options, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
      for (const result of [check, explain, await runOutrider(started, env)]) {
        assert.equal(result.status, 2, what);
        assert.match(result.stderr, applies);
      }
      continue;
    }
    assert.match(check.stdout, new RegExp(`: valid acl, service ${applies}, 1 allow and 0 deny rules`), what);
    const explained = explain.stdout.trim().split("\n");
    const allowed = explained.map((line) => JSON.parse(line) as { verdict: string; target: string });
    const names = allowed.filter(({ verdict }) => verdict === "allow").map(({ target }) => target.split(":")[0]);
    assert.deepEqual(names, [`${applies}.example`], what);
    const proxy = await startProxy({ policyFile: policy, env, args, hosts: HOSTS });
    assert.deepEqual(await passing(proxy, args.includes("--password-dir") ? user() : BASIC), names, what);
    assert.equal(await proxy.stop(), 0);
    // All three have the same warnings about the file.
    const warnings = (output: string) => [...output.matchAll(/^warning: (.*)$/gm)].map(([, warning]) => warning);
    const logged = [...proxy.stderr().matchAll(/"level":"warn".*?"msg":"(?!the limit of open files)(.*?)"/g)].map(
      ([, text]) => text,
    );
    assert.deepEqual(warnings(check.stderr), warnings(explain.stderr), what);
    assert.deepEqual(warnings(check.stderr), logged, what);
    const unused = new RegExp(`services: ${applies} applies to every client`);
    assert.equal(
      logged.some((message) => unused.test(message!)),
      !args.includes("--service"),
      what,
    );
  }
});

test("a reload keeps the last valid policy when no service applies any more", async () => {
  const folder = passwords("PROXY_PASSWORD", "ada");
  const proxy = await startProxy({ policy: MOLE, args: ["--password-dir", folder], hosts: HOSTS });
  assert.deepEqual(await passing(proxy), ["authed.example"]);
  const replace = (text: string) => {
    writeFileSync(`${proxy.policyFile}.new`, text);
    renameSync(`${proxy.policyFile}.new`, proxy.policyFile);
  };
  replace(LONE);
  const kept = await proxy.untilStatus((status) => status.policyError !== null);
  assert.match(kept.policyError!, /services: none applies: there is neither authed nor default/);
  assert.deepEqual(await passing(proxy), ["authed.example"]);
  assert.match(proxy.stderr(), /none applies.*; the last valid policy stays in force/);
  replace(MOLE);
  await proxy.untilStatus((status) => status.policyError === null);
  // Without the shared password there is no client for authed.
  rmSync(join(folder, "PROXY_PASSWORD"));
  await proxy.untilStatus((status) => status.policy!.hash !== kept.policy!.hash);
  assert.deepEqual(await passing(proxy, user()), ["default.example"]);
  assert.equal(await proxy.stop(), 0);
});

test("a policy from a pipe follows a change of the passwords", async () => {
  const folder = passwords("PROXY_PASSWORD", "ada");
  const policyFile = join(tempFolder(), "acl.yaml");
  execFileSync("mkfifo", [policyFile]);
  const writer = spawn("sh", ["-c", 'printf %s "$1" > "$0"', policyFile, MOLE], { stdio: "ignore" });
  const proxy = await startProxy({ policyFile, args: ["--password-dir", folder], hosts: HOSTS });
  assert.equal(writer.exitCode ?? 0, 0);
  const first = await proxy.untilStatus((status) => status.policy !== null);
  assert.deepEqual(await passing(proxy), ["authed.example"]);
  rmSync(join(folder, "PROXY_PASSWORD"));
  await proxy.untilStatus((status) => status.policy!.hash !== first.policy!.hash);
  assert.deepEqual(await passing(proxy, user()), ["default.example"]);
  assert.equal(await proxy.stop(), 0);
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
    for (const port of open) assert.deepEqual(await passing(proxy, "", port), ["default.example"], `${args} ${port}`);
    for (const port of closed) assert.deepEqual(await passing(proxy, "", port), [], `${args} ${port}`);
    assert.equal(await proxy.stop(), 0);
    assert.equal(warning.test(proxy.stderr()), args.length === 0 && env.OUTRIDER_PORTS === undefined);
  }
});

test("--ports replaces the ports of a policy, and not those of its rules", async () => {
  const allow = [{ hosts: ["authed.example"] }, { hosts: ["default.example"], ports: [22] }];
  const spec = { defaultAction: "Deny", ports: [443], allow };
  const proxy = await startProxy({ policy: spec, args: ["--ports", "25"], hosts: HOSTS });
  assert.deepEqual(await passing(proxy, "", 25), ["authed.example"]);
  assert.deepEqual(await passing(proxy, "", 22), ["default.example"]);
  assert.deepEqual(await passing(proxy, "", 443), []);
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
