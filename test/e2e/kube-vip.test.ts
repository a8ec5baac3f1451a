import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { CLUSTER_TOOLS, clusterMissing } from "../cluster/node/cluster.ts";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";

/** kube-vip is not available as a Go module. */
function kubeVIPMissing(): string | null {
  const program = process.env.KUBE_VIP;
  if (program === undefined) return "needs kube-vip: name its program in KUBE_VIP";
  return spawnSync(program, ["version"]).status === 0 ? null : `KUBE_VIP is ${program}, which does not run`;
}

const skip = namespaceMissing() ?? clusterMissing() ?? kubeVIPMissing() ?? false;

test("on a real node: addresses assigned by kube-vip", { skip, timeout: 900_000 }, () =>
  runInNamespace(new URL("kube-vip.inside.ts", import.meta.url), CLUSTER_TOOLS),
);
