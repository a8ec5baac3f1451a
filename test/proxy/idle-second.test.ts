import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../harness/proxy.ts";
import { listen, RawClient } from "../harness/raw.ts";

/** The shortest idle time: a connection may be cut later than that, and never earlier. */

const IDLE_MS = 1000;
/** Connections whose last byte comes at different times between two checks of the proxy. */
const CONNECTIONS = 10;
/** How long and how often each of them sends. */
const BUSY_MS = 6000;
const EVERY_MS = 50;

let proxy: ProxyHandle;
before(async () => {
  proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, "--idle-seconds", "1"] });
});
after(async () => {
  assert.equal(await proxy.stop(), 0);
});

for (const [kind, wire] of [
  ["a tunnel", (port: number) => `CONNECT 127.0.0.1:${port} HTTP/1.1\r\n\r\n`],
  ["plain http", (port: number) => `POST http://127.0.0.1:${port}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n`],
] as const) {
  test(`${kind} is not cut before its idle time is over`, async () => {
    const far = await listen((socket) => socket.resume());
    const silences = await Promise.all(
      Array.from({ length: CONNECTIONS }, async (_, i) => {
        const client = await RawClient.open(proxy.port);
        client.socket.write(wire(far.port));
        let sent = performance.now();
        const over = () => client.ended || client.socket.destroyed;
        for (const until = sent + BUSY_MS + i * (IDLE_MS / CONNECTIONS); sent < until && !over(); ) {
          sent = performance.now();
          client.socket.write("x");
          await sleep(EVERY_MS);
        }
        await client.until(over, "end of the idle connection", 30_000);
        client.socket.destroy();
        return Math.round(performance.now() - sent);
      }),
    );
    assert.ok(Math.min(...silences) >= IDLE_MS, `cut after ${silences} ms`);
    await far.close();
  });
}
