import assert from "node:assert/strict";
import { once } from "node:events";
import type { IncomingMessage } from "node:http";
import { Agent, request } from "node:https";
import { after, before, test } from "node:test";
import { connect, type TLSSocket } from "node:tls";
import pino from "pino";
import { Registry } from "prom-client";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import type { KubeObject } from "../../operator/kube/resource.ts";
import { AdmissionRefusal, type AdmitParts, admit } from "../../operator/webhook/admit.ts";
import { bundleOf, nextStep } from "../../operator/webhook/certificates/lifecycle.ts";
import { WebhookMetrics } from "../../operator/webhook/metrics.ts";
import { makeWebhook, type Webhook } from "../../operator/webhook/server.ts";
import { fastClock } from "../operator/kube/clocks.ts";
import { injectOne, optInByName } from "./injector.ts";

/** Speed-up of a drain. */
const SPEED = 10;
const moment = { now: Date.now(), names: ["127.0.0.1"], trusted: true };
const certificates = nextStep(undefined, undefined, moment)!.held;
const policy = {
  apiVersion: "egress.outrider.dev/v1alpha1",
  kind: "EgressPolicy",
  metadata: { name: "webhooks", namespace: "convoy" },
  spec: {},
} as EgressPolicy;

const recorded: { about: KubeObject; reason: string }[] = [];
const parts: AdmitParts = {
  lookup: (_, name) => {
    if (name === "broken") return Promise.reject(new Error("the API server is away"));
    if (name === "elsewhere") return Promise.reject(new AdmissionRefusal("not here"));
    const leaving = { ...policy, metadata: { ...policy.metadata, deletionTimestamp: "2026-01-01T00:00:00Z" } };
    return Promise.resolve(name === "webhooks" ? policy : name === "leaving" ? leaving : undefined);
  },
  optIn: optInByName,
  inject: injectOne,
  record: (about, { reason }) => recorded.push({ about, reason }),
  clusterDomain: "cluster.local",
};

const registry = new Registry();
const start = (metrics?: WebhookMetrics) =>
  makeWebhook(
    { host: "127.0.0.1", port: 0 },
    { ...parts, log: pino({ level: "silent" }), clock: fastClock(SPEED), metrics },
  );
const serve = (server: Webhook) => server.serve({ cert: certificates.leaf.pem, key: certificates.leafKey });
let webhook: Webhook;
const agent = new Agent({ keepAlive: true, ca: bundleOf(certificates) });
before(async () => {
  webhook = await start(new WebhookMetrics(registry));
  assert.equal(webhook.ready, false);
  serve(webhook);
  assert.equal(webhook.ready, true);
});
after(async () => {
  await webhook.drain();
  agent.destroy();
});

interface Given {
  method?: string;
  path?: string;
  type?: string;
  port?: number;
}
async function post(body: string | object, { method = "POST", path = "/inject", type, port }: Given = {}) {
  const outgoing = request({
    ...{ host: "127.0.0.1", port: port ?? webhook.port, method, path, agent },
    headers: { "content-type": type ?? "application/json" },
  });
  outgoing.end(typeof body === "string" ? body : JSON.stringify(body));
  const [response] = (await once(outgoing, "response")) as [IncomingMessage];
  let text = "";
  for await (const chunk of response) text += String(chunk);
  return { status: response.statusCode, text, headers: response.headers };
}

const pod = (annotation?: string, metadata: object = {}) => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: {
    generateName: "agent-",
    ...(annotation === undefined ? {} : { annotations: { "egress.outrider.dev/policy": annotation } }),
    ...metadata,
  },
  spec: { containers: [{ name: "app", env: [{ name: "HTTP_PROXY", value: "" }] }] },
});
const review = (object: unknown, more: object = {}) => ({
  apiVersion: "admission.k8s.io/v1",
  kind: "AdmissionReview",
  request: {
    uid: "u1",
    operation: "CREATE",
    resource: { group: "", version: "v1", resource: "pods" },
    namespace: "convoy",
    object,
    ...more,
  },
});
interface Response {
  uid: string;
  allowed: boolean;
  patch?: string;
  patchType?: string;
  warnings?: string[];
  status?: { code: number; message: string };
}
async function ask(body: object, given?: Given): Promise<Response> {
  const { status, text } = await post(body, given);
  assert.equal(status, 200, text);
  return (JSON.parse(text) as { response: Response }).response;
}

test("patches a pod that opted in, with warnings and events", async () => {
  recorded.length = 0;
  const ownerReferences = [
    { apiVersion: "v1", kind: "Other", name: "other", uid: "o" },
    { apiVersion: "apps/v1", kind: "ReplicaSet", name: "agent", uid: "r", controller: true },
  ];
  const answer = await ask(review(pod("webhooks", { ownerReferences })), { path: "/inject?timeout=5s" });
  assert.deepEqual([answer.uid, answer.allowed, answer.patchType], ["u1", true, "JSONPatch"]);
  const url = "http://webhooks-egress.convoy.svc.cluster.local:4750";
  assert.deepEqual(JSON.parse(Buffer.from(answer.patch!, "base64").toString()), [
    { op: "replace", path: "/spec/containers/0/env/0/value", value: url },
  ]);
  assert.deepEqual(answer.warnings, ["one variable is set"]);
  const metadata = { name: "agent", namespace: "convoy", uid: "r" };
  assert.deepEqual(recorded, [{ about: { apiVersion: "apps/v1", kind: "ReplicaSet", metadata }, reason: "Injected" }]);
});

test("records events of bare pods with a name, and none in a dry run", async () => {
  recorded.length = 0;
  await ask(review(pod("webhooks", { name: "bare" })));
  assert.deepEqual(
    recorded.map(({ about }) => [about.kind, about.metadata.name]),
    [["Pod", "bare"]],
  );
  const nameless = await ask(review(pod("webhooks")));
  const dry = await ask(review(pod("webhooks", { name: "bare" }), { dryRun: true }));
  assert.equal(recorded.length, 1);
  assert.ok(nameless.patch !== undefined && dry.patch === nameless.patch);
});

test("a rejection has the reason and the fix", async () => {
  for (const [name, message] of [
    [
      "missing",
      'EgressPolicy "missing" does not exist in namespace "convoy"; create it there, or correct egress.outrider.dev/policy of the pod template',
    ],
    ["No_Name", /^"No_Name" is not a valid name of an EgressPolicy; correct/],
    [`a${"b".repeat(300)}`, /^"ab{62}" is not a valid name/],
    ["../../secrets", /is not a valid name/],
    ["elsewhere", "not here"],
  ] as const) {
    const { allowed, status, patch } = await ask(review(pod(name)));
    assert.deepEqual([allowed, status?.code, patch], [false, 403, undefined]);
    if (typeof message === "string") assert.equal(status!.message, message);
    else assert.match(status!.message, message);
  }
  const leaving = await ask(review(pod("leaving")));
  assert.equal(leaving.allowed, true);
  assert.match(leaving.warnings![1]!, /^EgressPolicy "leaving" is being deleted/);
});

test("rejects a pod whose client the policy in force does not list", async () => {
  const names = ["billing", ...Array.from({ length: 11 }, (_, index) => `c${index}`)];
  const withClients = (clients: string[] | undefined): EgressPolicy => ({
    ...policy,
    spec: { ...policy.spec, ...(clients && { clients: clients.map((name) => ({ name })) }) },
  });
  const asked = (client: string, newest: EgressPolicy, inForce = newest, rejected?: string) => {
    const annotations = { "egress.outrider.dev/policy": "webhooks", "egress.outrider.dev/client": client };
    const metadata = { name: "a", namespace: "convoy", annotations };
    const pod = { apiVersion: "v1", kind: "Pod", metadata } as KubeObject;
    const forced = { ...parts, lookup: async () => newest, inForce: () => ({ policy: inForce, rejected }) };
    return admit(forced, { uid: "1", namespace: "convoy", dryRun: true, pod });
  };
  const { refused } = await asked("Billing", withClients(names));
  assert.equal(
    refused?.message,
    'client "Billing" is not in spec.clients of EgressPolicy "webhooks", which has billing, c0, c1, c2, c3, c4, c5, c6, c7, c8 and 2 more; correct egress.outrider.dev/client of the pod template, or add the client',
  );
  assert.equal(refused?.code, 403);
  const long = await asked("x".repeat(300), withClients(["billing"]));
  assert.match(long.refused!.message, /^client "x{63}" is not in spec\.clients .* which has billing; correct/);
  for (const name of ["__proto__", "constructor", "default"]) {
    assert.equal((await asked(name, withClients(["billing"]))).refused?.code, 403, name);
  }
  for (const name of ["billing", " billing ", " "]) {
    assert.equal((await asked(name, withClients(names))).refused, undefined, name);
  }
  // Without clients every name has the rules of the policy.
  assert.equal((await asked("anything", withClients(undefined))).refused, undefined);
  assert.equal((await asked("anything", withClients(names), withClients(undefined))).refused, undefined);
  // The client is in the newest spec, which is rejected.
  const kept = await asked("billing", withClients(names), withClients(["orders"]), "spec.ports[0]: turned round");
  assert.equal(kept.refused?.code, 403);
  assert.match(
    kept.refused!.message,
    /which has orders; .*; the last accepted spec counts, since the newest one is not accepted: spec\.ports\[0\]: turned round$/,
  );
});

test("allows everything except the creation of pods unchanged", async () => {
  const pods = { group: "", version: "v1", resource: "pods" };
  for (const more of [
    { operation: "UPDATE" },
    { operation: "DELETE", object: null },
    { subResource: "ephemeralcontainers" },
    { resource: { ...pods, resource: "services" } },
    { resource: { ...pods, group: "metrics.k8s.io" } },
  ]) {
    const answer = await ask(review(pod("missing"), more));
    assert.deepEqual(answer, { uid: "u1", allowed: true });
  }
  assert.deepEqual(await ask(review(pod())), { uid: "u1", allowed: true });
});

const REQUEST = review(pod("webhooks")).request;
for (const [what, body, message] of [
  ["no JSON", "{", "the body is not JSON"],
  ["nothing", "", "the body is not JSON"],
  ["a list", [], "the body is not a JSON object"],
  ["null", "null", "the body is not a JSON object"],
  ["another kind", { kind: "Pod" }, 'kind must be AdmissionReview, not "Pod"'],
  [
    "v1beta1",
    { kind: "AdmissionReview", apiVersion: "admission.k8s.io/v1beta1" },
    'apiVersion must be admission.k8s.io/v1, not "admission.k8s.io/v1beta1"',
  ],
  ["no request", { ...review({}), request: undefined }, "request is missing"],
  ["no uid", review(pod(), { uid: "" }), "request.uid must be a text"],
  ["no operation", review(pod(), { operation: 1 }), "request.operation must be a text"],
  ["no resource", review(pod(), { resource: "pods" }), "request.resource is missing"],
  ["a wrong dryRun", review(pod(), { dryRun: "yes" }), "request.dryRun must be true or false"],
  ["no namespace", review(pod(), { namespace: "" }), "request.namespace must be a text"],
  [
    "another version of pods",
    review(pod(), { resource: { ...REQUEST.resource, version: "v2" } }),
    'request.resource.version must be v1, not "v2"',
  ],
  ["no object", review(null), "request.object is missing"],
  ["no metadata", review({ spec: { containers: [] } }), "request.object.metadata is missing"],
  ["no containers", review({ metadata: {}, spec: {} }), "request.object.spec.containers is missing"],
] as const) {
  test(`answers 400 with one line: ${what}`, async () => {
    const { status, text } = await post(body);
    assert.deepEqual([status, text], [400, `${message}\n`]);
  });
}

test("rejects other paths, methods and types", async () => {
  const good = review(pod("webhooks"));
  assert.deepEqual((await post(good, { path: "/" })).status, 404);
  assert.deepEqual((await post("", { method: "GET" })).status, 405);
  assert.deepEqual((await post(good, { type: "text/plain" })).status, 400);
  assert.deepEqual((await post(good, { type: "application/json; charset=utf-8" })).status, 200);
});

test("stops reading a body above the limit", async () => {
  const big = " ".repeat(5 * 1024 * 1024);
  const outgoing = (headers: Record<string, string>) =>
    new Promise<number | undefined>((resolve, reject) => {
      const sent = request({
        ...{ host: "127.0.0.1", port: webhook.port, method: "POST", path: "/inject", ca: bundleOf(certificates) },
        headers: { "content-type": "application/json", ...headers },
      });
      sent.once("response", (response) => {
        response.resume();
        resolve(response.statusCode);
        sent.destroy();
      });
      // The server may close before all of it is sent: then the answer is there already.
      sent.on("error", reject);
      sent.write(big);
    });
  assert.equal(await outgoing({ "content-length": String(big.length + 1) }), 413);
  assert.equal(await outgoing({ "transfer-encoding": "chunked" }), 413);
  assert.equal((await ask(review(pod("webhooks")))).allowed, true);
});

test("answers 500 if the policy cannot be looked up", async () => {
  const { status, text } = await post(review(pod("broken")));
  assert.deepEqual([status, text], [500, "cannot review the pod now: the API server is away\n"]);
});

test("counts each review by its result", async () => {
  const text = await registry.metrics();
  const count = (result: string) =>
    Number(new RegExp(`^outrider_webhook_reviews_total\\{result="${result}"\\} (\\d+)$`, "m").exec(text)?.[1]);
  assert.deepEqual(
    ["dry-run", "refused", "unchanged", "failed", "other"].map((result) => [result, count(result)]),
    [
      ["dry-run", 1],
      ["refused", 5],
      ["unchanged", 1],
      ["failed", 1],
      ["other", 5],
    ],
  );
  assert.match(text, /^outrider_webhook_review_seconds_count \d\d$/m);
});

test("allows each edit of a policy, with a warning if it opens more", async () => {
  const resource = { group: "egress.outrider.dev", version: "v1alpha1", resource: "egresspolicies" };
  const edit = (object: unknown, oldObject: unknown, more: object = {}) =>
    ask(review(object, { operation: "UPDATE", resource, oldObject, ...more }), { path: "/edits?timeout=3s" });
  const before = { ...policy, spec: { deny: [{ name: "bad", hosts: ["bad.example"] }] } };
  const warned = ["outrider: this edit opens targets that deny rules refused (bad): bad.example"];
  assert.deepEqual(await edit(policy, before), { uid: "u1", allowed: true, warnings: warned });
  const quiet = { uid: "u1", allowed: true };
  assert.deepEqual(await edit(before, policy), quiet);
  assert.deepEqual(await edit(policy, before, { operation: "CREATE" }), quiet);
  assert.deepEqual(await edit(policy, before, { subResource: "status" }), quiet);
  for (const broken of [undefined, null, 7, {}, { ...policy, spec: { deny: 7 } }]) {
    assert.deepEqual(await edit(broken, before), quiet);
    assert.deepEqual(await edit(before, broken), quiet);
  }
  const many = Array.from({ length: 20 }, (_, i) => ({ name: `rule-${i}-${"x".repeat(40)}`, hosts: [`${i}.example`] }));
  const [long] = (await edit(policy, { ...policy, spec: { deny: many } })).warnings!;
  assert.ok(long!.length <= 250, long);
});

test("uses a new certificate for new connections only", async () => {
  const server = await start();
  serve(server);
  const open = async () => {
    const socket = connect({ host: "127.0.0.1", port: server.port, ca: bundleOf(certificates) });
    await once(socket, "secureConnect");
    return socket;
  };
  const one = await open();
  const late = nextStep(certificates, certificates, { ...moment, names: ["127.0.0.1", "more.example"] })!.held;
  server.serve({ cert: late.leaf.pem, key: late.leafKey });
  const other = await open();
  const serialOf = (socket: TLSSocket) => socket.getPeerX509Certificate()?.serialNumber;
  assert.deepEqual(
    [serialOf(one), serialOf(other)],
    [certificates.leaf.x509.serialNumber, late.leaf.x509.serialNumber],
  );
  for (const socket of [one, other]) {
    socket.write("GET / HTTP/1.1\r\nHost: webhook\r\n\r\n");
    const [answer] = (await once(socket, "data")) as [Buffer];
    assert.match(answer.toString(), /^HTTP\/1\.1 404 /);
    socket.destroy();
  }
  await server.drain();
});

test("a draining server answers, closes connections, and ends", async () => {
  const server = await start();
  serve(server);
  const kept = new Agent({ keepAlive: true, ca: bundleOf(certificates) });
  const { port } = server;
  assert.equal((await post(review(pod("webhooks")), { port })).headers.connection, "keep-alive");
  // This connection sends nothing more, and must not block the shutdown forever.
  const idle = connect({ host: "127.0.0.1", port, ca: bundleOf(certificates) });
  await once(idle, "secureConnect");
  let ended = false;
  const drained = server.drain().then(() => {
    ended = true;
  });
  assert.equal(server.ready, false);
  for (const round of [1, 2]) {
    const { status, headers } = await post(review(pod("webhooks")), { port });
    assert.deepEqual([round, status, headers.connection], [round, 200, "close"]);
  }
  assert.equal(ended, false);
  await drained;
  idle.destroy();
  kept.destroy();
  const late = connect({ host: "127.0.0.1", port });
  await assert.rejects(once(late, "secureConnect"), { code: "ECONNREFUSED" });
});

test("rejects old versions of TLS before and after a renewal", async () => {
  const hello = (maxVersion: "TLSv1.1" | "TLSv1.2") => {
    const socket = connect({
      host: "127.0.0.1",
      port: webhook.port,
      ca: bundleOf(certificates),
      maxVersion,
      minVersion: "TLSv1",
      ciphers: "DEFAULT@SECLEVEL=0",
    });
    return once(socket, "secureConnect").finally(() => socket.destroy());
  };
  await hello("TLSv1.2");
  await assert.rejects(hello("TLSv1.1"));
});
