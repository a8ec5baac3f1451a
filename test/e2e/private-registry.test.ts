import { test } from "node:test";
import { CLUSTER_TOOLS, clusterMissing } from "../cluster/node/cluster.ts";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";

const skip = namespaceMissing() ?? clusterMissing() ?? false;

test(
  "on a real node: an image of a private registry",
  {
    skip,
    timeout: 900_000,
  },
  () => runInNamespace(new URL("private-registry.inside.ts", import.meta.url), CLUSTER_TOOLS),
);
