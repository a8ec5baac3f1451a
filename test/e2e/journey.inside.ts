import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { dirname } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import { FOUR, STATIC_IPS } from "../cluster/node/addresses.ts";
import type { Cluster } from "../cluster/node/cluster.ts";
import { Dials } from "../cluster/node/dials.ts";
import { IMAGE } from "../cluster/node/images.ts";
import { findTool } from "../cluster/tools.ts";
import { finish } from "../harness/finish.ts";
import { FIRST_REQUEST, kubernetesCommands } from "../harness/install-page.ts";
import { tempFolder } from "../harness/proxy.ts";
import { applyPolicy, conditionOf, policyPath, untilCondition } from "../operator/operator.ts";
import { deploySender, makePasswords, NS, RECEIVER_URL, SPEC, send, startStage, untilPods } from "./stage.ts";

/**
 * Install, apply and annotate on a real node (helm, kubectl), with the allowed and denied requests and their source
 * addresses.
 */

const FLEET = "egress.outrider.dev/fleet=webhooks";
const SERVICE = `/api/v1/namespaces/${NS}/services/webhooks-egress`;
const READY_MS = 60_000;
/** DNS answers are cached for some seconds at least. */
const REBOUND_MS = 30_000;
const SERVICE_MS = 5000;
const DEMO = "/api/v1/namespaces/outrider-demo";
/** The kubelet checks a missing Secret again after two minutes at most. */
const SECRET_MS = 150_000;
/** Much longer than needed; the measured time is printed. */
const EDIT_MS = 20_000;
const ASKS = { "egress.outrider.dev/policy": "webhooks" };
let cluster: Cluster;

before(async () => {
  cluster = await startStage();
});
after(() => cluster?.stop());

test("a policy becomes Ready once its proxies have proven the address", async () => {
  await applyPolicy(cluster.plane, NS, "webhooks", {
    ...SPEC,
    deny: [{ name: "competitors", hosts: ["*.competitor.example"] }],
  });
  await untilCondition(cluster.plane, NS, "webhooks", "Ready", "True", undefined, 60_000);
  const { stdout } = await cluster.plane.kubectl(["get", "egpol", "-n", NS]);
  assert.match(stdout, /webhooks +True +Enforce +External +203\.0\.113\.10 +1\/1 +2\/2/);
});

test("annotated pods of Convoy's shape deliver from the published address", async () => {
  for (const name of ["agent", "server"]) await deploySender(cluster, name, { annotations: ASKS });
  for (const name of ["agent", "server"]) {
    const [pod] = await untilPods(cluster, `app=${name}`, 1);
    const delivery = await send(pod!, RECEIVER_URL);
    assert.deepEqual([delivery.status, delivery.body, delivery.error], [200, `${STATIC_IPS[0]}\n`, undefined]);
  }
  assert.deepEqual([...new Set(cluster.internet.received().map(({ address }) => address))], [STATIC_IPS[0]]);
  const covered = (policy: EgressPolicy | undefined) => policy?.status?.summary?.workloads === "2/2";
  await cluster.plane.until(policyPath(NS, "webhooks"), covered, "2 of 2 pods are covered");
});

test("the sender's log has the reason of a refused delivery", async () => {
  const [pod] = await untilPods(cluster, "app=agent", 1);
  const refused = await send(pod!, "https://x.competitor.example/in");
  assert.equal(
    refused.error,
    'Post "https://x.competitor.example/in": egress-denied: x.competitor.example is denied by rule competitors; policy convoy/webhooks',
  );
  assert.deepEqual(
    cluster.internet.received().filter(({ host }) => host !== "hooks.example"),
    [],
  );
});

const METADATA = "169.254.169.254";

test("denies every internal target with its reason, without dialling", async () => {
  const { plane, nodes, internet } = cluster;
  const [sender] = await untilPods(cluster, "app=agent", 1);
  const [server] = await untilPods(cluster, "app=server", 1);
  const proxies = await untilPods(cluster, FLEET, 2);
  const [one, other] = proxies.map(({ status }) => status!.podIP!) as [string, string];
  const service = (await plane.get<{ spec: { clusterIP: string } }>(SERVICE))!.spec.clusterIP;
  const node = nodes[0]!.place.address;
  const pod = server!.status!.podIP!;
  execFileSync("ip", ["addr", "add", `${METADATA}/32`, "dev", "lo"]);
  internet.zone({
    "api.evil.example": [["10.96.0.1"]],
    "node.evil.example": [[node]],
    "metadata.evil.example": [[METADATA]],
    "pod.evil.example": [[pod]],
    "mapped.evil.example": [["::ffff:10.96.0.1"]],
    "both.evil.example": [[FOUR.receiver, node]],
    "rebinding.evil.example": [[FOUR.receiver], [node]],
  });
  const dials = new Dials([], [one, other]);
  const privately = (host: string) => `${host} is a private address (10.0.0.0/8)`;
  const resolves = (host: string) => `${host} resolves to a private address (10.0.0.0/8)`;
  const cases: [string, string][] = [
    ["https://10.96.0.1/", privately("10.96.0.1")],
    [`https://${node}:6443/`, privately(node)],
    [`https://${node}:10250/pods`, privately(node)],
    [`http://${pod}:8080/environment`, privately(pod)],
    [`http://${service}:9750/status`, privately(service)],
    [`http://${METADATA}/latest/meta-data/`, `${METADATA} is a cloud metadata address (${METADATA}/32)`],
    [`http://[::ffff:${METADATA}]/`, `${METADATA} is a cloud metadata address (${METADATA}/32)`],
    ["http://webhooks-egress.convoy.svc.cluster.local:4750/", resolves("webhooks-egress.convoy.svc.cluster.local")],
    ["https://kubernetes.default.svc.cluster.local/", resolves("kubernetes.default.svc.cluster.local")],
    ["https://api.evil.example/", resolves("api.evil.example")],
    ["http://node.evil.example:10250/pods", resolves("node.evil.example")],
    ["http://pod.evil.example:8080/environment", resolves("pod.evil.example")],
    ["http://metadata.evil.example/", `metadata.evil.example resolves to a cloud metadata address (${METADATA}/32)`],
    ["http://mapped.evil.example/", resolves("mapped.evil.example")],
  ];
  for (const [target, reason] of cases) {
    const { error, status, body } = await send(sender!, target);
    const said = `egress-denied: ${reason}; policy convoy/webhooks`;
    if (target.startsWith("https")) assert.equal(error, `Post "${target}": ${said}`);
    else assert.deepEqual([status, body], [403, `${said}\n`], target);
  }
  // Its own address or that of the other proxy, depending on which one gets the request.
  for (const address of [one, other]) {
    const { status, body } = await send(sender!, `http://${address}:9750/status`);
    const said = [privately(address), `${address} is this proxy itself`].map(
      (reason) => `egress-denied: ${reason}; policy convoy/webhooks\n`,
    );
    assert.ok(status === 403 && said.includes(body!), body);
  }
  // Only the public one of two addresses is dialled.
  const both = await send(sender!, "http://both.evil.example/");
  assert.equal(both.body, `${STATIC_IPS[0]}\n`);
  // First the receiver, and after the answer has expired, the node: it is vetted like the first.
  const first = await send(sender!, "http://rebinding.evil.example/");
  assert.equal(first.body, `${STATIC_IPS[0]}\n`);
  for (const began = Date.now(); ; await sleep(200)) {
    const later = await send(sender!, "http://rebinding.evil.example/");
    if (later.status === 403) {
      assert.equal(later.body, `egress-denied: ${resolves("rebinding.evil.example")}; policy convoy/webhooks\n`);
      break;
    }
    assert.equal(later.status, 200, later.error);
    assert.ok(Date.now() - began < REBOUND_MS, "the second answer was never asked for");
  }
  assert.deepEqual(dials.seen(), [`${FOUR.receiver}:80`, `${FOUR.echo}:80`]);
  dials.stop();
});

test("cidrs of an allow rule open one Service and no others", async () => {
  const { plane } = cluster;
  const [sender] = await untilPods(cluster, "app=agent", 1);
  await plane.apply(`/api/v1/namespaces/${NS}/services/orders`, {
    apiVersion: "v1",
    kind: "Service",
    metadata: { name: "orders", namespace: NS },
    spec: { selector: { app: "server" }, ports: [{ port: 8080 }] },
  });
  const host = "orders.convoy.svc.cluster.local";
  await applyPolicy(plane, NS, "webhooks", {
    ...SPEC,
    allow: [{ name: "orders", hosts: [host], cidrs: ["10.96.0.0/16"], ports: [8080] }],
  });
  await untilCondition(plane, NS, "webhooks", "PolicyDistributed", "True");
  const proxies = await untilPods(cluster, FLEET, 2);
  const dials = new Dials(
    [],
    proxies.map(({ status }) => status!.podIP!),
  );
  // A Service may refuse until kube-proxy has its rules.
  let opened = await send(sender!, `http://${host}:8080/environment`);
  for (const began = Date.now(); opened.status === 502 && Date.now() - began < SERVICE_MS; await sleep(100)) {
    opened = await send(sender!, `http://${host}:8080/environment`);
  }
  assert.equal(opened.status, 200, opened.body);
  assert.match(opened.body!, /HTTP_PROXY=http:\/\/webhooks-egress\.convoy\.svc/);
  const { spec } = (await plane.get<{ spec: { clusterIP: string } }>(`/api/v1/namespaces/${NS}/services/orders`))!;
  for (const target of [`http://${spec.clusterIP}:8080/`, "http://webhooks-egress.convoy.svc.cluster.local:8080/"]) {
    assert.equal((await send(sender!, target)).status, 403, target);
  }
  assert.deepEqual(
    dials.seen().filter((one) => !one.startsWith(FOUR.echo)),
    [`${spec.clusterIP}:8080`],
  );
  dials.stop();
});

test("an edit applies to every proxy and resets denied tunnels", async () => {
  const { plane } = cluster;
  const proxies = await untilPods(cluster, FLEET, 2);
  const addresses = proxies.map(({ status }) => status!.podIP!);
  const ms: number[] = [];
  for (let edit = 0; edit < 20; edit++) {
    const host = `edit-${edit}.example`;
    const began = Date.now();
    await applyPolicy(plane, NS, "webhooks", { ...SPEC, deny: [{ hosts: [host] }] });
    await Promise.all(
      addresses.map(async (address) => {
        // The name has no address: until it is denied, resolving it fails.
        while (!(await statusLine(address, `http://${host}/`)).includes("egress-denied")) {
          assert.ok(Date.now() - began < EDIT_MS, `edit ${edit} is not in force at ${address}`);
          await sleep(20);
        }
      }),
    );
    ms.push(Date.now() - began);
  }
  ms.sort((a, b) => a - b);
  console.log(`from an edit to decisions by it on all proxies: p50 ${ms[10]} ms, worst of 20 ${ms.at(-1)} ms`);

  const tunnel = connect(4750, addresses[0]!);
  tunnel.write(`CONNECT ${FOUR.receiver}:80 HTTP/1.1\r\nHost: ${FOUR.receiver}:80\r\n\r\n`);
  assert.match(`${(await once(tunnel, "data"))[0]}`, /^HTTP\/1\.1 200 /);
  await applyPolicy(plane, NS, "webhooks", { ...SPEC, deny: [{ cidrs: [`${FOUR.receiver}/32`] }] });
  await once(tunnel, "error", { signal: AbortSignal.timeout(EDIT_MS) }).then(([error]) =>
    assert.equal((error as NodeJS.ErrnoException).code, "ECONNRESET"),
  );
});

/** The first line of a proxy's answer to an absolute-form request. */
async function statusLine(proxy: string, url: string): Promise<string> {
  const socket = connect(4750, proxy);
  socket.write(`GET ${url} HTTP/1.1\r\nHost: ${new URL(url).host}\r\nConnection: close\r\n\r\n`);
  const [chunk] = (await once(socket, "data")) as [Buffer];
  socket.destroy();
  return `${chunk}`.split("\r\n")[0]!;
}

test("a stuck rolling update is not Ready and continues by itself", async () => {
  const { plane } = cluster;
  await applyPolicy(plane, NS, "webhooks", {
    ...SPEC,
    authentication: { mode: "Basic", secretRef: { name: "passwords" } },
  });
  const waits = (policy: EgressPolicy | undefined) =>
    conditionOf(policy, "Ready")?.message.endsWith(": ContainerCreating (needs Secret passwords)") ?? false;
  await plane.until(policyPath(NS, "webhooks"), waits, "Ready names the Secret", READY_MS);
  await sleep(3000);
  const policy = await plane.get<EgressPolicy>(policyPath(NS, "webhooks"));
  assert.equal(conditionOf(policy, "Ready")?.status, "False");
  assert.match(
    conditionOf(policy, "ProxyAvailable")!.message,
    /^2 of 2 proxies are available; 1 proxy has the new settings, 2 have the old ones; /,
  );
  await makePasswords(cluster);
  await untilCondition(plane, NS, "webhooks", "Ready", "True", undefined, SECRET_MS);
  await applyPolicy(plane, NS, "webhooks", SPEC);
  await untilCondition(plane, NS, "webhooks", "Ready", "True", undefined, READY_MS);
});

test("restarted senders use the new name of the policy", async () => {
  const { plane } = cluster;
  await applyPolicy(plane, NS, "others", { ...SPEC, proxy: { replicas: 1 } });
  await untilCondition(plane, NS, "others", "Ready", "True", undefined, READY_MS);
  await deploySender(cluster, "agent", { annotations: { "egress.outrider.dev/policy": "others" } });
  const injected = "app=agent,egress.outrider.dev/injected=others";
  const [pod] = await untilPods(cluster, injected, 1);
  const refused = await send(pod!, "http://10.96.0.1/");
  assert.match(refused.body!, /; policy convoy\/others$/m);
});

test("the commands of docs/install.md send the first request through a fleet", async () => {
  const { plane, internet } = cluster;
  const { apply, forward } = kubernetesCommands();
  const env = {
    ...{ PATH: `${dirname(await findTool("kubectl"))}:${process.env.PATH}`, HOME: tempFolder() },
    KUBECONFIG: plane.userConfig(),
  };
  const shell = (command: string) => finish(spawn("sh", ["-c", command], { env, stdio: ["ignore", "pipe", "pipe"] }));
  const applied = await shell(`set -e\n${apply}`);
  assert.equal(applied.status, 0, applied.stderr);
  const child = spawn("sh", ["-c", `exec ${forward}`], { env, stdio: ["ignore", "pipe", "inherit"] });
  try {
    const [line] = (await once(child.stdout, "data", { signal: AbortSignal.timeout(READY_MS) })) as [Buffer];
    assert.match(`${line}`, /^Forwarding from 127\.0\.0\.1:4750 -> 4750\n/);
    internet.zone({ "example.com": [[FOUR.receiver]] });
    // The receiver has no certificate for the name.
    const allowed = await shell(FIRST_REQUEST.allowed.replace("https:", "http:"));
    assert.equal(allowed.stdout, `${STATIC_IPS[0]}\n`, allowed.stderr);
    const denied = await shell(FIRST_REQUEST.denied);
    assert.equal(denied.stdout.trim(), `${FIRST_REQUEST.answer}demo/first`, denied.stderr);
  } finally {
    child.kill();
  }
  await plane.delete("/api/v1/namespaces/demo");
});

test("the echo server of examples/ runs with restricted Pod Security", async () => {
  const { plane } = cluster;
  const text = readFileSync(new URL("../../examples/echo/echo.yaml", import.meta.url), "utf8");
  await plane.applyYaml(text.replace(/image: \S+/, `image: ${IMAGE}`));
  const { status, stderr } = await plane.kubectl([
    "rollout",
    "status",
    "deployment/echo",
    "--namespace=outrider-echo",
    "--timeout=60s",
  ]);
  assert.equal(status, 0, stderr);
  const [sender] = await untilPods(cluster, "app=server", 1);
  const { spec } = (await plane.get<{ spec: { clusterIP: string } }>(
    "/api/v1/namespaces/outrider-echo/services/echo",
  ))!;
  // The pod sends directly, so its own address must be seen.
  const seen = await send(sender!, `http://${spec.clusterIP}/ip`);
  assert.equal(seen.status, 403, "through the proxy a ClusterIP is refused");
  await deploySender(cluster, "direct");
  const [direct] = await untilPods(cluster, "app=direct", 1);
  const answer = await send(direct!, `http://${spec.clusterIP}/ip`);
  assert.equal(answer.body, `${direct!.status!.podIP}\n`, answer.error);
  await plane.delete("/api/v1/namespaces/outrider-echo");
});

/** `make demo` on this cluster. */
function demo(more: Record<string, string> = {}) {
  const file = new URL("../cluster/demo.ts", import.meta.url).pathname;
  const own = { DEMO_CONTEXT: "test", DEMO_IMAGE: IMAGE, KUBECONFIG: cluster.plane.userConfig() };
  return spawn(process.execPath, [file], {
    env: { ...process.env, ...own, ...more },
    stdio: ["ignore", "pipe", "pipe"],
  });
}

test("make demo does not change an existing installation", async () => {
  const { plane } = cluster;
  const { status, stdout, stderr } = await finish(demo({ DEMO_EXIT: "1" }));
  assert.equal(status, 0, `${stdout}${stderr}`);
  assert.match(stdout, /^http:\/\/receiver\.outrider-demo\.svc\.cluster\.local\/ip +delivered +10\.244\.0\.\d+$/m);
  assert.equal([...stdout.matchAll(/^http\S+ +403 +egress-denied: /gm)].length, 4, stdout);
  const gone = (found: unknown) => found === undefined;
  await plane.until(DEMO, gone, "its namespace is gone", READY_MS);
  await untilCondition(plane, NS, "webhooks", "Ready", "True");
});

test("an interrupted make demo leaves nothing", async () => {
  const child = demo();
  const ended = finish(child);
  await cluster.plane.until(DEMO, (found) => found !== undefined, "its namespace is there", READY_MS);
  child.kill("SIGINT");
  const { status, stdout, stderr } = await ended;
  assert.equal(status, 0, `${stdout}${stderr}`);
  assert.doesNotMatch(stdout, /TARGET/);
  await cluster.plane.until(DEMO, (found) => found === undefined, "its namespace is gone", READY_MS);
});
