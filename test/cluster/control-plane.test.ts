import assert from "node:assert/strict";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { after, before, test } from "node:test";
import { BOOT, type ControlPlane, controlPlaneMissing, startControlPlane } from "./control-plane.ts";

/** Properties that tests rely on: a real control plane with controllers and simulated nodes. */

const OPTIONS = { kwokNodes: 2, audit: true, users: { reader: ["viewers"] } };
const skip = controlPlaneMissing(OPTIONS) ?? false;
const DEFAULT = "/api/v1/namespaces/default";
const MAPS = `${DEFAULT}/configmaps`;
let plane: ControlPlane;

before(async () => {
  if (skip) return;
  const began = Date.now();
  plane = await startControlPlane(OPTIONS);
  console.log(`a control plane with two simulated nodes is ready after ${Date.now() - began} ms`);
}, BOOT);
after(async () => {
  if (!skip) await plane.stop();
});

const map = (name: string) => ({ apiVersion: "v1", kind: "ConfigMap", metadata: { name }, data: { name } });
const deployment = (name: string, hostNetwork: boolean) => ({
  apiVersion: "apps/v1",
  kind: "Deployment",
  metadata: { name },
  spec: {
    replicas: 2,
    selector: { matchLabels: { app: name } },
    template: {
      metadata: { labels: { app: name } },
      spec: {
        hostNetwork,
        containers: [{ name: "c", image: "none", ports: hostNetwork ? [{ containerPort: 4750 }] : [] }],
      },
    },
  },
});

interface Pods {
  items: { metadata: { name: string }; spec: { nodeName: string }; status: { podIP: string; hostIP: string } }[];
}

/** Applies a Deployment and waits until it is available; returns its pods. */
async function available(name: string, hostNetwork = false): Promise<Pods["items"]> {
  await plane.applyYaml(JSON.stringify(deployment(name, hostNetwork)));
  type Deployment = { status?: { availableReplicas?: number } };
  const path = `/apis/apps/v1/namespaces/default/deployments/${name}`;
  await plane.until<Deployment>(path, (found) => found?.status?.availableReplicas === 2, `${name} is available`);
  return (await plane.get<Pods>(`${DEFAULT}/pods?labelSelector=app=${name}`))!.items;
}

test("pods of a Deployment become available on loopback addresses", { skip }, async () => {
  const pods = await available("plain");
  assert.equal(new Set(pods.map(({ status }) => status.podIP)).size, 2);
  for (const { status } of pods) {
    assert.ok(status.podIP.startsWith(plane.block), status.podIP);
    assert.ok(status.hostIP.startsWith(`${plane.block}255.`), status.hostIP);
    assert.notEqual(status.podIP, status.hostIP);
  }
});

test("host-network pods have the addresses of their nodes", { skip }, async () => {
  const pods = await available("host", true);
  assert.equal(new Set(pods.map(({ status }) => status.podIP)).size, 2);
  for (const { status } of pods) assert.equal(status.podIP, status.hostIP);
});

test("all servers listen on loopback only", { skip }, () => {
  const inodes = new Set<string>();
  const components = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok"] as const;
  for (const component of components) for (const inode of socketsOf(plane.program(component).pid)) inodes.add(inode);
  const listening = ["tcp", "tcp6"].flatMap((file) =>
    readFileSync(`/proc/net/${file}`, "utf8")
      .split("\n")
      .map((row) => row.trim().split(/\s+/))
      .filter((fields) => fields[3] === "0A" && inodes.has(fields[9] ?? "")),
  );
  // etcd has two, the API server one.
  assert.equal(listening.length, 3);
  for (const fields of listening) {
    // Little-endian: the last byte is the 127.
    assert.match(fields[1]!, /^[0-9A-F]{6}7F:/);
  }
});

function socketsOf(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    try {
      const match = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`));
      return match === null ? [] : [match[1]!];
    } catch (error) {
      // Closed since the folder was read.
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
      throw error;
    }
  });
}

test("kubeconfigs authenticate by token, certificate and ServiceAccount", { skip }, async () => {
  const whoami = async (kubeconfig: string) => {
    const { status, stdout, stderr } = await plane.kubectl(["auth", "whoami", "-o", "json"], "", kubeconfig);
    assert.equal(status, 0, stderr);
    return (JSON.parse(stdout) as { status: { userInfo: { username: string; groups: string[] } } }).status.userInfo;
  };
  const token = await whoami(plane.userConfig("reader"));
  assert.deepEqual([token.username, token.groups.includes("viewers")], ["reader", true]);
  const certificate = await whoami(plane.certificateConfig("carol", "auditors"));
  assert.deepEqual([certificate.username, certificate.groups.includes("auditors")], ["carol", true]);
  const account = await whoami(await plane.accountConfig("default", "default"));
  assert.equal(account.username, "system:serviceaccount:default:default");
  const refused = await plane.kubectl(["get", "secrets"], "", plane.userConfig("reader"));
  assert.notEqual(refused.status, 0);
  assert.match(refused.stderr, /User "reader" cannot list resource "secrets"/);
});

test("the audit log counts writes by user", { skip }, async () => {
  const before = plane.writes("admin").length;
  await plane.request("POST", MAPS, map("audited"));
  await plane.get(`${MAPS}/audited`);
  await plane.patch(`${MAPS}/audited`, { data: { more: "1" } });
  await plane.delete(`${MAPS}/audited`);
  // The line may be written slightly after the answer.
  await plane.until(MAPS, () => plane.writes("admin").length >= before + 3, "three writes are in the log");
  const lines = plane.writes("admin").slice(before);
  assert.deepEqual(
    lines.map(({ verb, code }) => [verb, code]),
    [
      ["create", 201],
      ["patch", 200],
      ["delete", 200],
    ],
  );
});

test("API server and etcd keep all objects when they are killed", { skip }, async () => {
  await plane.request("POST", MAPS, map("kept"));
  await plane.kill("kube-apiserver");
  await assert.rejects(plane.get(`${MAPS}/kept`), /ECONN/);
  await plane.revive("kube-apiserver");
  assert.ok((await plane.get(`${MAPS}/kept`)) !== undefined);
  await plane.restart("etcd");
  const back = await plane.until(`${MAPS}/kept`, (found) => found !== undefined, "the object is there");
  assert.ok(back !== undefined);
  assert.equal((await available("after-restarts")).length, 2);
});

test("after a compaction an old resourceVersion is 410 Gone", { skip }, async () => {
  type List = { metadata: { resourceVersion: string } };
  const old = (await plane.get<List>(MAPS))!.metadata.resourceVersion;
  await plane.request("POST", MAPS, map("later"));
  await plane.compact();
  await plane.restart("kube-apiserver");
  const { body } = await plane.request<string>("GET", `${MAPS}?watch=true&timeoutSeconds=1&resourceVersion=${old}`);
  assert.match(JSON.stringify(body), /too old resource version/);
});

test("two control planes share neither addresses nor objects", {
  skip,
}, async () => {
  const flags = { serviceCIDR: "fd00:10:96::/112,10.96.0.0/16" };
  const second = await startControlPlane(flags);
  try {
    assert.notEqual(second.block, plane.block);
    await plane.request("POST", MAPS, map("only-here"));
    assert.equal(await second.get(`${MAPS}/only-here`), undefined);
    type Service = { spec: { clusterIPs: string[] } };
    const service = await second.request<Service>("POST", `${DEFAULT}/services`, {
      apiVersion: "v1",
      kind: "Service",
      metadata: { name: "dual" },
      spec: { ipFamilyPolicy: "RequireDualStack", ports: [{ port: 4750 }] },
    });
    assert.equal(service.status, 201, JSON.stringify(service.body));
    assert.match(service.body.spec.clusterIPs.join(" "), /^fd00:10:96::\S+ 10\.96\./);
  } finally {
    await second.stop();
  }
});

test("an unknown flag is an error that shows the log line", { skip }, async () => {
  await assert.rejects(
    startControlPlane({ apiServerFlags: ["--no-such-flag"] }),
    /the control plane did not start: kube-apiserver ended: [\s\S]*unknown flag: --no-such-flag/,
  );
});
