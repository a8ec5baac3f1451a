import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { stringify } from "yaml";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import { BOOT, type ControlPlane, controlPlaneMissing, startControlPlane } from "../cluster/control-plane.ts";
import { FleetRunner } from "../cluster/fleet.ts";
import type { Finished } from "../harness/finish.ts";
import { tempFolder } from "../harness/proxy.ts";
import {
  conditionOf,
  INVALID,
  install,
  makeNamespace,
  type Operator,
  policyPath,
  startOperator,
} from "../operator/operator.ts";
import { type Helm, helm, helmsMissing } from "./helm.ts";

/** A chart of a user with an EgressPolicy, installed with `--wait`. Helm 4 decides with the kstatus library. */

const NODES = { kwokNodes: 1, realProxies: true };
const skip = helmsMissing() ?? controlPlaneMissing(NODES) ?? false;
const NS = "convoy";
const DEFAULT = /^ +default: \{ observedGeneration: -1 \}\n/m;
let plane: ControlPlane;
let fleet: FleetRunner | undefined;
let operator: Operator | undefined;

before(async () => {
  if (skip) return;
  plane = await startControlPlane(NODES);
  await install(plane);
  await makeNamespace(plane, NS);
}, BOOT);
after(async () => {
  if (skip) return;
  await operator?.stop("SIGKILL");
  await fleet?.stop();
  await plane?.stop();
});

/** Writes a chart with one policy. */
function chartOf(spec: object): string {
  const folder = tempFolder();
  mkdirSync(join(folder, "templates"));
  const policy = { apiVersion: "egress.outrider.dev/v1alpha1", kind: "EgressPolicy", metadata: { name: "webhooks" } };
  writeFileSync(join(folder, "Chart.yaml"), stringify({ apiVersion: "v2", name: "sender", version: "1.0.0" }));
  writeFileSync(join(folder, "templates/policy.yaml"), stringify({ ...policy, spec }));
  return folder;
}

const run = (tool: Helm, ...args: string[]): Promise<Finished> => helm([...args, "-n", NS], plane.userConfig(), tool);
const upgrade = (tool: Helm, timeout: string, spec: object = { proxy: { replicas: 1 } }): Promise<Finished> =>
  run(tool, "upgrade", "--install", "sender", chartOf(spec), "--wait", `--timeout=${timeout}`);
const uninstall = async (tool: Helm) => assert.equal((await run(tool, "uninstall", "sender")).status, 0);
const policy = () => plane.get<EgressPolicy>(policyPath(NS, "webhooks"));

/** Waits until the API server uses a schema whose status has a default, or has none. */
async function untilDefault(has: boolean): Promise<void> {
  const path = `${policyPath(NS, "")}?dryRun=All`.replace("/?", "?");
  const probe = {
    apiVersion: "egress.outrider.dev/v1alpha1",
    kind: "EgressPolicy",
    metadata: { name: "probe" },
    spec: {},
  };
  for (const began = Date.now(); ; await sleep(100)) {
    const { body } = await plane.request<EgressPolicy>("POST", path, probe);
    if ((body.status !== undefined) === has) return;
    assert.ok(Date.now() - began < 20_000, "the schema is not in use");
  }
}

test("Helm 4 waits for a policy that no operator has seen", { skip, timeout: 120_000 }, async () => {
  const { status, stderr } = await upgrade("helm4", "8s");
  assert.equal(status, 1);
  assert.match(stderr, /EgressPolicy.*InProgress/s);
  await uninstall("helm4");
});

test("Helm 4 does not wait if the CRD has no default of the status", { skip, timeout: 120_000 }, async () => {
  const text = readFileSync(new URL("../../crds/egresspolicies.yaml", import.meta.url), "utf8");
  assert.match(text, DEFAULT);
  await plane.applyYaml(text.replace(DEFAULT, ""));
  await untilDefault(false);
  const { status, stderr } = await upgrade("helm4", "8s");
  assert.equal(status, 0, stderr);
  assert.equal((await policy())!.status, undefined);
  await uninstall("helm4");
  await plane.applyYaml(text);
  await untilDefault(true);
});

test("Helm 3 waits for no policy, as documented", { skip, timeout: 120_000 }, async () => {
  const { status, stderr } = await upgrade("helm", "8s");
  assert.equal(status, 0, stderr);
  assert.equal((await policy())!.status!.observedGeneration, -1);
  const page = readFileSync(new URL("../../docs/operator.md", import.meta.url), "utf8");
  assert.match(page, /`helm --wait` of Helm 3 does not wait for custom resources/);
  await uninstall("helm");
});

test("Helm 4 returns when the operator has made the policy ready", { skip, timeout: 180_000 }, async () => {
  const waiting = upgrade("helm4", "90s");
  fleet = new FleetRunner(plane);
  fleet.start();
  operator = await startOperator(plane, { args: ["--scrape-seconds=1"] });
  const { status, stderr } = await waiting;
  assert.equal(status, 0, stderr);
  assert.equal(conditionOf(await policy(), "Ready")?.status, "True");
});

test("Helm 4 does not return for an edit that the operator rejects", { skip, timeout: 120_000 }, async () => {
  const { status } = await upgrade("helm4", "8s", INVALID);
  assert.equal(status, 1);
  const found = await policy();
  assert.equal(conditionOf(found, "Accepted")?.reason, "Invalid");
  assert.equal(found!.status!.observedGeneration, found!.metadata.generation);
});
