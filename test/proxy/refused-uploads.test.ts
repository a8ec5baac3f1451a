import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { startProxy } from "../harness/proxy.ts";
import { exchange, RawClient } from "../harness/raw.ts";

/** Uploads that are refused before they are complete. The client reads the answer late, as many HTTP clients do. */

/** More than the proxy reads after a refusal, and more than the kernel holds. */
const UPLOAD_BYTES = 32 * 1024 * 1024;
/** Wrong passwords that are answered without delay (`FREE_GUESSES`). */
const FREE_GUESSES = 20;
const POLL_MS = 50;

/** Posts a large body and reads nothing until no more of it can be written. Returns the answer. */
async function upload(port: number, fields: string): Promise<string> {
  const client = await RawClient.open(port);
  const { socket } = client;
  socket.pause();
  socket.write(`POST http://x.denied.example/ HTTP/1.1\r\nHost: x.denied.example\r\n${fields}`);
  socket.write(`Content-Length: ${UPLOAD_BYTES}\r\n\r\n`);
  const chunk = Buffer.alloc(1024 * 1024);
  let left = UPLOAD_BYTES;
  while (left > 0 && !socket.destroyed) {
    if (socket.writableNeedDrain) {
      const before = socket.bytesWritten - socket.writableLength;
      await sleep(POLL_MS);
      if (socket.writableNeedDrain && socket.bytesWritten - socket.writableLength === before) break;
      continue;
    }
    socket.write(chunk);
    left -= chunk.length;
    await sleep(0);
  }
  socket.resume();
  await client.until(() => client.ended || socket.destroyed, "end");
  socket.destroy();
  return client.text.split("\r\n")[0]!;
}

test("a client that reads after its upload stalls gets the refusal", async () => {
  const proxy = await startProxy({ policy: { deny: [{ name: "denied", hosts: ["*.denied.example"] }] } });
  assert.equal(
    await upload(proxy.port, ""),
    "HTTP/1.1 403 egress-denied: x.denied.example is denied by rule denied; policy test/test",
  );
  assert.equal(await proxy.stop(), 0);
});

test("a delayed 407 is sent even if a large upload arrives before it", async () => {
  const proxy = await startProxy({ policy: {}, env: { PROXY_PASSWORD: "s3cret" } });
  const wrong = `Proxy-Authorization: Basic ${Buffer.from(":wrong").toString("base64")}\r\n`;
  for (let i = 0; i < FREE_GUESSES; i++) await exchange(proxy.port, `CONNECT a.example:443 HTTP/1.1\r\n${wrong}\r\n`);
  const phrase = "egress-auth: wrong proxy credentials; set them in the proxy URL";
  assert.equal(await upload(proxy.port, wrong), `HTTP/1.1 407 ${phrase}`);
  assert.equal(await proxy.stop(), 0);
});
