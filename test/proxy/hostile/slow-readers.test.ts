import { test } from "node:test";
import { namespaceMissing, runInNamespace } from "../../harness/namespace.ts";

test("clients that never read leave enough memory", { skip: namespaceMissing() ?? false }, () =>
  runInNamespace(new URL("slow-readers.inside.ts", import.meta.url)),
);
