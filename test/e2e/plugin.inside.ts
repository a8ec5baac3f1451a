import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { request } from "node:http";
import { delimiter } from "node:path";
import { after, before, test } from "node:test";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import { NODE_IPS, STATIC_IPS } from "../cluster/node/addresses.ts";
import type { Cluster } from "../cluster/node/cluster.ts";
import { ECHO_URL } from "../cluster/node/internet.ts";
import { findTool } from "../cluster/tools.ts";
import { type Finished, finish } from "../harness/finish.ts";
import { applyPolicy, untilCondition } from "../operator/operator.ts";
import { makePasswords, NS, RECEIVER_URL, SPEC, startStage, untilPods } from "./stage.ts";

/** The real kubectl finds the plugin on PATH. It asks real proxies through the API server and the kubelet. */

const BIN = new URL("../../bin", import.meta.url).pathname;
const FLEET = "egress.outrider.dev/fleet=webhooks";
const READY_MS = 90_000;
/** A loopback address, to which no policy of this test leads. No proxy connects to it. */
const REFUSED = "127.0.0.1:80";
const RBAC = "/apis/rbac.authorization.k8s.io/v1";

let cluster: Cluster;
let kubectl: string;
let hash: string;

before(async () => {
  const granted = `[{"namespaces":["${NS}"],"providers":["NodeAddress"],"staticIPs":["${NODE_IPS[0]}/32"]}]`;
  cluster = await startStage({ values: ["--set=providers.nodeAddress.enabled=true", `--set-json=grants=${granted}`] });
  kubectl = await findTool("kubectl");
  cluster.network.give(0, NODE_IPS[0]);
  const annotations = { "egress.outrider.dev/addresses": NODE_IPS[0] };
  await cluster.plane.patch("/api/v1/nodes/node-1", { metadata: { annotations } });
  await makePasswords(cluster);
  await applyPolicy(cluster.plane, NS, "webhooks", SPEC);
  await applyPolicy(cluster.plane, NS, "slots", {
    ...SPEC,
    nat: { provider: "NodeAddress" },
    staticIPs: [{ address: NODE_IPS[0] }],
    authentication: { mode: "Basic", secretRef: { name: "passwords" } },
  });
  const policy = await untilCondition(cluster.plane, NS, "webhooks", "Ready", "True", undefined, READY_MS);
  hash = policy.status!.summary!.policyHash!;
  await untilPods(cluster, FLEET, 2);
  await untilCondition(cluster.plane, NS, "slots", "Ready", "True", undefined, READY_MS);
});
after(() => cluster?.stop());

/** `kubectl egress …` with the rights of a kubeconfig. */
function egress(args: readonly string[], kubeconfig = cluster.plane.userConfig()): Promise<Finished> {
  const env = {
    ...process.env,
    PATH: `${BIN}${delimiter}${process.env.PATH}`,
    KUBECONFIG: kubeconfig,
    HOME: cluster.plane.folder,
  };
  return finish(spawn(kubectl, ["egress", ...args, "-n", NS], { env, stdio: ["ignore", "pipe", "pipe"] }));
}

async function done(args: readonly string[], status = 0): Promise<string> {
  const result = await egress(args);
  assert.equal(result.status, status, `${args.join(" ")}\n${result.stdout}${result.stderr}`);
  return result.stdout;
}

/** The kubeconfig of an account with the chart's role for readers, or with some rules. */
async function accountWith(name: string, role: string | object[]): Promise<string> {
  const metadata = { name, namespace: NS };
  await cluster.plane.apply(`/api/v1/namespaces/${NS}/serviceaccounts/${name}`, {
    ...{ apiVersion: "v1", kind: "ServiceAccount", metadata },
  });
  const apiVersion = "rbac.authorization.k8s.io/v1";
  const own = typeof role !== "string";
  if (own) {
    await cluster.plane.apply(`${RBAC}/namespaces/${NS}/roles/${name}`, {
      apiVersion,
      kind: "Role",
      metadata,
      rules: role,
    });
  }
  const roleRef = {
    apiGroup: "rbac.authorization.k8s.io",
    kind: own ? "Role" : "ClusterRole",
    name: own ? name : role,
  };
  const subjects = [{ kind: "ServiceAccount", name, namespace: NS }];
  const binding = { apiVersion, kind: "RoleBinding", metadata, roleRef, subjects };
  await cluster.plane.apply(`${RBAC}/namespaces/${NS}/rolebindings/${name}`, binding);
  return cluster.plane.accountConfig(NS, name);
}

test("status has the version and the hash of each running proxy", async () => {
  const text = await done(["status", "webhooks"]);
  const proxies = text.match(new RegExp(`webhooks-egress-\\S+ +True .* 0\\.1\\.0 +${hash.slice(0, 19)} +-`, "g"));
  assert.equal(proxies?.length, 2, text);
  assert.match(text, new RegExp(`${STATIC_IPS[0]} +Active +Verified`));
  const { policies } = JSON.parse(await done(["status", "webhooks", "-o", "json"]));
  assert.deepEqual(
    policies[0].proxies.map((proxy: { hash: string }) => proxy.hash),
    [hash, hash],
  );
});

test("explain is the answer of a running proxy", async () => {
  const allowed = await done(["explain", RECEIVER_URL, "--policy", "webhooks"]);
  assert.match(allowed, /^hooks\.example:80 {2}allow\n/);
  assert.ok(allowed.includes(`policy   ${NS}/webhooks ${hash}`), allowed);
  assert.match(allowed, /proxy {4}pod webhooks-egress-\S+ on node node-1, version 0\.1\.0/);
  assert.match(allowed, /1 of 1 others have the same policy/);
  assert.match(allowed, /address {2}\S+ global in/);
  const denied = await done(["explain", REFUSED, "-p", "webhooks"], 1);
  assert.match(denied, /^127\.0\.0\.1:80 {2}deny\n/);
  const client = await egress(["explain", RECEIVER_URL, "-p", "webhooks", "--client", "x"]);
  assert.deepEqual([client.status, client.stderr], [3, "outrider: client: the policy has no clients\n"]);
});

test("ips prints the published list", async () => {
  assert.equal(await done(["ips", "webhooks"]), `${STATIC_IPS[0]}\n`);
  const list = JSON.parse(await done(["ips", "webhooks", "-o", "json"]));
  assert.deepEqual([list.ipv4, list.pending, list.retiring], [[STATIC_IPS[0]], [], []]);
});

test("verify makes the proxies prove their addresses", async () => {
  const text = await done(["verify", "webhooks"]);
  const row = `webhooks-egress-\\S+ +ipv4 +proven +${STATIC_IPS[0]} +${ECHO_URL} +${STATIC_IPS[0]}\n`;
  assert.equal(text.match(new RegExp(row, "g"))?.length, 2, text);
});

/** Requests a tunnel that the proxy refuses. */
async function refusedBy(address: string): Promise<void> {
  const outgoing = request({ host: address, port: 4750, method: "CONNECT", path: REFUSED, agent: false });
  outgoing.end();
  const [response, socket] = await once(outgoing, "connect");
  socket.destroy();
  assert.equal(response.statusCode, 403);
}

test("top counts refusals by reason and proxy", async () => {
  const [pod] = await untilPods(cluster, FLEET, 2);
  await refusedBy(pod!.status!.podIP!);
  const text = await done(["top", "webhooks", "--interval-seconds", "1"]);
  assert.match(text, /^POD +NODE +TUNNELS +CONNECTIONS +REQUESTS\/S/);
  assert.match(text, /\nREFUSED BECAUSE +ALL .*\naddress +1 +(1 +0|0 +1)\n/);
  const { proxies } = JSON.parse(await done(["top", "webhooks", "--interval-seconds", "1", "-o", "json"]));
  const own = proxies.find((proxy: { pod: string }) => proxy.pod === pod!.metadata.name);
  assert.deepEqual(own.counts.refusals, { address: 1 });
});

test("a missing right is named, and the role of the chart has all of them", async () => {
  const read = [
    { apiGroups: ["egress.outrider.dev"], resources: ["egresspolicies"], verbs: ["get", "list"] },
    { apiGroups: [""], resources: ["pods"], verbs: ["get", "list"] },
  ];
  const blind = await accountWith("blind", read);
  for (const args of [
    ["explain", RECEIVER_URL, "-p", "webhooks"],
    ["verify", "webhooks"],
    ["top", "webhooks"],
  ]) {
    const { status, stdout, stderr } = await egress(args, blind);
    const line = `outrider: missing right: (get|create) pods/portforward in the namespace "${NS}" \\(docs/kubectl.md lists the roles\\)\n`;
    assert.equal(status, 3, stdout);
    assert.match(stderr, new RegExp(`^${line}$`));
  }
  const shown = await egress(["status", "webhooks"], blind);
  assert.equal(shown.status, 0, shown.stderr);
  assert.match(shown.stdout, /note {2}missing right: (get|create) pods\/portforward in the namespace/);
  const reader = await accountWith("reader", "outrider-fleet-reader");
  for (const args of [
    ["status", "webhooks"],
    ["explain", RECEIVER_URL, "-p", "webhooks"],
    ["ips", "webhooks"],
    ["verify", "webhooks"],
  ]) {
    const { status, stdout, stderr } = await egress(args, reader);
    assert.equal(status, 0, `${args.join(" ")}\n${stdout}${stderr}`);
    assert.doesNotMatch(stdout, /missing right/);
  }
});

test("proxies on the address of their node answer through the API server", async () => {
  const [address] = NODE_IPS;
  const status = await done(["status", "slots"]);
  assert.match(status, new RegExp(`slots-egress-\\S+ +True +node-1 +${address} +0\\.1\\.0 +sha256:[0-9a-f]{12} +-`));
  assert.match(await done(["top", "slots", "--interval-seconds", "1"]), /\nslots-egress-\S+ +node-1 +0 +/);
  const row = `proven +${address} +${ECHO_URL} +${address} \\(earlier round\\)\n`;
  assert.match(await done(["verify", "slots"]), new RegExp(row));
  const refused = await egress(["explain", RECEIVER_URL, "-p", "slots"]);
  assert.equal(refused.status, 3);
  assert.match(
    refused.stderr,
    /^outrider: policy slots: its proxies listen on the addresses of their nodes, [^\n]*\n$/,
  );
  const reader = await egress(["top", "slots"], await accountWith("reader-of-slots", "outrider-fleet-reader"));
  assert.equal(reader.status, 3);
  assert.match(reader.stderr, /^outrider: missing right: get pods\/proxy in the namespace "convoy" /);
});

test("verify fails if an echo server saw another address", async () => {
  const other = "11.0.0.99";
  await applyPolicy(cluster.plane, NS, "webhooks", { ...SPEC, staticIPs: [{ address: other }] });
  const current = (policy: EgressPolicy | undefined) => policy?.status?.summary?.policyHash !== hash;
  await cluster.plane.until<EgressPolicy>(
    `/apis/egress.outrider.dev/v1alpha1/namespaces/${NS}/egresspolicies/webhooks`,
    current,
    "the new document is distributed",
  );
  await untilCondition(cluster.plane, NS, "webhooks", "EgressIPVerified", "False", undefined, READY_MS);
  const text = await done(["verify", "webhooks"], 1);
  assert.match(text, new RegExp(`not proven +${other} +${ECHO_URL} +${STATIC_IPS[0]}`));
});

test("no ready proxy and an unknown policy are one line", async () => {
  const none = await egress(["explain", RECEIVER_URL, "-p", "webhooks"]);
  assert.equal(none.status, 3);
  assert.match(none.stderr, /^outrider: policy webhooks has no ready proxy: [^\n]*\n$/);
  const unknown = await egress(["ips", "webhoks"]);
  assert.equal(unknown.status, 3);
  assert.match(
    unknown.stderr,
    /^outrider: policy "webhoks" does not exist in namespace convoy; did you mean webhooks\?\n$/,
  );
});
