import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { variableOf } from "../../proxy/cli/options.ts";
import { PROXY_OPTIONS } from "../../proxy/config/config.ts";
import { startDns } from "../harness/dns.ts";
import { manifest, runOutrider, startProxy, tempFolder } from "../harness/proxy.ts";
import { exchange, listen } from "../harness/raw.ts";

const folder = tempFolder();
const file = (name: string, text: string): string => {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
};
const good = file("good.yaml", manifest({ defaultAction: "Deny", allow: [{ name: "ok", hosts: ["ok.example"] }] }));

test("a bad policy is one line with field and fix, exit 2", { timeout: 400_000 }, async () => {
  const rows: [string, RegExp][] = [
    [manifest({ alow: [] }), /spec\.alow: unknown key; did you mean allow\?/],
    [manifest({ allow: [{ hots: ["a.example"] }] }), /spec\.allow\[0\]\.hots: unknown key; did you mean hosts\?/],
    [
      manifest({ allow: [{ name: "a", hosts: ["a.b"] }], deny: [{ name: "a", hosts: ["c.d"] }] }),
      /spec\.deny\[0\]\.name: "a" is the name of spec\.allow\[0\] already/,
    ],
    [manifest({ deny: [{ hosts: ["*foo.com"] }] }), /spec\.deny\[0\]\.hosts\[0\]: "\*foo\.com": a wildcard is only/],
    [manifest({ deny: [{ hosts: ["foo.com:443"] }] }), /hosts\[0\]: "foo\.com:443" has a port; use ports/],
    [
      manifest({ deny: [{ cidrs: ["10.0.0.5/8"] }] }),
      /cidrs\[0\]: "10\.0\.0\.5\/8" has host bits set; the network is 10\.0\.0\.0\/8/,
    ],
    [manifest({ deny: [{}] }), /spec\.deny\[0\]: is empty; it needs hosts, cidrs or ports/],
    [manifest({ deny: [{ hosts: [] }] }), /spec\.deny\[0\]\.hosts: is empty/],
    [manifest({ allow: [{ cidrs: ["8.8.8.0/24"], except: ["a.b"] }] }), /except: needs hosts/],
    [manifest({ ports: [0] }), /spec\.ports\[0\]: 0 is not a port/],
    [manifest({ defaultAction: "allow" }), /spec\.defaultAction: must be one of Allow, Report, Deny, not "allow"/],
    [manifest({ staticIPs: [{ address: "x" }] }), /spec\.staticIPs\[0\]\.address: must be an IP address/],
    [
      manifest({ allow: [{ name: "default", hosts: ["a.b"] }] }),
      /allow\[0\]\.name: "default" is the name of the default/,
    ],
    [
      manifest({ verification: { echoURLs: ["https://echo.example/"] } }),
      /verification: Block needs staticIPs or --source-address/,
    ],
    [manifest({}).replace("v1alpha1", "v2"), /apiVersion: must be egress\.outrider\.dev\/v1alpha1, not "egress.*v2"/],
    [manifest({}).replace('"name":"test"', '"name":"Test"'), /metadata\.name: must be 1 to 40 lower-case letters/],
    [manifest({}).replace('"namespace":"test"', '"namespace":"-"'), /metadata\.namespace: must be a namespace name/],
    ['{"version": 1, "policy": ""}', /policy: must be namespace\/name/],
    [
      '{"version": 1, "policy": "a/b", "allow": [{"hosts": ["a.b"], "opens": true}]}',
      /allow\[0\]\.opens: must be false/,
    ],
    ["", /the file is empty/],
    ["[1, 2", /not valid YAML/],
    ["{", /not valid JSON/],
    ["hello: world\n", /is not a policy: expected a policy document/],
    ['{"version": 2, "policy": "a/b"}', /version: must be 1 without clients/],
    [
      "global_denylist: [a.b]\nglobal_allow_list: [c.d]\n",
      /global_denylist: unknown key; did you mean global_deny_list\?/,
    ],
    [
      "services: [{name: a, action: enforce, allowed_domain: [a.b]}]\n",
      /services\[0\]\.allowed_domain: unknown key; did you mean allowed_domains\?/,
    ],
    [
      "services: [{name: a, action: open}, {name: b, action: open}]\n",
      /services: none applies: there is no default for clients without a password; choose one .*; the file has a, b\n$/,
    ],
  ];
  for (const [text, expected] of rows) {
    const result = await runOutrider(["check", "--policy", file("bad.yaml", text)]);
    assert.equal(result.status, 2, text);
    assert.match(result.stderr, expected);
    assert.equal(result.stderr.split("\n").length, 2, result.stderr);
    assert.equal(result.stdout, "");
  }
});

test("wrong usage is one line and exit 2", { timeout: 400_000 }, async () => {
  const busy = await listen(() => {});
  const busy6 = await listen(() => {}, "::1");
  const badHosts = file("bad-hosts", "10.0.0.5 fine.example\n10.0.0.300 wrong.example\n");
  const start = ["proxy", "--policy", good, "--admin", "127.0.0.1:0", "--listen"];
  const rows: [string[], RegExp, Record<string, string>?][] = [
    [["proxy"], /--policy FILE is required/],
    [["proxy", "--policy", join(folder, "none.yaml")], /none\.yaml: no such file/],
    [["proxy", "--policy", folder], /--policy .*: EISDIR/],
    [["proxy", "--polcy", good], /unknown option --polcy; did you mean --policy\?/],
    [["proxy", "--policy", good, "--policy", good], /--policy is given twice/],
    [["proxy", "--policy"], /--policy needs a value: FILE/],
    [["proxy", "--policy", good, "extra"], /unexpected argument "extra"/],
    [[...start, "nonsense"], /--listen must be IP:PORT, \[IP\]:PORT or :PORT, not "nonsense"/],
    [[...start, `127.0.0.1:${busy.port}`], /--listen 127\.0\.0\.1:\d+: the address is in use/],
    [
      [...start, "127.0.0.1:0", "--connect-seconds", "0"],
      /--connect-seconds must be a whole number from 1 to 120, not "0"/,
    ],
    [
      ["proxy", "--policy", good, "--listen", "127.0.0.1:0", "--admin", `127.0.0.1:${busy.port}`],
      /--admin 127\.0\.0\.1:\d+: the address is in use/,
    ],
    [[...start, "127.0.0.1:65536"], /--listen must be IP:PORT, \[IP\]:PORT or :PORT, not "127\.0\.0\.1:65536"/],
    [[...start, "127.0.0.1:0", "--idle-seconds", "1e3"], /--idle-seconds must be a whole number from 1 to 86400/],
    [[...start, "127.0.0.1:0", "--head-kib", "257"], /--head-kib must be a whole number from 1 to 256, not "257"/],
    [[...start, "127.0.0.1:0", "--head-seconds", "0"], /--head-seconds must be a whole number from 1 to 120, not "0"/],
    [
      [...start, "127.0.0.1:0", "--healthcheck-path", "health"],
      /--healthcheck-path must be a path without query, such as \/healthcheck, not "health"/,
    ],
    [[...start, "127.0.0.1:0", "--max-tunnels=-1"], /--max-tunnels must be a whole number from 1 to 1000000, not "-1"/],
    [[...start, "127.0.0.1:0", "--access-log"], /--access-log needs a value: all\|denied\|none/],
    [[...start, "127.0.0.1:0", "--resolver", "10.96.0.10"], /--resolver must be IP:PORT.*, not "10\.96\.0\.10"/],
    [[...start, "127.0.0.1:0", "--hosts", badHosts], /--hosts .*bad-hosts:2: "10\.0\.0\.300" is not an IP address/],
    [[...start, "127.0.0.1:0", "--service", "a"], /--service is for acl\.yaml files/],
    [["check", "--policy", good, "--listen", ":1"], /unknown option --listen/],
    [[...start, "127.0.0.1:0", "--deny-status", "407"], /--deny-status must be one of 403, 502, not "407"/],
    [[...start, "127.0.0.1:0", "--allow-cidr", "127.0.0.1/8"], /--allow-cidr: .* the network is 127\.0\.0\.0\/8/],
    [[...start, "127.0.0.1:0", "--deny-cidr", "::ffff:0:0/96"], /--deny-cidr: .* IPv4-mapped .* write 0\.0\.0\.0\/0/],
    [[...start, "127.0.0.1:0", "--nat64-prefix", "fd64::/80"], /--nat64-prefix: "fd64::\/80" is not a NAT64 prefix/],
    [
      ["proxy", "--policy", good],
      /OUTRIDER_NAT64_PREFIX: "x" is not a CIDR/,
      { OUTRIDER_NAT64_PREFIX: "fd64::/96, x" },
    ],
    [[...start, "127.0.0.1:0", "--resolver", "dns.example:53"], /--resolver must be IP:PORT/],
    [[...start, "127.0.0.1:0", "--hosts", join(folder, "none")], /--hosts .*no such file/],
    [[...start, "127.0.0.1:0", "--password-dir", join(folder, "none")], /--password-dir .*no such file/],
    [["explain", "--policy", good], /explain needs at least one TARGET/],
    [["explain", "--policy", good, "127.1:80"], /"127\.1:80" is no target/],
    [["prxy"], /unknown command "prxy"; did you mean proxy\?/],
    [["echo", "--listen", "x"], /--listen must be IP:PORT/],
    [[...start, "127.0.0.1:0", "--proxy-protocol", "on"], /--proxy-protocol must be one of off, required, not "on"/],
    [
      [...start, "127.0.0.1:0", "--proxy-protocol", "required"],
      /--proxy-protocol required needs --proxy-protocol-from CIDR, the addresses of your load balancers/,
    ],
    [
      [...start, "127.0.0.1:0", "--proxy-protocol-from", "10.0.0.5/32"],
      /--proxy-protocol-from has no effect without --proxy-protocol required/,
    ],
    ...["0.0.0.0/0", "::/0"].map((all): [string[], RegExp] => [
      [...start, "127.0.0.1:0", "--proxy-protocol", "required", "--proxy-protocol-from", all],
      new RegExp(
        `--proxy-protocol-from: ${all} is every address, so every client could choose its client address; name your load`,
      ),
    ]),
    [
      ["proxy", "--policy", good, "--proxy-protocol", "required"],
      /OUTRIDER_PROXY_PROTOCOL_FROM: "10\.0\.0\.5" has no prefix length; write 10\.0\.0\.5\/32 for this one address/,
      { OUTRIDER_PROXY_PROTOCOL_FROM: "10.0.0.5" },
    ],
    [["import", join(folder, "none")], /no such file/],
    [["explain", "--policy", good, "--hosts", join(folder, "none"), "a.example:443"], /--hosts .*none: .*no such file/],
    [["echo", "--listen", `[::1]:${busy6.port}`], /--listen \[::1\]:\d+: the address is in use/],
    [["check", "--policy", good, "extra"], /unexpected argument "extra"/],
    // A name with a port to listen on is refused without resolving it.
    [[...start, "localhost:0"], /--listen must be IP:PORT.*not "localhost:0"/],
    [[...start, "256.0.0.1:0"], /--listen must be IP:PORT/],
    [[...start, "[]:0"], /--listen must be IP:PORT/],
    [[...start, "[localhost]:0"], /--listen must be IP:PORT/],
    [[...start, "::1:0"], /--listen must be IP:PORT, \[IP\]:PORT or :PORT, not "::1:0"/],
    [["proxy", "--policy", good, "--admin", "nosuchhost.invalid:0"], /--admin must be IP:PORT/],
    [["proxy", "--policy", good], /OUTRIDER_MAX_TUNNELS must be a whole number/, { OUTRIDER_MAX_TUNNELS: "many" }],
  ];
  for (const [args, expected, environment] of rows) {
    const result = await runOutrider(args, environment);
    assert.equal(result.status, 2, args.join(" "));
    const lines = result.stderr
      .trim()
      .split("\n")
      .filter((line) => !line.startsWith("{"));
    assert.match(lines.join("\n"), expected);
    assert.equal(lines.length, 1, result.stderr);
  }
  await busy.close();
  await busy6.close();
});

test("--help lists every option with its default and variable", async () => {
  const help = await runOutrider(["proxy", "--help"]);
  assert.equal(help.status, 0);
  for (const { name, value } of PROXY_OPTIONS) {
    const line = help.stdout.split("\n").find((text) => new RegExp(`^  --${name}( |$)`).test(text));
    assert.ok(line, name);
    // Options without a default are optional, or lists.
    const free = [
      "source-address",
      "policy",
      "service",
      "hosts",
      "password-dir",
      "allow-cidr",
      "deny-cidr",
      "nat64-prefix",
      "tls-cert",
      "tls-key",
      "tls-client-name",
      "tls-crl",
      "proxy-protocol-from",
      "external-from",
    ].includes(name);
    if (value !== undefined && !free) assert.match(line, /\(default:? [^)]+\)$/);
  }
  const documented = readFileSync(new URL("../../docs/proxy.md", import.meta.url), "utf8");
  for (const { name, value, repeat, fallback, help } of PROXY_OPTIONS) {
    const option = `--${name}${value === undefined ? "" : ` ${value.replaceAll("|", "\\|")}`}${repeat ? " …" : ""}`;
    const variable = name === "help" ? "" : `\`${variableOf(name)}\``;
    const row = `| \`${option}\` | ${variable}${variable ? " " : ""}| ${help}${fallback === undefined ? "" : ` (default ${fallback})`} |`;
    assert.ok(documented.includes(`${row}\n`), `docs/proxy.md lacks: ${row}`);
  }
  const short = await runOutrider(["proxy", "-h"]);
  assert.equal(short.stdout, help.stdout);
  const env = await runOutrider(["check"], { [variableOf("policy")]: good });
  assert.equal(env.status, 0);
  const mark = await runOutrider(["check", "--policy", file("bom.json", `\uFEFF${manifest({})}`)]);
  assert.equal(mark.status, 0, "a byte order mark is no mistake");
  const version = await runOutrider(["--version"]);
  assert.match(version.stdout, /^\d+\.\d+\.\d+\n$/);
  const commands = await runOutrider(["--help"]);
  assert.equal(commands.status, 0);
  for (const command of ["proxy", "explain", "check", "import", "echo", "verify", "health"]) {
    assert.match(commands.stdout, new RegExp(`^  ${command} `, "m"));
    assert.equal((await runOutrider([command, "--help"])).status, 0, command);
  }
});

test("the command line overrides the environment", async () => {
  const far = await listen((socket) => socket.end("hello"));
  const hosts = file("env-hosts", "127.0.0.1 ok.example\n::1 ok.example\n");
  const env = {
    [variableOf("allow-cidr")]: "127.0.0.0/8, ::1/128",
    [variableOf("hosts")]: hosts,
    [variableOf("deny-status")]: "502",
    [variableOf("access-log")]: "denied",
    [variableOf("reason-detail")]: "full",
    [variableOf("connect-seconds")]: "nonsense",
  };
  // The environment is ignored for options of the command line.
  const proxy = await startProxy({ policy: { ports: [far.port] }, env, args: ["--connect-seconds", "1"] });
  const open = await exchange(proxy.port, `CONNECT ok.example:${far.port} HTTP/1.1\r\n\r\n`);
  assert.equal(open, "HTTP/1.1 200 Connection established\r\n\r\nhello");
  assert.match(
    await exchange(proxy.port, `CONNECT 10.0.0.5:${far.port} HTTP/1.1\r\n\r\n`),
    /^HTTP\/1\.1 502 egress-denied: 10\.0\.0\.5 is a private address \(10\.0\.0\.0\/8\) \(10\.0\.0\.5\); policy/,
  );
  assert.equal(await proxy.stop(), 0);
  assert.deepEqual(
    proxy.records().map((record) => record.verdict),
    ["deny"],
  );
  await far.close();
  const wrong = await runOutrider(["proxy", "--policy", good], { [variableOf("connect-seconds")]: "nonsense" });
  assert.deepEqual(
    [wrong.status, /must be a whole number from 1 to 120, not "nonsense"/.test(wrong.stderr)],
    [2, true],
  );
});

test("starts with unchanged files of Smokescreen and mole", async () => {
  const tabbed = "global_allow_list:\n\t- hook.example\nglobal_deny_list:\n\t- cli.example\n\t- evil.hook.example\n";
  const services = `version: v1
services:
  - {name: billing, project: a, action: enforce, allowed_domains: ["hook.example"]}
  - {name: shop, project: b, action: report}
  - {name: lab, project: c, action: open}
default: {project: d, action: enforce}
global_deny_list: [cli.example]
`;
  const hosts = "10.0.0.5 hook.example cli.example other.example\n";
  // A name that is resolved and vetted has passed the name stage.
  const [passed, denied, unlisted] = [
    /resolves to a private address/,
    /by rule global_deny_list/,
    /not on the allow list/,
  ];
  for (const [policy, args, other] of [
    [tabbed, [], unlisted],
    [services, ["--service", "billing"], unlisted],
    [services, ["--service", "shop"], passed],
    [services, ["--service", "lab"], passed],
  ] as const) {
    const proxy = await startProxy({ policy, args: [...args], hosts });
    const ask = (host: string) => exchange(proxy.port, `CONNECT ${host}:443 HTTP/1.1\r\n\r\n`);
    assert.match(await ask("hook.example"), passed);
    assert.match(await ask("cli.example"), denied);
    assert.match(await ask("other.example"), other);
    assert.equal(await proxy.stop(), 0);
    assert.equal(/"level":"warn".*tabs/.test(proxy.stderr()), policy === tabbed);
  }
});

test("check prints a hash that does not depend on the spelling", async () => {
  const other = file(
    "other.yaml",
    "apiVersion: egress.outrider.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {namespace: test, name: test}\n" +
      "spec:\n  allow:\n  - hosts: [ok.example]\n    name: ok\n  defaultAction: Deny\n",
  );
  const shown = await Promise.all([good, other].map((path) => runOutrider(["check", "--policy", path])));
  const hashes = shown.map(({ status, stdout, stderr }) => {
    assert.deepEqual([status, stderr], [0, ""]);
    const match =
      /: valid manifest, 1 allow and 0 deny rules, default action Deny, ports 80,443,1024-65535, (sha256:[0-9a-f]{64})\n$/.exec(
        stdout,
      );
    return match?.[1] ?? assert.fail(stdout);
  });
  assert.equal(hashes[0], hashes[1]);
});

test("logs its ports at start and ends with status 0 on SIGINT", async () => {
  const proxy = await startProxy({ policy: {} });
  const lines = proxy
    .stderr()
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, string>);
  const started = lines.find((line) => line.msg === "listening")!;
  assert.deepEqual([started.listen, started.admin], [`127.0.0.1:${proxy.port}`, `127.0.0.1:${proxy.adminPort}`]);
  assert.match(started.version!, /^\d+\.\d+\.\d+$/);
  assert.equal(await proxy.stop("SIGINT"), 0);
  assert.match(proxy.stderr(), /"signal":"SIGINT"/);
  assert.doesNotMatch(proxy.stderr(), /"level":"(error|fatal)"|\n {4}at /);
});

test("accepts brackets around listen addresses of either family", async () => {
  for (const [host, shown] of [
    ["[127.0.0.1]", "127.0.0.1"],
    ["[::1]", "[::1]"],
  ]) {
    const proxy = await startProxy({ policy: {}, listen: `${host}:0`, admin: `${host}:0` });
    const line = proxy
      .stderr()
      .split("\n")
      .find((text) => text.includes('"msg":"listening"'));
    const { listen: at, admin } = JSON.parse(line!) as { listen: string; admin: string };
    assert.deepEqual([at, admin], [`${shown}:${proxy.port}`, `${shown}:${proxy.adminPort}`]);
    assert.equal((await fetch(`http://${admin}/livez`)).status, 200);
    assert.equal(await proxy.stop(), 0);
  }
});

test("explain prints the proxy's decision; exit 1 for a denial", async () => {
  const hosts = file("hosts", "10.0.0.5 ok.example\n");
  const policy = file(
    "open.yaml",
    manifest({ defaultAction: "Deny", allow: [{ name: "ok", hosts: ["ok.example"], ports: [443] }] }),
  );
  const denied = await runOutrider([
    "explain",
    "--policy",
    policy,
    "--hosts",
    hosts,
    "--json",
    "https://ok.example/x",
    "ok.example:22",
    "8.8.8.8:443",
  ]);
  assert.equal(denied.status, 1);
  const [address, port, literal] = denied.stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  assert.deepEqual(
    [address.target, address.code, address.addresses[0].class],
    ["ok.example:443", "address", "private"],
  );
  assert.equal(
    address.phrase,
    "egress-denied: ok.example resolves to a private address (10.0.0.0/8); policy test/test",
  );
  assert.equal(port.code, "port");
  assert.equal(literal.code, "not-allowed");
  const allowed = await runOutrider(["explain", "--policy", policy, "ok.example:443"]);
  assert.deepEqual([allowed.status, /rule {5}ok\n/.test(allowed.stdout)], [0, true]);
});

test("explain decides for a client of the policy", async () => {
  const policy = file(
    "clients.yaml",
    manifest({
      defaultAction: "Deny",
      authentication: { mode: "Basic", secretRef: { name: "p" } },
      clients: [{ name: "billing", allow: [{ hosts: ["b.example"] }] }, { name: "default" }],
    }),
  );
  const of = (...args: string[]) => runOutrider(["explain", "--policy", policy, ...args, "b.example:443"]);
  const billing = await of("--client", "billing");
  assert.equal(billing.status, 0, billing.stderr);
  assert.match(billing.stdout, /^client {10}billing\ndeny {12}none\nallow {11}1 rule of the client\n/);
  assert.match(billing.stdout, /\n\nb\.example:443 {2}allow\n {2}rule {5}clients\.billing\.allow\[0\]\n/);
  const fallback = await of("--json");
  assert.equal(fallback.status, 1);
  const { client, code } = JSON.parse(fallback.stdout) as { client: string; code: string };
  assert.deepEqual([client, code], ["default", "not-allowed"]);
  const unknown = await of("--client", "bob");
  assert.equal(unknown.status, 2);
  assert.equal(unknown.stderr, 'outrider: --client: "bob" is not a client; the policy has billing, default\n');
  const plain = await runOutrider(["explain", "--policy", good, "--client", "bob", "ok.example:443"]);
  assert.deepEqual([plain.status, plain.stderr], [2, "outrider: --client: the policy has no clients\n"]);
});

test("explain vets NAT64 addresses as IPv4 addresses", async () => {
  const policy = file("nat64.json", manifest({}));
  const explain = (...args: string[]) => runOutrider(["explain", "--policy", policy, ...args]);
  const without = await explain("[fd64::8.8.8.8]:443");
  assert.match(without.stdout, /unique local/);
  const prefix = ["--nat64-prefix", "fd64::/96"];
  const open = await explain(...prefix, "[fd64::8.8.8.8]:443");
  assert.match(open.stdout, /address +fd64::808:808 +global +in/);
  const closed = await explain(...prefix, "[fd64::10.0.0.5]:443");
  assert.match(closed.stdout, /is a private address \(10\.0\.0\.0\/8\)/);
});

test("explain --resolve vets every address of a name", async () => {
  const dns = await startDns((name) => {
    if (name === "gone.example") return { rcode: "NXDOMAIN" };
    return { addresses: ["10.0.0.5", "169.254.169.254", "8.8.8.8"] };
  });
  const policy = file("all.yaml", manifest({ deny: [{ name: "foes", hosts: ["foe.example"] }] }));
  const explain = (...args: string[]) =>
    runOutrider(["explain", "--policy", policy, "--resolver", dns.address, ...args]);
  const name = await explain("https://mixed.example/");
  assert.deepEqual([name.status, dns.queries.length], [0, 0]);
  assert.match(name.stdout, /^mixed\.example:443 {2}allow\n.*\n {2}reason .*addresses are not resolved here\n$/s);
  const mixed = await explain("--resolve", "mixed.example:443");
  assert.equal(mixed.status, 0);
  assert.match(mixed.stdout, /^ {2}address {2}10\.0\.0\.5 {2}private {2}out: .*10\.0\.0\.0\/8/m);
  assert.match(mixed.stdout, /^ {2}address {2}169\.254\.169\.254 {2}.* {2}out: .*metadata/m);
  assert.match(mixed.stdout, /^ {2}address {2}8\.8\.8\.8 {2}global {2}in$/m);
  const gone = await explain("--resolve", "gone.example:443");
  assert.equal(gone.status, 1);
  assert.match(gone.stdout, /^ {2}sender {3}egress-dns: gone\.example does not exist$/m);
  const asked = dns.queries.length;
  const foe = await explain("--resolve", "foe.example:443");
  assert.deepEqual([foe.status, dns.queries.length], [1, asked]);
  assert.match(foe.stdout, /^ {2}rule {5}foes$/m);
  await dns.close();
});

test("the admin port serves health, state and explanations", async () => {
  const proxy = await startProxy({
    policy: readFileSync(good, "utf8"),
    args: ["--allow-cidr", "127.0.0.0/8"],
    hosts: "127.0.0.1 ok.example\n",
  });
  const get = (path: string) => fetch(`http://127.0.0.1:${proxy.adminPort}${path}`);
  assert.equal((await get("/livez")).status, 200);
  assert.equal((await get("/readyz")).status, 200);
  assert.equal((await get("/nothing")).status, 404);
  const status = (await (await get("/status")).json()) as { listen: string; policy: { name: string; hash: string } };
  assert.equal(status.listen, `127.0.0.1:${proxy.port}`);
  assert.match(status.policy.hash, /^sha256:[0-9a-f]{64}$/);
  for (const port of [proxy.port, proxy.adminPort]) {
    for (const host of ["ok.example", "127.0.0.1", "[::ffff:127.0.0.1]", "[::1]"]) {
      const target = `${host}:${port}`;
      const answer = await exchange(proxy.port, `CONNECT ${target} HTTP/1.1\r\n\r\n`);
      assert.match(answer, /^HTTP\/1\.1 403 egress-denied:/, target);
      if (host === "ok.example") assert.match(answer, /resolves to this proxy itself/);
      const explained = (await (await get(`/explain?target=${encodeURIComponent(target)}`)).json()) as {
        phrase: string;
      };
      assert.ok(answer.startsWith(`HTTP/1.1 403 ${explained.phrase}\r\n`), `${answer} / ${explained.phrase}`);
    }
  }
  assert.equal(await proxy.stop(), 0);
});

test("the admin port explains for a client", async () => {
  const clients = [{ name: "billing", allow: [{ hosts: ["b.example"] }] }];
  const proxy = await startProxy({
    policy: { defaultAction: "Deny", authentication: { mode: "Basic", secretRef: { name: "p" } }, clients },
    args: ["--allow-cidr", "127.0.0.0/8"],
    hosts: "127.0.0.1 b.example\n",
    env: { PROXY_PASSWORD: "secret" },
  });
  const get = async (query: string) => {
    const answer = await fetch(`http://127.0.0.1:${proxy.adminPort}/explain?target=b.example:443${query}`);
    return [answer.status, await answer.text()] as const;
  };
  const [status, text] = await get("&client=billing");
  const { client, verdict } = JSON.parse(text) as { client: string; verdict: string };
  assert.deepEqual([status, client, verdict], [200, "billing", "allow"]);
  assert.deepEqual((await get("")).map(String), [
    "400",
    "client: name a client, since there is no client default; the policy has billing\n",
  ]);
  assert.equal((await get("&client=%0abob"))[0], 400);
  assert.equal(await proxy.stop(), 0);
});

test("--on-bad-policy wait: 503 until the file is valid", async () => {
  const proxy = await startProxy({ policy: "nonsense", args: ["--on-bad-policy", "wait"] });
  assert.match(
    await exchange(proxy.port, "CONNECT a.example:443 HTTP/1.1\r\n\r\n"),
    /^HTTP\/1\.1 503 egress-unavailable: .*policy/,
  );
  const ready = () => fetch(`http://127.0.0.1:${proxy.adminPort}/readyz`);
  assert.equal((await ready()).status, 503);
  writeFileSync(proxy.policyFile, manifest({ defaultAction: "Deny" }));
  for (let i = 0; (await ready()).status !== 200; i++) {
    assert.ok(i < 100, "not ready after 10 s");
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.match(
    await exchange(proxy.port, "CONNECT a.example:443 HTTP/1.1\r\n\r\n"),
    /^HTTP\/1\.1 403 egress-denied: a\.example is not on the allow list/,
  );
  assert.equal(await proxy.stop(), 0);
});

test("import prints valid manifests, and warnings on stderr", async () => {
  const acl = file(
    "acl.yaml",
    "global_deny_list: ['*.internal.example']\nservices:\n  - name: hooks\n    action: enforce\n    allowed_domains: [a.internal.example, 10.0.0.5]\n",
  );
  const result = await runOutrider(["import", acl, "--service", "hooks"]);
  assert.equal(result.status, 0, result.stderr);
  assert.match(result.stdout, /^apiVersion: egress\.outrider\.dev\/v1alpha1\nkind: EgressPolicy\n/);
  for (const line of result.stderr.trim().split("\n")) assert.match(line, /^warning: /);
  assert.match(result.stderr, /a\.internal\.example/);
  const manifestFile = file("imported.yaml", result.stdout);
  const targets = ["a.internal.example:443", "other.example:443"];
  for (const policy of [acl, manifestFile]) {
    const service = policy === acl ? ["--service", "hooks"] : [];
    const explained = await runOutrider(["explain", "--policy", policy, ...service, "--json", ...targets]);
    const verdicts = explained.stdout
      .trim()
      .split("\n")
      .map((line) => (JSON.parse(line) as { code: string }).code);
    assert.deepEqual(verdicts, ["denied-rule", "not-allowed"]);
  }
  for (const args of [["import"], ["import", acl, acl]]) {
    const wrong = await runOutrider(args);
    assert.deepEqual([wrong.status, wrong.stderr], [2, "outrider: import needs exactly one FILE\n"]);
  }
});

const ESCAPE = "\x1b[2J\u009b2J\u202e";
for (const [what, args] of [
  ["a target", ["explain", "--policy", good, `https://${ESCAPE}/`]],
  ["a command", [ESCAPE]],
  ["an option", ["proxy", `--${ESCAPE}`]],
  ["an argument", ["check", "--policy", good, ESCAPE]],
  ["a file", ["check", "--policy", ESCAPE]],
  ["a value of the operator", ["operator", `--proxy-image=${ESCAPE}`, `--workers=${ESCAPE}`]],
  [
    "an echo URL",
    ["verify", "--proxy=http://127.0.0.1:9", `--echo=http://127.0.0.1:9/${ESCAPE}`, "--timeout-seconds=1"],
  ],
] as const) {
  test(`a terminal gets no control characters of ${what}`, async () => {
    const { status, stdout, stderr } = await runOutrider([...args]);
    assert.notEqual(status, 0);
    assert.match(stdout + stderr, /\\u001b/);
    assert.doesNotMatch(stdout + stderr, /[\u001b\u009b\u202e]/);
  });
}
