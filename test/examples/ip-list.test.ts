import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { parseAllDocuments } from "yaml";
import type { ConfigMap } from "../../operator/api/objects.ts";
import { BOOT, controlPlaneMissing } from "../cluster/control-plane.ts";
import { freePort, Program } from "../cluster/processes.ts";
import { programMissing } from "../harness/packages.ts";
import { tempFolder } from "../harness/proxy.ts";
import { applyPolicy } from "../operator/operator.ts";
import { type Stage, startStage } from "../operator/stage.ts";

/** The published list on a real API server, and examples/ip-list with a real nginx that serves it. */

const skip = controlPlaneMissing({ controllers: true }) ?? programMissing("nginx") ?? false;
const NS = "convoy";
const LIST = `/api/v1/namespaces/${NS}/configmaps/webhooks-egress-ips`;
const [A, B] = ["203.0.113.10", "203.0.113.11"];
/** Two full resyncs. */
const SETTLED_MS = 11_000;

const read = (file: string) => readFileSync(new URL(`../../examples/ip-list/${file}`, import.meta.url), "utf8");
const spec = (more: object = {}) => ({
  allow: [{ hosts: ["*.example"] }],
  nat: { provider: "External" },
  staticIPs: [{ address: A }, { address: B, ...more }],
});

let stage: Stage;
before(async () => {
  if (skip) return;
  stage = await startStage({
    plane: { controllers: true },
    namespaces: [NS],
    operator: () => ({ args: ["--resync-seconds=5"] }),
  });
  await applyPolicy(stage.plane, NS, "webhooks", spec({ phase: "Pending" }));
}, BOOT);

const onPlane = (name: string, run: () => Promise<void>) => test(name, { skip, timeout: 120_000 }, run);
const changesOf = (map: ConfigMap | undefined): string[] =>
  JSON.parse(map?.data?.["ips.json"] ?? '{"changes":[]}').changes.map(
    ({ address, state }: { address: string; state: string }) => `${address} ${state}`,
  );

onPlane("the operator publishes four forms, and writes them only when the list changes", async () => {
  const { plane } = stage;
  const first = await plane.until<ConfigMap>(LIST, (map) => changesOf(map).length === 2, "the first list");
  assert.deepEqual(Object.keys(first!.data!).sort(), ["ips.atom", "ips.html", "ips.json", "ips.txt"]);
  assert.deepEqual(changesOf(first), [`${A} Active`, `${B} Pending`]);
  await new Promise((resolve) => setTimeout(resolve, SETTLED_MS));
  const settled = await plane.get<ConfigMap>(LIST);
  assert.equal(settled!.metadata.resourceVersion, first!.metadata.resourceVersion);
  await applyPolicy(plane, NS, "webhooks", spec());
  const second = await plane.until<ConfigMap>(LIST, (map) => changesOf(map).length === 3, "the second list");
  assert.deepEqual(changesOf(second), [`${B} Active`, `${A} Active`, `${B} Pending`]);
  for (const form of ["ips.html", "ips.atom"]) assert.notEqual(second!.data![form], first!.data![form], form);
});

onPlane("the API server accepts the manifests at the restricted level", async () => {
  const labels = ["enforce", "warn"].map((mode) => `pod-security.kubernetes.io/${mode}=restricted`);
  const labelled = await stage.plane.kubectl(["label", "namespace", NS, ...labels]);
  assert.equal(labelled.status, 0, labelled.stderr);
  const { status, stderr } = await stage.plane.kubectl(["apply", "--dry-run=server", "-f", "-"], read("ip-list.yaml"));
  assert.equal(status, 0, stderr);
  assert.doesNotMatch(stderr, /Warning/);
});

test("the manifests have the file nginx.conf of the example, without its comment", () => {
  const [map] = parseAllDocuments(read("ip-list.yaml")).map((one) => one.toJSON() as ConfigMap);
  assert.equal(map!.data!["nginx.conf"], read("nginx.conf").split("\n").slice(2).join("\n"));
});

let nginx: Program | undefined;
after(() => nginx?.stop());

onPlane("nginx serves the four files with types and caching, and no others", async () => {
  const folder = tempFolder();
  mkdirSync(join(folder, "ips"));
  const { data = {} } = (await stage.plane.get<ConfigMap>(LIST))!;
  for (const [name, text] of Object.entries(data)) writeFileSync(join(folder, "ips", name), text);
  const port = await freePort();
  const text = read("nginx.conf")
    .replace("listen 8080;", `listen 127.0.0.1:${port};`)
    .replace("listen [::]:8080;", "")
    .replaceAll("/tmp/", `${folder}/`)
    .replace("/srv/ips", join(folder, "ips"));
  const file = join(folder, "nginx.conf");
  writeFileSync(file, text);
  // The workers of root's nginx are another user, who cannot read the folder of the test.
  const user = process.getuid!() === 0 ? " user root;" : "";
  nginx = new Program(
    "nginx",
    ["nginx", "-e", "stderr", "-c", file, "-g", `daemon off;${user}`],
    join(folder, "nginx.log"),
  );
  nginx.start();
  const get = (path: string, init: RequestInit = {}) => fetch(`http://127.0.0.1:${port}${path}`, init);
  for (let tries = 0; ; tries++) {
    try {
      await get("/ips.txt");
      break;
    } catch (error) {
      if (tries === 100 || !nginx.running) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
  const types = {
    "ips.txt": "text/plain; charset=utf-8",
    "ips.html": "text/html; charset=utf-8",
    "ips.json": "application/json",
    "ips.atom": "application/atom+xml",
  };
  for (const [name, type] of Object.entries(types)) {
    const answer = await get(`/${name}`);
    assert.equal(await answer.text(), data[name]);
    const { headers } = answer;
    assert.ok(headers.get("content-type")!.startsWith(type), `${name}: ${headers.get("content-type")}`);
    assert.equal(headers.get("cache-control"), "public, max-age=300");
    const again = await get(`/${name}`, { headers: { "if-none-match": headers.get("etag")! } });
    assert.equal(again.status, 304, name);
  }
  assert.equal(await (await get("/")).text(), data["ips.html"]);
  for (const path of ["/ips.xml", "/ips.json/", "/ips.txt.bak"]) {
    assert.equal((await get(path)).status, 404, path);
  }
  assert.equal((await get("/ips.json", { method: "POST" })).status, 403);
});
