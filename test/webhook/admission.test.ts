import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { ANNOTATION, BUNDLE_SOURCE, LABEL } from "../../operator/api/names.ts";
import { BUNDLE_MANAGER } from "../../operator/webhook/certificates/bundle.ts";
import { BOOT, type ControlPlane, controlPlaneMissing } from "../cluster/control-plane.ts";
import { freePort, Program } from "../cluster/processes.ts";
import { makeNamespace } from "../operator/operator.ts";
import { type Balancer, shownBy } from "./balancer.ts";
import { startLoad } from "./load.ts";
import {
  CONFIGURATION_PATH,
  createPod,
  EDITS_PATH,
  installWebhook,
  makeSenders,
  podOf,
  proxyOf,
  type Replica,
  SYSTEM,
  until,
} from "./shared.ts";
import { type Configuration, countOf, PROXY, type Stage, startStage } from "./stage.ts";

const PER_SECOND = 20;
/** After a SIGTERM, until a Service leads no new connections there. */
const ENDPOINT_MS = 1000;

/** A caBundle that operators write would be another one by then: within a second they do. */
const UNTOUCHED_MS = 3000;

const skip = controlPlaneMissing({ controllers: true }) ?? false;
const onPlane = (name: string, run: () => Promise<void>) => test(name, { skip, timeout: 180_000 }, run);
let stage: Stage;
let plane: ControlPlane;
let balancer: Balancer;
before(async () => {
  if (skip) return;
  stage = await startStage();
  ({ plane, balancer } = stage);
}, BOOT);
after(async () => {
  if (!skip) await stage.stop();
});
const reviewsOf = async (all: readonly Replica[]) => {
  let sum = 0;
  for (const one of all) sum += await one.reviews();
  return sum;
};

onPlane("an outage of the webhook rejects only pods that opted in", async () => {
  assert.equal((await createPod(plane, "convoy", podOf("no-opt-in"))).status, 201);
  const fleet = { label: "webhooks", labels: { [LABEL.fleet]: "webhooks" } };
  assert.equal((await createPod(plane, "convoy", podOf("a-proxy", fleet))).status, 201);
  assert.equal((await createPod(plane, "convoy", podOf("asks-nothing", { annotation: "" }))).status, 201);
  for (const opt of [{ label: "webhooks" }, { annotation: "webhooks" }]) {
    const { status, body } = await createPod(plane, "convoy", podOf("early", opt));
    assert.equal(status, 500);
    assert.match(body.message!, /failed calling webhook "inject\.egress\.outrider\.dev"/);
  }
});

onPlane("reviews only pods with the label or annotation", async () => {
  await makeNamespace(plane, "disabled");
  await plane.patch("/api/v1/namespaces/disabled", { metadata: { labels: { [LABEL.inject]: "disabled" } } });
  await plane.until(
    "/api/v1/namespaces/disabled/serviceaccounts/default",
    (found) => found !== undefined,
    "the default ServiceAccount",
  );
  await stage.withReplicas([{}, {}], async (...all) => {
    const before = await reviewsOf(all);
    const kubeSystem = await createPod(plane, "kube-system", podOf("system", { label: "webhooks" }));
    const own = await createPod(plane, SYSTEM, podOf("own", { label: "webhooks" }));
    const off = await createPod(plane, "disabled", podOf("off", { label: "webhooks" }));
    const other = await createPod(plane, "convoy", podOf("other", { labels: { app: "x" } }));
    const proxy = await createPod(
      plane,
      "convoy",
      podOf("proxy", { label: "webhooks", labels: { [LABEL.fleet]: "webhooks" } }),
    );
    const none = await createPod(plane, "convoy", podOf("none", { annotation: "" }));
    // The annotation counts, and requests nothing.
    const taken = await createPod(plane, "convoy", podOf("taken-out", { label: "webhooks", annotation: "" }));
    for (const answer of [kubeSystem, own, off, other, proxy, none, taken]) {
      assert.deepEqual([answer.status, proxyOf(answer)], [201, undefined], answer.body.message);
    }
    assert.equal(await reviewsOf(all), before);
    const label = await createPod(plane, "convoy", podOf("by-label", { label: "webhooks" }));
    const annotation = await createPod(plane, "convoy", podOf("by-annotation", { annotation: "webhooks" }));
    assert.deepEqual([proxyOf(label), proxyOf(annotation)], [PROXY, PROXY]);
    assert.ok((await reviewsOf(all)) >= before + 2);
  });
});

onPlane("leaves a static pod unchanged", async () => {
  await stage.withReplicas([{}], async () => {
    type Pod = { metadata: { annotations: Record<string, string>; labels?: object }; spec: object };
    const made = podOf("static-a", { annotation: "webhooks" }) as Pod;
    const annotations = { ...made.metadata.annotations, "kubernetes.io/config.mirror": "5e1f" };
    const pod = { ...made, metadata: { ...made.metadata, annotations }, spec: { ...made.spec, nodeName: "a" } };
    const answer = await createPod(plane, "convoy", pod);
    assert.equal(answer.status, 201, answer.body.message);
    assert.equal(proxyOf(answer), undefined);
    const { metadata } = answer.body as unknown as Pod;
    assert.deepEqual([metadata.annotations, metadata.labels ?? {}], [annotations, {}]);
  });
});

onPlane("both replicas answer, with one certificate", async () => {
  await stage.withReplicas([{}, {}], async (...all) => {
    const before = await Promise.all(all.map((one) => one.reviews()));
    let turn = 0;
    await until("each was asked", async () => {
      balancer.reset();
      const answer = await createPod(plane, "convoy", podOf(`both-${turn++}`, { label: "webhooks" }));
      // A connection may be cut under a request.
      assert.ok(answer.status === 201 || answer.status === 500);
      const now = await Promise.all(all.map((one) => one.reviews()));
      return now.every((count, index) => count > before[index]!);
    });
    const leaf = await stage.secretText("tls.crt");
    for (const { port } of all) {
      assert.equal(await shownBy(port), leaf);
    }
    assert.equal(countOf(await stage.bundle()), 1);
  });
});

onPlane("rejects an unknown policy and finds a new one", async () => {
  await stage.withReplicas([{}], async () => {
    const { status, body } = await createPod(plane, "convoy", podOf("lost", { annotation: "webhoks" }));
    assert.equal(status, 403);
    assert.equal(
      body.message,
      'admission webhook "inject.egress.outrider.dev" denied the request: EgressPolicy "webhoks" does not exist in namespace "convoy"; create it there, or correct egress.outrider.dev/policy of the pod template',
    );
    await makeSenders(plane, "fresh");
    const answer = await createPod(plane, "fresh", podOf("at-once", { annotation: "webhooks" }));
    assert.deepEqual([answer.status, proxyOf(answer) !== undefined], [201, true]);
  });
});

onPlane("a dry run shows the injection without events", async () => {
  await stage.withReplicas([{}], async () => {
    type Events = { items: { involvedObject: { name: string } }[] };
    const eventsOf = async (name: string) =>
      (await plane.get<Events>("/api/v1/namespaces/convoy/events"))!.items.filter(
        ({ involvedObject }) => involvedObject.name === name,
      ).length;
    const dry = await createPod(plane, "convoy", podOf("dry", { annotation: "webhooks" }), "?dryRun=All");
    assert.equal(proxyOf(dry), PROXY);
    assert.equal((await createPod(plane, "convoy", podOf("wet", { annotation: "webhooks" }))).status, 201);
    await until("the event of the real one", async () => (await eventsOf("wet")) > 0);
    assert.equal(await eventsOf("dry"), 0);
    const { stderr, status } = await plane.kubectl(
      ["create", "-n", "convoy", "-f", "-"],
      JSON.stringify(podOf("by-hand", { annotation: "nothing-here" })),
    );
    assert.equal(status, 1);
    assert.match(stderr, /EgressPolicy "nothing-here" does not exist in namespace "convoy"; create it there/);
  });
});

onPlane("restores caBundle and owns no other field", async () => {
  await stage.withReplicas([{}, {}], async () => {
    const good = await stage.bundle();
    for (const path of [CONFIGURATION_PATH, EDITS_PATH]) {
      const { metadata, webhooks } = (await plane.get<Configuration>(path))!;
      const owned = metadata.managedFields.filter(({ manager }) => manager === BUNDLE_MANAGER);
      const entry = { ".": {}, "f:name": {}, "f:clientConfig": { "f:caBundle": {} } };
      const { name, clientConfig } = webhooks[0]!;
      assert.deepEqual(
        owned.map(({ fieldsV1 }) => fieldsV1),
        [{ "f:webhooks": { [`k:{"name":"${name}"}`]: entry } }],
      );
      assert.equal(Buffer.from(clientConfig.caBundle ?? "", "base64").toString(), good, path);
    }
    const other = readFileSync(plane.authority.file).toString("base64");
    for (const value of ["", other]) {
      await stage.setBundle(value);
      const began = Date.now();
      await until("it is repaired", async () => (await stage.bundle()) === good);
      process.stderr.write(`caBundle repaired after ${Date.now() - began} ms\n`);
    }
    await stage.untilAdmitted(true);
    // The field is kept when its other manager applies the object again, as an upgrade of the chart does.
    await installWebhook(plane, balancer.port);
    assert.equal(await stage.bundle(), good);
  });
});

onPlane("keeps a given caBundle until it is no longer given", async () => {
  await stage.withReplicas([{}, {}], async () => {
    const good = await stage.bundle();
    const other = readFileSync(plane.authority.file).toString("base64");
    const path = `/metadata/annotations/${ANNOTATION.caBundle.replace("/", "~1")}`;
    const send = async (patch: object[]) => {
      const type = { "content-type": "application/json-patch+json" };
      const { status, body } = await plane.request("PATCH", CONFIGURATION_PATH, patch, type);
      assert.equal(status, 200, JSON.stringify(body));
    };
    // In one write, as an upgrade of the chart does.
    await send([
      { op: "add", path: "/metadata/annotations", value: { [ANNOTATION.caBundle]: BUNDLE_SOURCE.given } },
      { op: "replace", path: "/webhooks/0/clientConfig/caBundle", value: other },
    ]);
    await new Promise((resolve) => setTimeout(resolve, UNTOUCHED_MS));
    assert.equal(Buffer.from(await stage.bundle()).toString("base64"), other);
    await send([{ op: "remove", path }]);
    await until("it is the operator's again", async () => (await stage.bundle()) === good);
  });
});

onPlane("does not create a deleted configuration again", async () => {
  await stage.withReplicas([{}], async () => {
    await plane.delete(CONFIGURATION_PATH);
    assert.equal(await plane.get(CONFIGURATION_PATH), undefined);
    await installWebhook(plane, balancer.port);
    await until("caBundle is there", async () => (await stage.bundle()) !== "");
    await stage.untilAdmitted();
  });
});

onPlane(`replicas are replaced one by one under ${PER_SECOND} pods a second: none fails, none is missed`, async () => {
  const script = new URL("program.ts", import.meta.url).pathname;
  const programs: { program: Program; port: number }[] = [];
  const begin = async () => {
    const port = await freePort();
    const program = new Program(
      "webhook",
      [process.execPath, script, stage.config, String(port)],
      join(plane.folder, `webhook-${port}.log`),
    );
    program.start();
    await until("it is ready", () => {
      assert.ok(program.running, program.tail);
      return program.tail.includes("ready");
    });
    balancer.endpoints.add(port);
    programs.push({ program, port });
  };
  await begin();
  await begin();
  await stage.untilAdmitted(true);
  await makeSenders(plane, "rolling");
  const load = startLoad(plane, "rolling", PER_SECOND);
  for (const { program, port } of [...programs]) {
    await begin();
    program.signal("SIGTERM");
    await new Promise((resolve) => setTimeout(resolve, ENDPOINT_MS));
    balancer.endpoints.delete(port);
    await program.ended();
    assert.equal(program.exitCode, 0, program.tail);
  }
  const { created, failures } = await load.stop();
  process.stderr.write(`${created} pods while both replicas were replaced\n`);
  assert.deepEqual(failures, []);
  for (const { program } of programs.slice(2)) await program.stop("SIGKILL");
});
