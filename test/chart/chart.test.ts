import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { cpSync, globSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { basename, join } from "node:path";
import { test } from "node:test";
import { Registry } from "prom-client";
import { parse, parseAllDocuments, parseDocument } from "yaml";
import { packageJson } from "../../bin/image/bundle.ts";
import { generate, outdated, values } from "../../charts/generate.ts";
import { CONDITIONS, REASON } from "../../operator/api/names.ts";
import { OPERATOR_OPTIONS, readOperatorConfig } from "../../operator/config.ts";
import { OperatorMetrics } from "../../operator/metrics.ts";
import { NO_MESH_ANNOTATIONS, NO_MESH_LABELS } from "../../operator/reconcile/objects/deployment.ts";
import { WebhookMetrics } from "../../operator/webhook/metrics.ts";
import { freePort } from "../cluster/processes.ts";
import { finish } from "../harness/finish.ts";
import { tempFolder } from "../harness/proxy.ts";
import { CHART, helm, helmDone, helmMissing, KUBE_VERSION, template } from "./helm.ts";

/** The rendered chart. UPDATE=1 writes the golden files. Review the difference before you commit it. */

const skip = helmMissing() ?? false;
const HERE = new URL(".", import.meta.url).pathname;
const ROOT = join(HERE, "../..");
const sets = globSync("values/*.yaml", { cwd: HERE }).sort();
const read = (path: string) => readFileSync(join(CHART, path), "utf8");

interface Schema {
  type?: string | string[];
  properties?: Record<string, Schema>;
  items?: Schema;
  additionalProperties?: boolean | Schema;
}
const schema = JSON.parse(read("values.schema.json")) as Schema;

test("README and CRD of the chart are up to date", () => {
  assert.deepEqual(outdated(), [], "run make generate");
  assert.equal(
    generate()["charts/outrider/files/egresspolicies.yaml"],
    readFileSync(join(ROOT, "crds/egresspolicies.yaml"), "utf8"),
  );
});

test("pods of the chart and of the operator opt out of the same meshes", () => {
  const helpers = read("templates/_helpers.tpl");
  const block = (name: string) => {
    const [, text] = new RegExp(`define "outrider\\.${name}" -}}\n([^{]*)`).exec(helpers) ?? assert.fail(`no ${name}`);
    return parse(text!) as unknown;
  };
  assert.deepEqual(block("noMeshLabels"), NO_MESH_LABELS);
  assert.deepEqual(block("noMeshAnnotations"), NO_MESH_ANNOTATIONS);
});

test("values and their schema match", () => {
  const paths: string[] = [];
  const walk = (node: Schema, path: string, isValue: boolean) => {
    if (node.type === "object") {
      const { additionalProperties: others } = node;
      const texts = typeof others === "object" && /^string(,number)?$/.test(String(others.type));
      assert.ok(others === false || texts, `${path}: open`);
    }
    const known = values().some((value) => value.path === path);
    if (isValue && (known || node.properties === undefined)) paths.push(path);
    for (const [key, child] of Object.entries(node.properties ?? {})) {
      walk(child, path === "" ? key : `${path}.${key}`, isValue && !known);
    }
    if (node.items !== undefined) walk(node.items, `${path}[]`, false);
  };
  const { global: _, ...properties } = schema.properties!;
  walk({ ...schema, properties }, "", true);
  assert.deepEqual(
    paths.sort(),
    values()
      .map(({ path }) => path)
      .sort(),
  );
});

test("the chart has the version of the package", () => {
  const chart = parse(read("Chart.yaml"));
  assert.equal(chart.appVersion, packageJson().version);
  for (const key of ["crds", "crdsExamples"]) {
    assert.ok(Array.isArray(parse(chart.annotations[`artifacthub.io/${key}`])), key);
  }
});

test("every set of values has its golden file, and no other file is there", () => {
  assert.ok(sets.length >= 5, `${sets.length} sets`);
  assert.deepEqual(
    globSync("golden/*", { cwd: HERE }).sort(),
    sets.map((set) => join("golden", basename(set))),
  );
});

/** Replaces the script of hooks, after a comparison with its file. */
function withoutScript(text: string): string {
  const script = read("files/hooks.mjs");
  return text.replaceAll(
    /^( +)- \|\n( +\/\/ Helm hooks[\s\S]*?)(?=^\1?[a-z]|^ +resources:)/gm,
    (_, indent, found: string) => {
      assert.equal(found.replaceAll(`${indent}  `, ""), script);
      return `${indent}- (files/hooks.mjs)\n`;
    },
  );
}

for (const set of sets) {
  const name = basename(set, ".yaml");
  const file = join(HERE, set);

  test(`helm lint --strict: ${name}`, { skip }, async () => {
    await helmDone(["lint", "--strict", CHART, "-f", file, `--kube-version=${KUBE_VERSION}`]);
  });

  test(`helm template: ${name}`, { skip }, async () => {
    const { status, stdout, stderr } = await template("-f", file);
    assert.equal(status, 0, stderr);
    for (const part of parseAllDocuments(stdout)) assert.deepEqual(part.errors, []);
    // The CRD is compared as a whole, and left out of the golden file.
    const parts = stdout.split(/^(?=---\n# Source: )/m);
    const crd = parts.find((part) => part.includes("templates/crds.yaml"));
    const { crds } = { crds: { enabled: true, keep: true }, ...parse(readFileSync(file, "utf8")) };
    assert.equal(crd !== undefined, crds.enabled ?? true);
    if (crd !== undefined) {
      const { metadata, ...rest } = parse(crd);
      const { metadata: own, ...source } = parse(readFileSync(join(ROOT, "crds/egresspolicies.yaml"), "utf8"));
      assert.deepEqual(rest, source);
      const kept = (crds.keep ?? true) ? { annotations: { "helm.sh/resource-policy": "keep" } } : {};
      const labels = parse(readFileSync(file, "utf8"))?.commonLabels;
      assert.deepEqual(metadata, { ...own, ...kept, ...(labels && { labels }) });
    }
    const text = withoutScript(parts.filter((part) => part !== crd).join(""));
    const golden = join(HERE, "golden", `${name}.yaml`);
    if (process.env.UPDATE === "1") writeFileSync(golden, text);
    assert.equal(text, readFileSync(golden, "utf8"));
  });
}

for (const [args, message] of [
  [["--set", "replica=3"], /additional properties 'replica' not allowed/],
  [["--set", "webhook.enable=false"], /at '\/webhook': additional properties 'enable' not allowed/],
  [["--set", "image.pullPolicy=Sometimes"], /at '\/image\/pullPolicy': value must be one of/],
  [["--set", "blockedCIDRs={203.0.113.1}"], /at '\/blockedCIDRs\/0': .*does not match pattern/],
  [["--set", "grants[0].namespace=a"], /at '\/grants\/0': additional properties 'namespace' not allowed/],
  [["--set", "resources.limit.memory=1Gi"], /at '\/resources': additional properties 'limit' not allowed/],
  [["--set", "tolerations[0].keys=a"], /at '\/tolerations\/0': additional properties 'keys' not allowed/],
  [["--set", "podLabels.app\\.kubernetes\\.io/name=a"], /at '\/podLabels\/app\.kubernetes\.io~1name': false schema/],
  [["--set", "replicas=two"], /at '\/replicas': got string, want integer/],
  [
    ["--set", "grants[0].namespaces={a},grants[0].providers={KubeVIP}"],
    /grants\[0\]\.providers has KubeVIP, which is off: set providers\.kubeVIP\.enabled/,
  ],
  [
    ["--set", "grants[0].namespaces={a},grants[0].providers={NodeAddress},providers.kubeVIP.enabled=true"],
    /grants\[0\]\.providers has NodeAddress, which is off: set providers\.nodeAddress\.enabled/,
  ],
  [["--set", "providers.kubeVIP.enabled=true,discoverCIDRs=false"], /providers\.kubeVIP\.enabled needs discoverCIDRs/],
  [
    ["--set", "providers.nodeAddress.enabled=true,discoverCIDRs=false"],
    /providers\.nodeAddress\.enabled needs discoverCIDRs/,
  ],
  [["--set", "webhook.certificates.source=Secret"], /webhook\.certificates\.secretName is required/],
  [
    ["--set", "namespaces={convoy,outrider-system}"],
    /namespaces has outrider-system, the release's own, where no pod is injected: install the release into a namespace/,
  ],
  [["--set", "namespaces={kube-system}"], /namespaces has kube-system.*: remove it from webhook\.excludedNamespaces/],
  [["--set", "image.repository=reg.example/outrider:1.2"], /at '\/image\/repository': .*does not match pattern/],
  [["--set", "fullnameOverride=My_Name"], /at '\/fullnameOverride': .*does not match pattern/],
  [["--set", "nameOverride=Foo.Bar"], /at '\/nameOverride': .*does not match pattern/],
  [["--set", "page.enabled=true,page.port=8081"], /health\.port and page\.port are both 8081: set different ports/],
  [
    ["--set", "page.enabled=true,hostNetwork=true,scrape=apiserver,webhook.port=10260"],
    /page\.enabled is not possible with hostNetwork/,
  ],
  [["--set", "webhook.port=8081"], /health\.port and webhook\.port are both 8081: set different ports/],
  [["--set", "webhook.port=80"], /at '\/webhook\/port': /],
  [["--set", "hostNetwork=true,webhook.port=10260"], /hostNetwork needs scrape=apiserver/],
  [["--set", "hostNetwork=true,scrape=apiserver"], /webhook\.port 10250 belongs to the kubelet or kube-proxy on nodes/],
  [
    ["--set", "hostNetwork=true,scrape=apiserver,webhook.port=10260,networkPolicy.enabled=true"],
    /networkPolicy\.enabled has no effect with hostNetwork/,
  ],
  [["--set", "dnsPolicy=Never"], /at '\/dnsPolicy': value must be one of/],
  [["--set", "uninstall.timeoutSeconds=5"], /at '\/uninstall\/timeoutSeconds': minimum: got 5, want 30/],
  [["--set", "webhook.timeoutSeconds=3"], /at '\/webhook\/timeoutSeconds': minimum: got 3, want 4/],
  [["--set", "webhook.certificates.issuerRef.kind=Issuer"], /issuerRef': missing property 'name'/],
  [["--set", "webhook.certificates.caBundle=-----BEGIN CERTIFICATE-----x"], /caBundle': .*does not match pattern/],
  [["--set", "blockedCIDRs={999.1.1.1/99}"], /at '\/blockedCIDRs\/0': .*does not match pattern/],
  [["--set", "commonLabels.team=a b"], /at '\/commonLabels\/team': .*does not match pattern/],
  [["--set", "resources.limits=foo"], /at '\/resources\/limits': got string, want object/],
  [["--set", "serviceAccount.create=false"], /serviceAccount\.name is required/],
  [["--set", "monitoring.rules.disabled={Nothing}"], /unknown alert Nothing; use some of Outrider/],
] as const) {
  test(`rejects a wrong value: ${args.at(-1)}`, { skip }, async () => {
    const { status, stderr } = await template(...args);
    assert.notEqual(status, 0);
    assert.match(stderr, message);
  });
}

/** A copy of the chart whose values.yaml lacks these keys, as with `--reuse-values` after an older chart. */
function chartWithout(paths: readonly string[]): string {
  const folder = join(tempFolder(), "outrider");
  cpSync(CHART, folder, { recursive: true });
  const document = parseDocument(read("values.yaml"));
  for (const path of paths) assert.ok(document.deleteIn(path.split(".")), path);
  writeFileSync(join(folder, "values.yaml"), String(document));
  return folder;
}

const renderedAs = async (chart: string, ...args: string[]): Promise<string> =>
  helmDone(["template", "outrider", chart, "-n", "outrider-system", `--kube-version=${KUBE_VERSION}`, ...args]);

test("values that an older chart did not have have their defaults", { skip, timeout: 120_000 }, async () => {
  const paths = values().map(({ path }) => path);
  const groups = new Set(
    paths.flatMap((path) =>
      path
        .split(".")
        .slice(0, -1)
        .map((_, index, all) => all.slice(0, index + 1).join(".")),
    ),
  );
  const expected = await renderedAs(CHART);
  for (const missing of [paths, [...groups].filter((group) => !group.includes(".")), ["uninstall"], ["webhook"]]) {
    assert.equal(await renderedAs(chartWithout(missing)), expected, `${missing}`);
  }
});

test("a value that is null has its default", { skip, timeout: 120_000 }, async () => {
  const expected = await renderedAs(CHART);
  const nulls = values().map(({ path }) => `${path}=null`);
  assert.equal(await renderedAs(CHART, "--set", nulls.join(",")), expected);
});

test("long release names that differ give different names of objects", { skip }, async () => {
  const names = async (release: string) => {
    const text = await helmDone(["template", release, CHART, `--kube-version=${KUBE_VERSION}`]);
    return parseAllDocuments(text).flatMap((part) => part.toJS()?.metadata?.name ?? []) as string[];
  };
  const [one, two] = [await names(`${"a".repeat(50)}-1`), await names(`${"a".repeat(50)}-2`)];
  const crd = "egresspolicies.egress.outrider.dev";
  assert.deepEqual(
    [...new Set(one)].filter((name) => two.includes(name)),
    [crd, "outrider-crd-guard"],
  );
  for (const name of one) assert.ok(name === crd || name.length <= 63, name);
  assert.ok((await names("a".repeat(31))).includes(`${"a".repeat(31)}-outrider-operator`));
});

/** Values in places for text that YAML reads as numbers or booleans. */
function unquoted(node: unknown, path: string, isText = false): string[] {
  if (Array.isArray(node)) return node.flatMap((one, index) => unquoted(one, `${path}[${index}]`));
  if (typeof node !== "object" || node === null) return isText && typeof node !== "string" ? [`${path}: ${node}`] : [];
  const isMap = /\.(labels|annotations|matchLabels|selector)$/.test(path);
  const texts = ["name", "namespace", "serviceAccountName", "secretName", "priorityClassName"];
  return Object.entries(node).flatMap(([key, one]) => unquoted(one, `${path}.${key}`, isMap || texts.includes(key)));
}

for (const [what, release, namespace, ...args] of [
  ["a namespace and a release that look like numbers", "1e3", "1234"],
  ["namespaces that look like numbers", "outrider", "system", "--set-json", 'namespaces=["1234","0x1f"]'],
  [
    "names of objects that look like numbers",
    ...["outrider", "system", "--set-string", "priorityClassName=1,serviceAccount.name=22"],
    ...["--set-string", "webhook.certificates.source=Secret,webhook.certificates.secretName=3"],
    ...["--set-json", 'imagePullSecrets=[{"name":"4"}]'],
  ],
  ["labels for a mesh", "outrider", "system", "--set-json", 'commonLabels={"sidecar.istio.io/inject":"true"}'],
  [
    "annotations that the chart sets as well",
    ...["outrider", "system", "--set-json", 'podAnnotations={"kubectl.kubernetes.io/default-container":"mine"}'],
    ...["--set-json", 'grants=[{"namespaces":["*"],"providers":["PodIP"],"staticIPs":["203.0.113.0/24"]}]'],
  ],
  ["a release with dots", `my.release.${"a".repeat(30)}`, "system"],
] as const) {
  test(`renders valid objects for ${what}`, { skip }, async () => {
    const options = ["-n", namespace, `--kube-version=${KUBE_VERSION}`, ...args];
    const parts = parseAllDocuments(await helmDone(["template", release, CHART, ...options]));
    assert.deepEqual(
      parts.flatMap(({ errors }) => errors.map(({ message }) => message)),
      [],
    );
    const objects = parts.map((part) => part.toJS()).filter((one) => one && one.kind !== "CustomResourceDefinition");
    assert.deepEqual(
      objects.flatMap((one) => unquoted(one, `${one.kind} ${one.metadata.name}`)),
      [],
    );
    for (const { metadata } of objects) assert.match(metadata.name, /^[a-z0-9][-a-z0-9]{0,61}[a-z0-9]$/);
    const [job] = objects.filter(({ kind }) => kind === "Job");
    assert.equal(job.spec.template.metadata.labels["sidecar.istio.io/inject"], "false", "a sidecar keeps Jobs running");
  });
}

test("rejects an older Kubernetes", { skip }, async () => {
  const { stderr } = await helm(["template", "outrider", CHART, "--kube-version=1.32.9"]);
  assert.match(stderr, /chart requires kubeVersion: >=1\.33\.0-0/);
});

const webhookMissing = OPERATOR_OPTIONS.some(({ name }) => name === "webhook")
  ? false
  : "needs an operator that has --webhook";

test("the operator accepts every argument of the chart", { skip: webhookMissing }, () => {
  for (const file of globSync("golden/*.yaml", { cwd: HERE })) {
    const objects = parseAllDocuments(readFileSync(join(HERE, file), "utf8")).map((part) => part.toJS());
    const { containers } = objects.find((object) => object?.kind === "Deployment").spec.template.spec;
    const [operator, ...args] = (containers as [{ args: string[] }])[0].args;
    assert.equal(operator, "operator");
    const grants = objects.find((object) => object?.data?.["grants.yaml"] !== undefined)?.data["grants.yaml"];
    const grantsFile = join(tempFolder(), "grants.yaml");
    if (grants !== undefined) writeFileSync(grantsFile, grants);
    const placed = args.map((arg) => arg.replace("/etc/outrider/grants/grants.yaml", grantsFile));
    assert.ok(readOperatorConfig(placed, {}), file);
  }
});

test("helm test waits for starting operators, with a limit", async () => {
  const port = await freePort();
  const { PATH } = process.env;
  const start = (patience: number) => {
    const env = { PATH, TASK: "test", METRICS_URL: `http://127.0.0.1:${port}/metrics`, PATIENCE_MS: `${patience}` };
    const stdio: ["ignore", "pipe", "pipe"] = ["ignore", "pipe", "pipe"];
    return finish(spawn(process.execPath, [join(CHART, "files/hooks.mjs")], { env, stdio }));
  };
  const early = await start(0);
  assert.equal(early.status, 1);
  assert.match(early.stderr, /fetch failed/);
  const running = start(30_000);
  await new Promise((resolve) => setTimeout(resolve, 1000));
  const server = createServer((_, response) => response.end("outrider_operator_policies 3\n"));
  server.listen(port, "127.0.0.1");
  const { status, stdout, stderr } = await running;
  server.close();
  assert.equal(status, 0, stderr);
  assert.equal(stdout, "an operator answers and watches 3 policies\n");
});

/** Names of the project's metrics, with the suffixes of histograms. */
async function knownMetrics(): Promise<Set<string>> {
  const operator = new OperatorMetrics(
    () => [],
    () => ({}),
    () => true,
  );
  const webhook = new Registry();
  new WebhookMetrics(webhook);
  const exported = [...operator.registry.getMetricsAsArray(), ...webhook.getMetricsAsArray()].map(({ name }) => name);
  // docs/metrics.md is held against the proxy's /metrics by its own test.
  const page = readFileSync(join(ROOT, "docs/metrics.md"), "utf8");
  const proxy = [...page.matchAll(/^\| `(outrider_proxy_\w+)`/gm)].map((match) => match[1]!);
  return new Set([...exported, ...proxy].flatMap((name) => [name, `${name}_bucket`, `${name}_count`, `${name}_sum`]));
}

test("alerts use existing conditions and reasons", () => {
  const alerts = Object.values(parse(read("files/alerts.yaml")) as Record<string, { condition?: string }>);
  const conditions = alerts.flatMap(({ condition }) => condition ?? []);
  assert.ok(conditions.length > 5);
  const reasons: readonly string[] = Object.values(REASON);
  for (const condition of conditions) {
    const [, type, reason = ""] = /^type="(\w+)",status!?="\w+"(?:,reason!?[=~]+"([\w|]+)")?$/.exec(condition) ?? [];
    assert.ok(
      CONDITIONS.some((name) => name === type),
      condition,
    );
    for (const name of reason.split("|")) assert.ok(name === "" || reasons.includes(name), condition);
  }
});

test("alerts and dashboard use existing metrics", async () => {
  const alerts = Object.values(
    parse(read("files/alerts.yaml")) as Record<string, { expr?: string; condition?: string }>,
  );
  const dashboard = JSON.parse(read("files/dashboard.json")) as { panels: { targets: { expr: string }[] }[] };
  const expressions = [
    ...alerts.map(({ expr, condition }) => expr ?? `outrider_operator_policy_condition{${condition}}`),
    ...dashboard.panels.flatMap(({ targets }) => targets.map(({ expr }) => expr)),
  ];
  const known = await knownMetrics();
  // The API server's own.
  known.add("apiserver_admission_webhook_rejection_count");
  for (const expr of expressions) {
    const names = [...expr.matchAll(/\b[a-z]+(?:_[a-z]+)+\b(?=[{[) ])/g)].map(([name]) => name);
    assert.notEqual(names.length, 0, expr);
    for (const name of names) assert.ok(known.has(name), `${name} in ${expr}`);
  }
});
