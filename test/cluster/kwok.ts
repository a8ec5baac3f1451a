import { join } from "node:path";
import type { ControlPlane } from "./control-plane.ts";
import { findTool, moduleFolder } from "./tools.ts";

const STAGES = [
  "node/fast/node-initialize.yaml",
  "node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
  "pod/fast/pod-ready.yaml",
  "pod/fast/pod-complete.yaml",
  "pod/fast/pod-delete.yaml",
];

/** The command of a kwok whose pods have loopback addresses: whoever connects to a pod stays on this machine. */
export async function startKwok(plane: ControlPlane): Promise<string[]> {
  const stages = join(moduleFolder("kwok"), "kustomize/stage");
  return [
    await findTool("kwok"),
    `--kubeconfig=${plane.userConfig()}`,
    "--manage-nodes-with-label-selector=type=kwok",
    `--cidr=${plane.block}0.1/16`,
    `--node-ip=${plane.block}255.253`,
    "--node-lease-duration-seconds=40",
    ...STAGES.map((stage) => `--config=${join(stages, stage)}`),
  ];
}

/** The address of a simulated node, which its host-network pods have as well. */
export const nodeAddress = (plane: ControlPlane, index: number): string => `${plane.block}255.${1 + index}`;

/** Makes simulated nodes `node-0`, `node-1` …, each with an address of its own. */
export async function makeNodes(plane: ControlPlane, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    const name = `node-${i}`;
    const resources = { cpu: "64", memory: "256Gi", pods: "5000" };
    const labels = { type: "kwok", "kubernetes.io/hostname": name };
    const status = { allocatable: resources, capacity: resources };
    const node = { apiVersion: "v1", kind: "Node", metadata: { name, labels }, status };
    await plane.request("POST", "/api/v1/nodes", node);
    type Node = { status: { conditions?: { type: string; status: string }[] } };
    const ready = (found: Node | undefined) =>
      found?.status.conditions?.some(({ type, status }) => type === "Ready" && status === "True") ?? false;
    await plane.until(`/api/v1/nodes/${name}`, ready, `node ${name} is ready`);
    // The API server takes loopback addresses in an update of the status only.
    const addresses = [
      { type: "InternalIP", address: nodeAddress(plane, i) },
      { type: "Hostname", address: name },
    ];
    await plane.patch(`/api/v1/nodes/${name}/status`, { status: { addresses } });
  }
}
