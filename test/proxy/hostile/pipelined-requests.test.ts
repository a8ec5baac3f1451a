import assert from "node:assert/strict";
import { connect } from "node:net";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Baseline } from "../../harness/baseline.ts";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../../harness/proxy.ts";
import { listen, RawClient } from "../../harness/raw.ts";

const BODY_BYTES = 60_000;
const REQUESTS = 2000;
const MIB = 1024 * 1024;
const answer = Buffer.concat([
  Buffer.from(`HTTP/1.1 200 OK\r\nContent-Length: ${BODY_BYTES}\r\n\r\n`),
  Buffer.alloc(BODY_BYTES, "a"),
]);
let proxy: ProxyHandle;
let far: Awaited<ReturnType<typeof listen>>;
before(async () => {
  proxy = await startProxy({ policy: {}, args: OPEN_LOOPBACK });
  far = await listen((socket) => socket.on("data", () => socket.write(answer)).on("end", () => socket.end()));
});
after(async () => {
  await proxy.stop();
  await far.close();
});

const get = (fields = "") => `GET http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: far\r\n${fields}\r\n`;

test("pipelined requests of a client that does not read pile up no responses", async () => {
  const base = await Baseline.of(proxy);
  const before = proxy.records().length;
  const client = connect({ port: proxy.port, host: "127.0.0.1" });
  client.on("error", () => {});
  client.pause();
  client.write(get().repeat(REQUESTS));
  let most = 0;
  // Until the proxy makes no more requests for it.
  for (let seen = -1; seen !== proxy.records().length; ) {
    seen = proxy.records().length;
    await sleep(500);
    const { bufferedBytes } = await proxy.untilStatus(() => true);
    most = Math.max(most, bufferedBytes);
  }
  assert.ok(most < MIB, `${most} bytes are buffered for one client`);
  assert.ok(proxy.records().length - before < REQUESTS, "the kernel took all responses: the test shows nothing");
  client.resetAndDestroy();
  await base.restored();
  // The last record: this client did not take the response.
  await proxy.waitRecord(({ close }) => close === "client-gone");
});

test("pipelined requests of a slow client that half-closed are all answered", async () => {
  const base = await Baseline.of(proxy);
  const client = await RawClient.open(proxy.port);
  client.socket.pause();
  const count = 200;
  client.socket.end(get().repeat(count - 1) + get("Connection: close\r\n"));
  await sleep(1000);
  client.socket.resume();
  await client.untilEnd();
  assert.equal(client.text.split("HTTP/1.1 200 OK\r\n").length - 1, count);
  client.socket.destroy();
  await base.restored(count);
});
