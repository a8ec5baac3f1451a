import type { Node } from "../cluster/node/node.ts";

/** The command of kube-vip on a node. It uses the API server address of the node's kubelet. */
export const kubeVIPCommand = (program: string, node: Node): string[] => [
  ...["env", `vip_nodename=${node.name}`, program, "manager"],
  ...["--k8sConfigPath", node.adminConfig, "--interface", "eth0", "--services", "--arp", "--servicesElection"],
  ...["--nodeName", node.name, "--namespace", "kube-system", "--lbClassOnly"],
  ...["--prometheusHTTPServer", "127.0.0.1:2112"],
];
