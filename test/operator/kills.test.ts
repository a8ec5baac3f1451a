import { test } from "node:test";
import { controlPlaneMissing } from "../cluster/control-plane.ts";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";

const skip = namespaceMissing() ?? controlPlaneMissing({ kwokNodes: 4 }) ?? false;

test("the operator survives kill -9 while policies change", { skip, timeout: 600_000 }, () =>
  runInNamespace(new URL("kills.inside.ts", import.meta.url)),
);
