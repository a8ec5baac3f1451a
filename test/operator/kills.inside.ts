import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { gunzipSync } from "node:zlib";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import { ANNOTATION, childName, recordName } from "../../operator/api/names.ts";
import type { ConfigMap } from "../../operator/api/objects.ts";
import { slotId } from "../../operator/fleet/slots.ts";
import type { KubeObject } from "../../operator/kube/resource.ts";
import { type ControlPlane, startControlPlane } from "../cluster/control-plane.ts";
import { type FaultProxy, isWrite, startFaultProxy } from "../cluster/fault-proxy.ts";
import { FleetRunner } from "../cluster/fleet.ts";
import { DocumentWatch } from "./documents.ts";
import {
  conditionOf,
  INVALID,
  install,
  LEASE,
  makeNamespace,
  makePasswords,
  type Operator,
  policyPath,
  startOperator,
} from "./operator.ts";
import { randomFrom } from "./random.ts";

/**
 * The operator is killed at moments that the seed picks, in front of or just after one of its writes, while policies
 * come, change, change provider and go. In the end everything is as if it had never been killed.
 */

const seed = Number(process.env.SEED ?? Date.now() & 0x7fffffff);
const random = randomFrom(seed);
const KILLS = 20;
const NS = "chaos";
const RECORDS = "/api/v1/namespaces/outrider-system/configmaps";
const NAMES: readonly string[] = ["alpha", "bravo", "carol", "delta"];
/** An operator that has written all it wants to is killed after so long. */
const IDLE_MS = 1000;
const CONVERGE_MS = 90_000;

let plane: ControlPlane;
let faults: FaultProxy;
let fleet: FleetRunner;
let documents: DocumentWatch;
let grants: string;

/** The spec as requested. The API server sets the defaults. */
interface Spec {
  deny: { hosts: string[] }[];
  allow?: object[];
  nat: { provider: string };
  staticIPs?: { address: string }[];
  [field: string]: unknown;
}
/** By policy its last requested spec, and all valid ones since its creation. */
const wanted = new Map<string, { spec: Spec; invalid: boolean; valid: Spec[] }>();
let edits = 0;

const addressesOf = (name: string) => [0, 1].map((i) => `203.0.113.${20 + 2 * NAMES.indexOf(name) + i}`);
const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;

function makeSpec(name: string, provider: string): Spec {
  const deny = [{ hosts: [`edit-${edits++}.example`] }];
  const port = 5000 + 100 * NAMES.indexOf(name);
  if (provider !== "KubeVIP") {
    const nat =
      provider === "PodIP" ? { provider, podIP: { annotations: { "pool.example/name": "static" } } } : { provider };
    return { deny, nat, proxy: { replicas: 1 + Math.round(random()) } };
  }
  const nat = { provider, kubeVIP: {} };
  return {
    deny,
    nat,
    staticIPs: addressesOf(name)
      .slice(0, 1 + Math.round(random()))
      .map((address) => ({ address })),
    authentication: { mode: "Basic", secretRef: { name: "proxy-passwords" } },
    proxy: { port, adminPort: port + 1 },
  };
}

/** One thing that a user does. */
async function act(): Promise<void> {
  const [name, what, provider] = [pick(NAMES), random(), pick(["External", "KubeVIP", "PodIP"])];
  const fresh = makeSpec(name, provider);
  const found = await plane.get<EgressPolicy>(policyPath(NS, name));
  // The policy is being deleted: a new spec would be deleted with it.
  if (found?.metadata.deletionTimestamp !== undefined) return;
  const before = found === undefined ? undefined : wanted.get(name)!;
  if (before !== undefined && what < 0.15) {
    wanted.delete(name);
    await plane.delete(policyPath(NS, name));
    return;
  }
  const invalid = before !== undefined && what < 0.3;
  // Half of the edits leave the fleet as it is.
  const base = before !== undefined && what < 0.65 ? { ...before.spec, deny: fresh.deny } : fresh;
  const { allow: _, ...valid } = base;
  const spec: Spec = invalid ? { ...valid, ...INVALID } : valid;
  wanted.set(name, { spec, invalid, valid: [...(before?.valid ?? []), ...(invalid ? [] : [spec])] });
  // One manager applies the spec, so omitted fields are removed.
  const object = { apiVersion: "egress.outrider.dev/v1alpha1", kind: "EgressPolicy", metadata: { name }, spec };
  await plane.apply(policyPath(NS, name), object);
}

/** Kills the operator at a write; resolves when it is dead. */
async function killAtWrite(start: () => Promise<Operator>): Promise<string> {
  const [nth, arrives, delay] = [1 + Math.floor(random() * 25), random() < 0.5, random() * 20];
  let left = nth;
  let operator: Operator | undefined;
  faults.refuse = (method, path) => {
    if (!isWrite({ method, path, user: "" }) || --left !== 0) return undefined;
    if (!arrives) {
      operator!.program.signal("SIGKILL");
      return { status: 503 };
    }
    setTimeout(() => operator!.program.signal("SIGKILL"), delay);
    return undefined;
  };
  operator = await start();
  const { program } = operator;
  await act();
  const idle = operator.untilLeading().then(
    () => sleep(IDLE_MS),
    (error: unknown) => assert.equal(program.running, false, String(error)),
  );
  if (random() < 0.7) await act();
  await Promise.race([program.ended(), idle]);
  const how = program.running ? `idle after ${nth - left} writes` : `at write ${nth}, ${arrives ? "sent" : "not sent"}`;
  await program.stop("SIGKILL");
  faults.refuse = undefined;
  // The Lease would expire after 15 s. This test does not wait for it.
  await plane.delete(LEASE);
  return how;
}

before(async () => {
  for (const address of NAMES.flatMap(addressesOf)) execFileSync("ip", ["addr", "add", `${address}/32`, "dev", "lo"]);
  plane = await startControlPlane({ kwokNodes: 4, install });
  await makeNamespace(plane, NS);
  await makePasswords(plane, NS);
  grants = join(plane.folder, "grants.yaml");
  writeFileSync(grants, `grants: [{namespaces: [${NS}], providers: [KubeVIP], staticIPs: [203.0.113.0/24]}]\n`);
  faults = await startFaultProxy(plane);
  documents = new DocumentWatch(plane);
  await documents.start(NS);
  fleet = new FleetRunner(plane);
  fleet.start();
});
after(async () => {
  await fleet.stop();
  await documents.stop();
  await faults.close();
  await plane.stop();
});

const list = async (path: string) => (await plane.get<{ items: KubeObject[] }>(path))!.items;

/** Objects in the namespace as `Kind/name`, without those of every namespace. */
async function existingObjects(): Promise<string[]> {
  const kinds = {
    ConfigMap: `/api/v1/namespaces/${NS}/configmaps`,
    Service: `/api/v1/namespaces/${NS}/services`,
    ServiceAccount: `/api/v1/namespaces/${NS}/serviceaccounts`,
    PodDisruptionBudget: `/apis/policy/v1/namespaces/${NS}/poddisruptionbudgets`,
    NetworkPolicy: `/apis/networking.k8s.io/v1/namespaces/${NS}/networkpolicies`,
    Deployment: `/apis/apps/v1/namespaces/${NS}/deployments`,
  };
  const names: string[] = [];
  for (const [kind, path] of Object.entries(kinds)) {
    for (const { metadata } of await list(path)) names.push(`${kind}/${metadata.name}`);
  }
  return names.filter((name) => !["ConfigMap/kube-root-ca.crt", "ServiceAccount/default"].includes(name)).sort();
}

/** Objects that a policy should have. */
function childrenOf(name: string, spec: Spec): string[] {
  const fleet = childName.fleet(name);
  const shared = [
    `ConfigMap/${childName.document(name)}`,
    `ConfigMap/${childName.published(name)}`,
    `Service/${fleet}`,
    `ServiceAccount/${fleet}`,
    `PodDisruptionBudget/${fleet}`,
  ];
  if (spec.nat.provider !== "KubeVIP") return [...shared, `NetworkPolicy/${fleet}`, `Deployment/${fleet}`];
  const slots = spec.staticIPs!.map(({ address }) => childName.slot(name, slotId(address)));
  return [...shared, ...slots.flatMap((slot) => [`Deployment/${slot}`, `Service/${slot}`])];
}

/** Compares with the result of an operator that was never killed. Returns the differences. */
async function differences(): Promise<string[]> {
  const problems: string[] = [];
  const children: string[] = [];
  const policies = (await list(`/apis/egress.outrider.dev/v1alpha1/namespaces/${NS}/egresspolicies`)) as EgressPolicy[];
  const names = policies.map(({ metadata }) => metadata.name).sort();
  if (names.join() !== [...wanted.keys()].sort().join()) problems.push(`policies: ${names}`);
  for (const policy of policies) {
    const { name, uid, generation } = policy.metadata;
    const { spec, invalid, valid } = wanted.get(name) ?? {
      spec: policy.spec as unknown as Spec,
      invalid: false,
      valid: [],
    };
    const found = await plane.get<ConfigMap>(`/api/v1/namespaces/${NS}/configmaps/${childName.document(name)}`);
    const current = (type: string) => {
      const condition = conditionOf(policy, type);
      return condition?.observedGeneration === generation ? `${condition!.status} ${condition!.reason}` : "old";
    };
    const state = `Accepted ${current("Accepted")}, Ready ${current("Ready")}`;
    const right = invalid ? "Accepted False Invalid, Ready False Invalid" : "Accepted True Accepted, Ready True Ready";
    if (state !== right) problems.push(`${name}: ${state}: ${conditionOf(policy, "Ready")?.message}`);
    // An invalid policy that was never seen valid has no fleet.
    if (found === undefined && invalid) continue;
    if (found === undefined) {
      problems.push(`${name}: no document`);
      continue;
    }
    const record = await plane.get<ConfigMap>(`${RECORDS}/${recordName(uid!)}`);
    if (record?.binaryData === undefined) {
      problems.push(`${name}: no record`);
      continue;
    }
    const packed = Buffer.from(record.binaryData["spec.json.gz"]!, "base64");
    const kept = JSON.parse(gunzipSync(packed).toString("utf8")) as Spec;
    const published = await plane.get<ConfigMap>(`/api/v1/namespaces/${NS}/configmaps/${childName.published(name)}`);
    if (published?.data?.["ips.json"] !== record.data?.["ips.json"]) problems.push(`${name}: publishes another list`);
    children.push(...childrenOf(name, kept));
    const host = (of: Spec) => of.deny[0]!.hosts[0];
    const allowed = invalid ? valid.map(host) : [host(spec)];
    if (!allowed.includes(host(kept))) problems.push(`${name}: runs ${host(kept)}, not ${allowed}`);
    if (found.metadata.ownerReferences?.[0]?.uid !== uid) problems.push(`${name}: document of a former policy`);
    if (policy.status?.summary?.policyHash !== found.metadata.annotations![ANNOTATION.hash])
      problems.push(`${name}: the status names another document`);
  }
  const records = (await list(RECORDS))
    .map(({ metadata }) => metadata.name)
    .filter((one) => one.startsWith(recordName("")));
  if (records.length !== policies.length) problems.push(`records: ${records}`);
  const existing = await existingObjects();
  const extra = existing.filter((child) => !children.includes(child));
  const missing = children.filter((child) => !existing.includes(child));
  if (extra.length > 0) problems.push(`too much: ${extra.join(", ")}`);
  if (missing.length > 0) problems.push(`missing: ${missing.join(", ")}`);
  return problems;
}

test(`survives ${KILLS} kills at random moments (SEED=${seed})`, { timeout: 400_000 }, async () => {
  const args = ["--scrape-seconds=1", `--grants=${grants}`];
  const start = (server: string) => startOperator(plane, { args, server });
  for (let i = 0; i < 3; i++) await act();
  for (let i = 0; i < KILLS; i++) {
    const how = await killAtWrite(() => start(faults.url));
    const specs = [...wanted].map(([name, { spec, invalid }]) => `${name} ${invalid ? "invalid" : spec.nat.provider}`);
    console.log(`kill ${i + 1} ${how}; wanted: ${specs.join(", ") || "nothing"}; ${documents.count} documents`);
  }
  const last = await start(plane.url);
  // The state may be right already, and a process that has just been started dies from SIGTERM.
  await last.untilLeading();
  let problems = await differences();
  for (const began = Date.now(); problems.length > 0 && Date.now() - began < CONVERGE_MS; ) {
    await sleep(200);
    problems = await differences();
  }
  assert.deepEqual(problems, []);
  assert.deepEqual(documents.problems, []);
  assert.ok(documents.count >= KILLS / 2, `${documents.count} versions of documents were looked at`);
  await last.stop();
  assert.equal(last.program.exitCode, 0);
});
