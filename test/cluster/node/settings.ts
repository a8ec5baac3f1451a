import { join } from "node:path";
import { fullName } from "../../../bin/image/archive.ts";
import type { Family } from "./addresses.ts";
import { SENDER_IMAGE } from "./images.ts";
import { pluginFolder } from "./machine.ts";

/** Files of a node's programs. */

export const DNS_SERVICE = "10.96.0.10";

/** After all other source translation (priority 100). */
export const masquerade = (
  { table, pods, services, nodes }: Family,
  leaves: string,
): string => `table ${table} of_node {
  chain post {
    type nat hook postrouting priority 110
  }
}
flush chain ${table} of_node post
add rule ${table} of_node post ${table} saddr ${pods} ${table} daddr != { ${pods}, ${services}, ${nodes} } ${leaves}
`;

/** CNI: a bridge for the pods of a node. */
export const pluginChain = (podCIDRs: readonly string[]): object => ({
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
        ranges: podCIDRs.map((subnet) => [{ subnet }]),
        routes: podCIDRs.map((subnet) => ({ dst: subnet.includes(":") ? "::/0" : "0.0.0.0/0" })),
      },
    },
  ],
});

/** For containerd 1.6 and 1.7; 2.x reads it as well, except for the names below `plugins`. */
export const containerdConfig = (folder: string): string => `version = 2
root = "${folder}/containerd"
state = "/run/containerd"

[grpc]
  address = "${folder}/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${fullName(SENDER_IMAGE)}"
  # If no process may lower it, runc fails at sandboxes: "can't get final child's PID from pipe: EOF".
  restrict_oom_score_adj = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "${pluginFolder()}"
    conf_dir = "${folder}/net.d"

[plugins."io.containerd.internal.v1.opt"]
  path = "${folder}/opt"
`;

/** KubeletConfiguration. */
export const kubeletSettings = (folder: string, group: string): object => ({
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

/** KubeProxyConfiguration. */
export const kubeProxySettings = (name: string, kubeconfig: string, families: readonly Family[]): object => ({
  apiVersion: "kubeproxy.config.k8s.io/v1alpha1",
  kind: "KubeProxyConfiguration",
  mode: "nftables",
  clientConnection: { kubeconfig },
  clusterCIDR: families.map(({ pods }) => pods).join(","),
  hostnameOverride: name,
  // Not writable in a namespace.
  conntrack: { maxPerCore: 0, min: 0, tcpEstablishedTimeout: "0s", tcpCloseWaitTimeout: "0s" },
  healthzBindAddress: "127.0.0.1:10256",
  metricsBindAddress: "",
  nodePortAddresses: ["primary"],
});
