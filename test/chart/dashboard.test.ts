import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { parse } from "yaml";
import { BOOT, controlPlaneMissing } from "../cluster/control-plane.ts";
import { freePort } from "../cluster/processes.ts";
import { findTool, toolsMissing } from "../cluster/tools.ts";
import { finish } from "../harness/finish.ts";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy, tempFolder } from "../harness/proxy.ts";
import { applyPolicy, INVALID, makeNamespace, untilCondition } from "../operator/operator.ts";
import { type Stage, startStage } from "../operator/stage.ts";
import { requestThrough } from "../package/checks.ts";
import { installWebhook, untilAdmitting } from "../webhook/installed.ts";
import { createPod, podOf } from "../webhook/shared.ts";
import { CHART } from "./helm.ts";
import { type Prometheus, type Series, startPrometheus, type Target } from "./prometheus.ts";

/**
 * The dashboard of the chart: Grafana's own library reads it, and a real Prometheus, which scrapes a real operator and
 * real proxies, answers every query of it.
 */

const ROOT = new URL("../..", import.meta.url).pathname;
const NODES = { kwokNodes: 1 };
const skip = controlPlaneMissing(NODES) ?? toolsMissing(["prometheus"]) ?? false;
const FILE = join(CHART, "files/dashboard.json");
const SYSTEM = "outrider-system";
const [NS, OTHER] = ["convoy", "other"];
/** Address that the receiver reports to the proxy that verifies, as an echo server behind a NAT gateway. */
const STATIC_IP = "203.0.113.10";
const HOST = "hooks.example";
/** Until all panels show values. */
const SHOWN_MS = 60_000;

interface Panel {
  id: number;
  title: string;
  gridPos: { x: number; y: number; w: number; h: number };
  targets: { expr: string }[];
}
interface Dashboard {
  panels: Panel[];
  templating: { list: { name: string; query: string; allValue?: string }[] };
}
const dashboard = JSON.parse(readFileSync(FILE, "utf8")) as Dashboard;

/** The errors of Grafana's library for a dashboard; empty: it is valid. */
async function problemsOf(text: string): Promise<string> {
  const child = spawn(await findTool("read-dashboard"), { stdio: "pipe" });
  child.stdin.end(text);
  return (await finish(child)).stderr;
}

test("Grafana's library reads the dashboard, and rejects a wrong one", {
  skip: toolsMissing(["read-dashboard"]) ?? false,
}, async () => {
  const text = readFileSync(FILE, "utf8");
  assert.equal(await problemsOf(text), "");
  for (const [right, wrong, problem] of [
    ['"gridPos"', '"gridPso"', /unexpected field 'gridPso'/],
    ['"h": 8', '"h": "8"', /gridPos\.h: .*cannot unmarshal string/],
    ['"targets"', '"target"', /unexpected field 'target'/],
    ['"includeAll"', '"includeall"', /unexpected field 'includeall'/],
  ] as const) {
    assert.ok(text.includes(right), right);
    assert.match(await problemsOf(text.replace(right, wrong)), problem);
  }
});

test("panels have different IDs and do not overlap", () => {
  assert.equal(new Set(dashboard.panels.map(({ id }) => id)).size, dashboard.panels.length);
  const cells = dashboard.panels.flatMap(({ gridPos: { x, y, w, h } }) => {
    assert.ok(x + w <= 24, "24 columns");
    return Array.from({ length: w * h }, (_, cell) => `${x + (cell % w)},${y + Math.floor(cell / w)}`);
  });
  assert.equal(new Set(cells).size, cells.length);
});

let stage: Stage;
let prometheus: Prometheus;
let verifying: ProxyHandle;
const receiver = createServer((_, response) => response.end(STATIC_IP));
after(async () => {
  receiver.close();
  await verifying?.stop("SIGKILL");
  await prometheus?.stop();
});

before(async () => {
  if (skip) return;
  const hosts = join(tempFolder(), "hosts");
  writeFileSync(hosts, `127.0.0.1 ${HOST}\n`);
  receiver.listen(0, "127.0.0.1");
  stage = await startStage({
    plane: NODES,
    namespaces: [NS],
    operator: async (plane) => {
      const port = await freePort();
      await installWebhook(plane, port);
      return { args: ["--scrape-seconds=1", `--webhook=127.0.0.1:${port}`, "--webhook-names=127.0.0.1"] };
    },
    fleet: { args: () => [...OPEN_LOOPBACK, `--hosts=${hosts}`] },
  });
  await untilAdmitting(stage.plane, stage.operator, NS);
  await makeNamespace(stage.plane, OTHER);
  await applyPolicy(stage.plane, NS, "webhooks", { defaultAction: "Allow" });
  await applyPolicy(stage.plane, OTHER, "rejected", INVALID);
  await untilCondition(stage.plane, NS, "webhooks", "Ready", "True");
  await untilCondition(stage.plane, OTHER, "rejected", "Accepted", "False");
  // Proxies of the fleet have no static IP here.
  verifying = await startProxy({
    policy: {
      staticIPs: [{ address: STATIC_IP }],
      verification: { echoURLs: [`http://127.0.0.1:${receiverPort()}/`], intervalSeconds: 1, timeoutSeconds: 1 },
    },
    args: OPEN_LOOPBACK,
  });
  await verifying.untilStatus(({ ready }) => ready);
  const proxies = stage.fleet.pods.map(
    ({ metadata, status }): Target => ({
      job: "proxies",
      address: `${status!.podIP}:9750`,
      labels: { namespace: metadata.namespace!, pod: metadata.name },
    }),
  );
  prometheus = await startPrometheus([
    ...proxies,
    { job: "proxies", address: `127.0.0.1:${verifying.adminPort}`, labels: { namespace: NS, pod: "verifying" } },
    // As the ServiceMonitor of the chart.
    {
      job: "operator",
      address: new URL(stage.operator.metrics).host,
      labels: { namespace: SYSTEM, pod: "operator" },
      honorLabels: true,
    },
  ]);
}, BOOT);

const receiverPort = () => (receiver.address() as AddressInfo).port;

/** Requests through a proxy of the fleet, one of them refused, and an admission. */
async function makeTraffic(round: number): Promise<void> {
  const [pod] = stage.fleet.pods;
  const get = (host: string) => requestThrough(4750, `http://${host}:${receiverPort()}/`, pod!.status!.podIP!);
  assert.equal((await get(HOST)).status, 200);
  assert.equal((await get("169.254.169.254")).status, 403);
  const { status } = await createPod(stage.plane, NS, podOf(`sender-${round}`, { label: "webhooks" }));
  assert.equal(status, 201);
}

/** The results of all queries of the dashboard with a value of its variable, by panel and expression. */
async function queryAll(namespace: string): Promise<Map<string, Series[]>> {
  const results = new Map<string, Series[]>();
  for (const { title, targets } of dashboard.panels) {
    for (const { expr } of targets) {
      results.set(`${title}: ${expr}`, await prometheus.query(expr.replaceAll("$namespace", namespace)));
    }
  }
  return results;
}

/** Queries without a value. A panel shows nothing for an empty result, and for one of NaN only. */
const withoutValue = (results: Map<string, Series[]>): string[] =>
  [...results].flatMap(([name, series]) => (series.some(({ value }) => Number.isFinite(value)) ? [] : [name]));

/** Value of the only query of a panel. */
function onlyValueOf(results: Map<string, Series[]>, title: string): number | undefined {
  const [, series] = [...results].find(([name]) => name.startsWith(`${title}: `))!;
  assert.ok(series.length <= 1, title);
  return series[0]?.value;
}

test("every panel shows values of real proxies and a real operator", { skip, timeout: 180_000 }, async () => {
  const { allValue } = dashboard.templating.list.find(({ name }) => name === "namespace")!;
  let results = new Map<string, Series[]>();
  let silent = [""];
  for (let round = 0, began = Date.now(); silent.length > 0 && Date.now() - began < SHOWN_MS; round++) {
    await makeTraffic(round);
    await sleep(1000);
    results = await queryAll(allValue!);
    silent = withoutValue(results);
  }
  assert.deepEqual(silent, []);
  assert.equal(onlyValueOf(results, "Policies ready"), 1);
  assert.equal(onlyValueOf(results, "Policies not ready"), 1);
  assert.equal(onlyValueOf(results, "Proxies ready"), stage.fleet.pods.length + 1);
  assert.equal(onlyValueOf(results, "Leading operators"), 1);
  assert.equal(onlyValueOf(results, "Wrong source addresses, last hour"), 0);
  assert.ok(onlyValueOf(results, "Webhook certificate expires in")! > 24 * 3600);
});

test("the variable lists namespaces, and one of them selects its series", { skip }, async () => {
  const { query } = dashboard.templating.list.find(({ name }) => name === "namespace")!;
  const [, series, label] = /^label_values\((\w+), (\w+)\)$/.exec(query)!;
  assert.deepEqual(await prometheus.labelValues(label!, series!), [NS, OTHER]);
  const results = await queryAll(OTHER);
  assert.equal(onlyValueOf(results, "Policies ready"), 0);
  assert.equal(onlyValueOf(results, "Policies not ready"), 1);
});

/** Metrics in an expression, without the suffix of a histogram. */
const metricsIn = (expr: string): string[] =>
  [...expr.matchAll(/\b[a-z]+(?:_[a-z]+)+\b(?=[{[) ])/g)].map(([name]) => name.replace(/_bucket$/, ""));

test("dashboard and alerts use metrics that the processes export", { skip }, async () => {
  const found = await Promise.all(["proxies", "operator"].map((job) => prometheus.metadata(job)));
  const exported = new Set(found.flatMap((of) => [...of.keys()]));
  // Of the API server.
  exported.add("apiserver_admission_webhook_rejection_count");
  const alerts = Object.values(
    parse(readFileSync(join(CHART, "files/alerts.yaml"), "utf8")) as Record<string, { expr?: string }>,
  ).flatMap(({ expr }) => expr ?? []);
  const queries = [...alerts, ...dashboard.panels.flatMap(({ targets }) => targets.map(({ expr }) => expr))];
  const used = new Set(queries.flatMap(metricsIn));
  assert.ok(used.size > 10, `${used.size}`);
  assert.deepEqual(
    [...used].filter((name) => !exported.has(name)),
    [],
  );
});

test("docs/metrics.md lists the metrics of a real proxy and a real operator", { skip }, async () => {
  const page = readFileSync(join(ROOT, "docs/metrics.md"), "utf8");
  const rows = [...page.matchAll(/^\| `([a-z_]+)` \| (counter|gauge|histogram) \|/gm)].map(([, ...row]) =>
    row.join(" "),
  );
  const found = await Promise.all(["proxies", "operator"].map((job) => prometheus.metadata(job)));
  // Those of prom-client are the same in every program.
  const own = found.flatMap((of) => [...of]).filter(([name]) => !/^(process|nodejs)_/.test(name));
  assert.deepEqual(rows.sort(), own.map((row) => row.join(" ")).sort());
});
