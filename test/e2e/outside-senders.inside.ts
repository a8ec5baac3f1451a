import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { FOUR, STATIC_IPS } from "../cluster/node/addresses.ts";
import type { Cluster } from "../cluster/node/cluster.ts";
import { run } from "../cluster/node/namespace.ts";
import { Program } from "../cluster/processes.ts";
import { findTool } from "../cluster/tools.ts";
import { makeCertificate } from "../harness/certificate.ts";
import { finish } from "../harness/finish.ts";
import { tempFolder } from "../harness/proxy.ts";
import { NS, startStage } from "./stage.ts";

/**
 * Follows docs/guides/outside-senders.md on a real node with enforced NetworkPolicies: runs its commands word for word,
 * with other addresses. The VM and the load balancer (HAProxy) are in the "internet". No cloud gives the Service its
 * address, so the test writes it.
 */

const page = readFileSync(new URL("../../docs/guides/outside-senders.md", import.meta.url), "utf8");
const SERVICE = `/api/v1/namespaces/${NS}/services/webhooks-egress-external`;
const [VM, STRANGER, BALANCER] = ["11.0.0.30", "11.0.0.31", FOUR.farSide];
const NAME = "proxy.example.net";
/** From the last command to the end of a tunnel. The page promises 5 s, on a machine that is not busy with other tests. */
const REVOKED_MS = 15_000;
const SETTLED_MS = 30_000;
/** Of a connection that a NetworkPolicy drops or rejects, in the words of curl. */
const NOT_CONNECTED = [7, 28];

const folder = tempFolder();
const bin = join(folder, "bin");
const programs: Program[] = [];
let cluster: Cluster;
let env: NodeJS.ProcessEnv;

/** The commands of a section, in order: one for each block. */
function commandsOf(section: string): string[] {
  const text = page.split(/^## /m).find((part) => part.startsWith(`${section}\n`));
  assert.ok(text !== undefined, section);
  const blocks = text.match(/(?:^ {4}.*\n|(?<=^ {4}.*\n)\n(?= {4}))+/gm) ?? [];
  assert.ok(blocks.length > 0, section);
  return blocks.map((block) =>
    block.replace(/^ {4}/gm, "").replace("198.51.100.7/32", `${VM}/32`).replace("192.0.2.9/32", `${BALANCER}/32`),
  );
}

const shell = (command: string): ChildProcess =>
  spawn("bash", ["-euc", command], { cwd: folder, env, stdio: ["ignore", "pipe", "pipe"] });

/** Runs the commands of a section, and returns their output. */
async function follow(section: string): Promise<string> {
  let output = "";
  for (const command of commandsOf(section)) {
    const { status, stdout, stderr } = await finish(shell(command));
    assert.equal(status, 0, `${command}\n${stdout}${stderr}`);
    output += stdout;
  }
  return output;
}

/** A command in the network of the VM. */
const onVm = (command: readonly string[]): string[] => [...cluster.network.internet, ...command];

function script(name: string, command: readonly string[]): void {
  const words = command.map((word) => `'${word}'`).join(" ");
  writeFileSync(join(bin, name), `#!/bin/sh\nexec ${words} "$@"\n`, { mode: 0o755 });
}

/** The curl of the VM: the page leaves name, address and the CA of the receiver to the machine. */
function useCurl(from: string): void {
  const names = ["--resolve", `${NAME}:4751:${BALANCER}`];
  script("curl", onVm(["/usr/bin/curl", ...names, "--interface", from, "--cacert", join(folder, "ca.pem")]));
}

function start(name: string, command: readonly string[]): void {
  const program = new Program(name, command, join(folder, `${name}.log`));
  program.start();
  programs.push(program);
}

before(async () => {
  cluster = await startStage();
  const { plane, nodes, network } = cluster;
  const [node] = nodes;
  const router = [
    await findTool("kube-router"),
    `--kubeconfig=${node!.adminConfig}`,
    `--hostname-override=${node!.name}`,
  ];
  const firewall = ["--run-firewall", "--run-router=false", "--run-service-proxy=false", "--run-loadbalancer=false"];
  const rest = ["--metrics-port=0", "--health-port=0", `--service-cluster-ip-range=${FOUR.services}`];
  node!.run("kube-router", [...router, ...firewall, ...rest]);
  for (const address of [VM, STRANGER]) run([...network.internet, "ip", "addr", "add", `${address}/32`, "dev", "lo"]);
  const { key, cert } = makeCertificate(folder, ["hooks.example"]);
  const receiver = new URL("https-receiver.ts", import.meta.url).pathname;
  start("https-receiver", onVm([process.execPath, receiver, FOUR.receiver, key, cert]));
  mkdirSync(bin);
  script("kubectl", [await findTool("kubectl"), "--kubeconfig", plane.userConfig()]);
  useCurl(VM);
  env = { ...process.env, PATH: `${bin}${delimiter}${process.env.PATH}`, KUBECACHEDIR: join(folder, "cache") };
});
after(async () => {
  await Promise.all(programs.map((program) => program.stop()));
  await cluster?.stop();
});

/** Gives the Service the address of the load balancer, and starts HAProxy there. Returns its port on the node. */
async function balance(): Promise<number> {
  const { plane, nodes } = cluster;
  const service = (await plane.get<{ spec: { ports: { nodePort: number }[] } }>(SERVICE))!;
  const { nodePort } = service.spec.ports[0]!;
  await plane.patch(`${SERVICE}/status`, {
    status: { loadBalancer: { ingress: [{ ip: BALANCER, ipMode: "Proxy" }] } },
  });
  const config = join(folder, "haproxy.cfg");
  const lines = [
    "defaults",
    "  mode tcp",
    "  timeout connect 5s",
    "  timeout client 310s",
    "  timeout server 310s",
    "listen proxies",
    `  bind ${BALANCER}:4751`,
    `  server node ${nodes[0]!.place.address}:${nodePort} send-proxy-v2 source ${BALANCER}`,
  ];
  writeFileSync(config, `${lines.join("\n")}\n`);
  start("haproxy", onVm(["haproxy", "-db", "-f", config]));
  return nodePort;
}

const CLIENT = commandsOf("4. Client")[0]!.trim();
/** The request of the page, with another path or without a certificate. */
const request = (edit = (command: string) => command) => finish(shell(edit(CLIENT)));

test("a client outside delivers from the static address", async () => {
  await follow("1. Certificates");
  await follow("2. Policy");
  await balance();
  assert.match(await follow("3. Load balancer"), new RegExp(`LoadBalancer +\\S+ +${BALANCER} +4751:`));
  // kube-proxy and the firewall of the node follow the pods with a delay.
  let answer = await request();
  for (const began = Date.now(); answer.status !== 0; answer = await request()) {
    assert.ok(Date.now() - began < SETTLED_MS, answer.stderr);
    await sleep(200);
  }
  assert.equal(await follow("4. Client"), `${STATIC_IPS[0]}\n`);
});

test("others are refused by the proxies, and by the NetworkPolicy", async () => {
  const anonymous = await request((command) => command.replace(/--proxy-cert \S+ --proxy-key \S+/, ""));
  assert.match(anonymous.stderr, /CONNECT tunnel failed, response 403/);
  const elsewhere = await request((command) => command.replace("hooks.example/", "echo.example/"));
  assert.match(elsewhere.stderr, /CONNECT tunnel failed, response 403/);
  useCurl(STRANGER);
  const stranger = await request();
  assert.ok(stranger.status !== 0 && !/response/.test(stranger.stderr), stranger.stderr);
  const { spec } = (await cluster.plane.get<{ spec: { ports: { nodePort: number }[] } }>(SERVICE))!;
  const direct = `curl -sk --connect-timeout 3 https://${cluster.nodes[0]!.place.address}:${spec.ports[0]!.nodePort}/`;
  const around = await finish(shell(direct));
  assert.ok(NOT_CONNECTED.includes(around.status!), `${around.status} ${around.stderr}`);
  useCurl(VM);
  // The VM can connect in the same way, so the addresses make the difference.
  assert.ok(!NOT_CONNECTED.includes((await finish(shell(direct))).status!));
  assert.equal((await request()).status, 0);
});

test("a revoked client loses its tunnel, and gets no other", async () => {
  const held = shell(CLIENT.replace("curl", "curl --no-buffer").replace("hooks.example/", "hooks.example/hold"));
  const ended = once(held, "close");
  const [first] = await Promise.race([once(held.stdout!, "data"), ended]);
  assert.equal(String(first), "held\n");
  await follow("5. Revoke a client");
  const began = Date.now();
  assert.equal(held.exitCode, null, "it was open until then");
  const [status] = await ended;
  const took = Date.now() - began;
  console.log(`the tunnel of the revoked client ended ${took} ms after the last command`);
  assert.notEqual(status, 0);
  assert.ok(took < REVOKED_MS, `${took} ms`);
  // Each proxy has its own copy of the list.
  let again = await request();
  while (again.status === 0 && Date.now() - began < REVOKED_MS) again = await request();
  assert.ok(again.status !== 0 && !/response/.test(again.stderr), again.stderr);
});
