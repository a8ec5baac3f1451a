import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { after, before, test } from "node:test";
import { Baseline } from "../../harness/baseline.ts";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../../harness/proxy.ts";
import { exchange, listen, RawClient } from "../../harness/raw.ts";

const MAX_TUNNELS = 200;
let proxy: ProxyHandle;
let far: Awaited<ReturnType<typeof listen>>;
before(async () => {
  const env = { PROXY_PASSWORD: "s3cret" };
  proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, "--max-tunnels", String(MAX_TUNNELS)], env });
  far = await listen((socket) => socket.end("hello"));
});
after(async () => {
  await proxy.stop();
  await far.close();
});

/** Connections from one loopback address that send `first` and nothing more. */
async function silent(count: number, localAddress: string, first = ""): Promise<Socket[]> {
  const sockets: Socket[] = [];
  for (let i = 0; i < count; i += 50) {
    const some = Array.from({ length: Math.min(50, count - i) }, () => {
      const socket = connect({ port: proxy.port, host: "127.0.0.1", localAddress });
      socket.on("error", () => {});
      socket.resume();
      if (first !== "") socket.write(first);
      return socket;
    });
    await Promise.all(some.map((socket) => once(socket, "connect")));
    sockets.push(...some);
  }
  return sockets;
}

const authorization = `Proxy-Authorization: Basic ${Buffer.from("any:s3cret").toString("base64")}`;
const delivery = () => exchange(proxy.port, `CONNECT 127.0.0.1:${far.port} HTTP/1.1\r\n${authorization}\r\n\r\n`);

for (const first of ["", "CONNECT 127.0.0.1"]) {
  test(`2,200 clients that send ${first === "" ? "nothing" : "half a head"} block no others`, async () => {
    const base = await Baseline.of(proxy);
    const attackers = await silent(2200, "127.0.0.7", first);
    for (let i = 0; i < 20; i++) assert.match(await delivery(), /^HTTP\/1\.1 200 /);
    await proxy.untilStatus(({ connections }) => connections <= 256);
    for (const socket of attackers) socket.destroy();
    await base.restored(20);
  });
}

test("silent connections are closed in favour of requests", async () => {
  const base = await Baseline.of(proxy);
  const attackers: Socket[] = [];
  for (let i = 0; i < 10; i++) attackers.push(...(await silent(250, `127.0.0.${20 + i}`)));
  for (let i = 0; i < 20; i++) assert.match(await delivery(), /^HTTP\/1\.1 200 /);
  const { text } = await proxy.admin("/metrics");
  assert.match(text, /^outrider_proxy_bound_total\{bound="silent-connections"\} [1-9]/m);
  assert.match(text, /^outrider_proxy_bound_total\{bound="connections-per-source"\} [1-9]/m);
  for (const socket of attackers) socket.destroy();
  await base.restored(20);
});

test("further bytes do not extend the deadline of the first head", async () => {
  const base = await Baseline.of(proxy);
  const client = await RawClient.open(proxy.port);
  const opened = Date.now();
  await new Promise((resolve) => setTimeout(resolve, 8000));
  client.socket.write("CONNECT a");
  await client.untilEnd(9000);
  assert.ok(Date.now() - opened < 15_000, "a first byte late started a deadline of its own");
  client.socket.destroy();
  await base.restored(1);
});
