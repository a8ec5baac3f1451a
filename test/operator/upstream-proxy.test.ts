import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import type { NetworkPolicy } from "../../operator/reconcile/objects/networkpolicy.ts";
import { BOOT, controlPlaneMissing } from "../cluster/control-plane.ts";
import { relays, sends, startHop } from "../harness/hop.ts";
import { listen, RawClient } from "../harness/raw.ts";
import { applyPolicy, conditionOf, untilCondition } from "./operator.ts";
import { type Stage, startStage } from "./stage.ts";

/** The upstream proxy of a fleet, with its credentials, on a real API server and with real proxies. */

const skip = controlPlaneMissing({ kwokNodes: 1 }) ?? false;
const NS = "convoy";
let { plane, fleet } = {} as Stage;
let hop: Awaited<ReturnType<typeof startHop>>;
let far: Awaited<ReturnType<typeof listen>>;

before(async () => {
  if (skip) return;
  ({ plane, fleet } = await startStage({
    plane: { kwokNodes: 1, realProxies: true },
    namespaces: [NS],
    operator: () => ({ args: ["--scrape-seconds=1"] }),
    fleet: { args: () => ["--allow-cidr=127.0.0.0/8"], volumeMs: 500 },
  }));
  far = await listen((socket) => socket.pipe(socket));
  hop = await startHop();
}, BOOT);
after(async () => {
  await far?.close();
  await hop?.close();
});

const credentials = (text: string) =>
  plane.apply(`/api/v1/namespaces/${NS}/secrets/corp-proxy`, {
    apiVersion: "v1",
    kind: "Secret",
    metadata: { name: "corp-proxy" },
    stringData: { credentials: text },
  });
const field = (text: string) => `Proxy-Authorization: Basic ${Buffer.from(text).toString("base64")}\r\n`;

async function connectVia(): Promise<RawClient> {
  const [pod] = await fleet.podsNow();
  const client = await RawClient.open(4750, pod!.status!.podIP!);
  client.socket.write(`CONNECT 127.0.0.1:${far.port} HTTP/1.1\r\nHost: 127.0.0.1:${far.port}\r\n\r\n`);
  await client.untilText("\r\n\r\n");
  return client;
}

/** The policy when all proxies run it, without those of an earlier template. */
async function settled(upstreamProxy?: object): Promise<EgressPolicy> {
  await applyPolicy(plane, NS, "webhooks", upstreamProxy === undefined ? {} : { upstreamProxy });
  return untilCondition(plane, NS, "webhooks", "Ready", "True", undefined, 120_000);
}

test("a fleet waits for the credentials", { skip, timeout: 120_000 }, async () => {
  await applyPolicy(plane, NS, "webhooks", { upstreamProxy: { url: hop.url, secretRef: { name: "corp-proxy" } } });
  const policy = await untilCondition(plane, NS, "webhooks", "ProxyAvailable", "False");
  assert.equal(fleet.pods.length, 0);
  assert.doesNotMatch(conditionOf(policy, "Accepted")!.message, /warning/);
  await credentials("proxy-user:first");
  await untilCondition(plane, NS, "webhooks", "Ready", "True");
});

test("the proxies send everything through it, and reach nothing else", { skip, timeout: 120_000 }, async () => {
  const client = await connectVia();
  assert.match(client.text, /^HTTP\/1\.1 200 /);
  client.socket.write("hello");
  await client.untilText("hello");
  assert.match(hop.state.heads.at(-1)!, new RegExp(`^CONNECT 127\\.0\\.0\\.1:${far.port} HTTP/1\\.1\r\n`));
  assert.ok(hop.state.heads.at(-1)!.includes(field("proxy-user:first")));
  const path = `/apis/networking.k8s.io/v1/namespaces/${NS}/networkpolicies/webhooks-egress`;
  // Loopback is never opened, so that DNS is left.
  assert.equal((await plane.get<NetworkPolicy>(path))!.spec.egress.length, 1);
  const document = await plane.get<{ data: object }>(`/api/v1/namespaces/${NS}/configmaps/webhooks-egress-policy`);
  assert.doesNotMatch(JSON.stringify(document!.data), /secretRef|corp-proxy/);

  const pods = fleet.pods.map(({ metadata }) => metadata.name).sort();
  await credentials("proxy-user:second");
  await client.untilEnd();
  const next = await connectVia();
  next.socket.destroy();
  assert.ok(hop.state.heads.at(-1)!.includes(field("proxy-user:second")));
  assert.deepEqual(fleet.pods.map(({ metadata }) => metadata.name).sort(), pods, "no proxy was replaced");
});

test("its refusal of the credentials is no refusal of the proxy", { skip, timeout: 120_000 }, async () => {
  hop.state.play = sends("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
  const client = await connectVia();
  hop.state.play = relays();
  assert.match(client.text, /^HTTP\/1\.1 502 egress-upstream: the upstream proxy answered 407 /);
});

test("the policy says what is not checked, and gives up the upstream proxy", { skip, timeout: 240_000 }, async () => {
  const named = await settled({ url: `http://proxy.corp.example:${hop.port}`, resolve: "Upstream" });
  assert.match(conditionOf(named, "Accepted")!.message, /warning: upstreamProxy\.resolve: Upstream: .* not checked/);
  assert.match(conditionOf(named, "NetworkPolicyApplied")!.message, /proxy\.corp\.example:\d+ is open at public/);
  const plain = await settled();
  assert.equal(conditionOf(plain, "Accepted")!.message, "the spec is in force");
  const asked = hop.state.heads.length;
  const client = await connectVia();
  assert.match(client.text, /^HTTP\/1\.1 200 /);
  client.socket.destroy();
  assert.equal(hop.state.heads.length, asked);
});
