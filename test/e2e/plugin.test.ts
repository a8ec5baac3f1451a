import { test } from "node:test";
import { CLUSTER_TOOLS, clusterMissing } from "../cluster/node/cluster.ts";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";

const skip = namespaceMissing() ?? clusterMissing() ?? false;

test("on a real node: kubectl egress asks running proxies", { skip, timeout: 600_000 }, () =>
  runInNamespace(new URL("plugin.inside.ts", import.meta.url), CLUSTER_TOOLS),
);
