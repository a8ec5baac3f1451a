import { test } from "node:test";
import { CLUSTER_TOOLS, clusterMissing } from "../cluster/node/cluster.ts";
import { ipsetMissing } from "../cluster/node/machine.ts";
import { toolsMissing } from "../cluster/tools.ts";
import { opensslMissing } from "../harness/certificate.ts";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";
import { programMissing } from "../harness/packages.ts";

const programsMissing = programMissing("haproxy") ?? programMissing("curl") ?? opensslMissing();
const clusterToolsMissing = clusterMissing() ?? toolsMissing(["kube-router"]) ?? ipsetMissing();
const skip = namespaceMissing() ?? clusterToolsMissing ?? programsMissing ?? false;

test("on a real node: the commands for senders outside of the cluster", { skip, timeout: 600_000 }, () =>
  runInNamespace(new URL("outside-senders.inside.ts", import.meta.url), [...CLUSTER_TOOLS, "kube-router"]),
);
