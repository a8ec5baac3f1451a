import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import pino from "pino";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import { RESOURCE } from "../../operator/api/kinds.ts";
import { Client } from "../../operator/kube/client.ts";
import type { KubeObject } from "../../operator/kube/resource.ts";
import { Writer } from "../../operator/reconcile/writes/writer.ts";
import { BOOT, type ControlPlane, controlPlaneMissing, startControlPlane } from "../cluster/control-plane.ts";
import { configFrom } from "./kube/shared.ts";
import { applyPolicy, install, policyPath } from "./operator.ts";

/** Deletions by decisions that were made on old versions of an object or a policy. */

const skip = controlPlaneMissing() ?? false;
const NS = "default";
const PATH = `/api/v1/namespaces/${NS}/services/mine`;
let plane: ControlPlane;
let client: Client;
let writer: Writer;

before(async () => {
  if (skip) return;
  plane = await startControlPlane();
  await install(plane);
  client = new Client(configFrom(plane.userConfig()));
  writer = new Writer(client, pino({ level: "silent" }));
}, BOOT);
after(async () => {
  if (skip) return;
  client.close();
  await plane.stop();
});

/** A policy and an object, as a cache has them. */
async function cached(): Promise<{ policy: EgressPolicy; object: KubeObject }> {
  await applyPolicy(plane, NS, "webhooks", { deny: [{ hosts: ["one.example"] }] });
  await edit("0");
  const policy = (await plane.get<EgressPolicy>(policyPath(NS, "webhooks")))!;
  return { policy, object: await client.get(RESOURCE.service, "mine", NS) };
}
const edit = (value: string) => {
  const metadata = { name: "mine", annotations: { value } };
  return plane.apply(PATH, { apiVersion: "v1", kind: "Service", metadata, spec: { ports: [{ port: 80 }] } });
};
const conflict = { code: 409, reason: "Conflict" };

test("deletes an object in the version of the decision", { skip }, async () => {
  const { policy, object } = await cached();
  await writer.remove(policy, object);
  assert.equal(await plane.get(PATH), undefined);
  await writer.remove(policy, object);
});

test("does not delete an object that has changed", { skip }, async () => {
  const { policy, object } = await cached();
  await edit("1");
  await assert.rejects(writer.remove(policy, object), conflict);
  await plane.delete(PATH);
  await edit("1");
  await assert.rejects(writer.remove(policy, object), conflict);
  assert.notEqual(await plane.get(PATH), undefined);
});

test("deletes nothing for a spec that is not the newest", { skip }, async () => {
  const { policy, object } = await cached();
  await applyPolicy(plane, NS, "webhooks", { deny: [{ hosts: ["two.example"] }] });
  await assert.rejects(writer.remove(policy, object), conflict);
  assert.notEqual(await plane.get(PATH), undefined);
});

test("deletes nothing for a policy that was deleted and created again", { skip }, async () => {
  const { policy, object } = await cached();
  await plane.delete(policyPath(NS, "webhooks"));
  await applyPolicy(plane, NS, "webhooks", { deny: [{ hosts: ["one.example"] }] });
  await assert.rejects(writer.remove(policy, object), conflict);
  assert.notEqual(await plane.get(PATH), undefined);
});
