import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { parseAllDocuments, parseDocument } from "yaml";
import { BOOT, type ControlPlane, controlPlaneMissing, startControlPlane } from "../cluster/control-plane.ts";
import { makeNamespace, policyPath } from "../operator/operator.ts";
import { CHART, HELMS, helm, helmDone, helmsMissing, olderChart, template } from "./helm.ts";

/** The guard against an older CRD, on a real API server, with Helm 3 and 4 and without Helm. */

const skip = helmsMissing() ?? controlPlaneMissing() ?? false;
const NS = "convoy";
const SYSTEM = "outrider-system";
const NAME = "egresspolicies.egress.outrider.dev";
const CRD = `/apis/apiextensions.k8s.io/v1/customresourcedefinitions/${NAME}`;
const GUARDS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const GUARD = `${GUARDS}/outrider-crd-guard`;
const ALLOW = "egress.outrider.dev/allow-downgrade";
const CRD_FILE = "files/egresspolicies.yaml";
const IN_FORCE_MS = 30_000;
const REFUSED = /lacks spec\.clients.*egress\.outrider\.dev\/allow-downgrade.*docs\/release\.md/s;

type Crd = {
  metadata: { annotations?: Record<string, string> };
  spec: { versions: { schema: { openAPIV3Schema: { properties: { spec: { properties: object } } } } }[] };
};

/** Path of the schema of `spec` in a CRD. */
const SPEC = ["spec", "versions", 0, "schema", "openAPIV3Schema", "properties", "spec"];

/** The CRD before it had clients. */
function olderCrd(): string {
  const document = parseDocument(readFileSync(join(CHART, CRD_FILE), "utf8"));
  assert.ok(document.deleteIn([...SPEC, "properties", "clients"]), "the CRD has clients");
  // Its rules refer to clients.
  document.deleteIn([...SPEC, "x-kubernetes-validations"]);
  return document.toString();
}

/** A chart of before, with neither clients nor the guard. */
function chartWithoutClients(): string {
  const folder = olderChart();
  writeFileSync(join(folder, CRD_FILE), olderCrd());
  writeFileSync(join(folder, "templates/guard.yaml"), "");
  return folder;
}

let plane: ControlPlane;
before(async () => {
  if (skip) return;
  plane = await startControlPlane();
  await makeNamespace(plane, NS);
  await makeNamespace(plane, SYSTEM);
}, BOOT);
after(async () => {
  if (!skip) await plane.stop();
});

const hasClients = async (): Promise<boolean> => {
  const [version] = (await plane.get<Crd>(CRD))!.spec.versions;
  return "clients" in version!.schema.openAPIV3Schema.properties.spec.properties;
};

/** Waits until the API server enforces the guard, some time after its creation. */
async function untilInForce(): Promise<void> {
  const tried = async () => plane.kubectl(["replace", "--dry-run=server", "-f", "-"], olderCrd());
  for (const began = Date.now(); !REFUSED.test((await tried()).stderr); ) {
    if (Date.now() - began > IN_FORCE_MS) throw new Error(`the guard is not in force: ${(await tried()).stderr}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

const annotate = async (value: string): Promise<void> => {
  const { status, stderr } = await plane.kubectl(["annotate", "--overwrite", "crd", NAME, `${ALLOW}${value}`]);
  assert.equal(status, 0, stderr);
};

const CLIENTS = [{ name: "billing" }, { name: "default", defaultAction: "Deny" }];

/** Creates a policy with clients and returns a function that reads them. */
async function policyWithClients(): Promise<() => Promise<unknown>> {
  const established = (crd: { status?: { conditions?: { type: string; status: string }[] } } | undefined) =>
    crd?.status?.conditions?.some(({ type, status }) => type === "Established" && status === "True") ?? false;
  await plane.until(CRD, established, "the CRD is established");
  const policy = {
    apiVersion: "egress.outrider.dev/v1alpha1",
    kind: "EgressPolicy",
    metadata: { name: "webhooks", namespace: NS },
    spec: { authentication: { mode: "Basic", secretRef: { name: "proxy" } }, clients: CLIENTS },
  };
  await plane.apply(policyPath(NS, "webhooks"), policy);
  return async () => (await plane.get<{ spec: { clients?: unknown } }>(policyPath(NS, "webhooks")))!.spec.clients;
}

/** Deletes all objects of a test, whatever made them. */
async function clean(): Promise<void> {
  for (const path of [policyPath(NS, "webhooks"), CRD, GUARD, GUARD.replace("policies/", "policybindings/")]) {
    await plane.delete(path);
    await plane.until(path, (found) => found === undefined, `${path} is deleted`);
  }
}

for (const tool of HELMS) {
  const run = (...args: string[]) => helm([...args, "-n", SYSTEM], plane.userConfig(), tool);
  const done = (...args: string[]) => helmDone([...args, "-n", SYSTEM], plane.userConfig(), tool);

  test(`${tool}: a rollback to a CRD without clients is refused`, { skip, timeout: 180_000 }, async () => {
    const older = chartWithoutClients();
    await done("install", "outrider", older);
    assert.equal(await hasClients(), false);
    await done("upgrade", "outrider", CHART);
    const clients = await policyWithClients();
    await untilInForce();
    assert.match((await run("rollback", "outrider", "1")).stderr, REFUSED);
    assert.match((await run("upgrade", "outrider", older)).stderr, REFUSED);
    assert.equal(await hasClients(), true);
    assert.deepEqual(await clients(), CLIENTS);
    assert.ok(await plane.get(GUARD), "Helm deletes the guard last");

    await done("upgrade", "outrider", CHART);
    await annotate("=true");
    await done("rollback", "outrider", "1");
    assert.equal(await hasClients(), false);
    await done("upgrade", "outrider", CHART);
    assert.equal(await hasClients(), true);
    await annotate("-");
    assert.match((await run("upgrade", "outrider", older)).stderr, REFUSED);
    await done("uninstall", "outrider", "--no-hooks");
    await clean();
  });

  test(`${tool}: the guard outlives the release, as the CRD does`, { skip, timeout: 180_000 }, async () => {
    const older = chartWithoutClients();
    await done("install", "outrider", CHART);
    const clients = await policyWithClients();
    await untilInForce();
    // As docs/release.md describes: the older operator with the newer CRD.
    await done("upgrade", "outrider", older, "--set=crds.enabled=false");
    assert.ok(await plane.get(GUARD));
    await done("upgrade", "outrider", CHART);
    await done("uninstall", "outrider", "--no-hooks");
    assert.match((await run("install", "outrider", older)).stderr, REFUSED);
    assert.equal(await hasClients(), true);
    assert.deepEqual(await clients(), CLIENTS);
    await done("uninstall", "outrider", "--no-hooks");
    await clean();
  });
}

test("without Helm, only a CRD that keeps clients replaces another one", { skip, timeout: 180_000 }, async () => {
  const newer = readFileSync(join(CHART, CRD_FILE), "utf8");
  await plane.applyYaml(newer);
  const manifest = readFileSync(new URL("../../examples/operator/operator.yaml", import.meta.url), "utf8");
  const guard = parseAllDocuments(manifest).filter((one) => String(one.get("kind")).startsWith("ValidatingAdmission"));
  await plane.applyYaml(guard.map(String).join("---\n"));
  const clients = await policyWithClients();
  await untilInForce();
  const replaced = (text: string) => plane.kubectl(["replace", "-f", "-"], text);
  const applied = (text: string) => plane.kubectl(["apply", "--server-side", "--force-conflicts", "-f", "-"], text);
  assert.match((await replaced(olderCrd())).stderr, REFUSED);
  assert.match((await applied(olderCrd())).stderr, REFUSED);
  const paths = [["properties", "clients"], ["x-kubernetes-validations"]].map(
    (part) => `/${[...SPEC, ...part].join("/")}`,
  );
  const removal = JSON.stringify(paths.map((path) => ({ op: "remove", path })));
  assert.match((await plane.kubectl(["patch", "crd", NAME, "--type=json", "-p", removal])).stderr, REFUSED);
  await annotate("=false");
  assert.match((await applied(olderCrd())).stderr, REFUSED);
  assert.deepEqual(await clients(), CLIENTS);
  await annotate("-");

  // Other changes pass.
  assert.equal((await applied(newer.replace("shortNames: [egpol]", "shortNames: [egp]"))).status, 0);
  assert.equal((await plane.kubectl(["label", "crd", NAME, "team=egress"])).status, 0);
  // A CRD that has no clients yet may be changed, and gets them.
  await annotate("=true");
  assert.equal((await applied(olderCrd())).status, 0);
  await annotate("-");
  assert.equal((await applied(olderCrd().replace("shortNames: [egpol]", "shortNames: [egp]"))).status, 0);
  assert.equal((await applied(newer)).status, 0);
  assert.match((await applied(olderCrd())).stderr, REFUSED);
  await clean();
});

test("the chart and the manifest have the same guard", { skip }, async () => {
  const rendered = parseAllDocuments((await template()).stdout).map((one) => one.toJS());
  const manifest = readFileSync(new URL("../../examples/operator/operator.yaml", import.meta.url), "utf8");
  const plain = parseAllDocuments(manifest).map((one) => one.toJS());
  const guards = (objects: { kind: string; metadata: { name: string }; spec: object }[]) =>
    objects
      .filter((one) => one?.kind.startsWith("ValidatingAdmission"))
      .map(({ kind, metadata: { name }, spec }) => ({ kind, name, spec }));
  assert.equal(guards(rendered).length, 2);
  assert.deepEqual(guards(rendered), guards(plain));
});
