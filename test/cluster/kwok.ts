import { MAX_NODES, nodeAddress, podCIDR } from "./block.ts";
import type { ControlPlane } from "./plane.ts";

const STAGES = new URL("stages/", import.meta.url).pathname;
const NODE_LEASE_SECONDS = 40;

/**
 * The arguments of a kwok whose pods have loopback addresses: connections to a pod stay on this machine. @param
 * realProxies kwok does not set readiness and end of fleet pods
 */
export function kwokArgs(plane: ControlPlane, realProxies: boolean): string[] {
  return [
    `--kubeconfig=${plane.userConfig()}`,
    "--manage-nodes-with-label-selector=type=kwok",
    // Addresses of a pod while kwok does not know its node; the defaults are addresses of the surrounding network.
    `--cidr=${podCIDR(plane.block, MAX_NODES)}`,
    `--node-ip=${nodeAddress(plane.block, MAX_NODES)}`,
    // Otherwise it listens on all addresses.
    "--node-port=0",
    `--node-lease-duration-seconds=${NODE_LEASE_SECONDS}`,
    `--config=${STAGES}common.yaml`,
    `--config=${STAGES}${realProxies ? "pods-beside-proxies" : "pods"}.yaml`,
  ];
}

/**
 * Creates simulated nodes `node-0`, `node-1` …, each with its own address, which its host-network pods have as well.
 */
export async function makeNodes(plane: ControlPlane, count: number): Promise<void> {
  if (count > MAX_NODES) throw new Error(`kwokNodes: there are addresses for ${MAX_NODES} nodes, not for ${count}`);
  for (let i = 0; i < count; i++) {
    const name = `node-${i}`;
    const resources = { cpu: "64", memory: "256Gi", pods: "4000" };
    const addresses = [
      { type: "InternalIP", address: nodeAddress(plane.block, i) },
      { type: "Hostname", address: name },
    ];
    const cidr = podCIDR(plane.block, i);
    const { status, body } = await plane.request("POST", "/api/v1/nodes", {
      apiVersion: "v1",
      kind: "Node",
      metadata: { name, labels: { type: "kwok", "kubernetes.io/hostname": name } },
      spec: { podCIDR: cidr, podCIDRs: [cidr] },
      status: { addresses, allocatable: resources, capacity: resources },
    });
    if (status !== 201) throw new Error(`POST node ${name}: ${status} ${JSON.stringify(body)}`);
  }
  type Node = { status: { conditions?: { type: string; status: string }[] } };
  const ready = (found: Node | undefined) =>
    found?.status.conditions?.some(({ type, status }) => type === "Ready" && status === "True") ?? false;
  for (let i = 0; i < count; i++) await plane.until(`/api/v1/nodes/node-${i}`, ready, `node node-${i} is ready`);
}
