import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { ConfigMap } from "../../operator/api/objects.ts";
import type { KubeObject } from "../../operator/kube/resource.ts";
import { Authority } from "../cluster/certificates.ts";
import { BOOT, type ControlPlane, controlPlaneMissing, startControlPlane } from "../cluster/control-plane.ts";
import { type FaultProxy, isWrite, type Seen, startFaultProxy } from "../cluster/fault-proxy.ts";
import { freePort } from "../cluster/processes.ts";
import { installWebhook, untilAdmitting } from "../webhook/installed.ts";
import { CONFIGURATION_PATH, createPod, podOf, proxyOf } from "../webhook/shared.ts";
import {
  applyPolicy,
  install,
  LEASE,
  makeNamespace,
  type Operator,
  policyPath,
  startOperator,
  untilCondition,
} from "./operator.ts";

/** How operators start, lead one at a time, and end. */

/** Below the duration of a Lease (15 s): who leads by then was handed it. */
const HANDED_MS = 12_000;
/** A Lease, a retry and a start on a busy machine. */
const EXPIRED_MS = 40_000;
/** Of a policy without slots. */
const CHILDREN = 7;

const skip = controlPlaneMissing() ?? false;
let plane: ControlPlane;
const NS = "convoy";

before(async () => {
  if (skip) return;
  plane = await startControlPlane({ audit: true });
  await install(plane);
  await makeNamespace(plane, NS);
}, BOOT);
const ends: (() => Promise<void>)[] = [];
afterEach(async () => {
  if (skip) return;
  for (const end of ends.splice(0)) await end();
  await plane.delete(LEASE);
});
after(async () => {
  if (!skip) await plane.stop();
});
/** Starts an operator, and ends it with the test in any case. */
async function start(options: Parameters<typeof startOperator>[1] = {}): Promise<Operator> {
  const operator = await startOperator(plane, options);
  ends.push(() => operator.stop("SIGKILL"));
  return operator;
}

type Lease = KubeObject & { spec: { holderIdentity: string; leaseTransitions: number } };
const holder = async () => (await plane.get<Lease>(LEASE))?.spec.holderIdentity;
const deny = (host: string) => ({ deny: [{ hosts: [host] }] });
const document = `/api/v1/namespaces/${NS}/configmaps/webhooks-egress-policy`;
const untilDocument = (host: string) =>
  plane.until<ConfigMap>(
    document,
    (found) => found?.data?.["policy.json"]?.includes(host) ?? false,
    `${host} in force`,
  );

/** Waits until an operator has logged something. */
async function untilLog(operator: Operator, text: RegExp): Promise<void> {
  for (const began = Date.now(); !text.test(operator.log()); await sleep(50)) {
    if (Date.now() - began > EXPIRED_MS) throw new Error(`${text} is not in the log: ${operator.log()}`);
  }
}

/** An operator, and all its requests. */
interface Observed {
  operator: Operator;
  way: FaultProxy;
  writes(): number;
}
async function observed(name: string): Promise<Observed> {
  const way = await startFaultProxy(plane);
  const operator = await start({ server: way.url, name });
  ends.push(() => way.close());
  return { operator, way, writes: () => way.seen.filter(isWrite).length };
}

test("one of two operators leads, and the other takes over", {
  skip,
  timeout: 180_000,
}, async () => {
  const first = await observed("first");
  await first.operator.untilLeading();
  const second = await observed("second");
  await untilLog(second.operator, /all objects are listed/);
  await applyPolicy(plane, NS, "webhooks", deny("one.example"));
  await untilDocument("one.example");
  const firstWrites = first.writes();
  assert.ok(firstWrites > 0);
  assert.equal(second.writes(), 0, "a follower writes nothing");

  // It ends in order: the Lease is handed over.
  await first.operator.stop();
  assert.equal(first.operator.program.exitCode, 0, first.operator.program.tail);
  let began = Date.now();
  await second.operator.untilLeading(HANDED_MS);
  console.log(`led ${Date.now() - began} ms after the former leader had ended`);
  await applyPolicy(plane, NS, "webhooks", deny("two.example"));
  await untilDocument("two.example");

  // It dies: the Lease has to end.
  const third = await observed("third");
  await untilLog(third.operator, /all objects are listed/);
  await second.operator.stop("SIGKILL");
  began = Date.now();
  await third.operator.untilLeading(EXPIRED_MS);
  console.log(`led ${Date.now() - began} ms after the former leader was killed`);
  await applyPolicy(plane, NS, "webhooks", deny("three.example"));
  await untilDocument("three.example");

  // It freezes in the middle of writes, and wakes when another one leads.
  const fourth = await observed("fourth");
  await untilLog(fourth.operator, /all objects are listed/);
  third.way.delayMs = 200;
  for (let i = 0; i < 12; i++) await applyPolicy(plane, NS, `busy-${i}`, deny("busy.example"));
  await untilSeen(third, isWrite, third.writes() + 3);
  third.operator.program.signal("SIGSTOP");
  began = Date.now();
  await fourth.operator.untilLeading(EXPIRED_MS);
  console.log(`led ${Date.now() - began} ms after the former leader was frozen`);
  await applyPolicy(plane, NS, "webhooks", deny("four.example"));
  await untilDocument("four.example");
  // All it can go by is its clock: it works again before it hears of the other one.
  third.way.delayMs = 0;
  third.way.refuse = (_, path) => (path.includes("/leases/") ? { status: 500 } : undefined);
  third.way.seen.length = 0;
  third.operator.program.signal("SIGCONT");
  await untilSeen(third, ({ path }) => path.includes("/leases/"), 3);
  third.way.refuse = undefined;
  await third.operator.program.ended();
  assert.equal(third.operator.program.exitCode, 1, third.operator.program.tail);
  assert.match(third.operator.log(), /lease lost/);
  assert.deepEqual(third.way.seen.filter(isWrite), [], "nothing was written after another one led");
  for (let i = 0; i < 12; i++) await untilCondition(plane, NS, `busy-${i}`, "Programmed", "True");
  await fourth.operator.stop();
});

/** Waits until so many requests of a kind came. */
async function untilSeen({ way }: Observed, which: (request: Seen) => boolean, count: number): Promise<void> {
  const found = () => way.seen.filter(which).length;
  for (const began = Date.now(); found() < count; await sleep(10)) {
    if (Date.now() - began > EXPIRED_MS) throw new Error(`${found()} requests, not ${count}`);
  }
}

/** Names of the objects of policies, by policy; events and the like are left out. */
async function childrenByPolicy(): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  for (const path of ["api/v1", "apis/apps/v1", "apis/policy/v1", "apis/networking.k8s.io/v1"]) {
    const { resources } = (await plane.get<{ resources: { name: string; verbs: string[] }[] }>(`/${path}`))!;
    for (const kind of [
      "configmaps",
      "services",
      "serviceaccounts",
      "deployments",
      "poddisruptionbudgets",
      "networkpolicies",
    ]) {
      if (!resources.some(({ name }) => name === kind)) continue;
      const selector = "?labelSelector=egress.outrider.dev/policy";
      const { items } = (await plane.get<{ items: KubeObject[] }>(`/${path}/namespaces/${NS}/${kind}${selector}`))!;
      for (const { metadata } of items) {
        const policy = metadata.labels!["egress.outrider.dev/policy"]!;
        counts.set(policy, (counts.get(policy) ?? 0) + 1);
      }
    }
  }
  return counts;
}

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  test(`${signal} finishes the work and releases the Lease`, {
    skip,
  }, async () => {
    const one = await observed(signal.toLowerCase());
    await one.operator.untilLeading();
    one.way.delayMs = 30;
    const names = Array.from({ length: 10 }, (_, i) => `${signal.toLowerCase()}-${i}`);
    for (const name of names) await applyPolicy(plane, NS, name, deny("a.example"));
    await untilSeen(one, isWrite, one.writes() + 5);
    await one.operator.stop(signal);
    assert.equal(one.operator.program.exitCode, 0, one.operator.program.tail);
    assert.equal(await holder(), "");
    const children = await childrenByPolicy();
    const counts = names.map((name) => children.get(name) ?? 0);
    assert.ok(
      counts.every((count) => count === 0 || count === CHILDREN),
      `policies have ${counts} objects`,
    );
    console.log(`${counts.filter((count) => count > 0).length} of ${counts.length} policies were begun and finished`);
    const next = await start();
    await next.untilLeading(HANDED_MS);
    for (const name of names) await untilCondition(plane, NS, name, "Programmed", "True");
    await next.stop(signal);
  });
}

/** Lines of a log of at least level warn. */
const warnings = (operator: Operator) =>
  operator
    .log()
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line) as { level: number | string; msg: string; reason?: string })
    .filter(({ level }) => level === "warn" || level === "error" || Number(level) >= 40);

test("waits for the API server and logs it once", { skip, timeout: 180_000 }, async () => {
  const kubeconfig = await plane.accountConfig("outrider-system", "outrider-operator");
  await plane.kill("kube-apiserver");
  const operator = await start({ kubeconfig });
  await untilLog(operator, /cannot reach the API server/);
  assert.deepEqual(await operator.page(`${operator.health}/livez`), { status: 200, text: "ok\n" });
  assert.equal((await operator.page(`${operator.health}/readyz`)).status, 503);
  // Several tries of every watch.
  await sleep(4000);
  assert.deepEqual(
    warnings(operator).map(({ msg }) => msg),
    ["cannot reach the API server, retrying"],
  );
  await plane.revive("kube-apiserver");
  await operator.untilLeading(EXPIRED_MS);
  assert.match(operator.log(), /the API server answers again/);
  assert.deepEqual(await operator.page(`${operator.health}/readyz`), { status: 200, text: "ok\n" });
  await operator.stop();
});

/** A kubeconfig that differs from a right one. */
function wrongConfig(right: string, name: string, change: (text: string) => string): string {
  const file = join(plane.folder, `${name}.kubeconfig`);
  writeFileSync(file, change(readFileSync(right, "utf8")), { mode: 0o600 });
  return file;
}

test("logs one line for a wrong token and for a wrong CA", {
  skip,
}, async () => {
  const right = await plane.accountConfig("outrider-system", "outrider-operator");
  const folder = join(plane.folder, "stranger");
  mkdirSync(folder);
  const stranger = new Authority(folder);
  const cases = [
    {
      kubeconfig: wrongConfig(right, "wrong-token", (text) => text.replace(/"token":"[^"]+"/, '"token":"unknown"')),
      line: "the API server rejects the credentials, retrying",
      reason: /401 Unauthorized/,
    },
    {
      kubeconfig: wrongConfig(right, "wrong-ca", (text) => text.replace(plane.authority.file, stranger.file)),
      line: "cannot reach the API server, retrying",
      reason: /CERT|SIGNATURE/,
    },
  ];
  for (const { kubeconfig, line, reason } of cases) {
    const operator = await start({ kubeconfig });
    await untilLog(operator, new RegExp(line));
    await sleep(1000);
    const [warning, ...more] = warnings(operator);
    assert.equal(warning!.msg, line);
    assert.match(warning!.reason!, reason);
    assert.deepEqual(more, []);
    assert.equal((await operator.page(`${operator.health}/readyz`)).status, 503);
    assert.equal((await operator.page(`${operator.health}/livez`)).status, 200);
    await operator.stop();
    assert.equal(operator.program.exitCode, 0, operator.program.tail);
  }
});

test("/metrics has the known names and no hosts in labels", { skip }, async () => {
  const operator = await start();
  await operator.untilLeading();
  await applyPolicy(plane, NS, "measured", deny("secret-customer.example"));
  await untilCondition(plane, NS, "measured", "Programmed", "True");
  const condition = `outrider_operator_policy_condition{namespace="${NS}",policy="measured",type="Programmed",status="True",reason="Programmed"} 1`;
  let text = "";
  for (const began = Date.now(); !text.includes(condition); await sleep(100)) {
    assert.ok(Date.now() - began < EXPIRED_MS, `${condition} is not in ${text}`);
    const page = await operator.page(`${operator.metrics}/metrics`);
    assert.equal(page.status, 200);
    text = page.text;
  }
  for (const name of [
    "controller_runtime_reconcile_total",
    "controller_runtime_reconcile_errors_total",
    "controller_runtime_reconcile_time_seconds_bucket",
    "controller_runtime_active_workers",
    "workqueue_depth",
    "workqueue_adds_total",
    "workqueue_retries_total",
    "workqueue_queue_duration_seconds_bucket",
    "workqueue_work_duration_seconds_bucket",
    "rest_client_requests_total",
    "leader_election_master_status",
    "outrider_operator_scrapes_total",
    "outrider_operator_policies",
    "outrider_reflector_last_contact_seconds",
    "process_resident_memory_bytes",
  ]) {
    assert.match(text, new RegExp(`^${name}[ {]`, "m"));
  }
  assert.match(text, /^leader_election_master_status\{name="outrider-operator"\} 1$/m);
  assert.doesNotMatch(text, /\.example/);
  const missing = await operator.page(`${operator.health}/healthz`);
  assert.deepEqual(missing, { status: 404, text: "known pages: /livez /readyz\n" });
  await operator.stop();
  await plane.delete(policyPath(NS, "measured"));
});

test("a process without the Lease drains its webhook and writes nothing", {
  skip,
  timeout: 120_000,
}, async () => {
  const account = { apiVersion: "v1", kind: "ServiceAccount", metadata: { name: "default", namespace: NS } };
  await plane.apply(`/api/v1/namespaces/${NS}/serviceaccounts/default`, account);
  const port = await freePort();
  await installWebhook(plane, port);
  const way = await startFaultProxy(plane);
  ends.push(() => way.close());
  const args = [`--webhook=127.0.0.1:${port}`, "--webhook-names=127.0.0.1"];
  const operator = await start({ server: way.url, name: "robbed", args });
  await operator.untilLeading();
  await applyPolicy(plane, NS, "webhooks", deny("one.example"));
  await untilCondition(plane, NS, "webhooks", "Programmed", "True");
  await untilAdmitting(plane, operator, NS);

  const spec = { ...(await plane.get<Lease>(LEASE))!.spec, holderIdentity: "thief" };
  await plane.patch(LEASE, { spec });
  await untilLog(operator, /"why":"lost the Lease"/);
  way.seen.length = 0;
  await applyPolicy(plane, NS, "webhooks", deny("two.example"));
  const ready = await operator.page(`${operator.health}/readyz`);
  assert.equal(ready.status, 503, ready.text);
  const created = await createPod(plane, NS, podOf("late", { annotation: "webhooks" }));
  assert.equal(created.status, 201, created.body.message);
  assert.ok(proxyOf(created));
  await operator.program.ended();
  assert.equal(operator.program.exitCode, 1, operator.program.tail);
  // Of the webhook's own are only events.
  const written = way.seen.filter((request) => isWrite(request) && !request.path.endsWith("/events"));
  assert.deepEqual(written, []);
  await plane.delete(CONFIGURATION_PATH);
});
