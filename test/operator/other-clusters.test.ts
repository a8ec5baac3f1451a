import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import type { V1PodSpec, V1PodTemplateSpec } from "@kubernetes/client-node";
import { parseAllDocuments } from "yaml";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import type { Deployment, Pod } from "../../operator/api/objects.ts";
import type { KubeObject } from "../../operator/kube/resource.ts";
import { BOOT, controlPlaneMissing, startControlPlane } from "../cluster/control-plane.ts";
import type { ControlPlane } from "../cluster/plane.ts";
import { EVERYTHING } from "../crds/everything.ts";
import {
  applyPolicy,
  conditionOf,
  install,
  makeNamespace,
  type Operator,
  policyPath,
  startOperator,
  untilCondition,
} from "./operator.ts";

/** Clusters that differ from the usual test cluster: nodes without zones, OpenShift, private registries. */

const NODES = 3;
const FLEETS = 10;
const skip = controlPlaneMissing({ kwokNodes: NODES }) ?? false;
const ROOT = new URL("../../", import.meta.url);
/** Namespace with the restrictions of OpenShift. */
const OPENSHIFT = "openshift-like";
let plane: ControlPlane;
let operator: Operator;

before(async () => {
  if (skip) return;
  plane = await startControlPlane({ kwokNodes: NODES, audit: true, install });
  const args = ["--proxy-image-pull-secrets=registry", "--proxy-image-pull-secrets=mirror.example"];
  operator = await startOperator(plane, { args });
  await operator.untilLeading();
}, BOOT);
after(async () => {
  if (skip) return;
  await operator?.stop("SIGKILL");
  await plane?.stop();
});

const deploymentPath = (ns: string, name: string) => `/apis/apps/v1/namespaces/${ns}/deployments/${name}-egress`;
type Placed = Pod & { spec: V1PodSpec };
type Stored = Deployment & { spec: { template: V1PodTemplateSpec } };

/** Waits until the newest settings of a fleet run, and returns the nodes of its proxies. */
async function nodesOf(ns: string, name: string, spec: object): Promise<string[]> {
  await applyPolicy(plane, ns, name, spec);
  await untilCondition(plane, ns, name, "ProxyAvailable", "True");
  const pods = `/api/v1/namespaces/${ns}/pods?labelSelector=egress.outrider.dev/fleet%3D${name}`;
  type List = { items: Placed[] };
  const running = ({ metadata, spec }: Placed) =>
    metadata.deletionTimestamp === undefined && spec.nodeName !== undefined;
  const found = await plane.until<List>(
    pods,
    (list) => list?.items.length === 2 && list.items.every(running),
    `two proxies of ${name}`,
  );
  return found!.items.map(({ spec }) => spec.nodeName!);
}

/** Nodes of ten fleets, first as created, then after a rolling update. */
async function placements(ns: string): Promise<string[][]> {
  await makeNamespace(plane, ns);
  const names = Array.from({ length: FLEETS }, (_, i) => `fleet-${i}`);
  const placed: string[][] = [];
  for (const edition of ["1", "2"]) {
    const spec = { proxy: { podAnnotations: { edition } } };
    placed.push(...(await Promise.all(names.map((name) => nodesOf(ns, name, spec)))));
  }
  return placed;
}

const shared = (placed: string[][]) => placed.filter(([one, other]) => one === other);

test("proxies of a fleet run on different nodes without zone labels", { skip, timeout: 180_000 }, async () => {
  const placed = await placements("without-zones");
  assert.deepEqual(shared(placed), [], JSON.stringify(placed));
});

test("operators of the chart run on different nodes", { skip, timeout: 180_000 }, async () => {
  const [[, template]] = templatesOf("test/chart/golden/default.yaml") as [[string, V1PodTemplateSpec]];
  const labels = { "app.kubernetes.io/name": "outrider-operator" };
  const path = "/apis/apps/v1/namespaces/outrider-system/deployments/operators";
  const placed: string[][] = [];
  for (let restart = 0; restart < 6; restart++) {
    const annotations = { ...template.metadata!.annotations, restart: `${restart}` };
    await plane.apply(path, {
      apiVersion: "apps/v1",
      kind: "Deployment",
      metadata: { name: "operators", namespace: "outrider-system" },
      spec: {
        replicas: 2,
        strategy: { type: "RollingUpdate", rollingUpdate: { maxUnavailable: 0, maxSurge: 1 } },
        selector: { matchLabels: labels },
        template: { ...template, metadata: { ...template.metadata, annotations } },
      },
    });
    const current = ({ metadata, spec }: Placed) =>
      metadata.annotations?.restart === `${restart}` && spec.nodeName !== undefined;
    const pods = "/api/v1/namespaces/outrider-system/pods?labelSelector=app.kubernetes.io/name%3Doutrider-operator";
    const found = await plane.until<{ items: Placed[] }>(
      pods,
      (list) => list?.items.length === 2 && list.items.every(current),
      `two operators after restart ${restart}`,
    );
    placed.push(found!.items.map(({ spec }) => spec.nodeName!));
  }
  assert.deepEqual(shared(placed), [], JSON.stringify(placed));
});

test("proxies of a fleet run in different zones where nodes have them", { skip, timeout: 180_000 }, async () => {
  const zones: Record<string, string> = { "node-0": "a", "node-1": "a", "node-2": "b" };
  for (const [node, zone] of Object.entries(zones)) {
    await plane.patch(`/api/v1/nodes/${node}`, { metadata: { labels: { "topology.kubernetes.io/zone": zone } } });
  }
  const placed = await placements("with-zones");
  assert.deepEqual(shared(placed), [], JSON.stringify(placed));
  assert.deepEqual(shared(placed.map((nodes) => nodes.map((node) => zones[node]!))), [], JSON.stringify(placed));
});

test("proxies get the pull secrets of the policy, or else of the operator", { skip }, async () => {
  const ns = "private-registry";
  await makeNamespace(plane, ns);
  const secretsOf = async (name: string, proxy: object) => {
    await applyPolicy(plane, ns, name, { proxy });
    await untilCondition(plane, ns, name, "ProxyAvailable", "True");
    const found = await plane.get<Stored>(deploymentPath(ns, name));
    return found!.spec.template.spec!.imagePullSecrets;
  };
  assert.deepEqual(await secretsOf("of-the-operator", {}), [{ name: "registry" }, { name: "mirror.example" }]);
  assert.deepEqual(await secretsOf("of-the-policy", { imagePullSecrets: [{ name: "own" }] }), [{ name: "own" }]);
  assert.equal(await secretsOf("none", { imagePullSecrets: [] }), undefined);
});

test("the API server takes every scheduling field, and the operator applies it once", { skip }, async () => {
  const ns = "scheduling";
  await makeNamespace(plane, ns);
  type Proxy = { affinity: object; topologySpreadConstraints: object[] };
  const { affinity, topologySpreadConstraints } = EVERYTHING[0]!.proxy as Proxy;
  await applyPolicy(plane, ns, "webhooks", { proxy: { affinity, topologySpreadConstraints } });
  await untilCondition(plane, ns, "webhooks", "Accepted", "True");
  const path = deploymentPath(ns, "webhooks");
  const stored = await plane.get<Stored>(path);
  const { spec } = stored!.spec.template;
  assert.deepEqual(spec!.affinity, affinity);
  assert.deepEqual(spec!.topologySpreadConstraints, topologySpreadConstraints);
  const applied = () => plane.audit().filter((line) => line.verb === "patch" && line.path.startsWith(path)).length;
  const before = applied();
  assert.ok(before > 0);
  const hosts = ["one.example", "two.example"];
  for (const host of hosts) {
    const deny = [{ hosts: [host] }];
    await applyPolicy(plane, ns, "webhooks", { deny, proxy: { affinity, topologySpreadConstraints } });
    // The status follows all writes of a reconcile.
    await untilCondition(plane, ns, "webhooks", "Accepted", "True");
  }
  // Only the label with the generation of the policy follows an edit. A template that is not as applied would be applied again.
  assert.equal(applied(), before + hosts.length);
  assert.equal((await plane.get<Stored>(path))!.metadata.generation, stored!.metadata.generation);
});

/** Rules of OpenShift's SCC restricted-v2 for users, host networks, capabilities and volumes (RunAsUser MustRunAsRange). */
const RESTRICTED = `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: { name: restricted-v2 }
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{ apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods] }]
  variables:
    - name: containers
      expression: >-
        object.spec.containers + (has(object.spec.initContainers) ? object.spec.initContainers : [])
  validations:
    - expression: >-
        !has(object.spec.securityContext) || !has(object.spec.securityContext.runAsUser) ||
        object.spec.securityContext.runAsUser >= 1000650000 && object.spec.securityContext.runAsUser <= 1000659999
      message: "spec.securityContext.runAsUser: must be in the ranges [1000650000, 1000659999]"
    - expression: >-
        variables.containers.all(c, !has(c.securityContext) || !has(c.securityContext.runAsUser) ||
        c.securityContext.runAsUser >= 1000650000 && c.securityContext.runAsUser <= 1000659999)
      message: "containers: runAsUser must be in the ranges [1000650000, 1000659999]"
    - expression: "!has(object.spec.hostNetwork) || !object.spec.hostNetwork"
      message: "spec.hostNetwork: host network is not allowed"
    - expression: "variables.containers.all(c, !has(c.ports) || c.ports.all(p, !has(p.hostPort)))"
      message: "containers: host ports are not allowed"
    - expression: >-
        variables.containers.all(c, has(c.securityContext) && has(c.securityContext.allowPrivilegeEscalation) &&
        !c.securityContext.allowPrivilegeEscalation && has(c.securityContext.capabilities) &&
        has(c.securityContext.capabilities.drop) && c.securityContext.capabilities.drop.exists(d, d == 'ALL') &&
        !has(c.securityContext.capabilities.add))
      message: "containers: privileges must be dropped"
    - expression: >-
        !has(object.spec.volumes) || object.spec.volumes.all(v, has(v.configMap) || has(v.secret) || has(v.emptyDir) ||
        has(v.projected) || has(v.downwardAPI) || has(v.csi) || has(v.ephemeral) || has(v.persistentVolumeClaim))
      message: "spec.volumes: hostPath is not allowed"
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: { name: restricted-v2 }
spec:
  policyName: restricted-v2
  validationActions: [Deny]
  matchResources:
    namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: ${OPENSHIFT} } }
`;

/** Answer of the API server to a pod of a template, in the restricted namespace. */
async function admitted(template: V1PodTemplateSpec): Promise<string> {
  const { labels, annotations } = template.metadata ?? {};
  const { serviceAccountName: _, ...spec } = template.spec!;
  const pod = { apiVersion: "v1", kind: "Pod", metadata: { name: "try", labels, annotations }, spec };
  const path = `/api/v1/namespaces/${OPENSHIFT}/pods?dryRun=All`;
  const { status, body } = await plane.request<{ message?: string }>("POST", path, pod);
  return status === 201 ? "admitted" : (body.message ?? `${status}`);
}

/** Pod templates of a file with manifests. */
function templatesOf(file: string): [string, V1PodTemplateSpec][] {
  const objects = parseAllDocuments(readFileSync(new URL(file, ROOT), "utf8")).map(
    (one) => one.toJS() as KubeObject | null,
  );
  return objects.flatMap((object) => {
    const { template } = (object as { spec?: { template?: V1PodTemplateSpec } } | null)?.spec ?? {};
    return template?.spec === undefined
      ? []
      : [[`${file} ${object!.metadata.name}`, template] as [string, V1PodTemplateSpec]];
  });
}

test("OpenShift's restricted-v2 admits proxies, operators and the examples", { skip }, async () => {
  await plane.apply(`/api/v1/namespaces/${OPENSHIFT}`, {
    apiVersion: "v1",
    kind: "Namespace",
    metadata: { name: OPENSHIFT, labels: { "pod-security.kubernetes.io/enforce": "restricted" } },
  });
  const account = `/api/v1/namespaces/${OPENSHIFT}/serviceaccounts/default`;
  await plane.until(account, (found) => found !== undefined, "the ServiceAccount of the namespace");
  await plane.applyYaml(RESTRICTED);
  await applyPolicy(plane, OPENSHIFT, "webhooks", {});
  await untilCondition(plane, OPENSHIFT, "webhooks", "ProxyAvailable", "True");
  const stored = await plane.get<Stored>(deploymentPath(OPENSHIFT, "webhooks"));
  const { template } = stored!.spec;
  // The rules are in force, and reject the template that has a user.
  const withUser = { ...template.spec!, securityContext: { ...template.spec!.securityContext, runAsUser: 65_532 } };
  const rejects = async () => /runAsUser: must be in the ranges/.test(await admitted({ ...template, spec: withUser }));
  for (const began = Date.now(); !(await rejects()); ) {
    if (Date.now() - began > 30_000) throw new Error("the rules are not in force");
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.equal(await admitted(template), "admitted");
  // With the rules in force, a rolling update creates the pods.
  await applyPolicy(plane, OPENSHIFT, "webhooks", { proxy: { podAnnotations: { edition: "2" } } });
  await untilCondition(plane, OPENSHIFT, "webhooks", "ProxyAvailable", "True");
  const files = ["examples/operator/operator.yaml", "examples/echo/echo.yaml", "test/chart/golden/default.yaml"];
  for (const file of files) {
    const templates = templatesOf(file);
    assert.ok(templates.length > 0, file);
    for (const [what, other] of templates) assert.equal(await admitted(other), "admitted", what);
  }
});

/** An admission plugin that overwrites a field of Deployments in namespaces with a label. */
const OVERWRITES = `
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: { name: overwrites }
spec:
  failurePolicy: Fail
  reinvocationPolicy: Never
  matchConstraints:
    resourceRules: [{ apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments] }]
  mutations:
    - patchType: JSONPatch
      jsonPatch:
        expression: '[JSONPatch{op: "replace", path: "/spec/template/spec/enableServiceLinks", value: true}]'
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: { name: overwrites }
spec:
  policyName: overwrites
  matchResources: { namespaceSelector: { matchLabels: { overwritten: "yes" } } }
`;

const ADMISSION = "/apis/admissionregistration.k8s.io/v1";

test("Programmed names a Deployment that an admission plugin changes", { skip, timeout: 120_000 }, async (t) => {
  const { body } = await plane.request<{ resources: { name: string }[] }>("GET", ADMISSION);
  if (!body.resources.some(({ name }) => name === "mutatingadmissionpolicies"))
    return t.skip("MutatingAdmissionPolicy is not in admissionregistration.k8s.io/v1: it needs Kubernetes 1.36");
  const ns = "overwritten";
  await makeNamespace(plane, ns);
  await plane.patch(`/api/v1/namespaces/${ns}`, { metadata: { labels: { overwritten: "yes" } } });
  await plane.applyYaml(OVERWRITES);
  await applyPolicy(plane, ns, "webhooks", {});
  await untilCondition(plane, ns, "webhooks", "ProxyAvailable", "True");
  const editUntil = async (wanted: RegExp) => {
    // The API server takes some time to enforce or drop the plugin.
    for (let edition = 0; edition < 40; edition++) {
      await applyPolicy(plane, ns, "webhooks", { proxy: { podAnnotations: { edition: `${wanted} ${edition}` } } });
      await untilCondition(plane, ns, "webhooks", "ProxyAvailable", "True");
      const found = conditionOf(await plane.get<EgressPolicy>(policyPath(ns, "webhooks")), "Programmed");
      if (found?.status === "True" && wanted.test(found.message)) return;
    }
    assert.fail(`Programmed never says ${wanted}`);
  };
  await editUntil(/^all objects .* applied; an admission plugin changes .*: Deployment webhooks-egress$/);
  for (const kind of ["mutatingadmissionpolicybindings", "mutatingadmissionpolicies"]) {
    await plane.delete(`${ADMISSION}/${kind}/overwrites`);
  }
  await editUntil(/^all objects of the policy are applied$/);
});

test("the port of the client Service is TCP for service meshes", { skip }, async () => {
  await makeNamespace(plane, "mesh");
  await applyPolicy(plane, "mesh", "webhooks", {});
  await untilCondition(plane, "mesh", "webhooks", "ProxyAvailable", "True");
  type Service = { spec: { ports: { appProtocol?: string }[] } };
  const service = await plane.get<Service>("/api/v1/namespaces/mesh/services/webhooks-egress");
  assert.deepEqual(
    service!.spec.ports.map(({ appProtocol }) => appProtocol),
    ["tcp"],
  );
});
