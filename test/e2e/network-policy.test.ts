import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { clusterMissing } from "../cluster/node/cluster.ts";
import { toolsMissing } from "../cluster/tools.ts";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";

/** kube-router keeps addresses of pods in sets of the kernel. */
function ipsetMissing(): string | null {
  return spawnSync("ipset", ["list", "-name"]).status === 0 ? null : "needs the Debian package ipset";
}

const skip = namespaceMissing() ?? clusterMissing() ?? toolsMissing(["kube-router"]) ?? ipsetMissing() ?? false;

test("on a real node: NetworkPolicies that are enforced", { skip, timeout: 600_000 }, () =>
  runInNamespace(new URL("network-policy.inside.ts", import.meta.url)),
);
