import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { KubeConfig } from "@kubernetes/client-node";
import { Registry } from "prom-client";
import { ApiError, Client, pathOf } from "../../../operator/kube/client.ts";
import { KubeMetrics } from "../../../operator/kube/metrics.ts";
import type { KubeObject } from "../../../operator/kube/resource.ts";
import { BOOT, type ControlPlane, controlPlaneMissing, startControlPlane } from "../../cluster/control-plane.ts";
import { type FaultProxy, startFaultProxy } from "../../cluster/fault-proxy.ts";
import { CONFIG_MAPS, type ConfigMap, configFrom, NAMESPACES, SERVICE_ACCOUNTS, SERVICES, until } from "./shared.ts";

const skip = controlPlaneMissing() ?? false;
const onPlane = (name: string, run: () => Promise<void>) => test(name, { skip }, run);
const registry = new Registry();
let plane: ControlPlane;
let proxy: FaultProxy;
let client: Client;
let endedToken: string;

before(async () => {
  if (skip) return;
  plane = await startControlPlane({ users: { unprivileged: [] } });
  proxy = await startFaultProxy(plane);
  client = new Client(configFrom(proxy.config()), { metrics: new KubeMetrics(registry) });
  // Created and deleted early: the API server accepts a token for some seconds after the deletion of its account.
  const account = { metadata: { name: "short", namespace: "default" } };
  await client.create(SERVICE_ACCOUNTS, account);
  const asked = await client.raw("POST", `${pathOf(SERVICE_ACCOUNTS, "default", "short")}/token`, {
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ apiVersion: "authentication.k8s.io/v1", kind: "TokenRequest", spec: {} }),
  });
  endedToken = (JSON.parse(asked.body) as { status: { token: string } }).status.token;
  await client.delete(SERVICE_ACCOUNTS, "short", "default");
}, BOOT);
afterEach(() => proxy?.endFaults());
after(async () => {
  if (skip) return;
  client.close();
  await proxy.close();
  await plane.stop();
});

const SSA = { fieldManager: "test", force: true };
const configMap = (name: string, data: Record<string, string> = {}) => ({
  metadata: { name, namespace: "default" },
  data,
});
async function failure(call: Promise<unknown>): Promise<ApiError> {
  try {
    await call;
  } catch (error) {
    assert.ok(error instanceof ApiError, String(error));
    return error;
  }
  return assert.fail("no error");
}

onPlane("50 calls at once use no more than 4 connections", async () => {
  const names = Array.from({ length: 50 }, (_, index) => `many-${index}`);
  const made = await Promise.all(names.map((name) => client.apply(CONFIG_MAPS, configMap(name), SSA)));
  assert.deepEqual(made.map(({ metadata }) => metadata.name).sort(), names.sort());
  await Promise.all(names.map((name) => client.get(CONFIG_MAPS, name, "default")));
  assert.ok(proxy.connections <= 4, `${proxy.connections} connections`);
});

onPlane("a rejected call is an ApiError with code, reason and causes", async () => {
  const missing = await failure(client.get(CONFIG_MAPS, "missing", "default"));
  assert.equal(`${missing.code} ${missing.reason}`, "404 NotFound");
  assert.match(missing.message, /^GET \/api\/v1\/namespaces\/default\/configmaps\/missing: 404 NotFound: .*not found$/);
  const twice = await failure(client.create(CONFIG_MAPS, configMap("many-1")));
  assert.equal(`${twice.code} ${twice.reason}`, "409 AlreadyExists");
  const invalid = await failure(client.apply(CONFIG_MAPS, configMap("Not_A_Name"), SSA));
  assert.equal(`${invalid.code} ${invalid.reason}`, "422 Invalid");
  assert.equal(invalid.causes[0]?.field, "metadata.name");
  const gone = await failure(client.delete(CONFIG_MAPS, "missing", "default"));
  assert.equal(gone.code, 404);
  const unprivileged = new Client(configFrom(plane.userConfig("unprivileged")));
  const forbidden = await failure(unprivileged.list(CONFIG_MAPS));
  assert.equal(`${forbidden.code} ${forbidden.reason}`, "403 Forbidden");
  const stranger = new Client(configFrom(plane.kubeconfig("wrong", { token: "wrong-token" })));
  const unknown = await failure(stranger.list(CONFIG_MAPS));
  assert.equal(`${unknown.code} ${unknown.reason}`, "401 Unauthorized");
  assert.doesNotMatch(JSON.stringify(unknown) + unknown.stack, /wrong-token/);
  unprivileged.close();
  stranger.close();
});

onPlane("answers without a Status and lost calls are ApiErrors", async () => {
  proxy.refuse = () => ({ status: 429, headers: { "Retry-After": "7" }, body: "too much" });
  const busy = await failure(client.get(CONFIG_MAPS, "many-1", "default"));
  assert.deepEqual([busy.code, busy.reason, busy.retryAfterMs], [429, "TooManyRequests", 7000]);
  assert.match(busy.message, /too much$/);
  proxy.refuse = () => ({ status: 502, body: "<html>bad gateway</html>" });
  const broken = await failure(client.get(CONFIG_MAPS, "many-1", "default"));
  assert.deepEqual([broken.code, broken.reason, broken.retryAfterMs], [502, "Unknown", undefined]);
  proxy.refuse = () => ({ status: 200, body: '{"half": ' });
  const half = await failure(client.get(CONFIG_MAPS, "many-1", "default"));
  assert.deepEqual([half.code, half.reason], [0, "BadAnswer"]);
  proxy.refuse = undefined;
  proxy.stalled = true;
  const late = await failure(client.get(CONFIG_MAPS, "many-1", "default", { timeoutMs: 300 }));
  assert.deepEqual([late.code, late.reason], [0, "Timeout"]);
  const aborted = await failure(client.get(CONFIG_MAPS, "many-1", "default", { signal: AbortSignal.timeout(50) }));
  assert.deepEqual([aborted.code, aborted.reason], [0, "Aborted"]);
  proxy.stalled = false;
  const nowhere = new Client(configFrom(plane.userConfig("admin", "https://127.0.0.1:1")));
  const unreachable = await failure(nowhere.get(CONFIG_MAPS, "many-1", "default"));
  assert.deepEqual([unreachable.code, unreachable.reason], [0, "Unreachable"]);
  assert.match(unreachable.message, /ECONNREFUSED$/);
});

onPlane("retries after the server closed an idle connection", async () => {
  await Promise.all(Array.from({ length: 4 }, () => client.get(CONFIG_MAPS, "many-1", "default")));
  proxy.reset();
  const calls = Array.from({ length: 4 }, () => client.get(CONFIG_MAPS, "many-1", "default"));
  assert.equal((await Promise.all(calls)).length, 4);
});

onPlane("apply keeps unknown fields and removes unset ones", async () => {
  const port = { name: "http", port: 80, appProtocol: "kubernetes.io/h2c" };
  const service = { metadata: { name: "svc", namespace: "default", annotations: { a: "1" } }, spec: { ports: [port] } };
  const made = await client.apply<KubeObject & { spec: Record<string, unknown> }>(SERVICES, service, SSA);
  assert.equal((made.spec.ports as { appProtocol: string }[])[0]?.appProtocol, "kubernetes.io/h2c");
  assert.ok(made.spec.sessionAffinity, "defaults of the server come back");
  const byOther = { metadata: { annotations: { other: "x" } } };
  await client.patch(SERVICES, "svc", "default", byOther, { type: "merge", fieldManager: "other" });
  const less = { metadata: { name: "svc", namespace: "default" }, spec: { ports: [port] } };
  const again = await client.apply(SERVICES, less, SSA);
  assert.deepEqual(again.metadata.annotations, { other: "x" });
  const settled = await client.apply(SERVICES, less, SSA);
  assert.equal(settled.metadata.resourceVersion, again.metadata.resourceVersion);
  const conflict = await failure(
    client
      .apply(SERVICES, service, { fieldManager: "third" })
      .then(() =>
        client.apply(
          SERVICES,
          { ...service, metadata: { ...service.metadata, annotations: { other: "y" } } },
          { fieldManager: "third" },
        ),
      ),
  );
  assert.equal(conflict.reason, "Conflict");
  assert.match(conflict.causes[0]?.message ?? "", /other/);
});

onPlane("replace and delete respect version and uid", async () => {
  await client.apply(CONFIG_MAPS, configMap("dry"), { ...SSA, dryRun: true });
  assert.equal((await failure(client.get(CONFIG_MAPS, "dry", "default"))).code, 404);
  const first = await client.create<ConfigMap>(CONFIG_MAPS, configMap("cas", { a: "1" }));
  const second = await client.replace<ConfigMap>(CONFIG_MAPS, { ...first, data: { a: "2" } });
  assert.deepEqual(second.data, { a: "2" });
  assert.equal((await failure(client.replace(CONFIG_MAPS, { ...first, data: { a: "3" } }))).reason, "Conflict");
  const tested = [
    { op: "test", path: "/data/a", value: "2" },
    { op: "replace", path: "/data/a", value: "4" },
  ];
  const third = await client.patch<ConfigMap>(CONFIG_MAPS, "cas", "default", tested, { type: "json" });
  assert.deepEqual(third.data, { a: "4" });
  assert.equal((await failure(client.patch(CONFIG_MAPS, "cas", "default", tested, { type: "json" }))).code, 422);
  const other = "00000000-0000-4000-8000-000000000000";
  assert.equal((await failure(client.delete(CONFIG_MAPS, "cas", "default", { uid: other }))).reason, "Conflict");
  await client.delete(CONFIG_MAPS, "cas", "default", { uid: third.metadata.uid!, propagation: "Background" });
  assert.equal((await failure(client.get(CONFIG_MAPS, "cas", "default"))).code, 404);
});

onPlane("lists in pages, with selectors, and as metadata only", async () => {
  const label = {
    metadata: { name: "labelled", namespace: "kube-system", labels: { pick: "me" } },
    data: { big: "x" },
  };
  await client.apply(CONFIG_MAPS, label, SSA);
  const page = await client.list<ConfigMap>(CONFIG_MAPS, { namespace: "default", limit: 20 });
  assert.equal(page.items.length, 20);
  assert.ok(page.continue);
  assert.deepEqual([page.items[0]?.apiVersion, page.items[0]?.kind], ["v1", "ConfigMap"]);
  const all = await client.listAll(CONFIG_MAPS, { namespace: "default", limit: 20 });
  assert.equal(new Set(all.items.map(({ metadata }) => metadata.uid)).size, all.items.length);
  assert.ok(all.items.length >= 50);
  const picked = await client.listAll<ConfigMap>(CONFIG_MAPS, { labelSelector: "pick=me", metadataOnly: true });
  assert.deepEqual(
    picked.items.map(({ metadata }) => metadata.name),
    ["labelled"],
  );
  assert.deepEqual([picked.items[0]?.kind, picked.items[0]?.data], ["ConfigMap", undefined]);
  const field = await client.listAll(CONFIG_MAPS, { fieldSelector: "metadata.name=labelled" });
  assert.equal(field.items.length, 1);
  const bare = await client.get<ConfigMap>(CONFIG_MAPS, "labelled", "kube-system", { metadataOnly: true });
  assert.deepEqual([bare.kind, bare.metadata.labels, bare.data], ["ConfigMap", { pick: "me" }, undefined]);
  const namespaces = await client.listAll(NAMESPACES);
  assert.ok(namespaces.items.some(({ metadata }) => metadata.name === "kube-system"));
});

onPlane("raw returns any status and limits the body", async () => {
  assert.equal((await client.raw("GET", "/readyz")).body, "ok");
  assert.equal((await client.raw("GET", "/nothing")).status, 404);
  const long = await failure(client.raw("GET", "/openapi/v2", { maxBytes: 1000 }));
  assert.equal(long.reason, "BadAnswer");
});

onPlane("rejects writes without permission", async () => {
  let leads = false;
  const careful = new Client(configFrom(proxy.config()), { mayWrite: () => leads });
  proxy.seen.length = 0;
  const refused = await failure(careful.apply(CONFIG_MAPS, configMap("many-1", { by: "follower" }), SSA));
  assert.deepEqual([refused.code, refused.reason], [0, "NotAllowedToWrite"]);
  assert.deepEqual(proxy.seen, []);
  await careful.get(CONFIG_MAPS, "many-1", "default");
  leads = true;
  await careful.apply(CONFIG_MAPS, configMap("many-1", { by: "leader" }), SSA);
  careful.close();
});

onPlane("rejects a write that lost its permission while waiting", async () => {
  let leads = true;
  const careful = new Client(configFrom(proxy.config()), { mayWrite: () => leads, maxConnections: 1 });
  proxy.seen.length = 0;
  proxy.delayMs = 300;
  const first = careful.get(CONFIG_MAPS, "many-1", "default");
  const late = failure(careful.apply(CONFIG_MAPS, configMap("many-1", { by: "late" }), SSA));
  await until("the first call is under way", () => proxy.seen.length === 1);
  leads = false;
  proxy.delayMs = 0;
  await first;
  assert.equal((await late).reason, "NotAllowedToWrite");
  leads = true;
  await careful.apply(CONFIG_MAPS, configMap("many-1", { by: "leader again" }), SSA);
  assert.deepEqual(
    proxy.seen.map(({ method }) => method),
    ["GET", "PATCH"],
  );
  careful.close();
});

test("rejects an unusable configuration with one line", () => {
  const config = (cluster: object, user = "u") => {
    const made = new KubeConfig();
    made.loadFromOptions({
      clusters: [{ name: "c", server: "https://127.0.0.1:1", skipTLSVerify: false, ...cluster }],
      users: [{ name: "u" }],
      contexts: [{ name: "x", cluster: "c", user }],
      currentContext: "x",
    });
    return made;
  };
  assert.throws(() => new Client(new KubeConfig()), /^Error: kubeconfig: .* names no known cluster$/);
  assert.throws(() => new Client(config({}, "v")), /^Error: kubeconfig: context "x" names no known user$/);
  assert.throws(() => new Client(config({ server: "http://h" })), /cluster "c": server must be an https:\/\/ URL/);
  assert.throws(() => new Client(config({ proxyUrl: "http://p" })), /cluster "c": proxy-url is not supported/);
});

onPlane("reads a rotated token file after a 401", async () => {
  const file = join(plane.folder, "token");
  writeFileSync(file, `${endedToken}\n`);
  const config = (tokenFile: string) => {
    const made = configFrom(plane.userConfig());
    const user = { name: "test", authProvider: { name: "tokenFile", config: { tokenFile } } };
    made.loadFromOptions({
      clusters: made.getClusters(),
      users: [user],
      contexts: made.getContexts(),
      currentContext: made.getCurrentContext(),
    });
    return made;
  };
  const rotating = new Client(config(file));
  await until("the ended token is refused", async () => {
    const error = await failure(rotating.list(CONFIG_MAPS));
    return error.code === 401;
  });
  writeFileSync(file, "admin-token\n");
  await until("the new token is used", async () => {
    try {
      await rotating.list(CONFIG_MAPS);
      return true;
    } catch (error) {
      assert.equal((error as ApiError).code, 401);
      return false;
    }
  });
  rotating.close();
  const lost = new Client(config(`${file}.gone`));
  const error = await failure(lost.list(CONFIG_MAPS));
  assert.deepEqual([error.code, error.reason], [0, "NoCredentials"]);
});

onPlane("counts requests by method and code", async () => {
  const { values } = await registry.getSingleMetric("rest_client_requests_total")!.get();
  const count = (method: string, code: string) =>
    values.find(({ labels }) => labels.method === method && labels.code === code)?.value ?? 0;
  assert.ok(count("PATCH", "201") >= 50);
  assert.ok(count("GET", "404") >= 2);
  assert.ok(count("GET", "429") === 1);
});
