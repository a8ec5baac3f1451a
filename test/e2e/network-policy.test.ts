import { test } from "node:test";
import { CLUSTER_TOOLS, clusterMissing } from "../cluster/node/cluster.ts";
import { ipsetMissing } from "../cluster/node/machine.ts";
import { toolsMissing } from "../cluster/tools.ts";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";

const skip = namespaceMissing() ?? clusterMissing() ?? toolsMissing(["kube-router"]) ?? ipsetMissing() ?? false;

test("on a real node: enforced NetworkPolicies", { skip, timeout: 600_000 }, () =>
  runInNamespace(new URL("network-policy.inside.ts", import.meta.url), [...CLUSTER_TOOLS, "kube-router"]),
);
