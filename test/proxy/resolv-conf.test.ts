import { test } from "node:test";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";

test("uses the name servers of resolv.conf without --resolver", { skip: namespaceMissing() ?? false }, () =>
  runInNamespace(new URL("resolv-conf.inside.ts", import.meta.url)),
);
