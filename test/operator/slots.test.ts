import { test } from "node:test";
import { controlPlaneMissing } from "../cluster/control-plane.ts";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";

const skip = namespaceMissing() ?? controlPlaneMissing({ kwokNodes: 4 }) ?? false;

test("slots have one proxy and one Service for each static IP", { skip, timeout: 600_000 }, () =>
  runInNamespace(new URL("slots.inside.ts", import.meta.url)),
);
