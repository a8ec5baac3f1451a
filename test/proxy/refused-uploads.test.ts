import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { OPEN_LOOPBACK, startProxy } from "../harness/proxy.ts";
import { exchange, listen, RawClient } from "../harness/raw.ts";

/** Uploads that the proxy or a receiver refuses before they are complete. */

/** More than the proxy reads after a refusal, and more than the kernel holds. */
const UPLOAD_BYTES = 32 * 1024 * 1024;
/** Wrong passwords that are answered without delay (`FREE_GUESSES`). */
const FREE_GUESSES = 20;
const POLL_MS = 50;

/** Posts a large body. Reads the answer late, as many HTTP clients do: when no more of the body can be written. */
async function upload(port: number, fields: string, host = "x.denied.example"): Promise<string> {
  const client = await RawClient.open(port);
  const { socket } = client;
  socket.pause();
  socket.write(`POST http://${host}/ HTTP/1.1\r\nHost: ${host}\r\n${fields}`);
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

/** Whether the proxy notices the reset or the answer first is a matter of chance. */
const ATTEMPTS = 20;
const TOO_LARGE = "HTTP/1.1 413 Too Large";
const ANSWER = `${TOO_LARGE}\r\nContent-Length: 0\r\n\r\n`;

/** A receiver that answers the first bytes of a request and closes, so that later bytes are answered by a reset. */
const refusing = () =>
  listen((socket) => {
    socket.once("data", () => {
      socket.pause();
      socket.write(ANSWER, () => socket.destroy());
    });
  });

test("the answer of a receiver that refuses an upload and closes is delivered", async () => {
  const far = await refusing();
  const proxy = await startProxy({ policy: {}, args: OPEN_LOOPBACK });
  const answers: string[] = [];
  for (let i = 0; i < ATTEMPTS; i++) answers.push(await upload(proxy.port, "", `127.0.0.1:${far.port}`));
  assert.deepEqual(answers, Array(ATTEMPTS).fill(TOO_LARGE));
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("a tunnel relays the last bytes of a receiver that resets it", async () => {
  const far = await refusing();
  const proxy = await startProxy({ policy: {}, args: OPEN_LOOPBACK });
  for (let i = 0; i < ATTEMPTS; i++) {
    const client = await RawClient.open(proxy.port);
    await client.connect(`127.0.0.1:${far.port}`);
    client.socket.write(Buffer.alloc(UPLOAD_BYTES));
    await client.until(() => client.socket.destroyed, "reset");
  }
  assert.equal(await proxy.stop(), 0);
  // Not what the clients read: the reset can reach a client before it reads.
  assert.deepEqual(
    proxy.records().map(({ bytesDown }) => bytesDown),
    Array(ATTEMPTS).fill(ANSWER.length),
  );
  await far.close();
});
