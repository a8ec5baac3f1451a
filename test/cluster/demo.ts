import { spawn } from "node:child_process";
import { once } from "node:events";
import { packageJson } from "../../bin/image/bundle.ts";
import { CHART, helm } from "../chart/helm.ts";
import { type Finished, finish } from "../harness/finish.ts";
import { namespaceMissing, startInNamespace } from "../harness/namespace.ts";
import { aptLine } from "../harness/packages.ts";
import { STATIC_IPS } from "./node/addresses.ts";
import { CLUSTER_TOOLS, type Cluster, clusterMissing, startCluster } from "./node/cluster.ts";
import { IMAGE } from "./node/images.ts";
import { ECHO_URL } from "./node/internet.ts";
import { clusterPackagesMissing, kernelMissing } from "./node/machine.ts";
import { Steps } from "./steps.ts";
import { findTool, getTools, toolsMissing } from "./tools.ts";

/**
 * `make demo`: install, apply and annotate on a real cluster, with a table of allowed and denied requests. The demo
 * creates its own cluster in network namespaces. With DEMO_CONTEXT it uses one of yours, which must have the image
 * (DEMO_IMAGE). The demo runs until Ctrl-C; with DEMO_EXIT=1 it ends after the table.
 */

const NS = "outrider-demo";
const SYSTEM = "outrider-system";
/** Set in the network namespace: the state of the steps so far. */
const INSIDE = "OUTRIDER_DEMO_INSIDE";
const context = process.env.DEMO_CONTEXT;
/** Steps with their expected times, once all programs exist. */
const OWN_STEPS = [
  { name: "check this machine", seconds: 1 },
  { name: "build missing programs", seconds: 1 },
  { name: "start the cluster", seconds: 20 },
];
const GIVEN_STEPS = [
  { name: "check for kubectl and helm", seconds: 1 },
  { name: "build missing programs", seconds: 1 },
  { name: "start a receiver", seconds: 2 },
];
const COMMON_STEPS = [
  { name: "install the chart", seconds: 15 },
  { name: "apply the policy", seconds: 6 },
  { name: "deploy the agent", seconds: 4 },
  { name: "send", seconds: 3 },
];
const steps = new Steps([...(context === undefined ? OWN_STEPS : GIVEN_STEPS), ...COMMON_STEPS], process.env[INSIDE]);

/** Environment of the demo. */
interface Place {
  kubectl(args: readonly string[], input?: string): Promise<Finished>;
  helm(args: readonly string[]): Promise<Finished>;
  image: string;
  /** Additions to the policy besides its lists. */
  spec: object;
  /** URLs that are delivered to, and denied ones. */
  targets: readonly string[];
  /** Hints for the user. */
  hints: readonly string[];
  stop(): Promise<void>;
}

const DENY = [{ name: "competitors", hosts: ["*.competitor.example"] }];
const REFUSED = [
  "https://x.competitor.example/in",
  "https://169.254.169.254/latest/meta-data/",
  "https://kubernetes.default.svc.cluster.local/api",
];

/** Posts once through the proxy of its environment and prints the result; for a tunnel only the answer to CONNECT. */
const SEND = `
const target = new URL(process.argv[1]);
const proxy = new URL(process.env.HTTPS_PROXY);
const host = target.protocol === "https:" ? target.hostname + ":" + (target.port || 443) : target.host;
const first = target.protocol === "https:" ? "CONNECT " + host : "POST " + target.href;
const socket = require("node:net").connect(proxy.port, proxy.hostname);
socket.end(first + " HTTP/1.1\\r\\nHost: " + host + "\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n");
socket.pipe(process.stdout);
`;

async function ownPlace(): Promise<Place> {
  steps.next('start a cluster: kubelet, containerd, and a NAT gateway before an "internet" (no route leads out of it)');
  const cluster: Cluster = await startCluster();
  const { plane, internet, nodes } = cluster;
  internet.zone({ "rebound.evil.example": [[nodes[0]!.place.address]] });
  const kubectl = await findTool("kubectl");
  return {
    kubectl: (args, input) => plane.kubectl(args, input),
    helm: (args) => helm(args, plane.userConfig()),
    image: IMAGE,
    spec: {
      staticIPs: [{ address: STATIC_IPS[0] }],
      verification: { echoURLs: [ECHO_URL], intervalSeconds: 5 },
    },
    targets: ["http://hooks.example/orders", ...REFUSED, "http://rebound.evil.example:10250/pods"],
    hints: [
      "in another terminal, as root:",
      `  nsenter --net=/proc/${process.pid}/ns/net ${kubectl} --kubeconfig ${plane.userConfig()} get egpol -A`,
    ],
    stop: () => cluster.stop(),
  };
}

async function givenPlace(name: string): Promise<Place> {
  steps.next("check for kubectl and helm");
  const missing = toolsMissing(["kubectl", "helm"]);
  if (missing !== null) throw new Error(missing);
  steps.next("build missing programs");
  steps.end();
  await getTools(["kubectl", "helm"], console.log);
  const program = await findTool("kubectl");
  const kubectl = (args: readonly string[], input?: string) => {
    const child = spawn(program, ["--context", name, ...args], { stdio: ["pipe", "pipe", "pipe"] });
    child.stdin.on("error", () => undefined);
    child.stdin.end(input ?? "");
    return finish(child);
  };
  const image = process.env.DEMO_IMAGE ?? `outrider:${packageJson().version}`;
  const there = (await kubectl(["get", "crd", "egresspolicies.egress.outrider.dev"])).status === 0;
  const kubeconfig = process.env.KUBECONFIG ?? `${process.env.HOME}/.kube/config`;
  const run = (args: readonly string[]) => helm(["--kube-context", name, ...args], kubeconfig);
  const stop = async () => {
    await kubectl(["delete", "namespace", NS, "--ignore-not-found", "--wait=false"]);
    if (!there) await run(["uninstall", "outrider", "-n", SYSTEM, "--ignore-not-found"]);
  };
  const host = `receiver.${NS}.svc.cluster.local`;
  const receive = async () => {
    await done(kubectl(["apply", "-f", "-"], JSON.stringify(receiver(image))));
    return done(kubectl(["get", "service", "receiver", "-n", NS, "-o", "jsonpath={.spec.clusterIP}"]));
  };
  steps.next("kubectl apply: a receiver of webhooks");
  const address = await receive().catch(async (error: unknown) => {
    await stop();
    throw error;
  });
  return {
    kubectl,
    // Existing installations are not changed.
    helm: (args) => (there ? Promise.resolve({ status: 0, stdout: "", stderr: "" }) : run(args)),
    image,
    spec: { allow: [{ name: "receiver", hosts: [host], cidrs: [`${address}/32`], ports: [80] }] },
    targets: [`http://${host}/ip`, ...REFUSED, `http://${address}:80/ip`],
    hints: [`kubectl --context ${name} get egpol -n ${NS}`],
    stop,
  };
}

/** Without an "internet" the receiver is in the cluster, and an allow rule permits it. */
const receiver = (image: string) => ({
  apiVersion: "v1",
  kind: "List",
  items: [
    namespace,
    deployment("receiver", image, { args: ["echo", "--listen=:8080"] }),
    {
      apiVersion: "v1",
      kind: "Service",
      metadata: { name: "receiver", namespace: NS },
      spec: { selector: { app: "receiver" }, ports: [{ port: 80, targetPort: 8080 }] },
    },
  ],
});

const namespace = { apiVersion: "v1", kind: "Namespace", metadata: { name: NS } };

const deployment = (name: string, image: string, container: object, annotations: Record<string, string> = {}) => ({
  apiVersion: "apps/v1",
  kind: "Deployment",
  metadata: { name, namespace: NS },
  spec: {
    selector: { matchLabels: { app: name } },
    template: {
      metadata: { labels: { app: name }, annotations },
      spec: {
        terminationGracePeriodSeconds: 1,
        containers: [{ name, image, imagePullPolicy: "IfNotPresent", ...container }],
      },
    },
  },
});

/** A pod like those of Convoy's chart: HTTP_PROXY is set and empty. */
const agent = (image: string) =>
  deployment(
    "agent",
    image,
    {
      command: ["node", "-e", "process.on('SIGTERM', () => process.exit()); setInterval(() => {}, 1e9)"],
      env: [{ name: "HTTP_PROXY", value: "" }],
    },
    { "egress.outrider.dev/policy": "webhooks" },
  );

/** The output of a program. @throws its error output */
async function done(running: Promise<Finished>): Promise<string> {
  const { status, stdout, stderr } = await running;
  if (status !== 0) throw new Error(stderr.trim() || stdout.trim());
  return stdout;
}

async function play(place: Place): Promise<void> {
  const { kubectl, image } = place;
  const at = image.lastIndexOf(":");
  const values = `image.repository=${image.slice(0, at)},image.tag=${image.slice(at + 1)},image.pullPolicy=IfNotPresent`;
  const install = ["install", "outrider", CHART, "-n", SYSTEM, "--create-namespace", `--set=${values}`, "--wait"];
  steps.next("helm install outrider charts/outrider");
  await done(place.helm(install));
  steps.next("kubectl apply: EgressPolicy webhooks");
  await done(kubectl(["apply", "-f", "-"], JSON.stringify(namespace)));
  const policy = {
    apiVersion: "egress.outrider.dev/v1alpha1",
    kind: "EgressPolicy",
    metadata: { name: "webhooks", namespace: NS },
    spec: { preset: "Convoy", deny: DENY, ...place.spec },
  };
  await done(kubectl(["apply", "-f", "-"], JSON.stringify(policy)));
  await done(kubectl(["wait", "egpol/webhooks", "-n", NS, "--for=condition=Ready", "--timeout=2m"]));
  steps.next("kubectl apply: Deployment agent, annotated egress.outrider.dev/policy: webhooks");
  await done(kubectl(["apply", "-f", "-"], JSON.stringify(agent(image))));
  await done(kubectl(["rollout", "status", "deployment/agent", "-n", NS, "--timeout=2m"]));
  steps.next("kubectl get egpol, and send from the pod of agent");
  const policies = await done(kubectl(["get", "egpol", "-n", NS]));
  steps.clear();
  console.log(policies.trimEnd());

  console.log(`\n${"TARGET".padEnd(50)} ${"VERDICT".padEnd(10)} SEEN FROM, OR WHY NOT`);
  for (const target of place.targets) {
    const exec = ["exec", "-n", NS, "deployment/agent", "--", "node", "-e", SEND, target];
    const [head, body] = (await done(kubectl(exec))).split("\r\n\r\n") as [string, string];
    const [, status, reason] = /^HTTP\/1\.1 (\d+) (.*)/.exec(head)!;
    const delivered = status === "200";
    steps.clear();
    const said = delivered ? body.trim() : reason;
    console.log(`${target.padEnd(50)} ${(delivered ? "delivered" : status!).padEnd(10)} ${said}`);
  }
}

/** Resolves at the first Ctrl-C or SIGTERM; the next one ends the program as usual. */
function untilSignal(): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => resolve());
    setInterval(() => undefined, 2 ** 30);
  });
}

async function demo(): Promise<void> {
  const ended = untilSignal();
  const place = context === undefined ? await ownPlace() : await givenPlace(context);
  try {
    const playing = play(place).then(async () => {
      steps.end();
      if (process.env.DEMO_EXIT === "1") return;
      console.log(`\n${place.hints.join("\n")}\nCtrl-C stops the demo and removes everything.`);
      await ended;
    });
    await Promise.race([playing, ended]);
  } finally {
    steps.end();
    await place.stop();
  }
}

/** Missing requirements of a cluster on this machine, one line each. */
function demoMissing(): string[] {
  const packages = clusterPackagesMissing();
  const tools = toolsMissing(CLUSTER_TOOLS);
  const lines = [
    ...(process.getuid?.() === 0 ? [] : ["root, for network namespaces: sudo make demo"]),
    ...(packages.length === 0 ? [] : [`the Debian packages ${packages.join(", ")}: ${aptLine(packages)}`]),
    ...(tools === null ? [] : [tools.replace(/^needs /, "")]),
    ...[kernelMissing()].flatMap((line) => line?.replace(/^needs /, "") ?? []),
  ];
  if (lines.length > 0) return lines;
  return [namespaceMissing() ?? clusterMissing()].flatMap((line) => line?.replace(/^needs /, "") ?? []);
}

/** Runs the demo in its own network namespace, once all requirements are met. No route leads into it. */
async function demoInside(): Promise<number> {
  steps.next("check this machine");
  const missing = demoMissing();
  if (missing.length > 0) {
    steps.end();
    console.error(`make demo: missing on this machine:\n${missing.map((line) => `  ${line}`).join("\n")}`);
    console.error("Or use your own cluster by a context of your kubeconfig: make demo DEMO_CONTEXT=…");
    return 2;
  }
  steps.next("build missing programs");
  steps.end();
  await getTools(CLUSTER_TOOLS, console.log);
  const child = await startInNamespace([import.meta.filename], {
    tools: CLUSTER_TOOLS,
    stdio: ["inherit", "inherit", "inherit"],
    env: { [INSIDE]: steps.state },
  });
  // Ctrl-C reaches both processes: the inner one cleans up.
  process.on("SIGINT", () => undefined);
  process.on("SIGTERM", () => child.kill("SIGTERM"));
  const [status] = (await once(child, "exit")) as [number | null];
  return status ?? 1;
}

const failed = (error: unknown) => {
  steps.end();
  console.error(`make demo: ${(error as Error).message}`);
  return 1;
};

if (context === undefined && process.env[INSIDE] === undefined) process.exitCode = await demoInside().catch(failed);
else {
  await demo().catch((error: unknown) => {
    process.exitCode = failed(error);
  });
  process.exit();
}
