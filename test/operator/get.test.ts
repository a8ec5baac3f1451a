import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { BOOT, controlPlaneMissing } from "../cluster/control-plane.ts";
import { type Finished, finish } from "../harness/finish.ts";
import { OUTRIDER } from "../harness/proxy.ts";
import { applyPolicy, conditionOf, policyPath, untilCondition } from "./operator.ts";
import { type Stage, startStage } from "./stage.ts";

/** `outrider get` on a real API server, with an operator and real proxies. No proxy is asked: there is no kubelet. */

const skip = controlPlaneMissing({ kwokNodes: 3 }) ?? false;
const NS = "convoy";
const RBAC = "/apis/rbac.authorization.k8s.io/v1";
const WATCH_MS = 30_000;
let { plane } = {} as Stage;

before(async () => {
  if (skip) return;
  ({ plane } = await startStage({
    plane: { kwokNodes: 3 },
    namespaces: [NS, "other"],
    operator: () => ({ args: ["--scrape-seconds=1"] }),
  }));
  await applyPolicy(plane, NS, "webhooks", { staticIPs: [{ address: "203.0.113.10" }] });
  await applyPolicy(plane, "other", "second", {
    staticIPs: [{ address: "203.0.113.20" }, { address: "203.0.113.21", phase: "Pending" }],
  });
  await untilCondition(plane, NS, "webhooks", "Ready", "True");
  await untilCondition(plane, "other", "second", "Ready", "True");
}, BOOT);

function start(args: readonly string[], kubeconfig = plane.userConfig()): ChildProcess {
  const env = { ...process.env, KUBECONFIG: kubeconfig };
  return spawn(OUTRIDER, ["get", ...args], { env, stdio: ["ignore", "pipe", "pipe"] });
}
const get = (args: readonly string[], kubeconfig?: string): Promise<Finished> => finish(start(args, kubeconfig));

async function done(args: readonly string[]): Promise<string> {
  const { status, stdout, stderr } = await get(args);
  assert.deepEqual([status, stderr], [0, ""], args.join(" "));
  return stdout;
}

test("the list has a line for each policy, and the hint for those without a spare", {
  skip,
}, async () => {
  const lines = (await done(["-A"])).split("\n");
  const words = lines.map((line) => line.split(/ {2,}/));
  assert.deepEqual(words[0], ["NAMESPACE", "NAME", "READY", "MODE", "PROVIDER", "VERIFIED", "PROXIES", "PODS", "AGE"]);
  assert.deepEqual(words[1]!.slice(0, 5), [NS, "webhooks", "True", "Enforce", "External"]);
  assert.deepEqual(words[2]!.slice(0, 5), ["other", "second", "True", "Enforce", "External"]);
  const hints = lines.filter((line) => line.startsWith("hint"));
  assert.deepEqual(hints, [
    "hint  webhooks: a spare (Pending) address lets the fleet grow without a change at customers",
  ]);
});

test("-o json has the conditions, addresses, proxies and pods", { skip }, async () => {
  const { version, policies, missingRights } = JSON.parse(
    await done(["webhooks", "-n", NS, "-o", "json", "--offline"]),
  );
  assert.deepEqual([version, policies.length, missingRights], [1, 1, []]);
  const [view] = policies;
  const policy = (await plane.get<never>(policyPath(NS, "webhooks")))!;
  assert.equal(view.conditions.length, 9);
  const { message, reason } = conditionOf(policy, "Ready")!;
  assert.partialDeepStrictEqual(view.conditions[0], { type: "Ready", status: "True", reason, message, current: true });
  assert.partialDeepStrictEqual(view.addresses, [{ address: "203.0.113.10", phase: "Active", state: "Assigned" }]);
  assert.equal(view.proxies.length, 2);
  assert.ok(
    view.proxies.every((proxy: { ready: boolean; image: string }) => proxy.ready && proxy.image === "outrider:test"),
  );
  assert.match(view.hash, /^sha256:[0-9a-f]{64}$/);
  assert.deepEqual(view.pods, []);
});

test("a pod of the policy is missed with its reason, and hostile text is escaped", { skip }, async () => {
  const apiVersion = "v1";
  await plane.apply(`/api/v1/namespaces/${NS}/pods/early`, {
    ...{ apiVersion, kind: "Pod" },
    metadata: {
      ...{ name: "early", namespace: NS, labels: { "egress.outrider.dev/policy": "webhooks" } },
      annotations: { "egress.outrider.dev/skipped": "agent=\u001b[2J\u202eset" },
    },
    spec: { containers: [{ name: "agent", image: "agent" }], nodeName: "nowhere" },
  });
  const { metadata } = (await plane.get<{ metadata: { uid: string } }>(policyPath(NS, "webhooks")))!;
  // Not by server-side apply: YAML has no control characters.
  const created = await plane.request("POST", `/api/v1/namespaces/${NS}/events`, {
    ...{ apiVersion, kind: "Event", metadata: { name: "hostile", namespace: NS } },
    involvedObject: { kind: "EgressPolicy", name: "webhooks", namespace: NS, uid: metadata.uid },
    ...{
      type: "Warning",
      reason: "Evil",
      message: "\u001b]0;title\u0007\u009b31m",
      lastTimestamp: "2026-01-01T00:00:00Z",
    },
  });
  assert.equal(created.status, 201);
  const text = await done(["webhooks", "-n", NS, "--offline"]);
  assert.match(text, /^[ -~\n]*$/);
  assert.match(text, /early +missed +- +the webhook skipped it: agent=\\u001b\[2J\\u202eset/);
  assert.match(text, /Warning +Evil +\\u001b\]0;title\\u0007\\u009b31m/);
});

/** Waits until the output of a command has a text. */
async function untilOutput(child: ChildProcess, text: RegExp): Promise<void> {
  let output = "";
  child.stdout!.on("data", (chunk: Buffer) => {
    output += chunk;
  });
  for (const began = Date.now(); !text.test(output); await sleep(50)) {
    assert.ok(Date.now() - began < WATCH_MS && child.exitCode === null, output);
  }
}

test("--watch prints a change, and ends with SIGINT", { skip, timeout: 90_000 }, async () => {
  const child = start(["-n", "other", "--watch"]);
  await untilOutput(child, /second +True +Enforce/);
  const changed = untilOutput(child, /second +\w+ +Report/);
  await plane.patch(policyPath("other", "second"), { spec: { mode: "Report" } });
  await changed;
  child.kill("SIGINT");
  const [status] = await once(child, "exit");
  assert.equal(status, 0);
});

/** The kubeconfig of an account with rules in the namespace. */
async function accountWith(name: string, rules: readonly object[]): Promise<string> {
  const apiVersion = "rbac.authorization.k8s.io/v1";
  const metadata = { name, namespace: NS };
  await plane.apply(`/api/v1/namespaces/${NS}/serviceaccounts/${name}`, {
    apiVersion: "v1",
    kind: "ServiceAccount",
    metadata,
  });
  await plane.apply(`${RBAC}/namespaces/${NS}/roles/${name}`, { apiVersion, kind: "Role", metadata, rules });
  const roleRef = { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name };
  const subjects = [{ kind: "ServiceAccount", name, namespace: NS }];
  await plane.apply(`${RBAC}/namespaces/${NS}/rolebindings/${name}`, {
    apiVersion,
    kind: "RoleBinding",
    metadata,
    roleRef,
    subjects,
  });
  return plane.accountConfig(NS, name);
}

test("a missing right ends the command, or leaves out a part", { skip }, async () => {
  const none = await accountWith("none", []);
  const refused = await get(["-n", NS], none);
  assert.equal(refused.status, 3);
  assert.equal(
    refused.stderr,
    'outrider: missing right: list egresspolicies.egress.outrider.dev in the namespace "convoy" (docs/kubectl.md lists the roles)\n',
  );
  const everywhere = await get(["-A"], none);
  assert.match(everywhere.stderr, /^outrider: missing right: list egresspolicies\S+ at the cluster scope /);
  const policies = { apiGroups: ["egress.outrider.dev"], resources: ["egresspolicies"], verbs: ["get", "list"] };
  const some = await get(["webhooks", "-n", NS, "--offline"], await accountWith("some", [policies]));
  assert.equal(some.status, 0, some.stderr);
  assert.match(some.stdout, /Proxies\n {2}not shown: you may not list pods\n/);
  assert.match(
    some.stdout,
    /note {2}missing right: list pods in the namespace "convoy"\nnote {2}missing right: list events in/,
  );
  const watching = await get(["-n", NS, "--watch"], await accountWith("still", [policies]));
  assert.equal(watching.status, 3);
  assert.match(watching.stderr, /missing right: watch egresspolicies\.egress\.outrider\.dev in the namespace/);
});

test("wrong arguments are one line", { skip }, async () => {
  const cases: [args: string[], status: number, line: RegExp][] = [
    [["webhok", "-n", NS], 3, /policy "webhok" does not exist in namespace convoy; did you mean webhooks\?/],
    [["webhooks", "-A"], 2, /a policy by NAME has one namespace; set -n, not -A/],
    [["-A", "-n", NS], 2, /set --namespace or --all-namespaces, not both/],
    [["-o", "yaml"], 2, /--output must be one of wide, json, not "yaml"/],
    [["--context", "admn"], 2, /--context: "admn" is not a context; /],
    [["UPPER"], 2, /NAME must be a name of lower-case letters/],
    [["--kubeconfig", "/nonexistent"], 2, /--kubeconfig \/nonexistent: ENOENT/],
  ];
  for (const [args, status, line] of cases) {
    const result = await get(args);
    assert.equal(result.status, status, result.stderr);
    assert.match(result.stderr, line);
    assert.equal(result.stderr.trim().split("\n").length, 1);
  }
});
