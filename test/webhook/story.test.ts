import { test } from "node:test";
import { controlPlaneMissing } from "../cluster/control-plane.ts";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";

const skip = namespaceMissing() ?? controlPlaneMissing({ kwokNodes: 3 }) ?? false;

test("annotated pods deliver through the proxies", { skip, timeout: 600_000 }, () =>
  runInNamespace(new URL("story.inside.ts", import.meta.url)),
);
