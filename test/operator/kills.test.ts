import { test } from "node:test";
import { controlPlaneMissing, planeTools } from "../cluster/control-plane.ts";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";

const PLANE = { kwokNodes: 4 };
const skip = namespaceMissing() ?? controlPlaneMissing(PLANE) ?? false;

test("the operator survives kill -9 while policies change", { skip, timeout: 600_000 }, () =>
  runInNamespace(new URL("kills.inside.ts", import.meta.url), planeTools(PLANE)),
);
