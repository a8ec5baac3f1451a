import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { connect } from "node:tls";
import { LABEL } from "../../operator/api/names.ts";
import { BUNDLE_MANAGER } from "../../operator/webhook/keeper.ts";
import { type ControlPlane, controlPlaneMissing, startControlPlane } from "../cluster/control-plane.ts";
import { freePort, Program } from "../cluster/processes.ts";
import { fastClock } from "../operator/kube/clocks.ts";
import { makeNamespace } from "../operator/operator.ts";
import { type Balancer, startBalancer } from "./balancer.ts";
import { startLoad } from "./load.ts";
import {
  CONFIGURATION_PATH,
  createPod,
  installWebhook,
  makeSenders,
  operatorConfig,
  podOf,
  proxyOf,
  type Replica,
  type ReplicaOptions,
  SECRET_PATH,
  SYSTEM,
  startReplica,
  until,
} from "./shared.ts";

/** How much faster waits of the webhook go: it looks every 3 s, and drains within 1.5 s. */
const SPEED = 10;
const PER_SECOND = 20;
/** After a SIGTERM, until a Service leads no new connections there. */
const ENDPOINT_MS = 1000;
const PROXY = "http://webhooks-egress.convoy.svc.cluster.local:4750";

const skip = controlPlaneMissing({ controllers: true }) ?? false;
const onPlane = (name: string, run: () => Promise<void>) => test(name, { skip }, run);
let plane: ControlPlane;
let balancer: Balancer;
let config: string;
const running = new Set<Replica>();

before(async () => {
  if (skip) return;
  plane = await startControlPlane({ controllers: true });
  balancer = await startBalancer();
  await installWebhook(plane, balancer.port);
  config = await operatorConfig(plane);
  await makeSenders(plane, "convoy");
});
after(async () => {
  if (skip) return;
  for (const one of running) await one.stop();
  await balancer.close();
  await plane.stop();
});

/** Starts replicas behind the balancer; they end with the test. */
async function withReplicas(options: Omit<ReplicaOptions, "config">[], run: (...all: Replica[]) => Promise<void>) {
  const all = await Promise.all(options.map((one) => startReplica({ clock: fastClock(SPEED), ...one, config })));
  for (const one of all) running.add(one);
  for (const one of all) await until("a certificate", () => one.ready);
  for (const { port } of all) balancer.endpoints.add(port);
  await until("the API server trusts it", async () => {
    return (await createPod(plane, "convoy", podOf("probe", { label: "webhooks" }), "?dryRun=All")).status === 201;
  });
  await run(...all);
  for (const one of all) {
    balancer.endpoints.delete(one.port);
    await one.stop();
    running.delete(one);
  }
}

interface Configuration {
  metadata: { managedFields: { manager: string; fieldsV1: object }[] };
  webhooks: { clientConfig: { caBundle?: string } }[];
}
interface Secret {
  metadata: { uid: string; ownerReferences?: { kind: string; name: string }[] };
  data: Record<string, string>;
}
const bundle = async () => {
  const text = (await plane.get<Configuration>(CONFIGURATION_PATH))!.webhooks[0]!.clientConfig.caBundle ?? "";
  return Buffer.from(text, "base64").toString();
};
const countOf = (pem: string) => pem.split("BEGIN CERTIFICATE").length - 1;
const secretText = async (key: string) =>
  Buffer.from((await plane.get<Secret>(SECRET_PATH))?.data[key] ?? "", "base64").toString();
const reviewsOf = async (all: readonly Replica[]) => {
  let sum = 0;
  for (const one of all) sum += await one.reviews();
  return sum;
};

onPlane("while the webhook is down only pods that opted in are refused, in their own words", async () => {
  assert.equal((await createPod(plane, "convoy", podOf("nobody"))).status, 201);
  const fleet = { label: "webhooks", labels: { [LABEL.fleet]: "webhooks" } };
  assert.equal((await createPod(plane, "convoy", podOf("a-proxy", fleet))).status, 201);
  for (const opt of [{ label: "webhooks" }, { annotation: "webhooks" }]) {
    const { status, body } = await createPod(plane, "convoy", podOf("early", opt));
    assert.equal(status, 500);
    assert.match(body.message!, /failed calling webhook "inject\.egress\.outrider\.dev"/);
  }
});

onPlane("label and annotation both lead to injection; whoever names no policy is never asked about", async () => {
  await makeNamespace(plane, "disabled");
  await plane.patch("/api/v1/namespaces/disabled", { metadata: { labels: { [LABEL.inject]: "disabled" } } });
  await plane.until(
    "/api/v1/namespaces/disabled/serviceaccounts/default",
    (found) => found !== undefined,
    "the default ServiceAccount",
  );
  await withReplicas([{}, {}], async (...all) => {
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
    for (const answer of [kubeSystem, own, off, other, proxy]) {
      assert.deepEqual([answer.status, proxyOf(answer)], [201, undefined], answer.body.message);
    }
    assert.equal(await reviewsOf(all), before);
    const label = await createPod(plane, "convoy", podOf("by-label", { label: "webhooks" }));
    const annotation = await createPod(plane, "convoy", podOf("by-annotation", { annotation: "webhooks" }));
    assert.deepEqual([proxyOf(label), proxyOf(annotation)], [PROXY, PROXY]);
    assert.ok((await reviewsOf(all)) >= before + 2);
  });
});

/** The certificate that a server shows. */
function shownBy(port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: "127.0.0.1", port, rejectUnauthorized: false }, () => {
      resolve(socket.getPeerX509Certificate()!.toString());
      socket.destroy();
    });
    socket.on("error", reject);
  });
}

onPlane("both replicas answer, with one certificate", async () => {
  await withReplicas([{}, {}], async (...all) => {
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
    const leaf = await secretText("tls.crt");
    for (const { port } of all) {
      assert.equal(await shownBy(port), leaf);
    }
    assert.equal(countOf(await bundle()), 1);
  });
});

onPlane("an unknown policy is refused with what to do; a policy made a moment ago is known", async () => {
  await withReplicas([{}], async () => {
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

onPlane("a dry run shows the injection and tells nobody", async () => {
  await withReplicas([{}], async () => {
    type Events = { items: { involvedObject: { name: string } }[] };
    const told = async (name: string) =>
      (await plane.get<Events>("/api/v1/namespaces/convoy/events"))!.items.filter(
        ({ involvedObject }) => involvedObject.name === name,
      ).length;
    const dry = await createPod(plane, "convoy", podOf("dry", { annotation: "webhooks" }), "?dryRun=All");
    assert.equal(proxyOf(dry), PROXY);
    assert.equal((await createPod(plane, "convoy", podOf("wet", { annotation: "webhooks" }))).status, 201);
    await until("the event of the real one", async () => (await told("wet")) > 0);
    assert.equal(await told("dry"), 0);
    const { stderr, status } = await plane.kubectl(
      ["create", "-n", "convoy", "-f", "-"],
      JSON.stringify(podOf("by-hand", { annotation: "nothing-here" })),
    );
    assert.equal(status, 1);
    assert.match(stderr, /EgressPolicy "nothing-here" does not exist in namespace "convoy"; create it there/);
  });
});

onPlane("the operator owns caBundle and nothing else; emptied or overwritten, it comes back", async () => {
  await withReplicas([{}, {}], async () => {
    const { metadata } = (await plane.get<Configuration>(CONFIGURATION_PATH))!;
    const owned = metadata.managedFields.filter(({ manager }) => manager === BUNDLE_MANAGER);
    assert.deepEqual(
      owned.map(({ fieldsV1 }) => fieldsV1),
      [
        {
          "f:webhooks": {
            'k:{"name":"inject.egress.outrider.dev"}': {
              ".": {},
              "f:name": {},
              "f:clientConfig": { "f:caBundle": {} },
            },
          },
        },
      ],
    );
    const good = await bundle();
    const path = "/webhooks/0/clientConfig/caBundle";
    const type = { "content-type": "application/json-patch+json" };
    const other = readFileSync(plane.authority.file).toString("base64");
    for (const value of ["", other]) {
      const { status } = await plane.request("PATCH", CONFIGURATION_PATH, [{ op: "replace", path, value }], type);
      assert.equal(status, 200);
      const began = Date.now();
      await until("it is repaired", async () => (await bundle()) === good);
      process.stderr.write(`caBundle repaired after ${Date.now() - began} ms\n`);
    }
    await until("the API server believes it", async () => {
      balancer.reset();
      return (await createPod(plane, "convoy", podOf("after", { label: "webhooks" }), "?dryRun=All")).status === 201;
    });
    // Applied anew by whoever owns the rest, as an upgrade of the chart does, it stays.
    await installWebhook(plane, balancer.port);
    assert.equal(await bundle(), good);
  });
});

onPlane("a configuration that is deleted is not made anew by half; installed again, it works again", async () => {
  await withReplicas([{}], async () => {
    await plane.delete(CONFIGURATION_PATH);
    assert.equal(await plane.get(CONFIGURATION_PATH), undefined);
    await installWebhook(plane, balancer.port);
    await until("caBundle is there", async () => (await bundle()) !== "");
    await until("pods are injected", async () => {
      const answer = await createPod(plane, "convoy", podOf("again", { label: "webhooks" }), "?dryRun=All");
      return proxyOf(answer) === PROXY;
    });
  });
});

onPlane(`replicas are replaced one by one under ${PER_SECOND} pods a second: none fails, none is missed`, async () => {
  const script = new URL("program.ts", import.meta.url).pathname;
  const programs: { program: Program; port: number }[] = [];
  const begin = async () => {
    const port = await freePort();
    const program = new Program(
      "webhook",
      [process.execPath, script, config, String(port)],
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
  await until("the API server trusts it", async () => {
    balancer.reset();
    return (await createPod(plane, "convoy", podOf("probe", { label: "webhooks" }), "?dryRun=All")).status === 201;
  });
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
