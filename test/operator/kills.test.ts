import { test } from "node:test";
import { controlPlaneMissing } from "../cluster/control-plane.ts";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";

const skip = namespaceMissing() ?? controlPlaneMissing({ kwokNodes: 4 }) ?? false;

test("kill -9 of the operator while policies come, change and go", { skip, timeout: 600_000 }, () =>
  runInNamespace(new URL("kills.inside.ts", import.meta.url)),
);
