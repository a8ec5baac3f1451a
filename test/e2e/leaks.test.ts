import { test } from "node:test";
import { CLUSTER_TOOLS, clusterMissing } from "../cluster/node/cluster.ts";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";

const skip = namespaceMissing() ?? clusterMissing() ?? false;

test(
  "on a real node: nothing leaves from an address that is not published, whatever happens",
  {
    skip,
    timeout: 900_000,
  },
  () => runInNamespace(new URL("leaks.inside.ts", import.meta.url), CLUSTER_TOOLS),
);
