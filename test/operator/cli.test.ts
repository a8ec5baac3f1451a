import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { OPERATOR_OPTIONS } from "../../operator/config.ts";
import { variableOf } from "../../proxy/cli/options.ts";
import { freePort } from "../cluster/processes.ts";
import { runOutrider, tempFolder } from "../harness/proxy.ts";

const folder = tempFolder();
const file = (name: string, text: string): string => {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
};
const kubeconfig = file(
  "kubeconfig",
  JSON.stringify({
    apiVersion: "v1",
    kind: "Config",
    "current-context": "c",
    contexts: [{ name: "c", context: { cluster: "c", user: "u" } }],
    clusters: [{ name: "c", cluster: { server: "https://127.0.0.1:9" } }],
    users: [{ name: "u", user: { token: "t" } }],
  }),
);
const port = await freePort();
const IMAGE = "--proxy-image=outrider:1";

test("--help and docs/operator.md show every option, its variable and its default", async () => {
  const help = await runOutrider(["operator", "--help"]);
  assert.equal(help.status, 0);
  const documented = readFileSync(new URL("../../docs/operator.md", import.meta.url), "utf8");
  for (const { name, value, repeat, fallback, help: text } of OPERATOR_OPTIONS) {
    assert.match(help.stdout, new RegExp(`^  --${name}( |$)`, "m"));
    const cell = (words: string) => words.replaceAll("|", "\\|");
    const option = `--${name}${value === undefined ? "" : ` ${cell(value)}`}${repeat ? " …" : ""}`;
    const variable = name === "help" ? "" : `\`${variableOf(name)}\` `;
    const row = `| \`${option}\` | ${variable}| ${cell(text)}${fallback === undefined ? "" : ` (default ${fallback})`} |\n`;
    assert.ok(documented.includes(row), `docs/operator.md lacks: ${row}`);
  }
  assert.match((await runOutrider(["--help"])).stdout, /^ {2}operator /m);
});

for (const [what, args, message] of [
  ["no image", [], /^outrider: --proxy-image IMAGE is required$/],
  [
    "an unknown option",
    [IMAGE, "--namespace=a"],
    /^outrider: unknown option --namespace; did you mean --namespaces\?$/,
  ],
  [
    "a wrong namespace",
    [IMAGE, "--namespaces=Convoy"],
    /^outrider: --namespaces must be a namespace name, not "Convoy"$/,
  ],
  [
    "a page for other machines",
    [IMAGE, "--page=:8082"],
    /^outrider: --page must be a loopback address such as 127\.0\.0\.1:8082, not ":8082": the page shows all namespaces without a password$/,
  ],
  [
    "a wrong range",
    [IMAGE, "--blocked-cidrs=10.0.0.1/8"],
    /^outrider: --blocked-cidrs: "10\.0\.0\.1\/8" has host bits set; the network is 10\.0\.0\.0\/8$/,
  ],
  [
    "a wrong namespace of a Prometheus",
    [IMAGE, "--metrics-namespaces=monitoring", "--metrics-namespaces=*.a"],
    /^outrider: --metrics-namespaces must be a namespace name or \*, not "\*\.a"$/,
  ],
  [
    "a wrong pull secret",
    [IMAGE, "--proxy-image-pull-secrets=My_Secret"],
    /^outrider: --proxy-image-pull-secrets must be the name of a Secret, not "My_Secret"$/,
  ],
  ["a wrong domain", [IMAGE, "--cluster-domain=Cluster_local"], /^outrider: --cluster-domain must be a DNS name/],
  ["a wrong word", [IMAGE, "--scrape=push"], /^outrider: --scrape must be one of direct, apiserver, not "push"$/],
  ["a wrong number", [IMAGE, "--workers=0"], /^outrider: --workers must be a whole number from 1 to 64, not "0"$/],
  ["an extra argument", [IMAGE, "now"], /^outrider: unexpected argument "now"; see --help$/],
  ["no kubeconfig", [IMAGE, "--kubeconfig=/nowhere/config"], /^outrider: --kubeconfig \/nowhere\/config: ENOENT/],
  ["an empty kubeconfig", [IMAGE, `--kubeconfig=${file("empty", "{}")}`], /^outrider: --kubeconfig .*: .*cluster/],
  ["a missing grants file", [IMAGE, "--grants=/nowhere/grants"], /^outrider: --grants \/nowhere\/grants: ENOENT/],
  [
    "a wrong grants file",
    [
      IMAGE,
      `--grants=${file("grants", "grants: [{namespaces: [], providers: [KubeVIP], staticIPs: [203.0.113.0/24]}]")}`,
    ],
    /^outrider: --grants .*: grants\[0\]\.namespaces: is empty; name namespaces, or \*$/,
  ],
  ["an address that is no IP", [IMAGE, "--health=localhost:1"], /^outrider: --health must be IP:PORT/],
  [
    "a port in use",
    [IMAGE, `--kubeconfig=${kubeconfig}`, `--health=127.0.0.1:${port}`, `--metrics=127.0.0.1:${port}`],
    new RegExp(`^outrider: --metrics 127\\.0\\.0\\.1:${port}: the address is in use$`),
  ],
] as const) {
  test(`one line and exit status 2: ${what}`, async () => {
    const { status, stderr } = await runOutrider(["operator", ...args], { KUBECONFIG: join(folder, "none") });
    const lines = stderr
      .trim()
      .split("\n")
      .filter((line) => !line.startsWith("{"));
    assert.equal(lines.length, 1, stderr);
    assert.match(lines[0]!, message);
    assert.equal(status, 2);
  });
}

test("an error names the environment variable as the user wrote it", async () => {
  mkdirSync(join(folder, "home"), { recursive: true });
  const { status, stderr } = await runOutrider(["operator"], { OUTRIDER_PROXY_IMAGE: "i", OUTRIDER_WORKERS: "many" });
  assert.equal(status, 2);
  assert.match(stderr, /^outrider: OUTRIDER_WORKERS must be a whole number/);
});
