import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { after, before, test } from "node:test";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import { BOOT, controlPlaneMissing } from "../cluster/control-plane.ts";
import type { FleetPod } from "../cluster/fleet.ts";
import { type Issued, Pki, tlsConnect } from "../harness/pki.ts";
import { listen, RawClient } from "../harness/raw.ts";
import { ip } from "../policy/evaluator.ts";
import { v1 } from "../proxy/proxy-header-encoder.ts";
import { lets } from "./np-evaluator.ts";
import { applyPolicy, conditionOf, makePasswords, policyPath, untilCondition } from "./operator.ts";
import { type Stage, startStage } from "./stage.ts";

/** `spec.proxy.external` on a real API server, with real proxies. A load balancer is at 127.9.0.1. */

const skip = controlPlaneMissing({ kwokNodes: 1 }) ?? false;
const NS = "convoy";
const NAME = "webhooks-egress.convoy.svc.cluster.local";
const PATH = `/api/v1/namespaces/${NS}`;
const BALANCER = "127.9.0.1";
const CLIENT = "198.51.100.7";
let { plane, fleet } = {} as Stage;
let pki: Pki;
let billing: Issued;
let far: Awaited<ReturnType<typeof listen>>;

const text = (file: string) => readFileSync(file, "utf8");

before(async () => {
  if (skip) return;
  ({ plane, fleet } = await startStage({
    plane: { kwokNodes: 1, realProxies: true },
    namespaces: [NS],
    operator: () => ({ args: ["--scrape-seconds=1"] }),
    fleet: { args: () => ["--allow-cidr=127.0.0.0/8"], volumeMs: 500 },
  }));
  pki = new Pki();
  billing = pki.issue("billing", "/CN=billing");
  const { cert, key } = pki.issue("server", "/CN=proxies", { names: [`DNS:${NAME}`], usage: "serverAuth" });
  const secret = { type: "kubernetes.io/tls", stringData: { "tls.crt": text(cert), "tls.key": text(key) } };
  await plane.apply(`${PATH}/secrets/proxy-tls`, {
    apiVersion: "v1",
    kind: "Secret",
    metadata: { name: "proxy-tls" },
    ...secret,
  });
  const metadata = { name: "client-ca" };
  const data = { "ca.crt": text(pki.file) };
  await plane.apply(`${PATH}/configmaps/client-ca`, { apiVersion: "v1", kind: "ConfigMap", metadata, data });
  far = await listen((socket) => socket.pipe(socket));
}, BOOT);
after(() => far?.close());

const external = {
  sourceRanges: ["198.51.100.0/24"],
  proxyProtocolFrom: [`${BALANCER}/32`],
  loadBalancerClass: "example.com/tcp",
  serviceAnnotations: { "example.com/proxy-protocol": "v2" },
};
const specOf = (fields: object) => ({
  authentication: { mode: "BasicOrTLS", secretRef: { name: "proxy-passwords" } },
  proxy: {
    tls: { secretRef: { name: "proxy-tls" }, clientCA: { name: "client-ca" }, clientName: "CN" },
    ...fields,
  },
});

interface Service {
  metadata: { annotations: Record<string, string> };
  spec: {
    type: string;
    selector: Record<string, string>;
    ports: { name: string; port: number; targetPort: string }[];
    externalTrafficPolicy?: string;
    loadBalancerClass?: string;
    loadBalancerSourceRanges?: string[];
  };
}
const service = (name: string) => plane.get<Service>(`${PATH}/services/${name}`);
const policyOfProxies = () =>
  plane.get<object>(`/apis/networking.k8s.io/v1/namespaces/${NS}/networkpolicies/webhooks-egress`);

/** A handshake with the port of a pod, and the first line of the answer to CONNECT. */
async function ask(pod: FleetPod, port: number, header: Buffer | undefined, issued?: Issued, from = BALANCER) {
  const socket = connect({ port, host: pod.status!.podIP!, localAddress: from });
  await once(socket, "connect");
  if (header !== undefined) socket.write(header);
  const client = RawClient.over(await tlsConnect(port, pki.file, issued, { socket, servername: NAME }));
  client.socket.write(`CONNECT 127.0.0.1:${far.port} HTTP/1.1\r\nHost: x\r\n\r\n`);
  await client.untilText("\r\n\r\n");
  client.socket.destroy();
  return client.text.slice(9, 12);
}
const as = (address: string) => v1("TCP4", address, "192.0.2.200", 1001, 4751);

test("a fleet with an external port has a Service of its own for it", { skip, timeout: 120_000 }, async () => {
  await applyPolicy(plane, NS, "webhooks", specOf({ external }));
  await untilCondition(plane, NS, "webhooks", "Programmed", "True");
  const outside = (await service("webhooks-egress-external"))!;
  const inside = (await service("webhooks-egress"))!;
  const { type, ports, externalTrafficPolicy, loadBalancerClass, loadBalancerSourceRanges, selector } = outside.spec;
  assert.deepEqual(
    { type, externalTrafficPolicy, loadBalancerClass, loadBalancerSourceRanges, selector },
    {
      type: "LoadBalancer",
      externalTrafficPolicy: "Local",
      loadBalancerClass: "example.com/tcp",
      loadBalancerSourceRanges: external.sourceRanges,
      selector: inside.spec.selector,
    },
  );
  assert.deepEqual(
    ports.map(({ port, targetPort }) => [port, targetPort]),
    [[4751, "external"]],
    "TLS only",
  );
  assert.equal(outside.metadata.annotations["example.com/proxy-protocol"], "v2");
  assert.deepEqual(
    inside.spec.ports.map(({ name }) => name),
    ["proxy", "tls"],
  );
  assert.equal(inside.metadata.annotations["example.com/proxy-protocol"], undefined);
  const stored = (await policyOfProxies()) as Parameters<typeof lets>[0];
  for (const from of [CLIENT, BALANCER]) {
    assert.equal(lets(stored, "from", ip(from), 4752), true, from);
    for (const port of [4750, 4751, 9750]) assert.equal(lets(stored, "from", ip(from), port), false, from);
  }
  assert.equal(lets(stored, "from", ip("203.0.113.7"), 4752), false);
});

test("the external port serves listed addresses with a header and a proof", { skip, timeout: 120_000 }, async () => {
  await makePasswords(plane, NS);
  await untilCondition(plane, NS, "webhooks", "Ready", "True", undefined, 60_000);
  const [pod] = await fleet.podsNow();
  assert.equal(await ask(pod!, 4752, as(CLIENT), billing), "200");
  assert.equal(await ask(pod!, 4752, as(CLIENT)), "407");
  await assert.rejects(ask(pod!, 4752, as("203.0.113.7"), billing));
  await assert.rejects(ask(pod!, 4752, undefined, billing));
  await assert.rejects(ask(pod!, 4752, undefined, billing, "127.8.0.1"));
});

test("the TLS port inside of the cluster expects no header", { skip, timeout: 120_000 }, async () => {
  const [pod] = await fleet.podsNow();
  assert.equal(await ask(pod!, 4751, undefined, billing), "200");
  await assert.rejects(ask(pod!, 4751, as(CLIENT), billing));
});

test("the ranges follow the spec, with a warning for 0.0.0.0/0", { skip, timeout: 120_000 }, async () => {
  const spec = specOf({ external: { ...external, sourceRanges: ["203.0.113.0/24", "0.0.0.0/0"] } });
  await applyPolicy(plane, NS, "webhooks", spec);
  await untilCondition(plane, NS, "webhooks", "Ready", "True", undefined, 60_000);
  const policy = await plane.get<EgressPolicy>(policyPath(NS, "webhooks"));
  assert.match(conditionOf(policy, "Accepted")!.message, /warning: .*sourceRanges: 0\.0\.0\.0\/0 is every address/);
  const outside = (await service("webhooks-egress-external"))!;
  assert.deepEqual(outside.spec.loadBalancerSourceRanges, ["203.0.113.0/24", "0.0.0.0/0"]);
  const [pod] = await fleet.podsNow();
  assert.equal(await ask(pod!, 4752, as("203.0.113.7"), billing), "200");
});

test("without the field the Service, the rule and the port are deleted", { skip, timeout: 120_000 }, async () => {
  await applyPolicy(plane, NS, "webhooks", specOf({}));
  await untilCondition(plane, NS, "webhooks", "Ready", "True", undefined, 60_000);
  await plane.until(`${PATH}/services/webhooks-egress-external`, (found) => found === undefined, "no Service");
  const stored = (await policyOfProxies()) as Parameters<typeof lets>[0];
  for (const from of [CLIENT, BALANCER]) assert.equal(lets(stored, "from", ip(from), 4752), false, from);
  const [pod] = await fleet.podsNow();
  await assert.rejects(ask(pod!, 4752, as(CLIENT), billing), /ECONNREFUSED/);
  assert.equal(await ask(pod!, 4751, undefined, billing), "200");
});
