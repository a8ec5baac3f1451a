import assert from "node:assert/strict";
import type { Socket } from "node:net";
import { after, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../harness/proxy.ts";
import { listen, RawClient } from "../harness/raw.ts";

const IDLE_SECONDS = 3;
const EVERY_MS = 200;
/** From this on, a direction of a tunnel reads in another way (`bulk.ts`). */
const MUCH = 1024 * 1024;

let proxy: ProxyHandle;
before(async () => {
  proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, "--idle-seconds", String(IDLE_SECONDS)] });
});
after(async () => {
  assert.equal(await proxy.stop(), 0);
});

const connect = (port: number) => `CONNECT 127.0.0.1:${port} HTTP/1.1\r\n\r\nx`;
const plain = (port: number, fields = "") => `POST http://127.0.0.1:${port}/ HTTP/1.1\r\nHost: x\r\n${fields}\r\n`;
const LONG = "Content-Length: 9999999\r\n";
const ANSWER = `HTTP/1.1 200 OK\r\n${LONG}\r\n`;

interface Kind {
  wire: (port: number) => string;
  /** The only side that sends. */
  from: "client" | "upstream";
  /** Sent before the trickle. */
  first?: string;
  /** The record at the end. */
  close: string;
}

const KINDS: Record<string, Kind> = {
  "a tunnel, from the client": { wire: connect, from: "client", close: "idle" },
  "a tunnel, to the client": { wire: connect, from: "upstream", close: "idle" },
  "a tunnel, from the client after much data": {
    wire: connect,
    from: "client",
    first: "y".repeat(MUCH),
    close: "idle",
  },
  "a tunnel, to the client after much data": {
    wire: connect,
    from: "upstream",
    first: "y".repeat(MUCH),
    close: "idle",
  },
  "plain http, from the client": { wire: (port) => plain(port, LONG), from: "client", close: "refused" },
  "plain http, to the client": { wire: plain, from: "upstream", first: ANSWER, close: "timeout" },
};

describe("traffic in one direction keeps a connection", { concurrency: true }, () => {
  for (const [name, { wire, from, first = "", close }] of Object.entries(KINDS)) {
    it(name, async (t) => {
      const accepted = Promise.withResolvers<Socket>();
      let received = 0;
      const far = await listen((socket) => {
        socket.on("data", (chunk) => {
          received += chunk.length;
          accepted.resolve(socket);
        });
      });
      t.after(far.close);
      const client = await RawClient.open(proxy.port);
      client.socket.write(wire(far.port));
      const upstream = await accepted.promise;
      const sender = from === "client" ? client.socket : upstream;
      const taken = () => (from === "client" ? received : client.bytes.length);
      const start = taken();
      sender.write(first);
      const trickle = setInterval(() => sender.write("z"), EVERY_MS);
      t.after(() => clearInterval(trickle));
      await sleep(2.5 * IDLE_SECONDS * 1000);
      assert.ok(!client.ended && !client.socket.destroyed, client.text.slice(-300));
      assert.ok(taken() > start + first.length, "the trickle arrives");

      clearInterval(trickle);
      await client.until(() => client.ended || client.socket.destroyed, "end of the idle connection", 20_000);
      const record = await proxy.waitRecord(({ target }) => target === `127.0.0.1:${far.port}`);
      assert.equal(record.close, close);
      client.socket.destroy();
    });
  }
});
