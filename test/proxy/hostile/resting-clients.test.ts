import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { shareFiles } from "../../../proxy/sockets/descriptors.ts";
import { Baseline } from "../../harness/baseline.ts";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../../harness/proxy.ts";
import { exchange, listen } from "../../harness/raw.ts";

/** Clients that fill the proxy with connections on which no request is under way. */

const OPEN_FILES = 400;
const { tunnels, idleClients } = shareFiles(OPEN_FILES);
let proxy: ProxyHandle;
let far: Awaited<ReturnType<typeof listen>>;
before(async () => {
  proxy = await startProxy({ policy: {}, args: OPEN_LOOPBACK, openFiles: OPEN_FILES });
  const answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
  far = await listen((socket) => socket.on("data", () => socket.write(answer)).on("end", () => socket.end()));
});
after(async () => {
  await proxy.stop();
  await far.close();
});

const delivery = () =>
  exchange(proxy.port, `GET http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: far\r\nConnection: close\r\n\r\n`);

/** Connections that send a request, take its answer and stay, as many as the proxy has. */
async function fill(request: string): Promise<Socket[]> {
  const sockets: Socket[] = [];
  while (sockets.length < tunnels + idleClients) {
    const socket = connect({ port: proxy.port, host: "127.0.0.1", allowHalfOpen: true });
    socket.on("error", () => {});
    socket.write(request);
    await once(socket, "data");
    socket.resume();
    sockets.push(socket);
  }
  return sockets;
}

async function fullOf(request: string, deliveries: number): Promise<void> {
  const base = await Baseline.of(proxy);
  const attackers = await fill(request);
  await sleep(200);
  for (let i = 0; i < deliveries; i++) assert.match(await delivery(), /^HTTP\/1\.1 200 /);
  for (const socket of attackers) socket.destroy();
  await base.restored(attackers.length + deliveries);
}

test("kept-alive connections give their places to clients that send a request", async () => {
  await fullOf(`GET http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: far\r\n\r\n`, 20);
  const { text } = await proxy.admin("/metrics");
  assert.match(text, /^outrider_proxy_bound_total\{bound="resting-connections"\} [1-9]/m);
});

test("refused connections that stay give their places to clients that send a request", async () => {
  // Fewer than wait in the time for which a refused connection is kept.
  await fullOf("GET / HTTP/1.1\r\n\r\n", 5);
});
