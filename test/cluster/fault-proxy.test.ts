import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import { readFileSync } from "node:fs";
import type { IncomingMessage } from "node:http";
import { Agent, request } from "node:https";
import { after, afterEach, before, test } from "node:test";
import { BOOT, type ControlPlane, controlPlaneMissing, startControlPlane } from "./control-plane.ts";
import { type FaultProxy, startFaultProxy } from "./fault-proxy.ts";

/** Each fault, as a plain https client in front of a real API server sees it. */

const skip = controlPlaneMissing() ?? false;
const MAPS = "/api/v1/namespaces/default/configmaps";
const GIVE_UP_MS = 20_000;
let plane: ControlPlane;
let proxy: FaultProxy;
let agent: Agent;

before(async () => {
  if (skip) return;
  plane = await startControlPlane();
  proxy = await startFaultProxy(plane);
  agent = new Agent({ keepAlive: true, ca: readFileSync(plane.authority.file) });
}, BOOT);
afterEach(() => proxy?.endFaults());
after(async () => {
  if (skip) return;
  agent.destroy();
  await proxy.close();
  await plane.stop();
});

async function open(
  path: string,
  method = "GET",
  body?: object,
  onError: (error: Error) => void = () => undefined,
): Promise<IncomingMessage> {
  const headers = { authorization: "Bearer admin-token", "content-type": "application/json" };
  const outgoing = request(`${proxy.url}${path}`, { method, headers, agent, timeout: GIVE_UP_MS });
  outgoing.on("timeout", () => outgoing.destroy(new Error("no answer")));
  outgoing.on("error", onError);
  outgoing.end(body === undefined ? undefined : JSON.stringify(body));
  const [answer] = (await once(outgoing, "response")) as [IncomingMessage];
  return answer;
}

async function ask(path: string, method?: string, body?: object) {
  const answer = await open(path, method, body);
  let text = "";
  for await (const chunk of answer) text += chunk;
  return { status: answer.statusCode!, headers: answer.headers, text };
}

const write = (name: string) => ({ apiVersion: "v1", kind: "ConfigMap", metadata: { name }, data: { name } });

/** A watch from now on; `text` grows with its events. */
async function watch() {
  const list = JSON.parse((await ask(MAPS)).text) as { metadata: { resourceVersion: string } };
  const state = { text: "", errors: [] as string[], ended: false };
  const failed = (error: Error) => void state.errors.push(error.message);
  const path = `${MAPS}?watch=true&resourceVersion=${list.metadata.resourceVersion}`;
  const answer = await open(path, "GET", undefined, failed);
  const changes = new EventEmitter();
  const changed = () => changes.emit("changed");
  answer.on("data", (chunk: Buffer) => {
    state.text += chunk;
    changed();
  });
  answer.on("error", failed);
  answer.on("close", () => {
    state.ended = true;
    changed();
  });
  const until = async (probe: () => boolean) => {
    const signal = AbortSignal.timeout(GIVE_UP_MS);
    while (!probe()) await once(changes, "changed", { signal });
  };
  return { state, until, close: () => answer.destroy() };
}

test("forwards requests and counts them by method and path", { skip }, async () => {
  assert.equal((await ask(MAPS, "POST", write("first"))).status, 201);
  assert.equal(JSON.parse((await ask(`${MAPS}/first`)).text).data.name, "first");
  assert.equal(proxy.count("POST"), 1);
  assert.equal(proxy.count("GET", "/configmaps/first"), 1);
  assert.equal(proxy.connections, 1);
});

test("answers selected requests itself", { skip }, async () => {
  proxy.refuse = (method) =>
    method === "POST" ? { status: 429, headers: { "retry-after": "1" }, body: "slow down" } : { status: 500 };
  const refused = await ask(MAPS, "POST", write("never"));
  assert.deepEqual([refused.status, refused.headers["retry-after"], refused.text], [429, "1", "slow down"]);
  assert.equal((await ask(MAPS)).status, 500);
  assert.equal(await plane.get(`${MAPS}/never`), undefined);
});

test("resets only selected requests", { skip }, async () => {
  proxy.refuse = (_, path) => (path.endsWith("/first") ? "reset" : undefined);
  await assert.rejects(ask(`${MAPS}/first`), { code: "ECONNRESET" });
  assert.equal((await ask(MAPS)).status, 200);
});

test("resets all connections", { skip }, async () => {
  const watching = await watch();
  proxy.reset();
  await watching.until(() => watching.state.ended);
  // A connection that was only closed is "aborted".
  assert.deepEqual(watching.state.errors, ["read ECONNRESET", "aborted"]);
});

test("a stall delays everything and loses nothing", { skip }, async () => {
  const watching = await watch();
  proxy.stalled = true;
  await plane.request("POST", MAPS, write("held-back"));
  const asked = ask(`${MAPS}/held-back`);
  // These requests take time: without the stall, the event of the first one would have arrived by now.
  await plane.request("POST", MAPS, write("held-back-too"));
  await plane.get(MAPS);
  assert.equal(watching.state.text, "");
  proxy.stalled = false;
  assert.equal((await asked).status, 200);
  await watching.until(() => watching.state.text.includes('"held-back-too"'));
  const names = watching.state.text.split("\n").slice(0, -1);
  assert.deepEqual(
    names.map((line) => (JSON.parse(line) as { object: { metadata: { name: string } } }).object.metadata.name),
    ["held-back", "held-back-too"],
  );
  watching.close();
});

test("cuts a watch in the middle of a line", { skip }, async () => {
  const watching = await watch();
  proxy.cutNextEvent = true;
  await plane.request("POST", MAPS, write("cut"));
  await watching.until(() => watching.state.ended);
  assert.ok(watching.state.text.startsWith('{"type":"ADDED"'), watching.state.text);
  assert.ok(!watching.state.text.endsWith("\n"));
  assert.deepEqual(watching.state.errors, ["aborted"]);
});

test("a delayed request finds objects created after it was sent", { skip }, async () => {
  proxy.delayMs = 1000;
  const asked = ask(`${MAPS}/made-meanwhile`);
  await plane.request("POST", MAPS, write("made-meanwhile"));
  assert.equal((await asked).status, 200);
  proxy.delayMs = 0;
});

test("kubectl uses it with its kubeconfig", { skip }, async () => {
  const before = proxy.seen.length;
  const { status, stdout, stderr } = await plane.kubectl(
    ["get", "configmap", "first", "-o", "name"],
    "",
    proxy.config(),
  );
  assert.deepEqual([status, stdout, stderr], [0, "configmap/first\n", ""]);
  assert.ok(proxy.seen.length > before);
});

test("holds selected paths and drops selected events", { skip }, async () => {
  const watching = await watch();
  proxy.holds = (path) => path.includes("watch=");
  await plane.request("POST", MAPS, write("selected"));
  assert.equal((await ask(`${MAPS}/selected`)).status, 200);
  assert.equal(watching.state.text, "");
  proxy.swallow = (_, event) => event.includes('"dropped"');
  await plane.request("POST", MAPS, write("dropped"));
  await plane.request("POST", MAPS, write("passed"));
  proxy.holds = undefined;
  await watching.until(() => watching.state.text.includes('"passed"'));
  proxy.swallow = undefined;
  assert.match(watching.state.text, /"selected"/);
  assert.doesNotMatch(watching.state.text, /"dropped"/);
  watching.close();
});
