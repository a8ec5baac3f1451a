import { readFileSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import type { EgressPolicy } from "../../../operator/api/egresspolicy.ts";
import type { ConfigMap } from "../../../operator/api/objects.ts";
import { startProgress } from "../../../proxy/cli/progress.ts";
import { startControlPlane } from "../../cluster/control-plane.ts";
import { applyPolicy, install, makeNamespace, type Operator, startOperator } from "../../operator/operator.ts";

/**
 * `make bench-operator`: many policies at once on a real API server. Fleets have no proxies here: simulated nodes run
 * pods that never answer, which is the worst case for the operator.
 */

const { values } = parseArgs({
  options: {
    policies: { type: "string", default: "500" },
    hosts: { type: "string", default: "50" },
    pods: { type: "string", default: "1500" },
    json: { type: "string" },
  },
});
const POLICIES = Number(values.policies);
const HOSTS = Number(values.hosts);
/** Pods besides those of the fleets. */
const PODS = Number(values.pods);
const NAMESPACES = 10;
const PARALLEL = 8;
const LOOK_MS = 200;
const LIMIT_MS = 15 * 60 * 1000;

/** Parts of the run with their expected times; those of policies and pods are for each one. */
const PARTS = {
  start: { name: "start the control plane and the operator", seconds: 20 },
  apply: { name: "apply the policies", seconds: 0.02 * POLICIES },
  program: { name: "wait for Programmed", seconds: 0.09 * POLICIES },
  edit: { name: "edit a policy", seconds: 12 },
  settle: { name: "wait for the last write", seconds: 20 + 0.03 * POLICIES },
  pods: { name: "create pods", seconds: 0.01 * PODS },
  again: { name: "start a new operator", seconds: 12 },
};
const progress = startProgress(Object.values(PARTS));
const show = (part: keyof typeof PARTS, share?: number) => progress.show(PARTS[part].name, share);

const figures: Record<string, number> = {};
function note(name: string, value: number, unit: string): void {
  progress.clear();
  figures[`${name} (${unit})`] = value;
  console.log(`${name.padEnd(60)} ${value.toFixed(unit === "s" ? 2 : 0)} ${unit}`);
}

const spec = (policy: number, edition: number) => ({
  allow: [{ hosts: Array.from({ length: HOSTS }, (_, i) => `h${i}.customer-${policy}.e${edition}.example`) }],
  proxy: { replicas: 1 },
});
const namespaceOf = (policy: number) => `team-${policy % NAMESPACES}`;
const nameOf = (policy: number) => `policy-${policy}`;

/** Resident memory of a process in MiB, now and at its highest. */
function memory({ program }: Operator): { now: number; peak: number } {
  const text = readFileSync(`/proc/${program.pid}/status`, "utf8");
  const of = (key: string) => Number(new RegExp(`${key}:\\s+(\\d+)`).exec(text)![1]) / 1024;
  return { now: of("VmRSS"), peak: of("VmHWM") };
}

show("start");
const plane = await startControlPlane({ kwokNodes: 2, audit: true });
await install(plane);
for (let i = 0; i < NAMESPACES; i++) {
  await makeNamespace(plane, `team-${i}`);
  const account = { apiVersion: "v1", kind: "ServiceAccount", metadata: { name: "default" } };
  await plane.apply(`/api/v1/namespaces/team-${i}/serviceaccounts/default`, account);
}
let operator = await startOperator(plane);
await operator.untilLeading();
note("memory of an operator without policies", memory(operator).now, "MiB");

type List<T> = { items: T[] };
const policies = async () =>
  (await plane.get<List<EgressPolicy>>("/apis/egress.outrider.dev/v1alpha1/egresspolicies"))!.items;
const writes = () =>
  plane
    .audit()
    .filter(
      ({ user, verb, path }) =>
        user.endsWith(":outrider-operator") && !["get", "list", "watch"].includes(verb) && !path.includes("/leases"),
    );

/** Waits for the condition; seconds since `began`. */
async function until(what: string, began: number, look: () => Promise<boolean>): Promise<number> {
  while (!(await look())) {
    if (Date.now() - began > LIMIT_MS) throw new Error(`${what}: not within ${LIMIT_MS / 1000} s`);
    await sleep(LOOK_MS);
  }
  return (Date.now() - began) / 1000;
}

const began = Date.now();
let next = 0;
const create = async () => {
  for (let i = next++; i < POLICIES; i = next++) {
    show("apply", i / POLICIES);
    await applyPolicy(plane, namespaceOf(i), nameOf(i), spec(i, 0));
  }
};
await Promise.all(Array.from({ length: PARALLEL }, create));
note(`${POLICIES} policies of ${HOSTS} hosts: applied by us`, (Date.now() - began) / 1000, "s");
const programmed = async () => {
  const found = await policies();
  const done = found.filter(({ status }) =>
    status?.conditions?.some(({ type, status }) => type === "Programmed" && status === "True"),
  );
  show("program", done.length / POLICIES);
  return done.length === POLICIES;
};
note(
  "until every policy is Programmed (documents and objects applied)",
  await until("Programmed", began, programmed),
  "s",
);
note("memory after that", memory(operator).now, "MiB");
note("highest memory", memory(operator).peak, "MiB");
note("writes so far", writes().length, "requests");

const edited = POLICIES >> 1;
const path = `/api/v1/namespaces/${namespaceOf(edited)}/configmaps/${nameOf(edited)}-egress-policy`;
let edition = 0;
/** Edits one policy five times; the longest time until its ConfigMap changed. */
async function edit(): Promise<number> {
  let slowest = 0;
  for (let i = 0; i < 5; i++) {
    const start = Date.now();
    await applyPolicy(plane, namespaceOf(edited), nameOf(edited), spec(edited, ++edition));
    for (;;) {
      const found = await plane.get<ConfigMap>(path);
      if (found!.data!["policy.json"]!.includes(`.e${edition}.example`)) break;
      await sleep(5);
    }
    slowest = Math.max(slowest, (Date.now() - start) / 1000);
  }
  return slowest;
}
show("edit");
note("from an edit to its ConfigMap, slowest of 5, immediately", await edit(), "s");

// Statuses still follow the pods: waits until there were no writes for a while.
const settled = async () => {
  const before = writes().length;
  await sleep(5000);
  return writes().length === before;
};
show("settle");
note("until the last write", await until("settled", began, settled), "s");
note("from an edit to its ConfigMap, slowest of 5, settled", await edit(), "s");
await until("settled again", began, settled);
await operator.stop();
let nextPod = 0;
const createPod = async () => {
  for (let i = nextPod++; i < PODS; i = nextPod++) {
    show("pods", i / PODS);
    const metadata = { name: `other-${i}`, namespace: namespaceOf(i) };
    // No scheduler of this name exists, so that the pods only are in the lists.
    const spec = { schedulerName: "none", containers: [{ name: "app", image: "app:test" }] };
    const { status } = await plane.request("POST", `/api/v1/namespaces/${namespaceOf(i)}/pods`, { metadata, spec });
    if (status !== 201) throw new Error(`pod other-${i}: ${status}`);
  }
};
await Promise.all(Array.from({ length: PARALLEL }, createPod));
const before = writes().length;
const again = Date.now();
show("again");
operator = await startOperator(plane, { name: "again" });
await operator.untilLeading();
note("time until a new operator leads", (Date.now() - again) / 1000, "s");
const caughtUp = /"ms":(\d+)[^\n]*all caches have caught up/.exec(operator.log());
note(`of this, comparison of the caches, with ${POLICIES + PODS} pods`, Number(caughtUp![1]), "ms");
const reconciled = async () => {
  const text = await (await fetch(`${operator.metrics}/metrics`)).text();
  const results = [
    ...text.matchAll(/controller_runtime_reconcile_total\{controller="egresspolicy",result="\w+"\} (\d+)/g),
  ];
  return results.reduce((sum, match) => sum + Number(match[1]), 0) >= POLICIES;
};
note("time until it has reconciled all policies", await until("reconciled", again, reconciled), "s");
await sleep(5000);
const fresh = writes().slice(before);
note("its writes", fresh.length, "requests");
progress.clear();
for (const { verb, path } of fresh.slice(0, 5)) console.log(`  ${verb} ${path}`);
note("memory of the new operator", memory(operator).now, "MiB");
progress.end();
console.log(JSON.stringify(figures));
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(figures)}\n`);
await operator.stop();
await plane.stop();
