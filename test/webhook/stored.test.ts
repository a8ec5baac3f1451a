import assert from "node:assert/strict";
import { once } from "node:events";
import { globSync, readFileSync } from "node:fs";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { parseAllDocuments } from "yaml";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import type { Container } from "../../operator/injection/pod.ts";
import { markerOf } from "../../operator/injection/variables.ts";
import type { KubeObject } from "../../operator/kube/resource.ts";
import { covers } from "../../operator/reconcile/objects/compare.ts";
import { BOOT, controlPlaneMissing } from "../cluster/control-plane.ts";
import { freePort } from "../cluster/processes.ts";
import { targetOf } from "../injection/policies.ts";
import { applyPolicy, policyPath } from "../operator/operator.ts";
import { type Stage, startStage } from "../operator/stage.ts";
import { installWebhook, untilAdmitting } from "./installed.ts";

/** Creates every golden pod on a real API server, which calls a real operator, and compares the stored pod. */

const skip = controlPlaneMissing({ controllers: true }) ?? false;
const NS = "convoy";
const root = new URL("../injection/golden/", import.meta.url).pathname;
const MARKER = "egress.outrider.dev/injected";
const INIT_CONTAINERS = "egress.outrider.dev/init-containers";
const ADDED = "test.example/added-later";

/** Policies that the API server does not take, or addresses that it does not have: shown by the pure tests alone. */
const ELSEWHERE = [
  ...["svix-basic-without-address.yaml", "svix-ipv6.yaml", "java-bare.yaml"],
  // Only a kubelet may create it: admission.test.ts plays one.
  "mirror-pod.yaml",
];

/** The API server rejects it, since the key of its Secret is not valid. */
const INVALID = "basic-client-invalid.yaml";

interface Golden {
  policy: Record<string, unknown>;
  namespaceLabels?: Record<string, string>;
  clusterIP?: string;
  pod: KubeObject;
  addedLater?: Container;
}
interface Expected {
  asksFor: string | null;
  warnings?: string[];
  stored?: KubeObject;
}

let plane: Stage["plane"];
let other: Server;

/** Another webhook, behind ours by its name, that puts a container in front of a pod's. */
async function startOther(): Promise<void> {
  const { key, cert } = plane.authority.issue("other", "/CN=other", ["IP:127.0.0.1"]);
  other = createServer({ key: readFileSync(key), cert: readFileSync(cert) }, (request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      const review = JSON.parse(Buffer.concat(chunks).toString()) as { request: { uid: string; object: KubeObject } };
      const added = review.request.object.metadata.annotations?.[ADDED];
      const patch = [{ op: "add", path: "/spec/containers/0", value: JSON.parse(added ?? "null") as unknown }];
      const there = JSON.stringify(review.request.object).includes(
        `"name":"${(patch[0]!.value as { name?: string } | null)?.name}"`,
      );
      const wanted = added !== undefined && !there;
      const answer = {
        uid: review.request.uid,
        allowed: true,
        ...(wanted ? { patchType: "JSONPatch", patch: Buffer.from(JSON.stringify(patch)).toString("base64") } : {}),
      };
      response.end(JSON.stringify({ apiVersion: "admission.k8s.io/v1", kind: "AdmissionReview", response: answer }));
    });
  });
  other.listen(0, "127.0.0.1");
  await once(other, "listening");
  const url = `https://127.0.0.1:${(other.address() as AddressInfo).port}/`;
  const caBundle = readFileSync(plane.authority.file).toString("base64");
  await plane.apply("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/z-other", {
    apiVersion: "admissionregistration.k8s.io/v1",
    kind: "MutatingWebhookConfiguration",
    metadata: { name: "z-other" },
    webhooks: [
      {
        name: "other.test.example",
        clientConfig: { url, caBundle },
        rules: [{ operations: ["CREATE"], apiGroups: [""], apiVersions: ["v1"], resources: ["pods"] }],
        matchConditions: [
          {
            name: "asked",
            expression: `has(object.metadata.annotations) && '${ADDED}' in object.metadata.annotations`,
          },
        ],
        admissionReviewVersions: ["v1"],
        sideEffects: "None",
      },
    ],
  });
}

before(async () => {
  if (skip) return;
  const stage = await startStage({
    plane: { controllers: true },
    namespaces: [NS],
    operator: async (plane) => {
      const port = await freePort();
      await installWebhook(plane, port);
      return { args: [`--webhook=127.0.0.1:${port}`, "--webhook-names=127.0.0.1"] };
    },
  });
  plane = stage.plane;
  await untilAdmitting(plane, stage.operator, NS);
  await startOther();
}, BOOT);
after(() => other?.close());

/** Creates a pod; the answer, and what kubectl would print as warnings. */
function create(pod: object, dryRun: boolean) {
  return plane.request<KubeObject & { message?: string }>(
    "POST",
    `/api/v1/namespaces/${NS}/pods${dryRun ? "?dryRun=All" : ""}`,
    pod,
  );
}

const POLL_MS = 50;
const SETTLE_MS = 15_000;

/** The policy with this spec, once the operator's webhook works with it. `stored`: the pod as it will be. */
async function settled(golden: Golden, pod: object, stored: KubeObject | undefined) {
  await applyPolicy(plane, NS, "webhooks", golden.policy);
  const path = policyPath(NS, "webhooks");
  const seen = (policy: EgressPolicy | undefined) => {
    const ready = policy?.status?.observedGeneration === policy?.metadata.generation;
    return ready && policy?.status?.endpoint?.clusterIP !== undefined;
  };
  const policy = (await plane.until<EgressPolicy>(path, seen, "the operator has seen the policy"))!;
  const present = stored?.metadata.annotations?.[INIT_CONTAINERS]?.split(",");
  const marker = markerOf({ ...targetOf(golden.policy), policy }, present);
  // Its cache follows within milliseconds. A pod that requests no policy keeps the marker that it has.
  const injected = stored?.metadata.annotations?.[MARKER] !== undefined;
  const wanted = stored === undefined ? golden.pod.metadata.annotations?.[MARKER] : injected ? marker : undefined;
  let last = "";
  for (const began = Date.now(); Date.now() - began < SETTLE_MS; await sleep(POLL_MS)) {
    const { body } = await create(pod, true);
    if (body.metadata?.annotations?.[MARKER] === wanted) return { policy, marker };
    last = JSON.stringify(body.metadata ?? body);
  }
  return assert.fail(`a pod never gets the marker ${wanted}: ${last}`);
}

const files = globSync("*.yaml", { cwd: root }).sort();

test("the folder has golden pods, and those that are left out", () => {
  assert.ok(files.length > ELSEWHERE.length, `${files.length} files`);
  for (const file of ELSEWHERE) assert.ok(files.includes(file), file);
});

for (const file of files) {
  const [first, second] = parseAllDocuments(readFileSync(join(root, file), "utf8"));
  const golden = first!.toJS() as Golden & { about: string };
  const expected = second!.toJS() as Expected;
  if (ELSEWHERE.includes(file)) continue;
  test(`${file}: ${golden.about}`, { skip }, async () => {
    const labels = { ...golden.namespaceLabels };
    await plane.patch(`/api/v1/namespaces/${NS}`, {
      metadata: { labels: { "egress.outrider.dev/inject": null, ...labels } },
    });
    const { ephemeralContainers: _, ...spec } = (golden.pod as KubeObject & { spec: Record<string, unknown> }).spec;
    const annotations = {
      ...golden.pod.metadata.annotations,
      ...(golden.addedLater === undefined ? {} : { [ADDED]: JSON.stringify(golden.addedLater) }),
    };
    const { ownerReferences: __, ...metadata } = golden.pod.metadata;
    const pod = { apiVersion: "v1", kind: "Pod", metadata: { ...metadata, annotations }, spec };
    // A rejected pod has no metadata.
    const { policy, marker } = await settled(golden, pod, file === INVALID ? undefined : expected.stored);
    const { status, body } = await create(pod, false);
    if (file === INVALID) {
      assert.equal(status, 422, body.message);
      return;
    }
    assert.equal(status, 201, body.message);
    const path = `/api/v1/namespaces/${NS}/pods/${body.metadata.name}`;
    const stored = (await plane.get<KubeObject & { spec: object }>(path))!;
    await plane.delete(`${path}?gracePeriodSeconds=0`);
    if (expected.stored === undefined) {
      assert.equal(stored.metadata.labels?.[MARKER], golden.pod.metadata.labels?.[MARKER]);
      return;
    }
    const { clusterIP } = policy.status!.endpoint!;
    // The API server stores no empty value: there it is none.
    const text = JSON.stringify(expected.stored, (key, value: unknown) =>
      key === "value" && value === "" ? undefined : value,
    ).replaceAll(golden.clusterIP ?? clusterIP!, clusterIP!);
    const wanted = JSON.parse(text) as KubeObject & { spec: Record<string, unknown> };
    const { ephemeralContainers: ___, ...rest } = wanted.spec;
    const { ownerReferences: ____, ...meta } = wanted.metadata;
    // The address of the Service is part of the settings.
    if (golden.clusterIP !== undefined) meta.annotations![MARKER] = marker!;
    const whole = { metadata: meta, spec: rest };
    assert.ok(covers(stored, whole), `stored: ${JSON.stringify(stored.spec)}\nwanted: ${JSON.stringify(whole.spec)}`);
    const order = (object: unknown) =>
      (object as { spec: { containers: { env?: { name: string }[] }[] } }).spec.containers.map(({ env = [] }) =>
        env.map(({ name }) => name),
      );
    assert.deepEqual(order(stored), order(whole), "variables are in this order");
  });
}

test("rejects a pod whose client the policy does not list", { skip }, async () => {
  await plane.patch(`/api/v1/namespaces/${NS}`, { metadata: { labels: { "egress.outrider.dev/inject": null } } });
  const authentication = { mode: "Basic", secretRef: { name: "proxy-passwords" } };
  await applyPolicy(plane, NS, "webhooks", { authentication, clients: [{ name: "billing" }] });
  const podOf = (client: string) => ({
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      name: "client",
      annotations: { "egress.outrider.dev/policy": "webhooks", "egress.outrider.dev/client": client },
    },
    spec: { containers: [{ name: "agent", image: "app:1" }] },
  });
  let answer = await create(podOf("orders"), true);
  for (const began = Date.now(); answer.status === 201 && Date.now() - began < SETTLE_MS; await sleep(POLL_MS)) {
    answer = await create(podOf("orders"), true);
  }
  assert.equal(answer.status, 403, answer.body.message);
  assert.match(
    answer.body.message!,
    /denied the request: client "orders" is not in spec\.clients of EgressPolicy "webhooks", which has billing; correct egress\.outrider\.dev\/client of the pod template, or add the client$/,
  );
  assert.equal((await create(podOf("billing"), true)).status, 201);
});
