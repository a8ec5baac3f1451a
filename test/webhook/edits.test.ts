import assert from "node:assert/strict";
import { before, test } from "node:test";
import { BOOT, controlPlaneMissing } from "../cluster/control-plane.ts";
import { freePort } from "../cluster/processes.ts";
import { applyPolicy, makeNamespace, untilCondition } from "../operator/operator.ts";
import { type Stage, startStage } from "../operator/stage.ts";
import { installWebhook, untilAdmitting } from "./installed.ts";
import { until } from "./shared.ts";

/** Edits of a policy with kubectl, on a real API server that calls a real operator. */

const skip = controlPlaneMissing({ controllers: true }) ?? false;
const NS = "convoy";
const DENY = [{ name: "competitors", hosts: ["*.competitor.example"] }];
const INTERNAL = [{ name: "internal", hosts: ["api.internal.example"], cidrs: ["10.0.0.0/8"] }];
const FIRST = { defaultAction: "Allow", deny: DENY };

let stage: Stage;
before(async () => {
  if (skip) return;
  stage = await startStage({
    plane: { controllers: true },
    namespaces: [NS, "other"],
    operator: async (plane) => {
      const port = await freePort();
      await installWebhook(plane, port);
      return { args: [`--webhook=127.0.0.1:${port}`, "--webhook-names=127.0.0.1"] };
    },
  });
  await untilAdmitting(stage.plane, stage.operator, NS);
  await applyPolicy(stage.plane, NS, "webhooks", FIRST);
  await untilCondition(stage.plane, NS, "webhooks", "Accepted", "True");
}, BOOT);

const onPlane = (name: string, run: () => Promise<void>) => test(name, { skip, timeout: 120_000 }, run);

/** Applies a spec as a user. Returns the warnings of kubectl. */
async function edit(spec: object, args: readonly string[] = []): Promise<string[]> {
  const metadata = { name: "webhooks", namespace: NS };
  const manifest = { apiVersion: "egress.outrider.dev/v1alpha1", kind: "EgressPolicy", metadata, spec };
  const all = ["apply", "--server-side", "--force-conflicts", "--field-manager=test", ...args, "-f", "-"];
  const { status, stderr } = await stage.plane.kubectl(all, JSON.stringify(manifest));
  assert.equal(status, 0, stderr);
  return stderr.split("\n").filter((line) => line.startsWith("Warning: "));
}

interface Events {
  items: { reason: string; note?: string; message?: string; type: string }[];
}

const eventsOf = async (): Promise<string[]> => {
  const { items } = (await stage.plane.get<Events>(`/api/v1/namespaces/${NS}/events`))!;
  return items.filter(({ reason }) => reason === "ReachWidened").map(({ type, message }) => `${type}: ${message}`);
};

onPlane("kubectl shows a warning for an edit that opens a private range", async () => {
  const text = "this edit opens special-purpose ranges for api.internal.example: 10.0.0.0/8 (private)";
  assert.deepEqual(await edit({ ...FIRST, allow: INTERNAL }, ["--dry-run=server"]), [`Warning: outrider: ${text}`]);
  assert.deepEqual(await eventsOf(), []);
  assert.deepEqual(await edit({ ...FIRST, allow: INTERNAL }), [`Warning: outrider: ${text}`]);
  await until("an event", async () => (await eventsOf()).includes(`Warning: ${text}`));
});

onPlane("kubectl shows no warning for an edit that opens nothing, and none without an edit", async () => {
  const closed = { ...FIRST, allow: INTERNAL, deny: [...DENY, { name: "more", hosts: ["more.example"] }] };
  assert.deepEqual(await edit(closed), []);
  assert.deepEqual(await edit(closed), []);
  await untilCondition(stage.plane, NS, "webhooks", "Accepted", "True");
  assert.equal((await eventsOf()).length, 1);
});

onPlane("names a deny rule that an edit drops, and a default action that it widens", async () => {
  const dropped = { ...FIRST, allow: INTERNAL, deny: [{ name: "more", hosts: ["more.example"] }] };
  const text = "this edit opens targets that deny rules refused (competitors): *.competitor.example";
  assert.deepEqual(await edit(dropped), [`Warning: outrider: ${text}`]);
  await until("an event", async () => (await eventsOf()).includes(`Warning: ${text}`));
  assert.deepEqual(await edit({ ...dropped, defaultAction: "Deny" }), []);
  const wider = await edit(dropped);
  assert.equal(wider.length, 1);
  assert.match(wider[0]!, /^Warning: outrider: this edit opens targets that no rule lists: any name except /);
});

onPlane("the API server stores an edit while no operator answers", async () => {
  await makeNamespace(stage.plane, "later");
  await stage.operator.stop("SIGKILL");
  assert.deepEqual(await edit({ ...FIRST, defaultAction: "Report" }), []);
});
