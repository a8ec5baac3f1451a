import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Component } from "../components.ts";
import { type ControlPlane, controlPlaneMissing, planeTools, startControlPlane } from "../control-plane.ts";
import { Program } from "../processes.ts";
import { findTool, toolsMissing } from "../tools.ts";
import { DNS_HOST, FAMILIES, FOUR } from "./addresses.ts";
import { makeImages } from "./images.ts";
import { Internet } from "./internet.ts";
import { machineMissing, removeGroups } from "./machine.ts";
import { Network } from "./network.ts";
import { Node } from "./node.ts";
import { DNS_SERVICE } from "./settings.ts";

const NODE_TOOLS = ["kubelet", "kube-proxy", "coredns"];
/** The tools of a real cluster, including those of its image and its installation, for `runInNamespace`. */
export const CLUSTER_TOOLS: readonly string[] = [...planeTools({ controllers: true }), ...NODE_TOOLS, "helm", "sender"];
/** In the order of their start. */
const COMPONENTS: readonly Component[] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];
const READY_MS = 60_000;
/** The kernel needs a moment to clean up killed processes. */
const FORGET_MS = 10_000;

/** The reason why no real cluster can run here; null when it can, possibly after a build of its programs. */
export function clusterMissing(): string | null {
  return machineMissing() ?? controlPlaneMissing({ controllers: true }) ?? toolsMissing(CLUSTER_TOOLS);
}

/** A real cluster with a NAT gateway before an "internet". This process is in the network namespace of its first node. */
export interface Cluster {
  plane: ControlPlane;
  network: Network;
  nodes: readonly Node[];
  internet: Internet;
  /** Restarts a stopped node. */
  startNode(index: number): Promise<void>;
  /** Restarts every program after {@link halt}, in any order. */
  resume(): Promise<void>;
  /** Kills every program of the cluster, as a power cut would; etcd's data are kept. */
  halt(): Promise<void>;
  /** Ends everything. @throws when processes are left, or a packet tried to leave */
  stop(): Promise<void>;
}

type NodeObject = { status?: { conditions?: { type: string; status: string }[] } };

const dnsObjects = (address: string) => `
apiVersion: v1
kind: Service
metadata: { name: kube-dns, namespace: kube-system }
spec:
  clusterIP: ${DNS_SERVICE}
  ports:
    - { name: dns, port: 53, protocol: UDP }
    - { name: dns-tcp, port: 53, protocol: TCP }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: kube-dns, namespace: kube-system, labels: { kubernetes.io/service-name: kube-dns } }
addressType: IPv4
endpoints: [{ addresses: [${address}], conditions: { ready: true } }]
ports:
  - { name: dns, port: 53, protocol: UDP }
  - { name: dns-tcp, port: 53, protocol: TCP }
`;

const corefile = (address: string, kubeconfig: string, upstream: string) => `.:53 {
  bind ${address}
  errors
  kubernetes cluster.local in-addr.arpa {
    kubeconfig ${kubeconfig}
    pods insecure
    ttl 1
  }
  forward . ${upstream}
  cache 1
}
`;

export interface ClusterOptions {
  nodes?: number;
  /** Pods and Services have IPv6 as well. */
  dualStack?: boolean;
}

/** Starts a cluster; this process has to be in a network namespace with only loopback (`runInNamespace`). */
export async function startCluster({ nodes: count = 1, dualStack = false }: ClusterOptions = {}): Promise<Cluster> {
  const families = dualStack ? FAMILIES : [FOUR];
  removeGroups(false);
  const tools = new Map<string, string>();
  for (const name of NODE_TOOLS) tools.set(name, await findTool(name));
  const kubelets = Array.from({ length: count }, (_, i) => [`system:node:node-${i + 1}`, ["system:nodes"]] as const);
  let network: Network | undefined;
  const plane = await startControlPlane({
    controllers: true,
    serviceCIDR: families.map(({ services }) => services).join(","),
    users: { ...Object.fromEntries(kubelets), "system:kube-proxy": [] },
    apiServerFlags: ["--enable-admission-plugins=NodeRestriction"],
    reach: (folder) => {
      network = new Network(folder, count);
      return network.nodes[0]!.address;
    },
  });
  const { folder } = plane;
  const server = `https://${network!.nodes[0]!.address}:6443`;
  const nodes = network!.nodes.map(
    (place) =>
      new Node({
        ...{ place, folder, families },
        kubelet: tools.get("kubelet")!,
        kubeProxy: tools.get("kube-proxy")!,
        kubeletConfig: plane.userConfig(`system:node:${place.name}`, server),
        proxyConfig: plane.userConfig("system:kube-proxy", server),
        adminConfig: plane.userConfig("admin", server),
      }),
  );
  const internet = new Internet(folder, network!.internet);
  const images = await makeImages(join(folder, "images"));
  const dnsFile = join(folder, "Corefile");
  writeFileSync(dnsFile, corefile(network!.nodes[0]!.address, plane.userConfig(), DNS_HOST));
  const dns = new Program("coredns", [tools.get("coredns")!, "-conf", dnsFile], join(folder, "coredns.log"));

  const startNode = async (index: number) => {
    const node = nodes[index]!;
    const path = `/api/v1/nodes/${node.name}`;
    await node.start(images);
    await plane.until(path, (found) => found !== undefined, `${node.name} is registered`, READY_MS);
    await plane.patch(path, { spec: { podCIDR: node.podCIDRs[0], podCIDRs: node.podCIDRs } });
    const ready = (found: NodeObject | undefined) =>
      found?.status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True") ?? false;
    await plane.until<NodeObject>(path, ready, `${node.name} is ready`, READY_MS);
  };
  const startAll = async () => {
    dns.start();
    await Promise.all(nodes.map((_, index) => startNode(index)));
  };
  await plane.applyYaml(dnsObjects(network!.nodes[0]!.address));
  await internet.start();
  await startAll();
  return {
    plane,
    network: network!,
    nodes,
    internet,
    startNode,
    halt: async () => {
      await Promise.all(nodes.map((node) => node.stop()));
      await dns.stop();
      await Promise.all(COMPONENTS.map((name) => plane.kill(name)));
    },
    resume: async () => {
      for (const name of COMPONENTS) await plane.revive(name);
      await startAll();
    },
    stop: async () => {
      const foreign = network!.foreign();
      await Promise.all(nodes.map((node) => node.stop()));
      await dns.stop();
      await internet.stop();
      await plane.stop();
      await network!.stop();
      let left = removeGroups(true);
      for (const began = Date.now(); left.length > 0 && Date.now() - began < FORGET_MS; left = removeGroups(true)) {
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      if (left.length > 0) throw new Error(`left behind: ${left.join("; ")}`);
      if (foreign.packets > 0) {
        throw new Error(`${foreign.packets} packets tried to leave the test network: ${foreign.addresses.join(", ")}`);
      }
    },
  };
}
