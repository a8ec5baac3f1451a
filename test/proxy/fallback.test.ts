import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { OPEN_LOOPBACK, startProxy, tempFolder } from "../harness/proxy.ts";
import { exchange, listen, RawClient } from "../harness/raw.ts";

test("works with ordinary reads without Node's hook for sockets", async () => {
  // The hook exists on Linux only: other platforms do not have it.
  const preload = join(tempFolder(), "elsewhere.mjs");
  writeFileSync(preload, 'Object.defineProperty(process, "platform", { value: "elsewhere" });\n');
  const proxy = await startProxy({ args: OPEN_LOOPBACK, env: { NODE_OPTIONS: `--import ${preload}` } });
  const bytes = randomBytes(8 * 1024 * 1024);
  const sum = (data: Buffer) => createHash("sha256").update(data).digest("hex");
  const received: Buffer[] = [];
  const far = await listen((socket) => {
    socket.on("data", (chunk) => received.push(chunk));
    socket.on("end", () => socket.end(bytes));
  });
  const client = await RawClient.open(proxy.port);
  await client.connect(`127.0.0.1:${far.port}`);
  client.socket.end(bytes);
  await client.untilEnd();
  assert.equal(sum(Buffer.concat(received)), sum(bytes));
  assert.equal(sum(client.bytes), sum(bytes));
  await far.close();

  const web = await listen((socket) => {
    socket.on("data", () => socket.end("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
  });
  const wire = `GET http://127.0.0.1:${web.port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`;
  assert.match(await exchange(proxy.port, wire), /^HTTP\/1\.1 200 OK[\s\S]*ok$/);
  assert.match(await exchange(proxy.port, "CONNECT 10.0.0.5:443 HTTP/1.1\r\n\r\n"), /^HTTP\/1\.1 403 /);
  await web.close();
  assert.equal(await proxy.stop(), 0);
});
