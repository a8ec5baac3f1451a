import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { BOOT, type ControlPlane, controlPlaneMissing, startControlPlane } from "../cluster/control-plane.ts";
import { findTool } from "../cluster/tools.ts";
import { fastClock } from "../operator/kube/clocks.ts";
import { applyPolicy, makeNamespace, policyPath } from "../operator/operator.ts";
import { startReplica } from "../webhook/shared.ts";
import { CHART, HELMS, type Helm, helmDone, helmsMissing, olderChart } from "./helm.ts";
import { hookOf } from "./hooks.ts";

/** Changes of releases with Helm 3 and 4 on a real API server. The operator's pods are simulated. */

const NODES = { kwokNodes: 2 };
const skip = helmsMissing() ?? controlPlaneMissing(NODES) ?? false;
const SYSTEM = "outrider-system";
const CONFIGURATION = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/outrider-webhook";
const deploymentPath = (namespace: string, name: string) => `/apis/apps/v1/namespaces/${namespace}/deployments/${name}`;
const FINALIZER = "egress.outrider.dev/in-use";
const GIVEN = "--set=webhook.certificates.source=Secret,webhook.certificates.secretName=mine";
const WAIT = ["--wait", "--timeout=60s"];

interface Configuration {
  metadata: { managedFields: { manager: string; fieldsV1: object }[] };
  webhooks: { clientConfig: { caBundle?: string } }[];
}
interface Scaled {
  spec: { replicas: number };
}

let plane: ControlPlane;
before(async () => {
  if (skip) return;
  plane = await startControlPlane(NODES);
  await makeNamespace(plane, SYSTEM);
}, BOOT);
after(async () => {
  if (!skip) await plane.stop();
});

/** A chart of before, which sets the caBundle of a given Secret itself and has the operator's Lease. */
function chartWithBundle(): string {
  const set = "{{- with $certificates.caBundle }}\n      caBundle: {{ . | b64enc }}\n      {{- end }}\n";
  const folder = olderChart(["templates/webhook.yaml", "        port: 443\n", `        port: 443\n      ${set}`]);
  const lease = { apiVersion: "coordination.k8s.io/v1", kind: "Lease", metadata: { name: "outrider-operator" } };
  writeFileSync(join(folder, "templates/lease.yaml"), JSON.stringify(lease));
  return folder;
}

const bundle = async (): Promise<string> => {
  const found = await plane.get<Configuration>(CONFIGURATION);
  return Buffer.from(found?.webhooks[0]?.clientConfig.caBundle ?? "", "base64").toString();
};

/** Runs an operator's webhook, as the chart's account, until caBundle is as wanted. */
async function untilBundle(wanted: (text: string) => boolean, certDir?: string): Promise<void> {
  const config = await plane.accountConfig(SYSTEM, "outrider-operator");
  const names = [`outrider-webhook.${SYSTEM}.svc`];
  const replica = await startReplica({ config, names, clock: fastClock(50), ...(certDir && { certDir }) });
  try {
    await replica.until("caBundle is written", async () => wanted(await bundle()));
  } finally {
    await replica.stop();
  }
}

for (const tool of HELMS) {
  const helm = (...args: string[]) => helmDone([...args, "-n", SYSTEM], plane.userConfig(), tool);

  test(`${tool}: each source of certificates follows each other one`, { skip, timeout: 240_000 }, async () => {
    const authority = readFileSync(plane.authority.file, "utf8");
    const mounted = join(plane.folder, `mounted-${tool}`);
    mkdirSync(mounted);
    const { cert, key } = plane.authority.issue(`mounted-${tool}`, "/CN=webhook", [
      `DNS:outrider-webhook.${SYSTEM}.svc`,
    ]);
    cpSync(cert, join(mounted, "tls.crt"));
    cpSync(key, join(mounted, "tls.key"));
    cpSync(plane.authority.file, join(mounted, "ca.crt"));
    const file = `--set-file=webhook.certificates.caBundle=${plane.authority.file}`;
    await helm("install", "outrider", chartWithBundle(), GIVEN, file, ...WAIT);
    assert.equal(await bundle(), authority);
    const isGiven = (text: string) => text.includes(authority);
    const isGenerated = (text: string) => text !== "" && !text.includes(authority);
    // From the chart of before, with its values.
    await helm("upgrade", "outrider", CHART, "--reuse-values", ...WAIT);
    await untilBundle(isGiven, mounted);
    await helm("upgrade", "outrider", CHART, "--reset-values", ...WAIT);
    await untilBundle(isGenerated);
    const generated = await bundle();
    await helm("upgrade", "outrider", CHART, GIVEN, ...WAIT);
    assert.equal(await bundle(), generated, "the upgrade itself changes no caBundle");
    await untilBundle((text) => isGiven(text) && text.includes(generated.trim()), mounted);
    await untilBundle((text) => text === authority, mounted);
    await helm("upgrade", "outrider", CHART, "--reset-values", ...WAIT);
    await untilBundle(isGenerated);
    await helm("uninstall", "outrider", ...WAIT);
    assert.equal(await plane.get(CONFIGURATION), undefined);
    const { stdout } = await plane.kubectl(["get", "jobs,serviceaccounts,roles", "-n", SYSTEM, "-o", "name"]);
    assert.doesNotMatch(stdout, /outrider/);
  });

  test(`${tool}: adopts a CRD that kubectl has installed`, { skip, timeout: 120_000 }, async () => {
    const crd = "egresspolicies.egress.outrider.dev";
    assert.equal((await plane.kubectl(["delete", "crd", crd])).status, 0);
    const text = readFileSync(new URL("../../crds/egresspolicies.yaml", import.meta.url), "utf8");
    await plane.applyYaml(text);
    await assert.rejects(helm("install", "outrider", CHART), /invalid ownership metadata|cannot be imported/);
    const readme = readFileSync(join(CHART, "README.md"), "utf8");
    const option = tool === "helm" ? "--take-ownership" : "--take-ownership --force-conflicts";
    assert.ok(readme.includes(`\`${option}\``), "as documented");
    await helm("install", "outrider", CHART, ...option.split(" "), ...WAIT);
    await helm("upgrade", "outrider", CHART, ...WAIT);
    await helm("uninstall", "outrider", ...WAIT);
  });

  test(`${tool}: the pre-delete hook frees policies of its release only`, { skip, timeout: 240_000 }, async () => {
    await releasesOfTwoTeams(tool);
  });
}

for (const tool of HELMS) {
  test(`${tool}: uninstalls after a listed namespace was deleted`, { skip, timeout: 180_000 }, async () => {
    const [gone, kept] = [`gone-${tool}`, `kept-${tool}`];
    for (const namespace of [gone, kept]) await makeNamespace(plane, namespace);
    const helm = (...args: string[]) => helmDone([...args, "-n", SYSTEM], plane.userConfig(), tool);
    await helm("install", "outrider", CHART, `--set=namespaces={${gone},${kept}}`, ...WAIT);
    await setFinalizer(kept);
    await plane.delete(`/api/v1/namespaces/${gone}`);
    await plane.until(`/api/v1/namespaces/${gone}`, (found) => found === undefined, "the namespace is deleted", 60_000);
    // A pod that a kubelet has evicted: its ReplicaSet does not delete it.
    const labels = { "app.kubernetes.io/name": "outrider-operator", "app.kubernetes.io/instance": "outrider" };
    const path = `/api/v1/namespaces/${SYSTEM}/pods/evicted`;
    const spec = { schedulerName: "none", containers: [{ name: "operator", image: "outrider:test" }] };
    await plane.apply(path, { apiVersion: "v1", kind: "Pod", metadata: { name: "evicted", labels }, spec });
    await plane.patch(`${path}/status`, { status: { phase: "Failed", reason: "Evicted" } });
    const hook = await hookOf(plane, await helm("get", "hooks", "outrider"), "pre-delete");
    const { status, stdout, stderr } = await hook.run({});
    assert.equal(status, 0, stderr);
    assert.match(stdout, new RegExp(`namespace ${gone} is skipped.*\n${kept}/webhooks: removed the finalizer\n$`, "s"));
    await helm("uninstall", "outrider", ...WAIT);
    await plane.delete(path);
  });
}

test("with hostNetwork a rolling update needs no further node", { skip, timeout: 120_000 }, async () => {
  const values = `--values=${new URL("values/host-network.yaml", import.meta.url).pathname}`;
  const helm = (...args: string[]) => helmDone([...args, "-n", SYSTEM], plane.userConfig());
  await helm("install", "outrider", CHART, values, ...WAIT);
  const list = ["get", "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=outrider-operator", "-o"];
  const nodes = (await plane.kubectl([...list, "jsonpath={.items[*].spec.nodeName}"])).stdout.split(" ");
  assert.equal(new Set(nodes).size, NODES.kwokNodes, nodes.join());
  await helm("upgrade", "outrider", CHART, values, "--set=logLevel=debug", ...WAIT);
  await helm("uninstall", "outrider", ...WAIT);
});

async function setFinalizer(namespace: string): Promise<void> {
  await makeNamespace(plane, namespace);
  await applyPolicy(plane, namespace, "webhooks", {});
  await plane.patch(policyPath(namespace, "webhooks"), { metadata: { finalizers: [FINALIZER] } });
}

const finalizersOf = async (namespace: string): Promise<string[] | undefined> =>
  (await plane.get<{ metadata: { finalizers?: string[] } }>(policyPath(namespace, "webhooks")))?.metadata.finalizers;

const replicasOf = async (namespace: string, name: string): Promise<number> =>
  (await plane.get<Scaled>(deploymentPath(namespace, name)))!.spec.replicas;

async function releasesOfTwoTeams(tool: Helm): Promise<void> {
  const [a, b, second] = [`team-a-${tool}`, `team-b-${tool}`, `second-${tool}`];
  const config = plane.userConfig();
  const helm = (...args: string[]) => helmDone([...args, "-n", SYSTEM], config, tool);
  for (const namespace of [a, b, second]) await makeNamespace(plane, namespace);
  const values = ["upgrade", "--install", "outrider", CHART, `--set=namespaces={${a}}`, ...WAIT];
  await helm(...values, "--set=crds.keep=false");
  const other = [CHART, `--set=namespaces={${b}},crds.enabled=false`, "-n", second, ...WAIT];
  await helmDone(["install", "outrider-second", ...other], config, tool);
  for (const namespace of [a, b]) await setFinalizer(namespace);
  const hook = async () => hookOf(plane, await helm("get", "hooks", "outrider"), "pre-delete");

  const first = await hook();
  const refused = await first.run({});
  // Its account may list the policies of all namespaces.
  await first.remove();
  assert.equal(refused.status, 1, refused.stdout);
  assert.match(
    refused.stderr,
    new RegExp(`policies that pods use:\n {2}${a}/webhooks\n {2}${b}/webhooks\nNothing was`),
  );
  assert.equal(await replicasOf(SYSTEM, "outrider-operator"), 2);
  assert.deepEqual(await finalizersOf(a), [FINALIZER]);

  await helm(...values);
  const done = await (await hook()).run({});
  assert.equal(done.status, 0, done.stderr);
  assert.match(
    done.stdout,
    new RegExp(`operator ${SYSTEM}/outrider-operator has ended\n${a}/webhooks: removed the fin`),
  );
  assert.equal(await replicasOf(SYSTEM, "outrider-operator"), 0);
  const pods = ["get", "pods", "-n", SYSTEM, "-o", "name", "-l", "app.kubernetes.io/name=outrider-operator"];
  assert.equal((await plane.kubectl(pods)).stdout, "");
  assert.equal(await finalizersOf(a), undefined);
  // The second release is untouched.
  assert.equal(await replicasOf(second, "outrider-second-operator"), 2);
  assert.deepEqual(await finalizersOf(b), [FINALIZER]);

  // The output of helm template, applied with kubectl, must not stop the operator.
  // Helm 4 does not take back a field that another program has set (replicas).
  await helm(...values, ...(tool === "helm4" ? ["--force-conflicts"] : []));
  assert.equal(await replicasOf(SYSTEM, "outrider-operator"), 2, "an upgrade starts the operator again");
  await setFinalizer(a);
  const release = "meta.helm.sh/release-name";
  const annotate = ["annotate", "deployment", "outrider-operator", "-n", SYSTEM];
  assert.equal((await plane.kubectl([...annotate, `${release}-`])).status, 0);
  const foreign = await (await hook()).run({});
  assert.match(
    foreign.stdout,
    /^nothing is changed: neither Helm nor Argo CD installed outrider-system\/outrider-operator/,
  );
  assert.equal(await replicasOf(SYSTEM, "outrider-operator"), 2);
  assert.deepEqual(await finalizersOf(a), [FINALIZER]);
  assert.equal((await plane.kubectl([...annotate, `${release}=outrider`])).status, 0);

  await (await hook()).run({});
  await helm("uninstall", "outrider", ...WAIT);
  await plane.delete(`/api/v1/namespaces/${a}`);
  await plane.until(`/api/v1/namespaces/${a}`, (found) => found === undefined, "the namespace is deleted", 60_000);
  await helmDone(["uninstall", "outrider-second", "-n", second, "--no-hooks", ...WAIT], config, tool);
  assert.deepEqual(await finalizersOf(b), [FINALIZER]);
  const readme = readFileSync(join(CHART, "README.md"), "utf8");
  const command = /^ {4}(kubectl get egpol -A .* \| while read .*)$/m.exec(readme)![1]!;
  const env = {
    PATH: `${dirname(await findTool("kubectl"))}:${process.env.PATH}`,
    KUBECONFIG: config,
    HOME: plane.folder,
  };
  // The last patch decides the status; a policy without the finalizer is an error.
  spawnSync("bash", ["-c", command], { env });
  assert.equal(await finalizersOf(b), undefined);
}
