import { test } from "node:test";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";

test("without --resolver the name servers of resolv.conf are asked", { skip: namespaceMissing() ?? false }, () =>
  runInNamespace(new URL("resolv-conf.inside.ts", import.meta.url)),
);
