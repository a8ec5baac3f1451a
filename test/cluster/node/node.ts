import { execFileSync, spawn } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fullName } from "../../../bin/image/archive.ts";
import { finish } from "../../harness/finish.ts";
import { Program } from "../processes.ts";
import { SENDER_IMAGE } from "./images.ts";
import { childrenOf, groupOf, pluginFolder } from "./machine.ts";
import { INSIDE, INTERNET, type NodePlace, PODS } from "./network.ts";

/** Programs of a node. */
export type NodeProgram = "containerd" | "kubelet" | "kube-proxy" | "kube-vip";

const START_MS = 30_000;
const LOOK_MS = 30;
export const DNS_SERVICE = "10.96.0.10";

/** What a node is made of. */
export interface NodeParts {
  place: NodePlace;
  /** Of the cluster. */
  folder: string;
  kubelet: string;
  kubeProxy: string;
  kubeletConfig: string;
  proxyConfig: string;
}

/** A real node: kubelet, containerd and kube-proxy in namespaces of their own. */
export class Node {
  readonly place: NodePlace;
  readonly #parts: NodeParts;
  readonly #folder: string;
  #init: Program;
  readonly #programs = new Map<NodeProgram, Program>();
  #leaves = "masquerade";

  constructor(parts: NodeParts) {
    this.place = parts.place;
    this.#parts = parts;
    this.#folder = join(parts.folder, parts.place.name);
    mkdirSync(this.#folder, { recursive: true });
    this.#init = this.#makeInit();
    this.#writeFiles();
  }

  get name(): string {
    return this.place.name;
  }

  #log(name: string): string {
    return join(this.#parts.folder, `${this.name}-${name}.log`);
  }

  #makeInit(): Program {
    const unshare = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--"];
    const script = new URL("init.sh", import.meta.url).pathname;
    const command = [...this.place.enter, ...unshare, "bash", script, this.#folder, groupOf(this.name), this.name];
    return new Program(`${this.name} init`, command, this.#log("init"));
  }

  /** Starts the node with containerd and these images; the kubelet comes last ({@link startKubelet}). */
  async start(images: readonly string[]): Promise<void> {
    writeFileSync(this.#log("init"), "");
    this.#init.start();
    await this.#until("its namespaces", () => readFileSync(this.#init.log, "utf8").endsWith("ready\n"));
    this.run("containerd", ["containerd", "--config", join(this.#folder, "containerd.toml"), "--log-level", "info"]);
    this.run("kube-proxy", [this.#parts.kubeProxy, "--config", join(this.#folder, "kube-proxy.json")]);
    this.#masquerade();
    await this.untilContainerd();
    for (const image of images) await this.ctr("images", "import", image);
    this.startKubelet();
  }

  startKubelet(): void {
    const { place, kubelet, kubeletConfig } = this.#parts;
    const config = join(this.#folder, "kubelet.json");
    const name = [`--hostname-override=${place.name}`, `--node-ip=${place.address}`];
    this.run("kubelet", [kubelet, `--config=${config}`, `--kubeconfig=${kubeletConfig}`, ...name, "--v=2"]);
  }

  async untilContainerd(): Promise<void> {
    await this.#until("containerd", async () => (await this.#ctr("version")).status === 0);
  }

  /** Runs containerd's own command line. */
  async ctr(...args: string[]): Promise<string> {
    const { status, stdout, stderr } = await this.#ctr("--namespace=k8s.io", ...args);
    if (status !== 0) throw new Error(`${this.name}: ctr ${args.join(" ")}: ${stderr}`);
    return stdout;
  }

  #ctr(...args: string[]) {
    const socket = join(this.#folder, "containerd.sock");
    const command = this.inside(["ctr", `--address=${socket}`, ...args]);
    return finish(spawn(command[0]!, command.slice(1), { stdio: ["ignore", "pipe", "pipe"] }));
  }

  /** Puts a command into the node. */
  inside(command: readonly string[]): string[] {
    const [pid] = childrenOf(this.#unshare());
    return ["nsenter", `--target=${pid}`, "--mount", "--pid", "--uts", "--ipc", "--net", "--", ...command];
  }

  /** `unshare` stays, and its child is process 1 of the node. With a network namespace to enter it is the same process. */
  #unshare(): number {
    return this.#init.pid;
  }

  /** Starts a program of the node. */
  run(name: NodeProgram, command: readonly string[]): void {
    const program = new Program(`${this.name} ${name}`, this.inside(command), this.#log(name));
    this.#programs.set(name, program);
    program.start();
  }

  program(name: NodeProgram): Program {
    const program = this.#programs.get(name);
    if (program === undefined) throw new Error(`${this.name} runs no ${name}`);
    return program;
  }

  /** Ends a program as a crash would. What runs in another pid namespace is a child of the program that put it there. */
  async kill(name: NodeProgram): Promise<void> {
    const program = this.program(name);
    for (const pid of childrenOf(program.pid)) process.kill(pid, "SIGKILL");
    await program.stop();
  }

  /** Ends the node as a power cut would. */
  async stop(): Promise<void> {
    const [pid] = this.#init.running ? childrenOf(this.#unshare()) : [];
    if (pid !== undefined) process.kill(pid, "SIGKILL");
    await this.#init.stop();
    await Promise.all([...this.#programs.values()].map((program) => program.stop()));
    this.#programs.clear();
  }

  async #until(what: string, check: () => boolean | Promise<boolean>): Promise<void> {
    for (const began = Date.now(); !(await check()); await sleep(LOOK_MS)) {
      if (!this.#init.running) throw new Error(`${this.name} ended: ${this.#init.tail}`);
      const tails = () => [...this.#programs.values()].map(({ name, tail }) => `${name}: ${tail}`).join("\n");
      if (Date.now() - began > START_MS)
        throw new Error(`${this.name}: ${what}: not within ${START_MS} ms\n${tails()}`);
    }
  }

  #writeFiles(): void {
    const { place, proxyConfig } = this.#parts;
    const file = (name: string) => join(this.#folder, name);
    mkdirSync(file("net.d"), { recursive: true });
    writeFileSync(file("resolv.conf"), `nameserver ${INTERNET.dns}\n`);
    writeFileSync(file("net.d/10-pods.conflist"), JSON.stringify(pluginChain(place.podCIDR)));
    writeFileSync(file("containerd.toml"), containerdConfig(this.#folder));
    writeFileSync(file("kubelet.json"), JSON.stringify(kubeletSettings(this.#folder, groupOf(this.name))));
    writeFileSync(file("kube-proxy.json"), JSON.stringify(kubeProxySettings(place, proxyConfig)));
  }

  /** Gives the node a further address; what pods send to others leaves from it from now on. */
  leaveAs(address: string): void {
    const ip = [...this.place.enter, "ip", "addr", "add", `${address}/24`, "dev", "eth0"];
    execFileSync(ip[0]!, ip.slice(1));
    this.#leaves = `snat to ${address}`;
    this.#masquerade();
  }

  /** What leaves the node for others gets the node's address. */
  #masquerade(): void {
    const [program, ...args] = [...this.place.enter, "nft", "-f", "-"];
    execFileSync(program!, args, { input: masquerade(this.#leaves), stdio: ["pipe", "inherit", "inherit"] });
  }
}

/** After everything that translates sources of its own (priority 100). */
const masquerade = (leaves: string) => `table ip of_node {
  chain post {
    type nat hook postrouting priority 110
  }
}
flush chain ip of_node post
add rule ip of_node post ip saddr ${PODS} ip daddr != { ${INSIDE.join(", ")} } ${leaves}
`;

const pluginChain = (podCIDR: string) => ({
  cniVersion: "1.0.0",
  name: "pods",
  plugins: [
    {
      type: "bridge",
      bridge: "cni0",
      isGateway: true,
      ipMasq: false,
      hairpinMode: true,
      ipam: {
        type: "host-local",
        dataDir: "/var/lib/cni/networks",
        ranges: [[{ subnet: podCIDR }]],
        routes: [{ dst: "0.0.0.0/0" }],
      },
    },
  ],
});

/** For containerd 1.6 and 1.7; 2.x reads it as well, except for the names below `plugins`. */
const containerdConfig = (folder: string) => `version = 2
root = "${folder}/containerd"
state = "/run/containerd"

[grpc]
  address = "${folder}/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${fullName(SENDER_IMAGE)}"
  # Where nobody may lower it, runc fails at sandboxes: "can't get final child's PID from pipe: EOF".
  restrict_oom_score_adj = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "${pluginFolder()}"
    conf_dir = "${folder}/net.d"

[plugins."io.containerd.internal.v1.opt"]
  path = "${folder}/opt"
`;

const kubeletSettings = (folder: string, group: string) => ({
  apiVersion: "kubelet.config.k8s.io/v1beta1",
  kind: "KubeletConfiguration",
  failCgroupV1: false,
  cgroupDriver: "cgroupfs",
  cgroupRoot: `/${group}`,
  containerRuntimeEndpoint: `unix://${folder}/containerd.sock`,
  authentication: { anonymous: { enabled: true }, webhook: { enabled: false } },
  authorization: { mode: "AlwaysAllow" },
  clusterDNS: [DNS_SERVICE],
  clusterDomain: "cluster.local",
  resolvConf: join(folder, "resolv.conf"),
  failSwapOn: false,
  enforceNodeAllocatable: ["pods"],
  evictionHard: { "memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
  imageGCHighThresholdPercent: 100,
  imageMinimumGCAge: "24h",
  nodeStatusUpdateFrequency: "2s",
  shutdownGracePeriod: "0s",
});

const kubeProxySettings = ({ name }: NodePlace, kubeconfig: string) => ({
  apiVersion: "kubeproxy.config.k8s.io/v1alpha1",
  kind: "KubeProxyConfiguration",
  mode: "nftables",
  clientConnection: { kubeconfig },
  clusterCIDR: PODS,
  hostnameOverride: name,
  // Not writable in a namespace.
  conntrack: { maxPerCore: 0, min: 0, tcpEstablishedTimeout: "0s", tcpCloseWaitTimeout: "0s" },
  healthzBindAddress: "127.0.0.1:10256",
  metricsBindAddress: "",
  nodePortAddresses: ["primary"],
});
