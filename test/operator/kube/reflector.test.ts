import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import pino from "pino";
import { Registry } from "prom-client";
import { ApiError, Client } from "../../../operator/kube/client.ts";
import type { Clock } from "../../../operator/kube/clock.ts";
import { KubeMetrics } from "../../../operator/kube/metrics.ts";
import { Reflector, type ReflectorOptions } from "../../../operator/kube/reflector.ts";
import { type KubeObject, keyOf, type Resource } from "../../../operator/kube/resource.ts";
import { BOOT, type ControlPlane, controlPlaneMissing, startControlPlane } from "../../cluster/control-plane.ts";
import { type FaultProxy, startFaultProxy } from "../../cluster/fault-proxy.ts";
import { fastClock } from "./clocks.ts";
import { CONFIG_MAPS, type ConfigMap, CRDS, configFrom, NAMESPACES, until } from "./shared.ts";

/** How much faster the reflector's clock runs. */
const SPEED = 20;
const OBJECTS = 1000;
const UPDATES = 10;
/** Writes under way at once: as many as the writer has connections. */
const WRITERS = 4;

const skip = controlPlaneMissing() ?? false;
const onPlane = (name: string, run: () => Promise<void>) => test(name, { skip, timeout: 180_000 }, run);
let plane: ControlPlane;
let proxy: FaultProxy;
/** Writes past the proxy, so that faults hit the reflectors alone. */
let writer: Client;

before(async () => {
  if (skip) return;
  plane = await startControlPlane({ users: { unprivileged: [] } });
  proxy = await startFaultProxy(plane);
  writer = new Client(configFrom(plane.userConfig()));
}, BOOT);
afterEach(() => proxy?.endFaults());
after(async () => {
  if (skip) return;
  writer.close();
  await proxy.close();
  await plane.stop();
});

const SSA = { fieldManager: "test", force: true };
const put = (namespace: string, name: string, data: Record<string, string>) =>
  writer.apply<ConfigMap>(CONFIG_MAPS, { metadata: { name, namespace }, data }, SSA);

interface Watched {
  reflector: Reflector<ConfigMap>;
  changes: { change: string; key: string; data: Record<string, string> | undefined; before: ConfigMap | undefined }[];
  lines: string[];
  /** Requested delays of the clock, in its milliseconds. */
  delays: number[];
  metric(name: string, labels: Record<string, string>): Promise<number>;
}

/** A reflector of the ConfigMaps of a namespace of its own, through the proxy. */
async function watched(
  namespace: string,
  options: Partial<ReflectorOptions<ConfigMap>> & { user?: string; speed?: number } = {},
): Promise<Watched> {
  const made = { apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } };
  await writer.apply(NAMESPACES, made, SSA);
  const client = new Client(configFrom(proxy.config(options.user)));
  const registry = new Registry();
  const watched: Omit<Watched, "reflector"> = {
    changes: [],
    lines: [],
    delays: [],
    metric: async (name, labels) => {
      const { values } = await registry.getSingleMetric(name)!.get();
      const fits = values.filter((value) =>
        Object.entries(labels).every(([label, text]) => value.labels[label] === text),
      );
      return fits.reduce((sum, { value }) => sum + value, 0);
    },
  };
  const fast = fastClock(options.speed ?? SPEED);
  const clock: Clock = {
    now: fast.now,
    after: (ms, call) => {
      watched.delays.push(ms);
      return fast.after(ms, call);
    },
  };
  const log = pino({ level: "debug" }, { write: (line) => watched.lines.push(line) });
  const reflector = new Reflector<ConfigMap>({
    client,
    resource: CONFIG_MAPS,
    namespace,
    log,
    metrics: new KubeMetrics(registry),
    clock,
    random: () => 0.5,
    onChange: (change, object, before) => {
      watched.changes.push({ change, key: keyOf(object), data: object.data, before });
    },
    ...options,
  });
  after(async () => {
    await reflector.stop();
    client.close();
  });
  return { ...watched, reflector };
}
const data = (reflector: Reflector<ConfigMap>, key: string) => reflector.store.get(key)?.data?.v;
/** Requested versions of the watches of a namespace that the proxy saw. */
const watchesOf = (namespace: string) =>
  proxy.seen.flatMap(({ path }) => {
    const { pathname, searchParams } = new URL(path, "http://h");
    return pathname.includes(`/${namespace}/`) && searchParams.has("watch")
      ? [searchParams.get("resourceVersion")!]
      : [];
  });

onPlane("reports the list, then every change with the previous object", async () => {
  await writer.apply(NAMESPACES, { metadata: { name: "plain" } }, SSA);
  await put("plain", "a", { v: "1", secret: "x" });
  const slim = (object: ConfigMap): ConfigMap => ({ ...object, data: { v: object.data?.v ?? "" } });
  const indexes = { v: (object: ConfigMap) => [object.data?.v ?? ""] };
  const { reflector, changes } = await watched("plain", { transform: slim, indexes });
  assert.equal(reflector.hasSynced, false);
  reflector.start();
  await reflector.synced();
  assert.equal(data(reflector, "plain/a"), "1");
  await put("plain", "b", { v: "2" });
  await put("plain", "a", { v: "2" });
  await writer.delete(CONFIG_MAPS, "b", "plain");
  await until("the deletion is reported", () => changes.at(-1)?.change === "deleted");
  const reported = changes.filter(({ key }) => key !== "plain/kube-root-ca.crt");
  assert.deepEqual(
    reported.map(({ change, key, data, before }) => [change, key, data, before?.data]),
    [
      ["added", "plain/a", { v: "1" }, undefined],
      ["added", "plain/b", { v: "2" }, undefined],
      ["updated", "plain/a", { v: "2" }, { v: "1" }],
      ["deleted", "plain/b", { v: "2" }, { v: "2" }],
    ],
  );
  assert.deepEqual(reflector.store.by("v", "2").map(keyOf), ["plain/a"]);
});

onPlane("watches metadata only", async () => {
  const { reflector, changes } = await watched("bare", { metadataOnly: true });
  reflector.start();
  await reflector.synced();
  await put("bare", "a", { v: "1" });
  await until("the change is reported", () => changes.length > 0);
  const held = reflector.store.get("bare/a");
  assert.deepEqual([held?.kind, held?.apiVersion, held?.data], ["ConfigMap", "v1", undefined]);
});

onPlane("logs and counts a failing handler", async () => {
  const seen: string[] = [];
  const { reflector, lines, metric } = await watched("throws", {
    onChange: (_, object) => {
      seen.push(object.metadata.name);
      throw new Error("oh");
    },
  });
  reflector.start();
  await reflector.synced();
  await put("throws", "a", { v: "1" });
  await put("throws", "b", { v: "1" });
  await until("both are seen", () => seen.length === 2);
  assert.equal(await metric("outrider_reflector_handler_errors_total", {}), 2);
  assert.ok(lines.some((line) => line.includes("change handler failed")));
});

onPlane("resumes a watch after a connection reset", async () => {
  const { reflector, changes, metric } = await watched("resets");
  reflector.start();
  await reflector.synced();
  for (let round = 1; round <= 5; round++) {
    await put("resets", "a", { v: String(round) });
    await until(`round ${round}`, () => data(reflector, "resets/a") === String(round));
    proxy.reset();
  }
  await put("resets", "a", { v: "end" });
  await until("the end", () => data(reflector, "resets/a") === "end");
  assert.deepEqual(
    changes.map(({ data }) => data?.v),
    ["1", "2", "3", "4", "5", "end"],
  );
  assert.equal(await metric("outrider_reflector_relists_total", {}), 1);
});

onPlane("ignores a partial event and receives it again", async () => {
  const { reflector, changes, metric } = await watched("cuts");
  reflector.start();
  await reflector.synced();
  await until("the watch is there", () => watchesOf("cuts").length === 1);
  await put("cuts", "a", { v: "1" });
  await until("the first is reported", () => changes.length === 1);
  proxy.cutNextEvent = true;
  await put("cuts", "a", { v: "2", long: "x".repeat(5000) });
  await until("the second is reported", () => changes.length === 2);
  assert.equal(proxy.cutNextEvent, false);
  assert.deepEqual(
    changes.map(({ data }) => data?.v),
    ["1", "2"],
  );
  assert.equal(reflector.store.get("cuts/a")?.data?.long?.length, 5000);
  assert.equal(watchesOf("cuts").length, 2);
  assert.equal(await metric("outrider_reflector_relists_total", {}), 1);
});

onPlane("resumes a watch after 75 s of silence", async () => {
  const { reflector, metric, delays, changes } = await watched("silent");
  reflector.start();
  await reflector.synced();
  await until("the watch is there", () => watchesOf("silent").length === 1);
  proxy.stalled = true;
  await put("silent", "a", { v: "1" });
  await until(
    "silence is noticed",
    async () => (await metric("outrider_reflector_errors_total", { reason: "Silent" })) > 0,
  );
  assert.equal(changes.length, 0);
  assert.ok(delays.includes(75_000));
  assert.ok((await metric("outrider_reflector_last_contact_seconds", { resource: "configmaps" })) > 70);
  proxy.stalled = false;
  await until("the change is reported", () => data(reflector, "silent/a") === "1");
  assert.equal(await metric("outrider_reflector_relists_total", {}), 1);
});

onPlane("waits as long as a 429 requests", async () => {
  const { reflector, delays } = await watched("busy");
  let refused = 0;
  proxy.refuse = (_, path) => {
    if (!path.includes("/busy/") || refused === 2) return undefined;
    refused++;
    return { status: 429, headers: { "Retry-After": String(6 + refused) }, body: "{}" };
  };
  reflector.start();
  await reflector.synced();
  proxy.refuse = undefined;
  assert.deepEqual(
    delays.filter((ms) => ms >= 7000 && ms < 9000),
    [7000, 8000],
  );
});

onPlane("backs off from 0.8 to 30 s and logs a problem once", async () => {
  const { reflector, delays, lines } = await watched("broken", { speed: 200 });
  let refused = 0;
  proxy.refuse = (_, path) => {
    if (!path.includes("/broken/") || refused === 8) return undefined;
    refused++;
    return { status: 500, body: "etcd is away" };
  };
  reflector.start();
  await reflector.synced();
  proxy.refuse = undefined;
  const waits = delays.filter((ms) => ms >= 800 && ms <= 30_000);
  assert.deepEqual(waits, [800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
  assert.equal(lines.filter((line) => line.includes('"level":40')).length, 1);
  assert.ok(lines.some((line) => line.includes("list and watch work again")));
});

onPlane("logs a missing right once and works after it is granted", async () => {
  const { reflector, lines, metric } = await watched("grants", { user: "unprivileged" });
  reflector.start();
  await until(
    "three refusals",
    async () => (await metric("outrider_reflector_errors_total", { reason: "Forbidden" })) >= 3,
  );
  const warnings = lines.filter((line) => line.includes('"level":40'));
  assert.equal(warnings.length, 1);
  assert.match(warnings[0]!, /not allowed to list configmaps in namespace grants, retrying until it is granted/);
  assert.equal(reflector.hasSynced, false);
  const rbac = { group: "rbac.authorization.k8s.io", version: "v1", namespaced: true };
  const rules = [{ apiGroups: [""], resources: ["configmaps"], verbs: ["get", "list", "watch"] }];
  const role = { metadata: { name: "look", namespace: "grants" }, rules };
  await writer.apply({ ...rbac, kind: "Role", plural: "roles" }, role, SSA);
  const binding = {
    metadata: { name: "look", namespace: "grants" },
    subjects: [{ kind: "User", name: "unprivileged", apiGroup: rbac.group }],
    roleRef: { kind: "Role", name: "look", apiGroup: rbac.group },
  };
  await writer.apply({ ...rbac, kind: "RoleBinding", plural: "rolebindings" }, binding, SSA);
  await reflector.synced();
});

onPlane("logs a missing kind once and watches it after the install", async () => {
  const widgets: Resource = {
    group: "test.example",
    version: "v1",
    kind: "Widget",
    plural: "widgets",
    namespaced: true,
  };
  const { reflector, lines, metric } = await watched("widgets", { resource: widgets });
  reflector.start();
  await until(
    "two refusals",
    async () => (await metric("outrider_reflector_errors_total", { reason: "NotFound" })) >= 2,
  );
  const warnings = lines.filter((line) => line.includes('"level":40'));
  assert.equal(warnings.length, 1);
  assert.match(warnings[0]!, /the API server has no widgets\.test\.example of version v1/);
  const schema = { openAPIV3Schema: { type: "object", "x-kubernetes-preserve-unknown-fields": true } };
  const crd = {
    metadata: { name: "widgets.test.example" },
    spec: {
      group: widgets.group,
      scope: "Namespaced",
      names: { kind: "Widget", plural: "widgets" },
      versions: [{ name: "v1", served: true, storage: true, schema }],
    },
  };
  await writer.apply(CRDS, crd, SSA);
  await reflector.synced();
  const odd = { metadata: { name: "w", namespace: "widgets" }, spec: { deep: [{ unknown: { to: "this program" } }] } };
  const made = await writer.apply<KubeObject & { spec: unknown }>(widgets, odd, SSA);
  assert.deepEqual(made.spec, odd.spec);
  await until("the widget is reported", () => reflector.store.get("widgets/w") !== undefined);
});

onPlane("the audit finds, repairs and counts a missed change", async () => {
  const { reflector, changes, metric } = await watched("audits", { relistMs: 10_000 });
  await put("audits", "a", { v: "1" });
  await put("audits", "b", { v: "1" });
  reflector.start();
  await reflector.synced();
  // As if events had been lost: one object forgotten, one that is no more.
  reflector.store.delete("audits/a");
  const ghost = {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: { name: "ghost", namespace: "audits", resourceVersion: "1" },
  };
  reflector.store.set(ghost);
  let touch = 0;
  await until("the audit has repaired it", async () => {
    await put("audits", "tick", { v: String(touch++) });
    return data(reflector, "audits/a") === "1" && reflector.store.get("audits/ghost") === undefined;
  });
  assert.equal(await metric("outrider_reflector_missed_total", { cause: "audit" }), 2);
  assert.equal(await metric("outrider_reflector_relists_total", { cause: "audit" }), 1);
  assert.ok(changes.some(({ change, key }) => change === "deleted" && key === "audits/ghost"));
});

onPlane("the audit of a quiet namespace waits for no bookmark", async () => {
  const { reflector, metric } = await watched("quiet", { relistMs: 10_000 });
  await put("quiet", "a", { v: "1" });
  reflector.start();
  await reflector.synced();
  reflector.store.delete("quiet/a");
  // The API server sends a bookmark once a minute.
  await until("the audit has repaired it", () => data(reflector, "quiet/a") === "1", 20_000);
  assert.equal(await metric("outrider_reflector_missed_total", { cause: "audit" }), 1);
});

onPlane("catches up with a stalled watch by another list", async () => {
  const { reflector, metric, changes } = await watched("lags");
  for (const name of ["stays", "changes", "goes"]) await put("lags", name, { v: "1" });
  reflector.start();
  await reflector.synced();
  await until("the watch is there", () => watchesOf("lags").length === 1);
  proxy.holds = (path) => path.includes("/lags/") && path.includes("watch=");
  await put("lags", "changes", { v: "2" });
  await put("lags", "comes", { v: "2" });
  await writer.delete(CONFIG_MAPS, "goes", "lags");
  assert.equal(data(reflector, "lags/changes"), "1");
  assert.equal(await reflector.catchUp("takeover"), 3);
  assert.equal(data(reflector, "lags/changes"), "2");
  assert.equal(data(reflector, "lags/comes"), "2");
  assert.equal(reflector.store.get("lags/goes"), undefined);
  assert.equal(await metric("outrider_reflector_missed_total", { cause: "takeover" }), 3);
  assert.equal(await metric("outrider_reflector_relists_total", { cause: "takeover" }), 1);
  proxy.holds = undefined;
  await put("lags", "changes", { v: "3" });
  await until("the watch continues", () => data(reflector, "lags/changes") === "3");
  const values = changes.filter(({ key }) => key === "lags/changes").map(({ data }) => data?.v);
  assert.deepEqual(values, ["1", "2", "3"]);
});

onPlane("catches up with a late watch without another list", async () => {
  // The clock is slow, so that the watch has time enough.
  const { reflector, metric } = await watched("late", { speed: 0.2 });
  await put("late", "a", { v: "1" });
  reflector.start();
  await reflector.synced();
  await until("the watch is there", () => watchesOf("late").length === 1);
  proxy.holds = (path) => path.includes("/late/") && path.includes("watch=");
  await put("late", "a", { v: "2" });
  const lists = proxy.count("GET", "/late/configmaps?");
  const caughtUp = reflector.catchUp("takeover");
  await until("the list is requested", () => proxy.count("GET", "/late/configmaps?") > lists);
  proxy.holds = undefined;
  assert.equal(await caughtUp, 0);
  assert.equal(data(reflector, "late/a"), "2");
  assert.equal(await metric("outrider_reflector_relists_total", {}), 1);
});

onPlane("catches up as soon as the API server answers again", async () => {
  const { reflector, lines } = await watched("away");
  reflector.start();
  await reflector.synced();
  let refused = 0;
  proxy.refuse = (_, path) => {
    if (!path.includes("/away/") || path.includes("watch=")) return undefined;
    refused++;
    return { status: 500, body: "" };
  };
  let isOver = false;
  const caughtUp = reflector.catchUp("takeover").then(() => {
    isOver = true;
  });
  await until("three refusals", () => refused >= 3);
  assert.equal(isOver, false);
  proxy.refuse = undefined;
  await caughtUp;
  assert.equal(lines.filter((line) => line.includes("cannot compare the cache")).length > 0, true);
});

onPlane("lists again after a compaction and reports changes", async () => {
  const old = (await writer.list(CONFIG_MAPS, { namespace: "default", limit: 1 })).resourceVersion;
  const { reflector, changes, metric } = await watched("gaps");
  for (const name of ["stays", "changes", "goes", "reborn"]) await put("gaps", name, { v: "1" });
  reflector.start();
  await reflector.synced();
  await until("the watch is there", () => watchesOf("gaps").length === 1);
  proxy.refuse = (_, path) => (path.includes("/gaps/") ? { status: 503, body: "" } : undefined);
  proxy.reset();
  await put("gaps", "changes", { v: "2" });
  await put("gaps", "comes", { v: "2" });
  for (const name of ["goes", "reborn"]) await writer.delete(CONFIG_MAPS, name, "gaps");
  await put("gaps", "reborn", { v: "2" });
  // A restarted API server remembers no events, and a compacted etcd neither.
  await plane.compact();
  await plane.kill("kube-apiserver");
  await plane.revive("kube-apiserver");
  const reportedBefore = changes.length;
  proxy.refuse = undefined;
  await until(
    "the list is read again",
    async () => (await metric("outrider_reflector_relists_total", { cause: "expired" })) > 0,
  );
  const since = changes.slice(reportedBefore).filter(({ key }) => key !== "gaps/kube-root-ca.crt");
  assert.deepEqual(since.map(({ change, key }) => `${change} ${key}`).sort(), [
    "added gaps/comes",
    "added gaps/reborn",
    "deleted gaps/goes",
    "deleted gaps/reborn",
    "updated gaps/changes",
  ]);
  assert.equal(await metric("outrider_reflector_missed_total", { cause: "expired" }), 4);
  const expired = writer.watch(CONFIG_MAPS, { resourceVersion: old, timeoutSeconds: 5, onEvent: () => {} });
  await assert.rejects(expired, (error: unknown) => error instanceof ApiError && error.code === 410);
  await put("gaps", "after", { v: "3" });
  await until("the watch continues", () => data(reflector, "gaps/after") === "3");
});

onPlane("loses nothing after a restart of etcd or API server", async () => {
  const { reflector } = await watched("restarts");
  await put("restarts", "a", { v: "0" });
  reflector.start();
  await reflector.synced();
  for (const component of ["etcd", "kube-apiserver"] as const) {
    await plane.kill(component);
    await plane.revive(component);
    await plane.untilReady();
    await until("a write is taken", async () =>
      put("restarts", "a", { v: component }).then(
        () => true,
        () => false,
      ),
    );
    await until(`${component}: the change is reported`, () => data(reflector, "restarts/a") === component);
  }
});

onPlane(`${OBJECTS} objects with ${UPDATES} updates each: all reported, in order, through resets`, async () => {
  const { reflector, changes, metric } = await watched("many");
  reflector.start();
  await reflector.synced();
  const work = Array.from({ length: OBJECTS }, (_, index) => index);
  const write = async () => {
    for (let index = work.shift(); index !== undefined; index = work.shift()) {
      const metadata = { name: `o${index}`, namespace: "many" };
      for (let version = 1; version <= UPDATES; version++) {
        const object = { metadata, data: { v: String(version) } };
        if (version === 1) await writer.create(CONFIG_MAPS, object);
        else await writer.replace(CONFIG_MAPS, object);
      }
      if (index % 200 === 100) proxy.reset();
    }
  };
  await Promise.all(Array.from({ length: WRITERS }, write));
  const last = (index: number) => data(reflector, `many/o${index}`) === String(UPDATES);
  await until("the last versions are there", () => Array.from({ length: OBJECTS }, (_, i) => i).every(last));
  const reported = new Map<string, string[]>();
  for (const { key, data } of changes) reported.set(key, [...(reported.get(key) ?? []), data?.v ?? ""]);
  const wanted = Array.from({ length: UPDATES }, (_, index) => String(index + 1));
  reported.delete("many/kube-root-ca.crt");
  assert.equal(reported.size, OBJECTS);
  for (const [key, versions] of reported) assert.deepEqual(versions, wanted, key);
  assert.equal(await metric("outrider_reflector_relists_total", {}), 1);
});
