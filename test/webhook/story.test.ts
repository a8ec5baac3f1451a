import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { controlPlaneMissing, planeTools } from "../cluster/control-plane.ts";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";
import { tempFolder } from "../harness/proxy.ts";
import { SENDERS } from "../proxy/senders/senders.ts";

const PLANE = { kwokNodes: 3 };
const skip = namespaceMissing() ?? controlPlaneMissing(PLANE) ?? false;

test("annotated pods deliver through the proxies", { skip, timeout: 600_000 }, () => {
  const go = SENDERS.find(({ name }) => name.startsWith("Go"))!;
  if (spawnSync(go.tool[0]!, go.tool.slice(1)).status === 0) {
    // Built before the namespace is entered, like all programs.
    const folder = tempFolder();
    go.prepare!(folder);
    process.env.OUTRIDER_SENDER_FOLDER = folder;
  }
  return runInNamespace(new URL("story.inside.ts", import.meta.url), planeTools(PLANE));
});
