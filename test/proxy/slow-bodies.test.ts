import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, request, type ServerResponse } from "node:http";
import type { Readable, Writable } from "node:stream";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../harness/proxy.ts";
import { listenOnNewPort } from "../harness/raw.ts";

/** Bodies of plain HTTP between a fast writer and a slow reader. */

const MiB = 1024 * 1024;
/** More than the kernel buffers on both connections. */
const BULK = 64 * MiB;
/** Bytes that the proxy may hold for one exchange: the high-water marks of its sockets, and reads under way. */
const MAX_BUFFERED = MiB;
const MAX_GROWTH_MIB = 40;

let proxy: ProxyHandle;
before(async () => {
  proxy = await startProxy({ policy: {}, args: OPEN_LOOPBACK });
});
after(async () => {
  assert.equal(await proxy.stop(), 0);
});

async function serve(handler: (message: IncomingMessage, response: ServerResponse) => void) {
  const server = createServer(handler);
  const port = await listenOnNewPort(server);
  const close = () => {
    server.close();
    server.closeAllConnections();
  };
  return { port, close };
}

const send = (port: number, method: string, headers: Record<string, string | number> = {}) =>
  request({ host: "127.0.0.1", port: proxy.port, path: `http://127.0.0.1:${port}/`, method, headers, agent: false });

/** Writes random bytes with back-pressure and ends; returns their SHA-256. `onWritten`: the bytes so far. */
async function pour(to: Writable, total: number, onWritten: (bytes: number) => void = () => {}): Promise<string> {
  const hash = createHash("sha256");
  for (let sent = 0; sent < total; sent += 65_536) {
    const chunk = randomBytes(65_536);
    hash.update(chunk);
    if (!to.write(chunk)) await once(to, "drain");
    onWritten(sent + chunk.length);
  }
  to.end();
  return hash.digest("hex");
}

async function digestOf(from: Readable): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of from) hash.update(chunk as Buffer);
  return hash.digest("hex");
}

/** Waits until a number has stayed the same for a while. */
async function untilStuck(value: () => number): Promise<number> {
  let last = -1;
  for (let same = 0; same < 5; await sleep(100)) {
    same = value() === last && last > 0 ? same + 1 : 0;
    last = value();
  }
  return last;
}

for (const direction of ["up", "down"] as const) {
  for (const framing of ["Content-Length", "chunked"] as const) {
    const length = framing === "chunked" ? {} : { "Content-Length": BULK };

    test(`a slow reader slows the writer of a body: ${direction}, ${framing}`, { timeout: 120_000 }, async (t) => {
      const atServer = Promise.withResolvers<[IncomingMessage, ServerResponse]>();
      const far = await serve((message, response) => atServer.resolve([message, response]));
      t.after(far.close);
      const client = send(far.port, direction === "up" ? "POST" : "GET", direction === "up" ? length : {});
      const answered = once(client, "response") as Promise<[IncomingMessage]>;
      const rss = proxy.rss();
      let written = 0;
      if (direction === "down") client.end();
      else client.flushHeaders();
      const [message, response] = await atServer.promise;
      if (direction === "down") response.writeHead(200, length).flushHeaders();
      const writer = direction === "up" ? client : response;
      const poured = pour(writer, BULK, (bytes) => {
        written = bytes;
      });
      const reader = direction === "up" ? message : (await answered)[0];
      const stuck = await untilStuck(() => written);
      const { bufferedBytes } = await proxy.untilStatus(() => true);
      const growth = proxy.rss() - rss;
      assert.ok(stuck < BULK / 2, `${stuck} bytes were taken without a reader`);
      assert.ok(bufferedBytes < MAX_BUFFERED, `the proxy buffers ${bufferedBytes} bytes`);
      assert.ok(growth < MAX_GROWTH_MIB, `memory grew by ${growth} MiB`);
      const [received, sent] = await Promise.all([digestOf(reader), poured]);
      assert.equal(received, sent);
      if (direction === "up") {
        response.end("done");
        assert.equal(await digestOf((await answered)[0]), createHash("sha256").update("done").digest("hex"));
      }
      const record = await proxy.waitRecord(({ target }) => target === `127.0.0.1:${far.port}`);
      assert.deepEqual(
        [record.close, record.bytesUp, record.bytesDown],
        direction === "up" ? ["complete", BULK, 4] : ["complete", 0, BULK],
      );
    });
  }
}

test("bodies in both directions at once pass a slow reader", { timeout: 120_000 }, async (t) => {
  const total = 8 * MiB;
  const far = await serve((message, response) => message.pipe(response));
  t.after(far.close);
  const client = send(far.port, "POST");
  const answered = once(client, "response") as Promise<[IncomingMessage]>;
  client.flushHeaders();
  const poured = pour(client, total);
  const [response] = await answered;
  const hash = createHash("sha256");
  let highest = 0;
  let reads = 0;
  for await (const chunk of response) {
    hash.update(chunk as Buffer);
    if (++reads % 20 !== 0) continue;
    await sleep(5);
    highest = Math.max(highest, (await proxy.untilStatus(() => true)).bufferedBytes);
  }
  assert.equal(hash.digest("hex"), await poured);
  assert.ok(highest < 2 * MAX_BUFFERED, `the proxy buffered ${highest} bytes`);
});
