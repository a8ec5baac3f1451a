import { test } from "node:test";
import { opensslMissing } from "../harness/certificate.ts";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";

test(
  "clients resolve the injected name of the Service in one step",
  {
    skip: namespaceMissing() ?? opensslMissing() ?? false,
  },
  () => runInNamespace(new URL("service-name.inside.ts", import.meta.url)),
);
