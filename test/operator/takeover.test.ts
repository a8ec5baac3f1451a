import { test } from "node:test";
import { controlPlaneMissing, planeTools } from "../cluster/control-plane.ts";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";

const PLANE = { kwokNodes: 4 };
const skip = namespaceMissing() ?? controlPlaneMissing(PLANE) ?? false;

test("an operator with late or missed events deletes nothing", { skip, timeout: 600_000 }, () =>
  runInNamespace(new URL("takeover.inside.ts", import.meta.url), planeTools(PLANE)),
);
