import { test } from "node:test";
import { controlPlaneMissing, planeTools } from "../cluster/control-plane.ts";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";

const PLANE = { kwokNodes: 4 };
const skip = namespaceMissing() ?? controlPlaneMissing(PLANE) ?? false;

test("slots have one proxy and one Service for each static IP", { skip, timeout: 600_000 }, () =>
  runInNamespace(new URL("slots.inside.ts", import.meta.url), planeTools(PLANE)),
);
