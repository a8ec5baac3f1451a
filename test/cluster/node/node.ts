import { spawn } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { finish } from "../../harness/finish.ts";
import { Program } from "../processes.ts";
import { DNS_HOST, type Family } from "./addresses.ts";
import { childrenOf, groupOf } from "./machine.ts";
import { run } from "./namespace.ts";
import type { NodePlace } from "./network.ts";
import { containerdConfig, kubeletSettings, kubeProxySettings, masquerade, pluginChain } from "./settings.ts";

/** Programs of a node. */
export type NodeProgram = "containerd" | "kubelet" | "kube-proxy" | "kube-router" | "kube-vip";

const START_MS = 30_000;
const LOOK_MS = 30;

/** Options of a node. */
export interface NodeParts {
  place: NodePlace;
  /** Of the cluster. */
  folder: string;
  /** Of its pods; the first one is the node's main address. */
  families: readonly Family[];
  kubelet: string;
  kubeProxy: string;
  /** kubeconfigs with an address of the API server that the node reaches. */
  kubeletConfig: string;
  proxyConfig: string;
  adminConfig: string;
}

/** A real node: kubelet, containerd and kube-proxy in their own namespaces. */
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

  get podCIDRs(): string[] {
    return this.#parts.families.map(({ podCIDR }) => podCIDR(this.place.index));
  }

  /** kubeconfig of `admin` for programs on this node, with the server address of its kubelet. */
  get adminConfig(): string {
    return this.#parts.adminConfig;
  }

  get kubeletConfig(): string {
    return this.#parts.kubeletConfig;
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

  /** Starts the node with containerd and these images; the kubelet is started later ({@link startKubelet}). */
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
    const { place, kubelet, kubeletConfig, families } = this.#parts;
    const addresses = families.map(({ node }) => node(place.index)).join(",");
    const config = join(this.#folder, "kubelet.json");
    const name = [`--hostname-override=${place.name}`, `--node-ip=${addresses}`];
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

  /**
   * `unshare` keeps running, and its child is process 1 of the node. When it enters a network namespace, it is the same
   * process.
   */
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

  /**
   * Kills a program, as a crash would. In another pid namespace the program is a child of the process that entered it.
   */
  async kill(name: NodeProgram): Promise<void> {
    const program = this.program(name);
    for (const pid of childrenOf(program.pid)) process.kill(pid, "SIGKILL");
    await program.stop();
  }

  /** Kills the node, as a power cut would. */
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
    const { place, proxyConfig, families } = this.#parts;
    const file = (name: string) => join(this.#folder, name);
    mkdirSync(file("net.d"), { recursive: true });
    writeFileSync(file("resolv.conf"), `nameserver ${DNS_HOST}\n`);
    writeFileSync(file("net.d/10-pods.conflist"), JSON.stringify(pluginChain(this.podCIDRs)));
    writeFileSync(file("containerd.toml"), containerdConfig(this.#folder));
    writeFileSync(file("kubelet.json"), JSON.stringify(kubeletSettings(this.#folder, groupOf(this.name))));
    writeFileSync(file("kube-proxy.json"), JSON.stringify(kubeProxySettings(place.name, proxyConfig, families)));
  }

  /** Adds an address to the node; packets of pods leave from it from now on. */
  leaveAs(address: string): void {
    run([...this.place.enter, "ip", "addr", "add", `${address}/24`, "dev", "eth0"]);
    this.#leaves = `snat to ${address}`;
    this.#masquerade();
  }

  /** Packets that leave the node get the node's address. */
  #masquerade(): void {
    for (const family of this.#parts.families) {
      const leaves = family.table === "ip" ? this.#leaves : "masquerade";
      run([...this.place.enter, "nft", "-f", "-"], masquerade(family, leaves));
    }
  }
}
