import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { OPERATOR_OPTIONS } from "../../operator/config.ts";
import { Client } from "../../operator/kube/client.ts";
import { readOwner } from "../../operator/webhook/certificates/owner.ts";
import { BOOT, type ControlPlane, startControlPlane } from "../cluster/control-plane.ts";
import { FleetRunner } from "../cluster/fleet.ts";
import { freePort, inheritedEnv, Program } from "../cluster/processes.ts";
import { OUTRIDER } from "../harness/proxy.ts";
import { configFrom } from "../operator/kube/shared.ts";
import { applyPolicy, makeNamespace, policyPath, untilCondition } from "../operator/operator.ts";
import { createPod, podOf, proxyOf, type Replica, startReplica } from "../webhook/shared.ts";
import { CHART, type Helm, helmDone, olderChart } from "./helm.ts";
import { hookOf } from "./hooks.ts";
import { type Inventory, inventory, without } from "./inventory.ts";

/**
 * The chart on a real API server, by Helm 3 and Helm 4. The operator's pods are simulated; the operator runs as a process, with the arguments
 * that the chart gives it, as the chart's ServiceAccount and so with the chart's rights and no other.
 */

/** Parts of the control plane. */
export const PLANE = { kwokNodes: 3 } as const;
/** Why the tests cannot run as this user; null: they can. */
export const notRoot = process.getuid!() === 0 ? null : "the webhook's Service has port 443, which takes root";
const SYSTEM = "outrider-system";
const NS = "convoy";
const LEADS_MS = 30_000;
/** Garbage collection discovers new kinds every 30 s. */
const GONE_MS = 60_000;
/** Operators would have written a caBundle of theirs by then. */
const UNTOUCHED_MS = 3000;
const DEPLOYMENT = `/apis/apps/v1/namespaces/${SYSTEM}/deployments/outrider-operator`;
const CONFIGURATION = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/outrider-webhook";
const CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/egresspolicies.egress.outrider.dev";
const SECRET = `/api/v1/namespaces/${SYSTEM}/secrets/outrider-webhook`;
const SERVICE = `/api/v1/namespaces/${SYSTEM}/services/outrider-webhook`;
const LEASE = `/apis/coordination.k8s.io/v1/namespaces/${SYSTEM}/leases/outrider-operator`;

interface Meta {
  metadata: {
    uid: string;
    resourceVersion: string;
    generation?: number;
    ownerReferences?: { kind: string; uid: string }[];
  };
}
type Deployment = Meta & { spec: { template: { spec: { containers: { args: string[] }[] } } } };
type Configuration = Meta & { webhooks: { clientConfig: { caBundle?: string; service?: object } }[] };

/** Registers the tests of an installation by one Helm. `skip`: why they cannot run. */
export function testInstallation(tool: Helm, skip: string | false): void {
  let plane: ControlPlane;
  let fleet: FleetRunner;
  let operator: Program | undefined;
  let metrics: string;
  let replica: Replica | undefined;
  let webhookAt: { host: string; port: number };
  let before0: Inventory;

  const helm = (...args: string[]) => helmDone([...args, "-n", SYSTEM], plane.userConfig(), tool);

  /** The operator as the chart starts it; only its ports are others, and how it reaches the API server. */
  async function startOperator(name = "outrider-operator"): Promise<void> {
    const { spec } = (await plane.get<Deployment>(DEPLOYMENT.replace("outrider-operator", name)))!;
    const known = OPERATOR_OPTIONS.map(({ name }) => name);
    const args = spec.template.spec.containers[0]!.args.filter((arg) => {
      const option = /^--([a-z-]+)=/.exec(arg)?.[1];
      // The webhook has a replica of its own here where the operator does not serve it.
      return option === undefined || known.includes(option) || !/^(webhook|owner)/.test(option);
    });
    const [health, metricsPort, webhook] = [await freePort(), await freePort(), await freePort()];
    metrics = `http://127.0.0.1:${metricsPort}/metrics`;
    const here: Record<string, number> = { webhook, health, metrics: metricsPort };
    const placed = args.map((arg) =>
      arg.replace(/^--(webhook|health|metrics)=.*/, (_, option) => `--${option}=127.0.0.1:${here[option]}`),
    );
    const config = await plane.accountConfig(SYSTEM, name);
    const log0 = join(plane.folder, `operator-${health}.log`);
    operator = new Program("operator", [OUTRIDER, ...placed, `--kubeconfig=${config}`], log0, inheritedEnv());
    operator.start();
    const log = () => readFileSync(operator!.log, "utf8");
    for (const began = Date.now(); !log().includes("leading: policies are reconciled"); ) {
      if (!operator.running) throw new Error(`the operator ended with ${operator.exitCode}: ${log()}`);
      if (Date.now() - began > LEADS_MS) throw new Error(`the operator does not lead: ${log()}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /** A webhook as the chart's account, at its Service's address, with the chart's Deployment as the owner of its Secret. */
  async function startWebhook(): Promise<void> {
    const { spec } = (await plane.get<{ spec: { clusterIP: string } }>(SERVICE))!;
    const config = await plane.accountConfig(SYSTEM, "outrider-operator");
    const client = new Client(configFrom(config));
    const owner = await readOwner(client, SYSTEM, "outrider-operator");
    client.close();
    webhookAt = { host: spec.clusterIP, port: 443 };
    replica = await startReplica({ config, owner, names: [`outrider-webhook.${SYSTEM}.svc`], listen: webhookAt });
    const isWritten = (found: Configuration | undefined) => found?.webhooks[0]?.clientConfig.caBundle !== undefined;
    await plane.until<Configuration>(CONFIGURATION, isWritten, "caBundle is written");
  }

  /** Objects of the release, from helm. */
  async function ofRelease(): Promise<Inventory> {
    const manifest = await helm("get", "manifest", "outrider");
    const names = await plane.kubectl(["get", "-f", "-", "-o", "json"], manifest);
    assert.equal(names.status, 0, names.stderr);
    const { items } = JSON.parse(names.stdout) as { items: (Meta & { kind: string; metadata: { name: string } })[] };
    return new Map(
      items.map(({ kind, metadata }) => [
        `${kind} ${metadata.name}`,
        // Where there is a generation, controllers write a status.
        { uid: metadata.uid, version: `${metadata.generation ?? metadata.resourceVersion}` },
      ]),
    );
  }

  const proxyIds = () => fleet.pods.map(({ metadata }) => metadata.uid).sort();

  /** How many proxies answer that they are ready. */
  async function readyProxies(): Promise<number> {
    const answers = await Promise.all(fleet.pods.map(({ status }) => fetch(`http://${status!.podIP}:9750/readyz`)));
    return answers.filter(({ status }) => status === 200).length;
  }

  /** A chart of before: its CRD lacks the short name. */
  const chartWithoutShortName = () => olderChart(["files/egresspolicies.yaml", "    shortNames: [egpol]\n", ""]);

  before(async () => {
    if (skip) return;
    plane = await startControlPlane({ ...PLANE, realProxies: true, audit: true });
    await makeNamespace(plane, NS);
    await makeNamespace(plane, SYSTEM);
    for (const namespace of [NS, SYSTEM]) {
      const path = `/api/v1/namespaces/${namespace}/serviceaccounts/default`;
      await plane.until(path, (found) => found !== undefined, "the default ServiceAccount");
    }
    before0 = await inventory(plane);
    fleet = new FleetRunner(plane);
    fleet.start();
  }, BOOT);
  after(async () => {
    if (skip) return;
    await replica?.stop();
    await operator?.stop();
    await fleet.stop();
    await plane.stop();
  });

  test("the chart's rights are sufficient for a running fleet", {
    skip,
    timeout: 180_000,
  }, async () => {
    const notes = await helm("install", "outrider", chartWithoutShortName(), "--wait", "--timeout=60s");
    // A shell has to recognize the end of the pasted manifest.
    const pasted = /^kubectl create namespace[\s\S]*^kubectl wait egpol.*$/m.exec(notes)![0];
    const shown = spawnSync("bash", ["-c", `kubectl() { echo "$*"; [ "$1" != apply ] || cat; }\n${pasted}`], {
      encoding: "utf8",
    });
    assert.equal(shown.stderr, "");
    assert.match(
      shown.stdout,
      /^create namespace convoy\napply -f -\napiVersion: [\s\S]*\n {2}preset: Convoy\nwait egpol\/webhooks -n convoy/,
    );
    assert.match(
      notes,
      /kubectl delete egresspolicies\.egress\.outrider\.dev -A --all\n[\s\S]*helm uninstall outrider/,
    );
    await startOperator();
    await startWebhook();
    await applyPolicy(plane, NS, "webhooks", { deny: [{ hosts: ["*.competitor.example"] }] });
    await untilCondition(plane, NS, "webhooks", "Ready", "True");
    assert.equal(await readyProxies(), 2);
  });

  test("injects only pods that name the policy", { skip }, async () => {
    // The API server uses the Service, and so its name in the certificate.
    const create = () => createPod(plane, NS, podOf("covered", { annotation: "webhooks" }));
    let covered = await create();
    // It reads the caBundle a moment after it was written; until then it refuses.
    await replica!.until("the API server trusts the webhook", async () => {
      if (covered.status === 500 && /certificate/.test(covered.body.message ?? "")) covered = await create();
      return covered.status !== 500;
    });
    assert.equal(covered.status, 201, JSON.stringify(covered.body));
    assert.match(proxyOf(covered)!, /^http:\/\/webhooks-egress\.convoy\.svc/);
    const other = await createPod(plane, NS, podOf("other"));
    assert.equal(proxyOf(other), undefined);
    for (const name of ["covered", "other"]) {
      await plane.delete(`/api/v1/namespaces/${NS}/pods/${name}?gracePeriodSeconds=0`);
    }
  });

  test("helm test passes only if the API server trusts the webhook", { skip, timeout: 120_000 }, async () => {
    const hook = await hookOf(plane, await helm("get", "hooks", "outrider"), "test");
    const run = (more: NodeJS.ProcessEnv) =>
      hook.run({ METRICS_URL: metrics, WEBHOOK_HOST: webhookAt.host, PATIENCE_MS: "1000", ...more });
    const good = await run({});
    assert.equal(good.status, 0, good.stderr);
    assert.match(
      good.stdout,
      /an operator answers and watches 1 policies\n127\.[\d.]+:443 accepts connections\nthe API server calls the webhook and/,
    );
    const wrong = await run({ METRICS_URL: metrics.replace("/metrics", "/nothing") });
    assert.notEqual(wrong.status, 0);
    const off = await run({ PROBE_NAMESPACE: SYSTEM });
    assert.match(off.stderr, /403/, "the hook has rights in the probe's namespace only");
    await replica!.stop();
    const untrusted = await run({ WEBHOOK_HOST: "127.0.0.1", WEBHOOK_PORT: new URL(metrics).port });
    assert.notEqual(untrusted.status, 0);
    assert.match(untrusted.stderr, /failed calling webhook/);
    await hook.remove();
    await startWebhook();
  });

  test("helm upgrade upgrades the CRD and changes nothing else", { skip, timeout: 120_000 }, async () => {
    const proxies = proxyIds();
    const [crd, deployment] = [await plane.get<Meta>(CRD), await plane.get<Deployment>(DEPLOYMENT)];
    await helm("upgrade", "outrider", CHART, "--wait", "--timeout=60s");
    const { stdout } = await plane.kubectl([
      "get",
      "crd",
      "egresspolicies.egress.outrider.dev",
      "-o",
      "jsonpath={.spec.names.shortNames}",
    ]);
    assert.equal(stdout, '["egpol"]');
    assert.equal((await plane.get<Meta>(CRD))!.metadata.uid, crd!.metadata.uid);
    const upgraded = await plane.get<Deployment>(DEPLOYMENT);
    // A new version of the chart with the same program rolls no pod.
    assert.deepEqual(upgraded!.spec.template, deployment!.spec.template);
    await untilCondition(plane, NS, "webhooks", "Ready", "True");

    const first = await ofRelease();
    await helm("upgrade", "outrider", CHART, "--wait", "--timeout=60s");
    const second = await ofRelease();
    assert.ok(first.size > 15);
    assert.deepEqual(second, first);
    assert.deepEqual(proxyIds(), proxies);
  });

  test("helm upgrade keeps caBundle, Lease and fleets", {
    skip,
    timeout: 120_000,
  }, async () => {
    const bundle = (await plane.get<Configuration>(CONFIGURATION))!.webhooks[0]!.clientConfig.caBundle;
    const proxies = proxyIds();
    const first = await ofRelease();
    await helm(
      "upgrade",
      "outrider",
      CHART,
      "--set=logLevel=debug,webhook.timeoutSeconds=7",
      "--wait",
      "--timeout=60s",
    );
    const second = await ofRelease();
    const changed = [...second].filter(([key, { version }]) => first.get(key)?.version !== version).map(([key]) => key);
    assert.deepEqual(changed.sort(), ["Deployment outrider-operator", "MutatingWebhookConfiguration outrider-webhook"]);
    const configuration = (await plane.get<Configuration & { webhooks: { timeoutSeconds: number }[] }>(CONFIGURATION))!;
    assert.equal(configuration.webhooks[0]!.timeoutSeconds, 7);
    assert.equal(configuration.webhooks[0]!.clientConfig.caBundle, bundle);
    const lease = await plane.get<{ spec: { holderIdentity?: string } }>(LEASE);
    assert.ok(lease!.spec.holderIdentity);
    assert.deepEqual(proxyIds(), proxies);
    await untilCondition(plane, NS, "webhooks", "Ready", "True");
  });

  test("an upgrade to mounted certificates keeps the authority of old operators", {
    skip,
    timeout: 120_000,
  }, async () => {
    const written = async () => (await plane.get<Configuration>(CONFIGURATION))!.webhooks[0]!.clientConfig.caBundle;
    const own = await written();
    await helm(
      "upgrade",
      "outrider",
      CHART,
      "--set=webhook.certificates.source=Secret,webhook.certificates.secretName=mine",
    );
    await new Promise((resolve) => setTimeout(resolve, UNTOUCHED_MS));
    assert.equal(await written(), own, "the operator of before neither loses nor rewrites it");
    const covered = await createPod(plane, NS, podOf("during", { annotation: "webhooks" }), "?dryRun=All");
    assert.equal(covered.status, 201, covered.body.message);
    await helm("upgrade", "outrider", CHART, "--set=logLevel=debug", "--wait", "--timeout=60s");
    assert.equal(await written(), own);
  });

  /** Nothing was refused to an account for want of rights. */
  function assertRights(account: string): void {
    const own = plane.audit().filter(({ user }) => user === `system:serviceaccount:${SYSTEM}:${account}`);
    assert.ok(own.length > 20, `${own.length} requests`);
    assert.deepEqual(
      own.filter(({ code }) => code === 403),
      [],
    );
  }

  test("no request was rejected for missing rights", { skip }, () => assertRights("outrider-operator"));

  test("helm uninstall keeps only the CRD with its guard, policies and fleets", {
    skip,
    timeout: 120_000,
  }, async () => {
    const secret = await plane.get<Meta>(SECRET);
    const deployment = await plane.get<Meta>(DEPLOYMENT);
    assert.deepEqual(
      secret!.metadata.ownerReferences?.map(({ uid }) => uid),
      [deployment!.metadata.uid],
    );
    const lease = await plane.get<Meta>(LEASE);
    assert.deepEqual(
      lease!.metadata.ownerReferences?.map(({ uid }) => uid),
      [deployment!.metadata.uid],
    );
    const proxies = proxyIds();
    await replica!.stop();
    replica = undefined;
    await operator!.stop();
    operator = undefined;
    const said = await helm("uninstall", "outrider", "--wait", "--timeout=60s");
    assert.match(said, /\[CustomResourceDefinition\] egresspolicies\.egress\.outrider\.dev/);
    const gone = (found: unknown) => found === undefined;
    // Garbage collection deletes what the operator has created: Secret and Lease.
    const edits = CONFIGURATION.replace("mutating", "validating");
    for (const path of [DEPLOYMENT, CONFIGURATION, edits, SECRET, LEASE])
      await plane.until(path, gone, `${path} is gone`);
    // Garbage collection follows.
    const list = `/api/v1/namespaces/${SYSTEM}/pods`;
    await plane.until<{ items: unknown[] }>(list, (found) => found?.items.length === 0, "the operator's pods are gone");
    const left = without(await inventory(plane), before0);
    const service = await plane.get<{ spec: { clusterIP: string } }>(
      `/api/v1/namespaces/${NS}/services/webhooks-egress`,
    );
    const fleetKinds =
      /^(ConfigMap outrider-system\/egresspolicy-|(ConfigMap|Deployment|Endpoints|EndpointSlice|EgressPolicy|NetworkPolicy|Pod|PodDisruptionBudget|ReplicaSet|Service|ServiceAccount) convoy\/webhooks)/;
    assert.deepEqual(
      left.filter((key) => !fleetKinds.test(key) && key !== `IPAddress ${service!.spec.clusterIP}`),
      // The API server makes an APIService of each group that a CRD has.
      [
        "APIService v1alpha1.egress.outrider.dev",
        "CustomResourceDefinition egresspolicies.egress.outrider.dev",
        "ValidatingAdmissionPolicy outrider-crd-guard",
        "ValidatingAdmissionPolicyBinding outrider-crd-guard",
      ],
    );
    const { uid } = (await plane.get<Meta>(policyPath(NS, "webhooks")))!.metadata;
    assert.ok(
      left.includes(`ConfigMap ${SYSTEM}/egresspolicy-${uid}`),
      "its record is kept, for the next installation",
    );
    assert.ok(left.includes("EgressPolicy convoy/webhooks"));
    assert.deepEqual(proxyIds(), proxies);
    assert.equal(await readyProxies(), 2);
  });

  test("another release name needs --take-ownership for the CRD", { skip }, async () => {
    const elsewhere = ["install", "second", CHART, "-n", "elsewhere", "--create-namespace", "--dry-run=server"];
    const config = plane.userConfig();
    await assert.rejects(helmDone(elsewhere, config, tool), /invalid ownership metadata/);
    await helmDone([...elsewhere, "--take-ownership"], config, tool);
    await helmDone([...elsewhere, "--set=crds.enabled=false"], config, tool);
  });

  test("a new install adopts policies without changing proxies", {
    skip,
    timeout: 180_000,
  }, async () => {
    const proxies = proxyIds();
    const policy = await plane.get<Meta>(policyPath(NS, "webhooks"));
    await helm("install", "outrider", CHART, "--wait", "--timeout=60s", "--set=webhook.enabled=false");
    await startOperator();
    await untilCondition(plane, NS, "webhooks", "Ready", "True");
    assert.deepEqual(proxyIds(), proxies);
    assert.equal((await plane.get<Meta>(policyPath(NS, "webhooks")))!.metadata.uid, policy!.metadata.uid);
  });

  test("removal as in the notes deletes everything", { skip, timeout: 180_000 }, async () => {
    const notes = await helm("get", "notes", "outrider");
    const commands = [...notes.matchAll(/^ {2}((?:kubectl (?:delete|wait [a-z]+,)|helm uninstall).*)$/gm)].map(
      ([, line]) => line!,
    );
    assert.deepEqual(
      commands.map((line) => line.split(" ").slice(0, 2).join(" ")),
      ["kubectl delete", "kubectl wait", "helm uninstall", "kubectl delete", "kubectl delete"],
    );
    for (const line of commands) {
      const [program, ...args] = line.split(" ");
      if (program === "helm") {
        await operator!.stop();
        operator = undefined;
        await helm(...args.slice(0, 2), "--wait", "--timeout=60s");
        continue;
      }
      const { status, stderr } = await plane.kubectl(args);
      assert.equal(status, 0, `${line}: ${stderr}`);
    }
    for (const began = Date.now(); ; ) {
      const left = without(await inventory(plane), before0);
      if (left.length === 0) return;
      if (Date.now() - began > GONE_MS) assert.deepEqual(left, []);
    }
  });

  test("an operator of one team needs rights in its namespaces only", {
    skip,
    timeout: 180_000,
  }, async () => {
    const values = new URL("values/namespaced.yaml", import.meta.url).pathname;
    await makeNamespace(plane, "svix");
    await helm(
      "install",
      "outrider",
      CHART,
      `--values=${values}`,
      "--set=crds.enabled=true,monitoring.podMonitor.enabled=false",
      "--wait",
      "--timeout=60s",
    );
    const may = async (verb: string, namespace: string) => {
      const as = `--as=system:serviceaccount:${SYSTEM}:team-egress-operator`;
      return (await plane.kubectl(["auth", "can-i", verb, "configmaps", "-n", namespace, as])).stdout.trim();
    };
    assert.deepEqual(
      [await may("create", "svix"), await may("list", SYSTEM), await may("list", "default")],
      // Its own namespace has the records of policies.
      ["yes", "yes", "no"],
    );
    await startOperator("team-egress-operator");
    await applyPolicy(plane, "svix", "webhooks", { preset: "Svix" });
    await untilCondition(plane, "svix", "webhooks", "Ready", "True");
    assertRights("team-egress-operator");
  });
}
