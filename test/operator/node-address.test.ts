import { test } from "node:test";
import { controlPlaneMissing } from "../cluster/control-plane.ts";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";

const skip = namespaceMissing() ?? controlPlaneMissing({ kwokNodes: 4 }) ?? false;

test("NodeAddress runs each slot on the node of its address", { skip, timeout: 600_000 }, () =>
  runInNamespace(new URL("node-address.inside.ts", import.meta.url)),
);
