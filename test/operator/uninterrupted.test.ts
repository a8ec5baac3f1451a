import { test } from "node:test";
import { controlPlaneMissing, planeTools } from "../cluster/control-plane.ts";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";

const PLANE = { kwokNodes: 4 };
const skip = namespaceMissing() ?? controlPlaneMissing(PLANE) ?? false;

test("the client Service keeps a serving proxy through edits and faults", { skip, timeout: 900_000 }, () =>
  runInNamespace(new URL("uninterrupted.inside.ts", import.meta.url), planeTools(PLANE)),
);
