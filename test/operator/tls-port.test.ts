import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import { LABEL } from "../../operator/api/names.ts";
import { BOOT, controlPlaneMissing } from "../cluster/control-plane.ts";
import type { FleetPod } from "../cluster/fleet.ts";
import { type Issued, Pki, tlsConnect } from "../harness/pki.ts";
import { listen, RawClient } from "../harness/raw.ts";
import { applyPolicy, conditionOf, makePasswords, policyPath, untilCondition } from "./operator.ts";
import { type Stage, startStage } from "./stage.ts";

/** The TLS port of a fleet, with Secrets as cert-manager writes them, on a real API server and with real proxies. */

const skip = controlPlaneMissing({ kwokNodes: 1 }) ?? false;
const NS = "convoy";
const NAME = "webhooks-egress.convoy.svc.cluster.local";
/** From the change of a mounted file to the end of a tunnel. */
const REVOKED_MS = 5000;
/** Time until a volume follows its ConfigMap. */
const VOLUME_MS = 500;
const BASIC = `Basic ${Buffer.from("outrider:s3cret").toString("base64")}`;
let { plane, fleet } = {} as Stage;
let pki: Pki;
let ofClients: Pki;
let far: Awaited<ReturnType<typeof listen>>;

before(async () => {
  if (skip) return;
  ({ plane, fleet } = await startStage({
    plane: { kwokNodes: 1, realProxies: true },
    namespaces: [NS],
    operator: () => ({ args: ["--scrape-seconds=1"] }),
    fleet: { args: () => ["--allow-cidr=127.0.0.0/8"], volumeMs: VOLUME_MS },
  }));
  await makePasswords(plane, NS);
  pki = new Pki("/CN=server CA");
  ofClients = new Pki("/CN=client CA");
  far = await listen((socket) => socket.pipe(socket));
}, BOOT);
after(() => far?.close());

const server = (name: string) => pki.issue(name, `/CN=${name}`, { names: [`DNS:${NAME}`], usage: "serverAuth" });
const text = (file: string) => readFileSync(file, "utf8");

/** A Secret as cert-manager writes it. */
const certificate = (name: string, { cert, key }: Issued, ca: Pki) =>
  plane.apply(`/api/v1/namespaces/${NS}/secrets/${name}`, {
    apiVersion: "v1",
    kind: "Secret",
    type: "kubernetes.io/tls",
    metadata: { name },
    stringData: { "tls.crt": text(cert), "tls.key": text(key), "ca.crt": text(ca.file) },
  });
const configMap = (name: string, data: Record<string, string>) =>
  plane.apply(`/api/v1/namespaces/${NS}/configmaps/${name}`, {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: { name },
    data,
  });

const tlsTo = (pod: FleetPod, issued?: Issued) =>
  tlsConnect(4751, pki.file, issued, { host: pod.status!.podIP!, servername: NAME });

/** The answer to CONNECT, and the tunnel. */
async function connectVia(pod: FleetPod, issued?: Issued, authorization?: string) {
  const client = RawClient.over(await tlsTo(pod, issued));
  const target = `127.0.0.1:${far.port}`;
  const credentials = authorization === undefined ? "" : `Proxy-Authorization: ${authorization}\r\n`;
  client.socket.write(`CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n${credentials}\r\n`);
  await client.untilText("\r\n\r\n");
  return { client, status: client.text.slice(9, 12), answer: client.text };
}

async function alive(client: RawClient, word: string): Promise<void> {
  client.socket.write(word);
  await client.untilText(word);
}

async function until(probe: () => Promise<boolean>, what: string, ms = 30_000): Promise<void> {
  for (const began = Date.now(); !(await probe()); await new Promise((resolve) => setTimeout(resolve, 50))) {
    if (Date.now() - began > ms) throw new Error(`never: ${what}`);
  }
}

async function presented(pod: FleetPod): Promise<string> {
  const socket = await tlsTo(pod);
  const { CN } = socket.getPeerCertificate().subject;
  socket.destroy();
  return String(CN);
}

const basic = { mode: "Basic", secretRef: { name: "proxy-passwords" } };

test("a fleet waits for the Secret of its certificate, and names it", { skip, timeout: 120_000 }, async () => {
  await applyPolicy(plane, NS, "webhooks", {
    authentication: basic,
    proxy: { tls: { secretRef: { name: "proxy-tls" } } },
  });
  const policy = await untilCondition(plane, NS, "webhooks", "ProxyAvailable", "False");
  assert.equal(policy.status!.endpoint!.tlsPort, 4751);
  await certificate("proxy-tls", server("first"), pki);
  await untilCondition(plane, NS, "webhooks", "Ready", "True");
  const ports = await plane.get<{ spec: { ports: { name: string; port: number; appProtocol: string }[] } }>(
    `/api/v1/namespaces/${NS}/services/webhooks-egress`,
  );
  assert.deepEqual(
    ports!.spec.ports.map(({ name, port, appProtocol }) => [name, port, appProtocol]),
    [
      ["proxy", 4750, "tcp"],
      ["tls", 4751, "tcp"],
    ],
  );
});

test("a rotation by cert-manager ends no tunnel", { skip, timeout: 120_000 }, async () => {
  const pod = fleet.pods[0]!;
  assert.equal(await presented(pod), "first");
  const { client, status } = await connectVia(pod, undefined, BASIC);
  assert.equal(status, "200");
  assert.equal((await connectVia(pod)).status, "407");
  await certificate("proxy-tls", server("second"), pki);
  await until(async () => (await presented(pod)) === "second", "the new certificate");
  await alive(client, "still here");
  client.socket.destroy();
});

test("client certificates select the rules of their entries", { skip, timeout: 240_000 }, async () => {
  const uri = "spiffe://cluster.local/ns/convoy/sa/billing";
  const billing = ofClients.issue("billing", "/CN=any", { names: [`URI:${uri}`] });
  const other = ofClients.issue("other", "/CN=any", { names: [`URI:${uri}-2`] });
  const list = join(ofClients.folder, "list.crl");
  await configMap("client-ca", { "ca.crt": text(ofClients.file) });
  await configMap("client-crl", { "ca.crl": text(ofClients.crl(list)) });
  const spec = {
    defaultAction: "Deny",
    clients: [
      { name: uri, defaultAction: "Allow", ports: ["1-65535"] },
      { name: "default", deny: [{ ports: ["1-65535"] }] },
    ],
    authentication: { ...basic, mode: "BasicOrTLS" },
    proxy: {
      tls: {
        secretRef: { name: "proxy-tls" },
        clientCA: { name: "client-ca" },
        clientName: "URI",
        crl: { name: "client-crl" },
      },
    },
  };
  await applyPolicy(plane, NS, "webhooks", spec);
  const policy = await untilCondition(plane, NS, "webhooks", "Ready", "True", undefined, 120_000);
  assert.deepEqual(policy.status!.clients, [
    { name: uri, pods: 0 },
    { name: "default", pods: 0 },
  ]);
  const [pod] = await fleet.podsNow();
  const statusOf = async (issued?: Issued, authorization?: string) => {
    const { client, status } = await connectVia(pod!, issued, authorization);
    client.socket.destroy();
    return status;
  };
  assert.deepEqual(
    [await statusOf(billing), await statusOf(other), await statusOf(undefined, BASIC), await statusOf()],
    ["200", "403", "403", "407"],
  );
  const { client } = await connectVia(pod!, billing);
  await alive(client, "before");
  ofClients.revoke(billing);
  await configMap("client-crl", { "ca.crl": text(ofClients.crl(list)) });
  const began = Date.now();
  await client.untilEnd();
  const took = Date.now() - began;
  console.log(`a revoked certificate ended its tunnel ${took} ms after the change of the ConfigMap`);
  assert.ok(took < REVOKED_MS + VOLUME_MS, `${took} ms`);
  await assert.rejects(connectVia(pod!, billing));
});

test("a fleet that begins to authenticate serves no unknown client by its new rules", {
  skip,
  timeout: 240_000,
}, async () => {
  // The old rules deny what the new ones allow.
  await applyPolicy(plane, NS, "moving", { deny: [{ ports: [far.port] }] });
  await untilCondition(plane, NS, "moving", "Ready", "True");
  const moving = () => fleet.pods.filter(({ metadata }) => metadata.labels![LABEL.fleet] === "moving");
  const answers = new Set<string>();
  const ask = async (pod: FleetPod) => {
    try {
      const client = await RawClient.open(4750, pod.status!.podIP!);
      client.socket.write(`CONNECT 127.0.0.1:${far.port} HTTP/1.1\r\nHost: 127.0.0.1:${far.port}\r\n\r\n`);
      await client.untilText("\r\n\r\n");
      answers.add(client.text.slice(9, 12));
      client.socket.destroy();
    } catch {
      // It ends, or does not listen yet.
    }
  };
  await Promise.all(moving().map(ask));
  assert.deepEqual([...answers], ["403"]);
  await applyPolicy(plane, NS, "moving", {
    clients: [{ name: "default" }],
    authentication: { ...basic, mode: "BasicOrTLS" },
    proxy: {
      tls: { secretRef: { name: "proxy-tls" }, clientCA: { name: "client-ca" }, clientName: "CN" },
    },
  });
  const settled = untilCondition(plane, NS, "moving", "Ready", "True", undefined, 120_000);
  let done = false;
  void settled.then(
    () => (done = true),
    () => (done = true),
  );
  for (; !done; await new Promise((resolve) => setTimeout(resolve, 50))) await Promise.all(moving().map(ask));
  await settled;
  assert.deepEqual([...answers].sort(), ["403", "407"]);
});

test("an event reports the removal of the clients", { skip, timeout: 120_000 }, async () => {
  await applyPolicy(plane, NS, "webhooks", {
    authentication: basic,
    proxy: { tls: { secretRef: { name: "proxy-tls" } } },
  });
  const path = policyPath(NS, "webhooks");
  await plane.until<EgressPolicy>(path, (found) => found?.status?.clients === undefined, "no clients in the status");
  type Events = { items: { reason: string; note?: string; message?: string; type: string }[] };
  await until(async () => {
    const { items } = (await plane.get<Events>(`/api/v1/namespaces/${NS}/events`))!;
    return items.some(
      ({ reason, message, type }) =>
        reason === "ClientsRemoved" && type === "Warning" && /before: default, spiffe:/.test(message ?? ""),
    );
  }, "the event ClientsRemoved");
  const warned = conditionOf(await plane.get<EgressPolicy>(path), "Accepted")!.message;
  assert.equal(warned, "the spec is in force");
});
