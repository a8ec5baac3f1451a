import { test } from "node:test";
import { controlPlaneMissing, planeTools } from "../cluster/control-plane.ts";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";

const PLANE = { kwokNodes: 4 };
const skip = namespaceMissing() ?? controlPlaneMissing(PLANE) ?? false;

test("NodeAddress runs each slot on the node of its address", { skip, timeout: 600_000 }, () =>
  runInNamespace(new URL("node-address.inside.ts", import.meta.url), planeTools(PLANE)),
);
