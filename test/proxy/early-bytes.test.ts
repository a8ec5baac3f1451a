import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type DnsReply, startDns } from "../harness/dns.ts";
import { OPEN_LOOPBACK, startProxy } from "../harness/proxy.ts";
import { listen, RawClient } from "../harness/raw.ts";

/** Bytes that a client sends while the proxy still resolves or dials its target. */

const BYTES = 32 * 1024 * 1024;
/** The limit of held bytes, and one more read. */
const MAX_HELD = 2 * 65_536;

const KINDS = {
  CONNECT: (port: number) => `CONNECT held.test:${port} HTTP/1.1\r\n\r\n`,
  POST: (port: number) =>
    `POST http://held.test:${port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: ${BYTES}\r\n\r\n`,
};

for (const [kind, head] of Object.entries(KINDS)) {
  test(`holds few bytes before the target is connected, and loses none: ${kind}`, { timeout: 60_000 }, async (t) => {
    const answer = Promise.withResolvers<DnsReply>();
    const dns = await startDns(() => answer.promise);
    const payload = randomBytes(BYTES);
    const hash = createHash("sha256");
    let received = 0;
    const far = await listen((socket) => {
      let text = kind === "POST" ? "" : null;
      socket.on("data", (chunk: Buffer) => {
        let body = chunk;
        if (text !== null) {
          text += chunk.toString("latin1");
          const end = text.indexOf("\r\n\r\n");
          if (end === -1) return;
          body = Buffer.from(text.slice(end + 4), "latin1");
          text = null;
        }
        received += body.length;
        hash.update(body);
        if (received === BYTES) socket.end("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nall");
      });
    });
    const args = [...OPEN_LOOPBACK, "--resolver", dns.address, "--dns-seconds", "60"];
    const proxy = await startProxy({ policy: {}, args });
    t.after(async () => {
      await proxy.stop();
      await far.close();
      await dns.close();
    });

    const client = await RawClient.open(proxy.port);
    client.socket.write(head(far.port));
    client.socket.write(payload);
    await proxy.untilStatus(({ bufferedBytes }) => bufferedBytes > 0);
    let last = -1;
    for (let same = 0; same < 5; await sleep(100)) {
      const { bufferedBytes } = await proxy.untilStatus(() => true);
      same = bufferedBytes === last ? same + 1 : 0;
      last = bufferedBytes;
    }
    assert.ok(last <= MAX_HELD, `the proxy holds ${last} bytes`);
    assert.ok(client.socket.writableLength > BYTES / 2, "the client waits");

    answer.resolve({ addresses: ["127.0.0.1"] });
    await client.untilEnd(30_000);
    assert.ok(client.text.endsWith("all"), client.text.slice(0, 300));
    assert.equal(received, BYTES);
    assert.equal(hash.digest("hex"), createHash("sha256").update(payload).digest("hex"));
    client.socket.destroy();
  });
}
